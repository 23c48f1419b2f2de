"""What becomes of a sandbox that nobody uses, and how its user finds it again."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from hutch.app import Hutch
from hutch.clock import SystemClock
from hutch.errors import BackendError, NotFound, SandboxBusy, SandboxFailed, SnapshotFailed
from hutch.runs.models import Run
from hutch.runs.service import NewRun
from hutch.sandboxes.models import Sandbox
from hutch.sandboxes.runtime_client import runtime_key
from hutch.sandboxes.states import State
from tests.orchestrator import runtime as scripts
from tests.orchestrator.conftest import World, new_user, run_to_end
from tests.orchestrator.test_control import until

FILES = b"a tar of mine, opaque to everybody else " * 1000
FREEZE_S, HIBERNATE_S = 300, 1800


class Steered(SystemClock):
    """The real time, and what a test adds."""

    def __init__(self) -> None:
        self.later = 0.0

    def now(self) -> float:
        return super().now() + self.later


@pytest.fixture
def clock(world: World) -> Steered:
    world.clock = steered = Steered()
    return steered


@pytest.fixture
async def hutch(clock: Steered, hutch: Hutch) -> Hutch:
    """With that clock."""
    del clock
    return hutch


def key_of(hutch: Hutch, sandbox: Sandbox) -> str:
    return f"Bearer {runtime_key(hutch.settings.secret, sandbox.incarnation)}"


async def becomes(hutch: Hutch, user_id: str, state: State) -> Sandbox:
    async def there() -> bool:
        hutch.driver.wake("idle")
        return (await hutch.sandboxes.of(user_id)).observed == state

    await until(there)
    return await hutch.sandboxes.of(user_id)


async def put_away(world: World, hutch: Hutch, clock: Steered, user_id: str) -> Sandbox:
    """With files in it."""
    sandbox = await hutch.sandboxes.ensure(user_id)
    world.runtime.files[key_of(hutch, sandbox)] = FILES
    clock.later += HIBERNATE_S + 1
    return await becomes(hutch, user_id, "hibernated")


async def go_on(hutch: Hutch, run: Run, prompt: str = "and now?") -> Run:
    again = await hutch.runs.submit(
        run.user_id, NewRun("claude", prompt, session_id=run.session_id)
    )
    return await hutch.runs.finished(run.user_id, again.id)


def blobs(hutch: Hutch) -> list[Path]:
    return sorted(hutch.settings.snapshots_dir.glob("*"))


async def test_one_that_nobody_uses_is_frozen_and_a_prompt_wakes_it(
    world: World, hutch: Hutch, clock: Steered, user_id: str
) -> None:
    first = await run_to_end(hutch, user_id)
    clock.later += FREEZE_S - 30
    hutch.driver.wake("idle")
    await asyncio.sleep(0.05)
    assert (await hutch.sandboxes.of(user_id)).observed == "running"
    clock.later += 31
    frozen = await becomes(hutch, user_id, "frozen")
    assert [o.state for o in await world.backend.list()] == ["frozen"]
    again = await go_on(hutch, first)
    assert (again.state, again.incarnation) == ("succeeded", frozen.incarnation)
    assert [o.state for o in await world.backend.list()] == ["running"]


async def test_what_was_in_it_is_there_again(
    world: World, hutch: Hutch, clock: Steered, user_id: str
) -> None:
    first = await run_to_end(hutch, user_id)
    await put_away(world, hutch, clock, user_id)
    assert await world.backend.list() == []
    assert len(world.gateway.table) == 0
    (blob,) = blobs(hutch)
    assert FILES[:40] not in blob.read_bytes()
    assert blob.stat().st_mode & 0o777 == 0o600

    again = await go_on(hutch, first)
    assert (again.state, again.provider_session) == ("succeeded", first.provider_session)
    woken = await hutch.sandboxes.of(user_id)
    assert (woken.observed, woken.incarnation) == ("running", again.incarnation)
    assert again.incarnation != first.incarnation
    assert world.runtime.files[key_of(hutch, woken)] == FILES


async def test_a_frozen_one_is_put_away_later(
    world: World, hutch: Hutch, clock: Steered, user_id: str
) -> None:
    await run_to_end(hutch, user_id)
    clock.later += FREEZE_S + 1
    await becomes(hutch, user_id, "frozen")
    clock.later += HIBERNATE_S
    await becomes(hutch, user_id, "hibernated")
    assert await world.backend.list() == []


async def test_never_in_the_middle_of_a_run(
    world: World, hutch: Hutch, clock: Steered, user_id: str
) -> None:
    world.runtime.script = scripts.waits_for_release
    run = await hutch.runs.submit(user_id, NewRun("claude", "long"))

    async def begun() -> bool:
        return bool(world.runtime.runs)

    await until(begun)
    clock.later += 100  # below the run's own time limit
    sandbox = await hutch.sandboxes.of(user_id)
    assert hutch.sandboxes.idle_since(sandbox) is None
    assert not await hutch.sandboxes.rest(sandbox, "frozen")
    with pytest.raises(SandboxBusy):
        await hutch.sandboxes.hibernate(user_id)
    world.runtime.release.set()
    assert (await hutch.runs.finished(user_id, run.id)).state == "succeeded"
    assert (await hutch.sandboxes.hibernate(user_id)).observed == "hibernated"


async def test_a_prompt_that_comes_meanwhile_takes_it_back(
    world: World, hutch: Hutch, clock: Steered, user_id: str
) -> None:
    first = await run_to_end(hutch, user_id)
    world.runtime.files[key_of(hutch, await hutch.sandboxes.of(user_id))] = FILES
    world.runtime.may_pack.clear()
    clock.later += HIBERNATE_S + 1
    hutch.driver.wake("idle")
    await world.runtime.packing.wait()
    run = await hutch.runs.submit(user_id, NewRun("claude", "stay", session_id=first.session_id))
    await asyncio.sleep(0.05)
    assert world.runtime.executions == [first.id]  # its files are being read
    world.runtime.may_pack.set()
    again = await hutch.runs.finished(user_id, run.id)
    assert (again.state, again.incarnation) == ("succeeded", first.incarnation)
    assert world.runtime.executions == [first.id, run.id]


async def test_turns_after_a_snapshot_are_not_lost_in_silence(
    world: World, hutch: Hutch, clock: Steered, user_id: str
) -> None:
    """The container that took it back dies later: its old snapshot has the files, but a session
    that went on since is not whole in it.
    """
    await test_a_prompt_that_comes_meanwhile_takes_it_back(world, hutch, clock, user_id)
    lost = await hutch.sandboxes.of(user_id)
    (run, _) = await hutch.runs.page(user_id, session_id=None, before=None, limit=10)
    assert lost.handle is not None
    world.backend.end(lost.handle, exit_code=137)

    async def noticed() -> bool:
        hutch.driver.wake("containers")
        return not [s for s in await hutch.sandboxes.all() if s.id == lost.id]

    await until(noticed)
    assert (await go_on(hutch, run)).error_code == "session_lost"
    fresh = await hutch.sandboxes.of(user_id)
    assert world.runtime.files[key_of(hutch, fresh)] == FILES


@pytest.mark.parametrize("moment", ["destroy", "dismiss"])
async def test_an_end_that_breaks_off_leaves_nothing_behind(
    world: World, hutch: Hutch, clock: Steered, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    user_id = await new_user(hutch, "someone")
    await run_to_end(hutch, user_id)

    async def fails(*_: object) -> None:
        raise BackendError("the engine hangs")

    with monkeypatch.context() as broken:
        if moment == "destroy":
            broken.setattr(world.backend, "destroy", fails)
        else:
            broken.setattr(world.gateway, "remove", fails)
        clock.later += HIBERNATE_S + 1
        await becomes(hutch, user_id, "hibernated")
    assert len(await world.backend.list()) == 1

    async def gone() -> bool:
        hutch.driver.wake("containers")
        return not await world.backend.list()

    await until(gone)
    assert (await run_to_end(hutch, user_id)).state == "succeeded"


async def test_a_restart_in_the_middle_of_a_wake_begins_it_anew(
    world: World, clock: Steered
) -> None:
    async with world.orchestrator() as hutch:
        user_id = await new_user(hutch, "someone")
        first = await run_to_end(hutch, user_id)
        await put_away(world, hutch, clock, user_id)
        begun = asyncio.Event()

        async def hangs(*_: object) -> None:
            begun.set()
            await asyncio.Event().wait()

        hutch.snapshots._runtime.unpack = hangs  # type: ignore[method-assign, assignment]
        run = await hutch.runs.submit(
            user_id, NewRun("claude", "awake?", session_id=first.session_id)
        )
        await begun.wait()
    async with world.orchestrator() as hutch:
        again = await hutch.runs.finished(user_id, run.id)
        assert again.state == "succeeded"
        woken = await hutch.sandboxes.of(user_id)
        assert world.runtime.files[key_of(hutch, woken)] == FILES
        assert len(await world.backend.list()) == 1


async def test_a_container_that_cannot_take_its_files_is_given_to_nobody(
    world: World, hutch: Hutch, clock: Steered, user_id: str
) -> None:
    first = await run_to_end(hutch, user_id)
    await put_away(world, hutch, clock, user_id)
    world.runtime.refuses_unpacking = True
    with pytest.raises(SandboxFailed, match="no space"):
        await hutch.sandboxes.ensure(user_id)
    world.runtime.refuses_unpacking = False
    assert (await go_on(hutch, first)).state == "succeeded"
    assert world.runtime.unpacked == 1


@pytest.mark.parametrize("harm", ["changed", "cut", "gone"])
async def test_a_damaged_snapshot_is_said_and_not_used(
    world: World, hutch: Hutch, clock: Steered, user_id: str, harm: str
) -> None:
    await put_away(world, hutch, clock, user_id)
    (blob,) = blobs(hutch)
    content = blob.read_bytes()
    match harm:
        case "changed":
            blob.write_bytes(content[:50] + bytes([content[50] ^ 1]) + content[51:])
        case "cut":
            blob.write_bytes(content[:-5])
        case _:
            blob.unlink()
    with pytest.raises(SandboxFailed, match="cannot be opened"):
        await hutch.sandboxes.ensure(user_id)
    assert world.runtime.unpacked == 0
    await hutch.sandboxes.destroy(user_id)  # as the hint says
    assert (await run_to_end(hutch, user_id)).state == "succeeded"


async def test_one_user_s_snapshot_opens_for_nobody_else(
    world: World, hutch: Hutch, clock: Steered, user_id: str
) -> None:
    await put_away(world, hutch, clock, user_id)
    other = await new_user(hutch, "else")
    await put_away(world, hutch, clock, other)
    mine, theirs = await hutch.snapshots.latest(user_id), await hutch.snapshots.latest(other)
    assert mine is not None
    assert theirs is not None
    folder = hutch.settings.snapshots_dir
    os.replace(folder / theirs.id, folder / mine.id)  # noqa: PTH105  (named as the attack)
    with pytest.raises(SandboxFailed, match="cannot be opened"):
        await hutch.sandboxes.ensure(user_id)


async def test_what_cannot_be_stored_stays_where_it_is(
    world: World, hutch: Hutch, user_id: str
) -> None:
    sandbox = await hutch.sandboxes.ensure(user_id)
    world.runtime.files[key_of(hutch, sandbox)] = FILES
    hutch.settings.snapshots_dir.write_bytes(b"not a directory")
    with pytest.raises(SnapshotFailed, match="directory of snapshots"):
        await hutch.sandboxes.hibernate(user_id)
    frozen = await becomes(hutch, user_id, "frozen")
    assert "directory of snapshots" in frozen.reason
    hutch.settings.snapshots_dir.unlink()
    assert (await hutch.sandboxes.hibernate(user_id)).observed == "hibernated"
    await hutch.sandboxes.ensure(user_id)
    assert world.runtime.files[key_of(hutch, await hutch.sandboxes.of(user_id))] == FILES


async def test_too_much_is_said_and_kept(world: World, hutch: Hutch, user_id: str) -> None:
    sandbox = await hutch.sandboxes.ensure(user_id)
    world.runtime.files[key_of(hutch, sandbox)] = bytes(201 << 20)
    with pytest.raises(SnapshotFailed, match="200 MB"):
        await hutch.sandboxes.hibernate(user_id)
    assert blobs(hutch) == []
    assert (await hutch.sandboxes.ensure(user_id)).incarnation == sandbox.incarnation


async def test_room_is_made_by_the_one_that_was_idle_longest(
    world: World, hutch: Hutch, clock: Steered, user_id: str
) -> None:
    del world
    await run_to_end(hutch, user_id)
    clock.later += 20
    other = await new_user(hutch, "else")
    await run_to_end(hutch, other)
    clock.later += 20
    assert await hutch.idle.make_room()
    await becomes(hutch, user_id, "hibernated")
    assert (await hutch.sandboxes.of(other)).observed == "running"


async def test_it_is_kept_for_the_days_of_the_tier(
    world: World, hutch: Hutch, clock: Steered, user_id: str
) -> None:
    await put_away(world, hutch, clock, user_id)
    clock.later += 6.9 * 24 * 3600
    await hutch.retention.run()
    assert len(blobs(hutch)) == 1
    clock.later += 0.2 * 24 * 3600
    assert (await hutch.retention.run())["deleted"] == 1
    assert blobs(hutch) == []
    with pytest.raises(NotFound, match="not used for 7 days"):
        await hutch.sandboxes.of(user_id)
    assert (await run_to_end(hutch, user_id)).state == "succeeded"


async def test_a_deleted_user_leaves_no_snapshot(
    world: World, hutch: Hutch, clock: Steered, user_id: str
) -> None:
    await put_away(world, hutch, clock, user_id)
    await hutch.deletion.delete(user_id)
    assert blobs(hutch) == []


async def test_strays_are_swept_up(
    world: World, hutch: Hutch, clock: Steered, user_id: str
) -> None:
    await put_away(world, hutch, clock, user_id)
    (hutch.settings.snapshots_dir / ".draft-of-a-crash").write_bytes(b"x")
    assert (await hutch.retention.run())["swept"] == 0  # it may be being written
    clock.later += 3700
    assert (await hutch.retention.run())["swept"] == 1
    assert len(blobs(hutch)) == 1


async def test_a_warm_one_takes_the_files(world: World, clock: Steered) -> None:
    world.settings = world.settings.model_copy(update={"pool_size": 1})
    async with world.orchestrator() as hutch:

        async def warm() -> bool:
            hutch.driver.wake("pool")
            return any(s.observed == "warm" for s in await hutch.sandboxes.all())

        user_id = await new_user(hutch, "someone")
        await until(warm)
        first = await run_to_end(hutch, user_id)
        await put_away(world, hutch, clock, user_id)
        await until(warm)
        (spare,) = [s for s in await hutch.sandboxes.all() if s.observed == "warm"]
        again = await go_on(hutch, first)
        assert (again.state, again.incarnation) == ("succeeded", spare.incarnation)
        assert world.runtime.files[key_of(hutch, spare)] == FILES


async def test_everybody_who_is_idle_is_put_away_before_the_end(
    world: World, hutch: Hutch, user_id: str
) -> None:
    await run_to_end(hutch, user_id)
    busy = await new_user(hutch, "busy")
    world.runtime.script = scripts.waits_for_release
    run = await hutch.runs.submit(busy, NewRun("claude", "long"))
    await until_begun(world)
    departure = await hutch.idle.put_all_away(within_s=20)
    assert (departure.hibernated, departure.stayed, departure.left) == (1, 1, 0)
    assert (await hutch.idle.put_all_away(within_s=-1)).left == 1
    world.runtime.release.set()
    assert (await hutch.runs.finished(busy, run.id)).state == "succeeded"


async def until_begun(world: World) -> None:
    count = len(world.runtime.executions)

    async def begun() -> bool:
        return len(world.runtime.executions) > count - 1 and world.runtime.at_once > 0

    await until(begun)
