"""A use of a container that is no run: it wakes it, keeps it awake, and hears of its end."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import pytest

from hutch.app import Hutch
from hutch.errors import SandboxBusy, SandboxFailed, TooManyUses, Unavailable
from hutch.sandboxes import uses as uses_module
from tests.orchestrator.conftest import World, new_user, run_to_end
from tests.orchestrator.test_control import until
from tests.orchestrator.test_rest import FILES, HIBERNATE_S, Steered, becomes, key_of, put_away

WHAT = "terminals"


@pytest.fixture
def clock(world: World) -> Steered:
    world.clock = steered = Steered()
    return steered


@pytest.fixture
async def hutch(clock: Steered, hutch: Hutch) -> Hutch:
    """With that clock."""
    del clock
    return hutch


async def test_it_makes_a_container_or_finds_the_one_that_is_there(
    world: World, hutch: Hutch, user_id: str
) -> None:
    async with hutch.uses.of(user_id, WHAT, most=1) as use:
        made = use.sandbox
    run = await run_to_end(hutch, user_id)
    assert run.incarnation == made.incarnation
    async with hutch.uses.of(user_id, WHAT, most=1) as use:
        assert use.sandbox.incarnation == made.incarnation
    assert len(world.backend.specs) == 1


async def test_it_wakes_one_that_was_put_away(
    world: World, hutch: Hutch, clock: Steered, user_id: str
) -> None:
    before = await put_away(world, hutch, clock, user_id)
    async with hutch.uses.of(user_id, WHAT, most=1) as use:
        assert use.sandbox.incarnation != before.incarnation
        assert world.runtime.files[key_of(hutch, use.sandbox)] == FILES


async def test_while_it_lasts_nobody_is_put_to_rest_and_afterwards_the_time_begins_anew(
    hutch: Hutch, clock: Steered, user_id: str
) -> None:
    async with hutch.uses.of(user_id, WHAT, most=1) as use:
        clock.later += 10 * HIBERNATE_S
        assert not await hutch.sandboxes.rest(use.sandbox, "frozen")
        with pytest.raises(SandboxBusy):
            await hutch.sandboxes.hibernate(user_id)
    idle_since = hutch.sandboxes.idle_since(use.sandbox)
    assert idle_since is not None
    assert clock.now() - idle_since < 60
    clock.later += HIBERNATE_S + 1
    await becomes(hutch, user_id, "hibernated")


async def test_its_end_is_told_when_the_container_ends(hutch: Hutch, user_id: str) -> None:
    async with hutch.uses.of(user_id, WHAT, most=1) as use:
        assert await use.unless_over(asyncio.sleep(0, "done")) == "done"
        waiting = asyncio.create_task(use.unless_over(asyncio.Event().wait()))
        destroying = asyncio.create_task(hutch.sandboxes.destroy(user_id))
        with pytest.raises(SandboxFailed, match="ended meanwhile"):
            await waiting
        await destroying
        with pytest.raises(SandboxFailed):  # also whoever asks later
            await use.unless_over(asyncio.Event().wait())


async def test_who_gives_up_waiting_ends_the_work(hutch: Hutch, user_id: str) -> None:
    ended = asyncio.Event()

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    async with hutch.uses.of(user_id, WHAT, most=1) as use:
        waiting = asyncio.create_task(use.unless_over(work()))
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.wait({waiting})
        assert ended.is_set()


async def test_a_user_has_so_many_of_a_kind_and_others_do_not_count(
    hutch: Hutch, user_id: str
) -> None:
    other = await new_user(hutch, "other")
    async with AsyncExitStack() as open_ones:
        for _ in range(2):
            await open_ones.enter_async_context(hutch.uses.of(user_id, WHAT, most=2))
        with pytest.raises(TooManyUses, match="2 terminals"):
            async with hutch.uses.of(user_id, WHAT, most=2):
                pass
        for whose, what in ((user_id, "transfers"), (other, WHAT)):
            async with hutch.uses.of(whose, what, most=1):
                pass
        assert hutch.uses.count(user_id, WHAT) == 2
    assert hutch.uses.count(user_id, WHAT) == 0
    async with hutch.uses.of(user_id, WHAT, most=1):
        pass


async def test_another_task_than_began_it_may_end_it(hutch: Hutch, user_id: str) -> None:
    async with AsyncExitStack() as opened:
        use = await opened.enter_async_context(hutch.uses.of(user_id, WHAT, most=1))
        kept = opened.pop_all()
    await asyncio.create_task(kept.aclose())
    assert hutch.sandboxes.idle_since(use.sandbox) is not None


async def test_nobody_waits_for_ever_for_a_place(
    world: World, hutch: Hutch, user_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    hutch.places.most = 0
    monkeypatch.setattr(uses_module, "WAIT_S", 0.05)
    with pytest.raises(Unavailable, match="No container could be had"):
        async with hutch.uses.of(user_id, WHAT, most=1):
            pass
    assert hutch.uses.count(user_id, WHAT) == 0
    hutch.places.most = 1
    monkeypatch.undo()

    async def works() -> bool:
        async with hutch.uses.of(user_id, WHAT, most=1):
            return True

    await until(works)
    assert len(world.backend.specs) == 1
