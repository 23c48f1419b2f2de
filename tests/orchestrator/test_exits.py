"""Runs and the exits that they leave through: recorded, refused, moved; never by another way."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from hutch.app import Hutch
from hutch.config import Settings
from hutch.errors import NotFound
from hutch.exits.importing import parse
from hutch.gateway.base import Failure, FakeGateway
from hutch.gateway.table import Entry
from tests.orchestrator.conftest import World, new_user, run_to_end
from tests.orchestrator.runtime import (
    ScriptedBackend,
    ScriptedRun,
    ScriptedRuntime,
    answers,
    finished,
)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    """With exits required, and no page that could answer a probe."""
    settings = Settings(
        data_dir=tmp_path, pool_size=0, egress="exits", exit_probe_url="http://127.0.0.1:9/"
    )
    runtime = ScriptedRuntime()
    async with runtime.serving() as port:
        backend = ScriptedBackend(port, settings.instance)
        yield World(settings, runtime, backend, FakeGateway())


async def add_exits(hutch: Hutch, count: int, *, first: int = 1, extra: str = "") -> list[str]:
    """Their ids, in the order of the lines."""
    lines = [f"exit{n}.test,80,user{n},password-{n}{extra}" for n in range(first, first + count)]
    await hutch.exits.import_(parse("\n".join(lines)))
    by_host = {exit_.host: exit_.id for exit_ in hutch.exits.all()}
    return [by_host[f"exit{n}.test"] for n in range(first, first + count)]


async def fails(run: ScriptedRun) -> AsyncIterator[tuple[str, dict[str, Any]]]:
    yield run.started()
    error = {"code": "provider_unreachable", "message": "in the CLI's own words"}
    yield finished("error", error=error)


def entry(world: World) -> Entry:
    [only] = world.gateway.table._by_sandbox.values()
    return only


async def test_a_run_is_recorded_with_its_exit(hutch: Hutch, world: World, user_id: str) -> None:
    [exit_id] = await add_exits(hutch, 1)
    await hutch.exits.note_probe(exit_id, "up", seen_ip="192.0.2.1")
    run = await run_to_end(hutch, user_id)
    assert (run.state, run.exit_id, run.exit_ip) == ("succeeded", exit_id, "192.0.2.1")
    assert entry(world).egress == "exit"
    exit_ = entry(world).exit
    assert exit_ is not None
    assert (exit_.id, exit_.password.reveal()) == (exit_id, "password-1")


async def test_without_an_exit_nobody_runs(hutch: Hutch, world: World, user_id: str) -> None:
    run = await run_to_end(hutch, user_id)
    assert (run.state, run.error_code, run.exit_id) == ("failed", "exit_unavailable", None)
    assert len(world.gateway.table) == 0
    await add_exits(hutch, 1)
    assert (await run_to_end(hutch, user_id)).state == "succeeded"


async def test_an_exit_that_is_down_fails_runs_before_anybody_is_woken(
    hutch: Hutch, world: World, user_id: str
) -> None:
    [exit_id] = await add_exits(hutch, 1)
    await hutch.exits.lease(user_id)
    await hutch.exits.note_probe(exit_id, "down", reason="it is gone.")
    run = await run_to_end(hutch, user_id)
    assert (run.error_code, run.error_message) == (
        "exit_unavailable",
        f"The exit {exit_id} does not work: it is gone.",
    )
    assert len(world.gateway.table) == 0
    await hutch.exits.note_probe(exit_id, "up", seen_ip="192.0.2.1")
    assert (await run_to_end(hutch, user_id)).state == "succeeded"


async def test_what_the_gateway_saw_of_the_exit_names_the_runs_error(
    hutch: Hutch, world: World, user_id: str
) -> None:
    await add_exits(hutch, 1)
    assert (await run_to_end(hutch, user_id)).state == "succeeded"
    there = entry(world)
    failure = Failure("exit_unavailable", "the exit does not answer.", hutch.clock.now() + 60)
    world.gateway.failures[there.sandbox_id, there.incarnation] = failure
    world.runtime.script = fails
    failed = await run_to_end(hutch, user_id)
    assert (failed.error_code, failed.error_message) == ("exit_unavailable", failure.message)
    world.runtime.script = answers  # what went well in spite of it went well
    assert (await run_to_end(hutch, user_id)).state == "succeeded"


async def test_a_leased_exit_that_is_removed_closes_the_way_at_once(
    hutch: Hutch, world: World, user_id: str
) -> None:
    [exit_id] = await add_exits(hutch, 1)
    assert (await run_to_end(hutch, user_id)).exit_id == exit_id
    await hutch.exits.remove(exit_id, force=True)
    assert (entry(world).egress, entry(world).exit) == ("closed", None)
    with pytest.raises(NotFound):
        hutch.exits.get(exit_id)


async def test_a_spare_and_the_way_back(hutch: Hutch, world: World, user_id: str) -> None:
    await add_exits(hutch, 2)
    home = (await hutch.exits.lease(user_id)).exit.id
    await run_to_end(hutch, user_id)
    await hutch.exits.note_probe(home, "down", reason="gone.")
    lease = await hutch.exits.give_spare(user_id)
    assert lease is not None
    assert (await run_to_end(hutch, user_id)).exit_id == lease.exit.id != home
    used = entry(world).exit
    assert used is not None
    assert used.id == lease.exit.id
    await hutch.exits.note_probe(home, "up", seen_ip="192.0.2.1")
    await hutch.exits.end_spare(user_id, healed=True)
    assert (await run_to_end(hutch, user_id)).exit_id == home
    whats = [happening.what for happening in await hutch.exits.history(user_id)]
    assert whats == ["healed", "released", "up", "spare", "down", "leased"]


async def test_a_new_password_reaches_who_has_the_exit(
    hutch: Hutch, world: World, user_id: str
) -> None:
    await add_exits(hutch, 1)
    await run_to_end(hutch, user_id)
    await hutch.exits.import_(parse("exit1.test,80,user1,another"))
    used = entry(world).exit
    assert used is not None
    assert used.password.reveal() == "another"


async def test_a_restart_keeps_leases(world: World) -> None:
    async with world.orchestrator() as hutch:
        user = await new_user(hutch, "someone")
        await add_exits(hutch, 3)
        before = (await hutch.exits.lease(user)).exit.id
    async with world.orchestrator() as hutch:
        lease = hutch.exits.of(user)
        assert lease is not None
        assert lease.exit.id == before


async def test_a_deleted_users_exit_is_free(hutch: Hutch, user_id: str) -> None:
    [exit_id] = await add_exits(hutch, 1)
    await hutch.exits.lease(user_id)
    await hutch.deletion.delete(user_id)
    other = await new_user(hutch, "somebody else")
    assert (await hutch.exits.lease(other)).exit.id == exit_id


async def test_only_sealed_passwords_are_stored(hutch: Hutch) -> None:
    [exit_id] = await add_exits(hutch, 1)
    assert "password-1" not in repr(hutch.exits.get(exit_id))
    stored = b"".join(
        path.read_bytes() for path in hutch.settings.data_dir.rglob("*") if path.is_file()
    )
    assert b"exit1.test" in stored
    assert b"password-1" not in stored
