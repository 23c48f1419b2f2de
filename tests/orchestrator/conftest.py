from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from hutch.app import Hutch, running
from hutch.config import Settings
from hutch.gateway.base import FakeGateway
from hutch.runs.models import LogEntry, Run
from hutch.runs.service import NewRun
from tests.orchestrator.runtime import ScriptedBackend, ScriptedRuntime

KEY = "test-key-of-the-user-7421"


@dataclass
class World:
    """What outlives an orchestrator: the machine around it."""

    settings: Settings
    runtime: ScriptedRuntime
    backend: ScriptedBackend
    gateway: FakeGateway

    @asynccontextmanager
    async def orchestrator(self) -> AsyncIterator[Hutch]:
        async with running(
            self.settings, backend=self.backend, gateway_control=self.gateway
        ) as hutch:
            yield hutch


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    settings = Settings(data_dir=tmp_path)
    runtime = ScriptedRuntime()
    async with runtime.serving() as port:
        backend = ScriptedBackend(port, settings.instance)
        yield World(settings, runtime, backend, FakeGateway())


@pytest.fixture
async def hutch(world: World) -> AsyncIterator[Hutch]:
    async with world.orchestrator() as built:
        yield built


@pytest.fixture
async def user_id(hutch: Hutch) -> str:
    return await new_user(hutch, "someone")


async def new_user(hutch: Hutch, name: str) -> str:
    user = await hutch.accounts.create_user(name, "free")
    for provider in ("claude", "codex", "gemini"):
        await hutch.vault.put(user.id, provider, "api_key", KEY)
    return user.id


async def run_to_end(hutch: Hutch, user_id: str, prompt: str = "hello there") -> Run:
    run = await hutch.runs.submit(user_id, NewRun("claude", prompt))
    return await hutch.runs.finished(user_id, run.id)


async def log_of(hutch: Hutch, run: Run, after: int = 0) -> list[LogEntry]:
    entries = await hutch.runs.events(run.user_id, run.id, after=after)
    return [entry async for entry in entries]
