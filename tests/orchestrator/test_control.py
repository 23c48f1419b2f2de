"""The loop that makes rows, containers and the gateway's table agree."""

from __future__ import annotations

import asyncio
import itertools
from dataclasses import replace

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import create_engine

from hutch.app import Hutch
from hutch.backends.base import Observed, SandboxSpec
from hutch.control.containers import Containers
from hutch.control.queue import WorkQueue
from hutch.sandboxes import states
from hutch.sandboxes.rows import SandboxRows
from hutch.store.migrate import upgrade
from hutch.store.open import parse
from hutch.store.tables import metadata
from tests.orchestrator.conftest import World, new_user, run_to_end


def _ignore(_: object) -> None:
    """Whom the task wakes or tells is not part of this."""


async def until(condition: object) -> None:
    assert callable(condition)
    async with asyncio.timeout(10):
        while not await condition():
            await asyncio.sleep(0.01)


async def test_many_requests_make_one_sandbox(world: World, hutch: Hutch, user_id: str) -> None:
    made = await asyncio.gather(*(hutch.sandboxes.ensure(user_id) for _ in range(20)))
    assert len({sandbox.incarnation for sandbox in made}) == 1
    assert len(world.backend.specs) == 1


async def test_the_container_gets_no_secret(world: World, hutch: Hutch, user_id: str) -> None:
    await hutch.sandboxes.ensure(user_id)
    [spec] = world.backend.specs
    [bearer] = world.runtime.keys
    key = bearer.removeprefix("Bearer ")
    assert key
    assert key not in "".join(spec.env.values())
    assert hutch.settings.secret.hex() not in "".join(spec.env.values())


async def test_destroy_ends_container_row_and_table_entry(
    world: World, hutch: Hutch, user_id: str
) -> None:
    await hutch.sandboxes.ensure(user_id)
    ended = await hutch.sandboxes.destroy(user_id)
    assert ended.observed == "destroyed"
    assert await world.backend.list() == []
    assert len(world.gateway.table) == 0


async def test_a_container_of_no_row_is_ended_by_the_next_start(world: World) -> None:
    spec = SandboxSpec(world.settings.instance, "sbx_1", "inc_1", "image", {})
    await world.backend.create(spec)
    async with world.orchestrator():

        async def gone() -> bool:
            return await world.backend.list() == []

        await until(gone)


async def test_later_an_orphan_has_two_looks(world: World) -> None:
    async with world.orchestrator() as hutch:
        looks = Containers(SandboxRows(hutch.database), world.backend, _ignore, _ignore)
        await looks.run()
        spec = SandboxSpec(world.settings.instance, "sbx_1", "inc_1", "image", {})
        await world.backend.create(spec)
        assert (await looks.run())["orphans_ended"] == 0
        assert (await looks.run())["orphans_ended"] == 1


async def test_processes_that_outlived_a_container_of_ours_are_ended(
    world: World, hutch: Hutch, user_id: str
) -> None:
    sandbox = await hutch.sandboxes.ensure(user_id)
    assert sandbox.handle is not None
    await hutch.sandboxes.destroy(user_id)
    living = await hutch.sandboxes.ensure(user_id)
    world.backend.left_behind |= {sandbox.handle, "of-another-installation"}
    looks = Containers(SandboxRows(hutch.database), world.backend, _ignore, _ignore)
    assert (await looks.run())["strays_ended"] == 1
    assert world.backend.left_behind == {"of-another-installation"}
    assert [one.handle for one in await world.backend.list()] == [living.handle]
    world.backend.left_behind.add(sandbox.handle)
    assert (await looks.run())["strays_ended"] == 0
    assert (await looks.run())["strays_ended"] == 1


async def test_a_vanished_container_is_a_failed_sandbox_with_a_reason(
    world: World, hutch: Hutch, user_id: str
) -> None:
    sandbox = await hutch.sandboxes.ensure(user_id)
    assert sandbox.handle is not None
    world.backend.end(sandbox.handle, exit_code=1, oom_killed=True)

    async def failed() -> bool:
        row = await SandboxRows(hutch.database).get(sandbox.id)
        return row is not None and row.observed == "failed" and "memory" in row.reason

    await until(failed)


