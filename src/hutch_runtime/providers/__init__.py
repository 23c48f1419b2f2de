"""One driver per CLI."""

from __future__ import annotations

from hutch_runtime.protocol import Provider
from hutch_runtime.providers.base import Driver, Setup
from hutch_runtime.providers.claude import ClaudeDriver
from hutch_runtime.providers.codex import CodexDriver
from hutch_runtime.providers.gemini import GeminiDriver


def open_driver(provider: Provider, setup: Setup) -> Driver:
    match provider:
        case "claude":
            return ClaudeDriver(setup)
        case "codex":
            return CodexDriver(setup)
        case "gemini":
            return GeminiDriver(setup)
