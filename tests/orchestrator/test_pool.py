"""Warm sandboxes: how the pool keeps them, and how a user gets one."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace

import pytest
from sqlalchemy import insert

from hutch.app import Hutch
from hutch.control.gateway import placeholder_key
from hutch.control.pool import MEMBER_MAX_AGE_S, PATIENCE_S, Pool, auto_size
from hutch.gateway.base import FakeGateway
from hutch.gateway.table import SHARED_ADDRESS, Entry
from hutch.rollouts.models import Plan
from hutch.sandboxes.models import ImageRef, Sandbox
from hutch.sandboxes.rows import SandboxRows
from hutch.sandboxes.states import State
from hutch.store.database import Database
from hutch.store.open import open_database
from hutch.store.tables import users as users_table
from tests.orchestrator.conftest import World, log_of, new_user, run_to_end
from tests.orchestrator.test_control import until
from tests.orchestrator.test_places import places_for


class Steered:
    def __init__(self) -> None:
        self.time = 1_000_000.0

    def now(self) -> float:
        return self.time


@dataclass
class Bench:
    """A pool, and rows that become what the test says."""

    rows: SandboxRows
    clock: Steered
    pool: Pool
    plan: Plan = field(default_factory=lambda: Plan(ImageRef("name", "now")))
    waiting: int = 0
    asked_at: float = 0.0

    async def members(self, state: State | None = None) -> list[Sandbox]:
        live = [s for s in await self.rows.live() if s.user_id is None]
        return [s for s in live if state in {None, s.observed}]

    async def become(self, state: State, reason: str = "") -> None:
        for sandbox in await self.members("provisioning"):
            await self.rows.observe(sandbox.id, state, at=self.clock.time, reason=reason)

    async def fill(self) -> None:
        for _ in range(20):
            await self.pool.run()
            await self.become("warm")
            self.clock.time += 1

    async def rotate(self) -> int:
        """Let the pool look often; the fewest that were warm meanwhile."""
        fewest = len(await self.members("warm"))
        for _ in range(40):
            await self.pool.run()
            for sandbox in await self.members():
                if sandbox.desired == "destroyed":
                    await self.rows.observe(sandbox.id, "destroyed", at=self.clock.time)
            fewest = min(fewest, len(await self.members("warm")))
            await self.become("warm")
            self.clock.time += 1
        return fewest

    async def images(self) -> list[str]:
        return sorted(s.image_id or "" for s in await self.members("warm"))

    def fresh_pool(self, *, size: int = 4) -> Pool:
        def demand() -> tuple[int, float]:
            return self.waiting, self.asked_at

        async def plan() -> Plan:
            return self.plan

        return Pool(
            self.rows,
            self.clock,
            size=lambda: size,
            plan=plan,
            wake=lambda _: None,
            demand=demand,
            places=places_for(self.rows, self.clock),
        )


@pytest.fixture
async def bench(database_url: str) -> AsyncIterator[Bench]:
    database = open_database(database_url)
    made = Bench(SandboxRows(database), Steered(), None)  # type: ignore[arg-type]  # given below
    made.pool = made.fresh_pool()
    yield made
    await database.close()


async def test_it_fills_slowly_and_counts_what_is_under_way(bench: Bench) -> None:
    await bench.pool.run()
    await bench.pool.run()
    assert len(await bench.members("provisioning")) == 1
    await bench.become("warm")
    await bench.pool.run()
    assert len(await bench.members("provisioning")) == 2
    await bench.fill()
    assert len(await bench.members()) == len(await bench.members("warm")) == 4


async def test_users_go_first_but_not_for_ever(bench: Bench) -> None:
    bench.waiting = 1
    assert (await bench.pool.run())["held"] == "users go first"
    assert await bench.members() == []
    bench.clock.time += PATIENCE_S
    await bench.pool.run()
    assert len(await bench.members()) == 1
    bench.waiting, bench.asked_at = 0, bench.clock.time
    await bench.become("warm")
    await bench.pool.run()
    assert len(await bench.members()) == 1
    bench.clock.time += 5
    await bench.pool.run()
    assert len(await bench.members()) > 1


async def test_what_fails_is_held_back_longer_and_longer(bench: Bench) -> None:
    made = set()
    for _ in range(300):  # five minutes
        await bench.pool.run()
        made |= {s.id for s in await bench.members()}
        await bench.become("failed", reason="no such image")
        bench.clock.time += 1
    report = await bench.pool.run()
    assert 5 <= len(made) <= 9
    assert "no such image" in str(report["held"])
    bench.clock.time += 400
    await bench.fill()
    assert len(await bench.members("warm")) == 4


async def test_old_ones_are_replaced_one_at_a_time(bench: Bench) -> None:
    await bench.fill()
    before = {s.id for s in await bench.members("warm")}
    bench.clock.time += MEMBER_MAX_AGE_S + 100
    fewest = await bench.rotate()
    after = {s.id for s in await bench.members("warm")}
    assert len(after) == 4
    assert not before & after
    assert fewest == 3


async def test_another_image_or_size_is_met_after_a_restart(bench: Bench) -> None:
    await bench.fill()
    bench.plan = Plan(ImageRef("name", "next"))
    bench.pool = bench.fresh_pool(size=2)
    await bench.rotate()
    assert await bench.images() == ["next", "next"]


async def test_a_candidate_has_its_share_and_goes_again(bench: Bench) -> None:
    await bench.fill()
    before = {s.id for s in await bench.members("warm")}
    bench.plan = Plan(ImageRef("name", "now"), ImageRef("name", "next"), share=26)
    assert await bench.rotate() == 3
    assert await bench.images() == ["next", "next", "now", "now"]
    assert len(before & {s.id for s in await bench.members("warm")}) == 2
    await add_users(bench.pool._rows._database, ["user_1"])
    await bench.rows.claim("user_1", at=bench.clock.time)
    await bench.rotate()
    assert await bench.images() == ["next", "next", "now", "now"]
    bench.plan = Plan(ImageRef("name", "now"))
    assert await bench.rotate() == 3
    assert await bench.images() == ["now"] * 4


async def test_nothing_is_begun_of_an_image_that_is_not_there(bench: Bench) -> None:
    bench.plan = Plan(ImageRef("name", None))
    assert (await bench.pool.run())["held"] == "there is no image name"
    assert await bench.members() == []


async def test_a_restart_adopts_what_is_there(bench: Bench) -> None:
    await bench.fill()
    before = await bench.members()
    bench.pool = bench.fresh_pool()
    await bench.fill()
    assert await bench.members() == before


@pytest.mark.parametrize(
    ("cores", "memory_mb", "size"),
    [
        (2, 24_000, 1),
        (4, 16_000, 2),
        (8, 24_000, 5),
        (64, 500_000, 5),
        (8, 4_000, 2),
        (1, 1_000, 0),
    ],
)
def test_the_size_of_a_machine(cores: int, memory_mb: int, size: int) -> None:
    assert auto_size(cores, memory_mb) == size


@contextlib.asynccontextmanager
async def pooled(world: World, size: int) -> AsyncIterator[Hutch]:
    world.settings = world.settings.model_copy(update={"pool_size": size})
    async with world.orchestrator() as hutch:

        async def full() -> bool:
            return sum(s.observed == "warm" for s in await hutch.sandboxes.all()) == size

        async with asyncio.timeout(30):
            while not await full():
                for task in hutch.driver.status():
                    task.woken.set()
                await asyncio.sleep(0.02)
        yield hutch


async def test_a_new_user_gets_a_warm_one_and_leaves_none_behind(world: World) -> None:
    async with pooled(world, 1) as hutch:
        [warm] = await hutch.sandboxes.all()
        entry = entry_of(world.gateway, warm)
        assert (entry.user_id, entry.egress, entry.routes) == (None, "closed", {})
        user_id = await new_user(hutch, "new")
        run = await run_to_end(hutch, user_id)
        assert (run.state, run.incarnation) == ("succeeded", warm.incarnation)
        assert (await log_of(hutch, run))[-1].type == "run.finished"
        entry = entry_of(world.gateway, warm)
        assert entry.user_id == user_id
        assert set(entry.routes) == {"claude", "codex", "gemini"}
        assert (await hutch.sandboxes.destroy(user_id)).id == warm.id
        assert all(s.id != warm.id for s in await hutch.sandboxes.all())


async def test_one_that_does_not_answer_is_not_given_out(world: World) -> None:
    async with pooled(world, 1) as hutch:
        [warm] = await hutch.sandboxes.all()
        rows = SandboxRows(hutch.database)
        await rows.note(warm.id, port=1)  # nobody listens there
        user_id = await new_user(hutch, "unlucky")
        given = await hutch.sandboxes.ensure(user_id)
        assert given.id != warm.id
        row = await rows.get(warm.id)
        assert row is not None
        assert not row.live


async def test_a_cancelled_claim_is_carried_through(world: World) -> None:
    async with pooled(world, 1) as hutch:
        user_id = await new_user(hutch, "hasty")
        asking = asyncio.create_task(hutch.sandboxes.ensure(user_id))
        await asyncio.sleep(0)
        await asyncio.sleep(0.005)
        asking.cancel()
        given = await hutch.sandboxes.ensure(user_id)
        entry = entry_of(world.gateway, given)
        assert entry.user_id == user_id
        assert len([s for s in await hutch.sandboxes.all() if s.user_id == user_id]) == 1


async def test_nobody_gets_two_and_none_is_given_twice(database_url: str) -> None:
    """Fifty users, twenty members, two services on one database; each user asks four times."""
    databases = [open_database(database_url) for _ in range(2)]
    rows = [SandboxRows(database) for database in databases]
    clock = Steered()
    blank = Sandbox("", None, "", "warm", "provisioning", "", "now", 0.0, 0.0)
    for n in range(20):
        member = replace(blank, id=f"sbx_{n}", incarnation=f"inc_{n}", created_at=n, changed_at=n)
        await rows[0].add(member)
        await rows[0].observe(member.id, "warm", at=float(n))
    users = [f"user_{n}" for n in range(50)]
    await add_users(databases[0], users)
    asked = [rows[n % 2].claim(user, at=clock.time) for n in range(4) for user in users]
    given = [sandbox for sandbox in await asyncio.gather(*asked) if sandbox is not None]
    assert len(given) == len({s.id for s in given}) == len({s.user_id for s in given}) == 20
    live = await rows[1].live()
    assert {(s.id, s.user_id) for s in live} == {(s.id, s.user_id) for s in given}
    for database in databases:
        await database.close()


async def test_a_dead_warm_one_is_replaced(world: World) -> None:
    async with pooled(world, 1) as hutch:
        [warm] = await hutch.sandboxes.all()
        assert warm.handle is not None
        world.backend.end(warm.handle, exit_code=137)

        async def replaced() -> bool:
            found = [s for s in await hutch.sandboxes.all() if s.observed == "warm"]
            return bool(found) and found[0].id != warm.id

        await until(replaced)


def entry_of(gateway: FakeGateway, sandbox: Sandbox) -> Entry:
    found = gateway.table.find(SHARED_ADDRESS, [placeholder_key(sandbox.incarnation)])
    assert found is not None
    return found


async def add_users(database: Database, users: list[str]) -> None:
    rows = [{"id": user, "name": user, "tier": "free", "created_at": 0.0} for user in users]
    await database.write((insert(users_table), rows))


async def test_what_a_user_had_is_never_warm_again(bench: Bench) -> None:
    await add_users(bench.pool._rows._database, ["user_1"])
    await bench.pool.run()
    await bench.become("warm")
    claimed = await bench.rows.claim("user_1", at=bench.clock.time)
    assert claimed is not None
    for state in ("running", "frozen", "running", "provisioning", "hibernated"):
        await bench.rows.note(claimed.id, observed=state)
        assert not await bench.rows.observe(claimed.id, "warm", at=bench.clock.time)
