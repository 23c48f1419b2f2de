"""The container engine takes calls and answers none, then goes on as if nothing had been."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
from fastapi import Response

from hutch.api import health
from hutch.app import Hutch
from hutch.backends.base import Observed, SandboxSpec
from hutch.errors import SandboxFailed
from hutch.runs.service import NewRun
from hutch.sandboxes import service
from tests.orchestrator.conftest import World, new_user, run_to_end
from tests.orchestrator.runtime import ScriptedBackend, waits_for_release


class BackendThatHangs(ScriptedBackend):
    """While ``answers`` is cleared."""

    def __init__(self, port: int, instance: str) -> None:
        super().__init__(port, instance)
        self.answers = asyncio.Event()
        self.answers.set()

    async def create(self, spec: SandboxSpec) -> Observed:
        await self.answers.wait()
        return await super().create(spec)

    async def inspect(self, handle: str) -> Observed | None:
        await self.answers.wait()
        return await super().inspect(handle)

    async def list(self) -> list[Observed]:
        await self.answers.wait()
        return await super().list()


@pytest.fixture
async def hanging(world: World) -> AsyncIterator[tuple[Hutch, BackendThatHangs]]:
    backend = BackendThatHangs(world.backend.port, world.settings.instance)
    async with replace(world, backend=backend).orchestrator() as hutch:
        yield hutch, backend
        backend.answers.set()


async def test_a_hanging_engine_holds_nobody_up_who_has_a_sandbox(
    world: World,
    hanging: tuple[Hutch, BackendThatHangs],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    hutch, backend = hanging
    user_id = await new_user(hutch, "someone")
    await run_to_end(hutch, user_id)
    world.runtime.script = waits_for_release
    under_way = asyncio.create_task(run_to_end(hutch, user_id, "under way"))
    await asyncio.sleep(0.1)
    backend.answers.clear()
    hutch.driver.wake("containers")
    world.runtime.release.set()
    assert (await under_way).state == "succeeded"
    assert (await run_to_end(hutch, user_id, "a new one")).state == "succeeded"

    monkeypatch.setattr(health, "_ENGINE_S", 0.05)
    response = Response()
    told = await health.readyz(hutch, response)
    assert (response.status_code, told["database"]) == (503, "ok")
    assert "has not answered" in told["backend"]

    monkeypatch.setattr(service, "READY_WITHIN_S", 0.2)
    other = await new_user(hutch, "another")
    with pytest.raises(SandboxFailed, match="not ready within"):
        await hutch.sandboxes.ensure(other)

    monkeypatch.setattr(service, "READY_WITHIN_S", 10)
    backend.answers.set()
    assert (await run_to_end(hutch, other)).state == "succeeded"
    assert (await health.readyz(hutch, Response()))["backend"] == "ok"
    assert len(await backend.list()) == 2


@pytest.mark.parametrize("wakes", [False, True])
async def test_cancel_works_while_a_container_is_made_or_woken(
    hanging: tuple[Hutch, BackendThatHangs], *, wakes: bool
) -> None:
    hutch, backend = hanging
    user_id = await new_user(hutch, "someone")
    if wakes:
        await run_to_end(hutch, user_id)
        await hutch.sandboxes.hibernate(user_id)
    backend.answers.clear()
    run = await hutch.runs.submit(user_id, NewRun("claude", "x"))
    await asyncio.sleep(0.1)
    await hutch.runs.cancel(user_id, run.id)
    async with asyncio.timeout(20):
        run = await hutch.runs.finished(user_id, run.id)
    assert (run.state, run.started_at) == ("cancelled", None)
