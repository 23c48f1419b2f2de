from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from hutch.app import Hutch
from hutch.config import Settings
from hutch.exits.importing import parse
from hutch.gateway.base import FakeGateway
from tests.orchestrator.conftest import World
from tests.orchestrator.runtime import ScriptedBackend, ScriptedRuntime


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    """As the orchestrator's tests', with exits required, and nothing that answers a probe."""
    settings = Settings(
        data_dir=tmp_path, egress="exits", exit_probe_url="http://127.0.0.1:9/", exit_spare_after=2
    )
    runtime = ScriptedRuntime()
    async with runtime.serving() as port:
        backend = ScriptedBackend(port, settings.instance)
        yield World(settings, runtime, backend, FakeGateway())


@pytest.fixture
async def hutch(world: World) -> AsyncIterator[Hutch]:
    async with world.orchestrator() as built:
        yield built


async def add_exits(hutch: Hutch, count: int, *, first: int = 1, extra: str = "") -> list[str]:
    """Their ids, in the order of the lines."""
    lines = [f"exit{n}.test,80,user{n},password-{n}{extra}" for n in range(first, first + count)]
    await hutch.exits.import_(parse("\n".join(lines)))
    by_host = {exit_.host: exit_.id for exit_ in hutch.exits.all()}
    return [by_host[f"exit{n}.test"] for n in range(first, first + count)]
