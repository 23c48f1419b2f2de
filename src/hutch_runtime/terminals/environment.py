"""What a terminal's programs are started with: an agent's environment, and each CLI's own, so that
``claude``, ``codex`` and ``gemini`` work there as the agents do, through the gateway.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, Final

from hutch_runtime.home import Home
from hutch_runtime.logins.service import Logins
from hutch_runtime.protocol import LOGIN_FILES, MIB, Provider
from hutch_runtime.providers import claude, codex, gemini
from hutch_runtime.providers.base import Setup
from hutch_runtime.providers.gemini_settings import write_settings

_log = logging.getLogger(__name__)

# With a program for what only arguments can tell Codex (image/Dockerfile).
WRAPPERS: Final = "/opt/hutch/bin"
_CLAUDE_SETTINGS: Final = ".claude.json"
_SETTINGS_MAX_BYTES: Final = 4 * MIB
_KEY_END: Final = 20  # by which Claude Code knows a key that its user has agreed to


class Environment:
    def __init__(self, setup: Callable[[Provider], Setup], logins: Logins) -> None:
        self._setup = setup
        self._logins = logins

    def __call__(self) -> dict[str, str]:
        """Of a program that is started now. Files that the CLIs ask for are made on the way."""
        setups: dict[Provider, Setup] = {
            name: replace(
                self._setup(name), login=name in LOGIN_FILES and self._logins.get(name).on
            )
            for name in ("claude", "codex", "gemini")
        }
        home = setups["claude"].home
        for prepare in (
            partial(write_claude_settings, setups["claude"]),
            partial(home.make, codex.HOME),
            partial(write_settings, home),
        ):
            try:
                prepare()
            except OSError as error:  # a full disk, or something of the user's is in the way
                _log.warning("a CLI's settings could not be written: %s", error.strerror)
        environment = {
            **setups["claude"].environment,
            **claude.environment(setups["claude"]),
            **codex.environment(setups["codex"]),
            **gemini.environment(setups["gemini"]),
            "HUTCH_CODEX_OPTIONS": "|".join(codex.terminal_options(setups["codex"])),
        }
        environment["PATH"] = (
            f"{WRAPPERS}:{environment.get('PATH', '/usr/local/bin:/usr/bin:/bin')}"
        )
        environment.setdefault("SHELL", "/bin/bash")
        return environment


def write_claude_settings(setup: Setup) -> None:
    """Answer what Claude Code would ask a person at its first start: nobody can sign in with a
    placeholder key, and the workspace is the user's own. Raises ``OSError``.
    """
    settings = _read(setup.home)
    before = json.dumps(settings)
    settings["hasCompletedOnboarding"] = True
    settings.setdefault("theme", "dark")
    projects = _object(settings, "projects")
    _object(projects, str(setup.workspace))["hasTrustDialogAccepted"] = True
    responses = _object(settings, "customApiKeyResponses")
    responses["approved"] = [setup.placeholder_key[-_KEY_END:]]
    responses.setdefault("rejected", [])
    after = json.dumps(settings)
    if after != before:
        setup.home.write(_CLAUDE_SETTINGS, json.dumps(settings, indent=2).encode())


def _object(above: dict[str, Any], name: str) -> dict[str, Any]:
    below = above.get(name)
    if not isinstance(below, dict):
        below = above[name] = {}
    return below


def _read(home: Home) -> dict[str, Any]:
    try:
        found = json.loads(home.read(_CLAUDE_SETTINGS, _SETTINGS_MAX_BYTES))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
