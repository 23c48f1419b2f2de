"""Places for containers: the cap, the memory, the pool, and who has to let go of one."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest
from sqlalchemy import insert

from hutch.clock import Clock
from hutch.ids import new_id
from hutch.load import FixedLoad, Memory
from hutch.sandboxes import places as places_module
from hutch.sandboxes.census import take_census
from hutch.sandboxes.models import Sandbox
from hutch.sandboxes.places import MakeRoom, Places
from hutch.sandboxes.rows import SandboxRows
from hutch.sandboxes.states import State
from hutch.store.database import Database
from hutch.store.open import open_database
from hutch.store.tables import users as users_table


@dataclass
class Recorder:
    """Claimants that do as they are told."""

    told: list[str] = field(default_factory=list)
    busy: set[str] = field(default_factory=set)
    held: set[str] = field(default_factory=set)

    def waits(self, user_id: str) -> None:
        self.told.append(user_id)

    def under_way(self, user_id: str) -> bool:
        return user_id in self.busy

    def hold_back(self, user_id: str) -> None:
        self.held.add(user_id)

    def go_on(self, user_id: str) -> None:
        self.held.discard(user_id)


def places_for(
    rows: SandboxRows,
    clock: Clock,
    *,
    most: int = 50,
    load: FixedLoad | None = None,
    claimants: Recorder | None = None,
    make_room: MakeRoom | None = None,
) -> Places:
    async def weight(_user_id: str) -> float:
        return 1

    return Places(
        rows,
        load or FixedLoad(),
        clock,
        most=most,
        reserve_mb=1000,
        expected_mb=500,
        starts_at_once=4,
        turn_s=30,
        weight=weight,
        claimants=claimants or Recorder(),
        make_room=make_room,
    )


class Steered:
    def __init__(self) -> None:
        self.time = 1_000_000.0

    def now(self) -> float:
        return self.time


@dataclass
class Yard:
    """Rows that become what the test says, and users who ask."""

    rows: SandboxRows
    database: Database
    clock: Steered
    load: FixedLoad
    claimants: Recorder
    asking: dict[str, asyncio.Task[None]] = field(default_factory=dict)

    @asynccontextmanager
    async def places(self, most: int, make_room: MakeRoom | None = None) -> AsyncIterator[Places]:
        async with places_for(
            self.rows,
            self.clock,
            most=most,
            load=self.load,
            claimants=self.claimants,
            make_room=make_room,
        ) as places:
            try:
                yield places
            finally:
                for task in self.asking.values():
                    task.cancel()
                await asyncio.gather(*self.asking.values(), return_exceptions=True)

    async def row(self, user_id: str | None, observed: State = "running") -> Sandbox:
        desired = "warm" if user_id is None else "running"
        now = self.clock.time
        sandbox = Sandbox(
            id=new_id("sbx"),
            user_id=user_id,
            incarnation=new_id("inc"),
            desired=desired,  # type: ignore[arg-type]  # one of two literals
            observed=observed,
            reason="",
            image="now",
            created_at=now,
            changed_at=now,
        )
        assert await self.rows.add(sandbox)
        return sandbox

    async def end(self, user_id: str) -> None:
        sandbox = await self.rows.live_of(user_id)
        assert sandbox is not None
        await self.rows.observe(sandbox.id, "destroyed", at=self.clock.time)

    def ask(self, places: Places, user_id: str) -> asyncio.Task[None]:
        async def asks() -> None:
            async with places.of(user_id):
                if await self.rows.claim(user_id, at=self.clock.time) is None:
                    await self.row(user_id)

        task = self.asking[user_id] = asyncio.create_task(asks())
        return task

    async def settle(self) -> None:
        """Long enough for every look that is due."""
        await asyncio.sleep(0.1)

    async def soon(self, holds: Callable[[], bool]) -> None:
        """However busy the machine is."""
        async with asyncio.timeout(20):
            while not holds():
                await asyncio.sleep(0.005)

    async def passes(self, holds: Callable[[], bool]) -> None:
        """The same, with time."""
        async with asyncio.timeout(20):
            while not holds():
                self.clock.time += 0.25
                await asyncio.sleep(0.01)

    def waiting(self) -> set[str]:
        return {user_id for user_id, task in self.asking.items() if not task.done()}


USERS = [f"u{n}" for n in range(8)]


@pytest.fixture
async def yard(database_url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Yard]:
    monkeypatch.setattr(places_module, "_LOOK_S", 0.01)
    database = open_database(database_url)
    rows = [{"id": user, "name": user, "tier": "free", "created_at": 0.0} for user in USERS]
    await database.write((insert(users_table), rows))
    yield Yard(SandboxRows(database), database, Steered(), FixedLoad(), Recorder())
    await database.close()


async def test_no_more_than_the_cap_and_in_order(yard: Yard) -> None:
    async with yard.places(2) as places:
        for user in USERS[:4]:
            yard.ask(places, user)
        await yard.soon(lambda: yard.waiting() == {"u2", "u3"})
        both = {"u2": ("capacity", 1), "u3": ("capacity", 2)}
        await yard.soon(lambda: places.standings() == both)
        assert places.standing("u3") == ("capacity", 2)
        assert {"u2", "u3"} <= set(yard.claimants.told)
        await yard.end("u0")
        await yard.soon(lambda: yard.waiting() == {"u3"})
        yard.asking["u3"].cancel()  # who gives up is not in the way
        await yard.soon(lambda: places.standings() == {})


async def test_never_above_the_cap_whatever_happens(yard: Yard) -> None:
    luck = random.Random(7)  # noqa: S311  no secret
    most, peak = 3, 0

    async def member() -> None:
        await yard.row(None, "warm")

    async with yard.places(most) as places:
        for step in range(2000):
            user = luck.choice(USERS)
            match luck.choice(["ask", "ask", "end", "pool", "pause"]):
                case "ask" if user not in yard.waiting():
                    yard.ask(places, user)
                case "end" if await yard.rows.live_of(user):
                    await yard.end(user)
                case "pool":
                    await places.begin_member(member)
                case _:
                    await asyncio.sleep(0.005)
            peak = max(peak, len(await yard.rows.live()))
            assert peak <= most
            if step > 150 and peak == most:
                return
        raise AssertionError("the cap was never reached")


async def test_a_host_short_of_memory_gets_no_more(yard: Yard) -> None:
    yard.load.now = Memory(8000, 1000 + 2 * 500)
    async with yard.places(50) as places:
        for user in USERS[:3]:
            yard.ask(places, user)
        await yard.row("u7", "provisioning")  # has yet to take its memory
        # What is available stays as it was, since nothing here takes any.
        await yard.soon(lambda: not yard.waiting())
        yard.load.now = Memory(8000, 1000 + 499)
        yard.ask(places, "u4")
        await yard.soon(lambda: places.standing("u4") == ("memory", 1))

        async def member() -> None:
            raise AssertionError

        assert "users wait" in await places.begin_member(member)
        yard.load.now = Memory(8000, 1000 + 1001)
        await yard.soon(lambda: not yard.waiting())
        yard.load.now = Memory(8000, 100)
        assert "memory" in await places.begin_member(member)


async def test_what_is_promised_takes_memory_already(yard: Yard) -> None:
    yard.load.now = Memory(8000, 1000 + 2 * 500)
    async with yard.places(50) as places, places.of("u0"), places.of("u1"):
        yard.ask(places, "u2")
        await yard.soon(lambda: places.standing("u2") == ("memory", 1))


async def test_a_warm_one_is_had_at_the_cap(yard: Yard) -> None:
    await yard.row("u0")
    await yard.row(None, "warm")
    async with yard.places(2) as places:
        yard.ask(places, "u1")
        yard.ask(places, "u2")
        await yard.soon(lambda: yard.waiting() == {"u2"})
        assert len(await yard.rows.live()) == 2
        # Whoever has one, in whatever state, needs no place.
        yard.ask(places, "u0")
        await yard.soon(lambda: yard.waiting() == {"u2"})


async def test_few_are_made_at_once(yard: Yard) -> None:
    for user in USERS[:4]:
        await yard.row(user, "provisioning")
    async with yard.places(50) as places:
        yard.ask(places, "u4")
        await yard.soon(lambda: places.standing("u4") == ("pool_empty", 1))


def evicts(yard: Yard, asked: list[str], *, idle: Callable[[], set[str]]) -> MakeRoom:
    """Puts away who is idle, as hibernation does, and takes its time for that."""

    async def make_room() -> bool:
        for sandbox in await yard.rows.live():
            if sandbox.user_id in idle() and sandbox.desired == "running":
                asked.append(str(sandbox.user_id))
                await yard.rows.want(sandbox.id, "destroyed")
                return True
        return False

    return make_room


async def test_the_idle_are_asked_to_go_as_many_as_are_needed(yard: Yard) -> None:
    asked: list[str] = []
    for user in USERS[:3]:
        await yard.row(user)
    async with yard.places(3, evicts(yard, asked, idle=lambda: set(USERS))) as places:
        yard.ask(places, "u3")
        await yard.soon(lambda: asked == ["u0"])
        assert yard.waiting() == {"u3"}  # it is not gone yet
        await yard.end("u0")
        await yard.soon(lambda: not yard.waiting())


async def test_the_busy_let_go_after_a_turn(yard: Yard) -> None:
    asked: list[str] = []
    yard.claimants.busy = {"u0", "u1"}
    make_room = evicts(yard, asked, idle=lambda: set(USERS) - yard.claimants.busy)
    async with yard.places(2, make_room) as places:
        yard.ask(places, "u0")
        await yard.soon(lambda: not yard.waiting())
        yard.clock.time += 1
        yard.ask(places, "u1")
        await yard.soon(lambda: not yard.waiting())
        yard.ask(places, "u2")
        await yard.settle()
        assert yard.claimants.held == set()  # their turns have only begun
        yard.clock.time += 29.5
        await yard.soon(lambda: yard.claimants.held == {"u0"})  # one waits, so one is held
        yard.clock.time += 100
        await yard.soon(lambda: yard.claimants.held == {"u0"})
        yard.claimants.busy = {"u1"}
        await yard.soon(lambda: asked == ["u0"])
        await yard.end("u0")
        await yard.soon(lambda: not yard.waiting())
        assert yard.claimants.held == set()


async def test_who_cannot_be_put_away_goes_on(yard: Yard) -> None:
    async def never() -> bool:
        return False

    async with yard.places(1, never) as places:
        yard.ask(places, "u0")
        await yard.soon(lambda: not yard.waiting())
        yard.clock.time += 31
        yard.ask(places, "u1")
        await yard.soon(lambda: yard.claimants.held == {"u0"})
        began = yard.clock.time
        await yard.passes(lambda: yard.claimants.held == set())
        assert yard.clock.time - began >= 10
        await yard.passes(lambda: yard.claimants.held == {"u0"})
        assert yard.clock.time - began >= 40  # another turn
        yard.asking["u1"].cancel()
        await yard.soon(lambda: yard.claimants.held == set())


async def test_a_database_that_fails_does_not_stop_the_line(
    yard: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    live: Callable[[SandboxRows], Awaitable[list[Sandbox]]] = SandboxRows.live

    async def fails(_rows: SandboxRows) -> list[Sandbox]:
        raise OSError("the disk is gone")

    monkeypatch.setattr(SandboxRows, "live", fails)
    async with yard.places(1) as places:
        yard.ask(places, "u0")
        await yard.settle()
        assert yard.waiting() == {"u0"}
        monkeypatch.setattr(SandboxRows, "live", live)
        await yard.soon(lambda: not yard.waiting())


async def test_a_census(yard: Yard) -> None:
    await yard.row(None, "warm")
    await yard.row(None, "provisioning")
    await yard.row("u0")
    await yard.row("u1", "provisioning")
    live = await yard.rows.live()
    counted = take_census(live, {"u0", "u2", "u3"})
    # u2 gets the warm one, for u3 one is made.
    assert (counted.total, counted.warm, counted.coming) == (5, 0, 1)
    assert (counted.cold, counted.starting) == (2, 3)
    assert counted.owners == {"u0", "u1"}


async def test_who_comes_together_waits_for_one_count(
    yard: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in USERS:
        await yard.row(None, "warm")
    counts = 0
    live = yard.rows.live

    async def counted() -> list[Sandbox]:
        nonlocal counts
        counts += 1
        return await live()

    monkeypatch.setattr(yard.rows, "live", counted)
    async with yard.places(len(USERS)) as places:
        for user in USERS:
            yard.ask(places, user)
        await yard.soon(lambda: not yard.waiting())
    assert {s.user_id for s in await live()} == set(USERS)  # each a warm one, and none was made
    assert counts <= 3