async def test_a_restarted_gateway_gets_its_table_again(
    world: World, hutch: Hutch, user_id: str
) -> None:
    await run_to_end(hutch, user_id)
    world.gateway.restart()
    assert len(world.gateway.table) == 0

    async def pushed() -> bool:
        return len(world.gateway.table) == 1

    await until(pushed)


async def test_a_deleted_user_leaves_nothing(world: World, hutch: Hutch) -> None:
    user_id = await new_user(hutch, "leaver")
    await run_to_end(hutch, user_id)
    gone = await hutch.deletion.delete(user_id)
    assert gone.data_key
    assert not gone.opens
    assert gone.container
    assert (gone.traces.credentials, gone.traces.runs, gone.traces.sessions) == (3, 1, 1)
    assert gone.traces.events >= 2
    engine = create_engine(parse(world.settings.database))
    with engine.connect() as db:
        for name, table in metadata.tables.items():
            if name == "image_rollouts":  # the installation's
                continue
            assert db.execute(table.select()).all() == [], name
    engine.dispose()


async def test_a_queue_merges_retries_and_never_overlaps() -> None:
    running: set[str] = set()
    done: list[str] = []
    failures = {"b": 2}

    async def step(key: str) -> None:
        assert key not in running
        running.add(key)
        await asyncio.sleep(0.01)
        running.discard(key)
        if failures.get(key, 0):
            failures[key] -= 1
            raise RuntimeError(key)
        done.append(key)

    queue = WorkQueue(step, workers=2)
    for _ in range(50):
        queue.wake("a")
        queue.wake("b")

    async def both() -> bool:
        return "b" in done and "a" in done

    await until(both)
    await queue.close()
    assert done.count("a") <= 2


@given(st.lists(st.sampled_from(sorted(states.TRANSITIONS)), min_size=2, max_size=8))
def test_a_container_that_is_gone_never_comes_back(path: list[states.State]) -> None:
    for before, after in itertools.pairwise(path):
        if before in states.OVER:
            assert not states.may(before, after) or after == "destroyed"
    assert all(after in states.TRANSITIONS for to in states.TRANSITIONS.values() for after in to)


def test_the_migrations_make_what_the_tables_say(database_url: str) -> None:
    url = parse(database_url)
    upgrade(url)
    engine = create_engine(url)
    with engine.connect() as db:
        assert compare_metadata(MigrationContext.configure(db), metadata) == []
    engine.dispose()


async def test_a_hundred_containers_from_before_are_adopted_by_one_call_of_the_engine(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    crowd = replace(
        world,
        settings=world.settings.model_copy(update={"max_containers": 100, "memory_reserve_mb": 0}),
    )
    async with crowd.orchestrator() as hutch:
        users = [await new_user(hutch, f"user{number}") for number in range(100)]
        before = await asyncio.gather(*(hutch.sandboxes.ensure(user) for user in users))
    asked: list[str] = []
    inspect = world.backend.inspect

    async def counted(handle: str) -> Observed | None:
        asked.append(handle)
        return await inspect(handle)

    monkeypatch.setattr(world.backend, "inspect", counted)
    async with crowd.orchestrator() as hutch:

        async def looked() -> bool:
            return any(task.name == "containers" and task.report for task in hutch.driver.status())

        await until(looked)
        after = await asyncio.gather(*(hutch.sandboxes.ensure(user) for user in users))
    assert [one.incarnation for one in after] == [one.incarnation for one in before]
    assert len(world.backend.specs) == 100
    assert asked == []


async def test_a_container_that_died_while_nobody_looked_is_replaced_not_reported(
    world: World,
) -> None:
    async with world.orchestrator() as hutch:
        user_id = await new_user(hutch, "someone")
        before = await hutch.sandboxes.ensure(user_id)
    assert before.handle is not None
    world.backend.end(before.handle, exit_code=137)
    async with world.orchestrator() as hutch:
        after = await hutch.sandboxes.ensure(user_id)
    assert after.incarnation != before.incarnation
    assert after.observed == "running"
