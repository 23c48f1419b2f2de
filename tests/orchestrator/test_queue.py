"""The queue on the scripted world: who waits, for what, how they are told, and who is refused."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hutch.accounts.tiers import Limits
from hutch.app import Hutch
from hutch.errors import QueueFull
from hutch.runs.models import Run, Standing
from hutch.runs.pace import RETRY_MAX_S
from hutch.runs.queue import RunQueue
from hutch.runs.service import NewRun
from hutch.sandboxes.places import Places
from tests.orchestrator.conftest import Api, World, log_of, new_user, run_to_end
from tests.orchestrator.runtime import waits_for_release
from tests.orchestrator.test_places import Steered


def settings(world: World, **values: object) -> None:
    world.settings = world.settings.model_copy(update=values)


async def queued(hutch: Hutch, run: Run) -> list[tuple[str, int]]:
    return [
        (entry.data["reason"], entry.data["position"])
        for entry in await log_of(hutch, run)
        if entry.type == "queued"
    ]


async def test_a_run_says_what_it_waits_for(world: World, hutch: Hutch, user_id: str) -> None:
    first = await run_to_end(hutch, user_id)
    assert await queued(hutch, first) == [("pool_empty", 1)]
    world.runtime.script = waits_for_release
    runs = [await hutch.runs.submit(user_id, NewRun("claude", f"{n}")) for n in range(4)]
    later = await hutch.runs.submit(user_id, NewRun("claude", "x", session_id=runs[0].session_id))
    standings = [hutch.runs.standing(run) for run in [*runs, later]]
    assert [s and (s.reason, s.position) for s in standings] == [
        None,
        None,
        ("user_limit", 1),
        ("user_limit", 2),
        ("session", 1),
    ]
    world.runtime.release.set()
    for run in [*runs, later]:
        assert (await hutch.runs.finished(user_id, run.id)).state == "succeeded"
    assert await queued(hutch, runs[0]) == []
    assert (await queued(hutch, runs[2]))[0] == ("user_limit", 1)
    assert (await queued(hutch, later))[0] == ("session", 1)


async def test_a_thousand_runs_of_one_do_not_delay_another(world: World) -> None:
    settings(world, queue_free=1000, queue_max=2500)
    async with world.orchestrator() as hutch:
        many, one = await new_user(hutch, "many"), await new_user(hutch, "one")
        await run_to_end(hutch, many)
        runs = await asyncio.gather(
            *(hutch.runs.submit(many, NewRun("claude", f"{n}")) for n in range(1000))
        )
        begun = len(world.runtime.executions)
        assert (await run_to_end(hutch, one)).state == "succeeded"
        assert len(world.runtime.executions) - begun < 100
        await asyncio.gather(*(hutch.runs.cancel(many, run.id) for run in runs))
        ended = [await hutch.runs.finished(many, run.id) for run in runs]
        assert {run.state for run in ended} <= {"succeeded", "cancelled"}
        assert len(set(world.runtime.executions)) == len(world.runtime.executions)
        assert hutch.run_queue.depth() == 0


async def test_what_is_too_much_is_refused_and_not_stored(
    world: World, hutch: Hutch, api: Api, user_id: str, key: str
) -> None:
    world.runtime.script = waits_for_release
    hutch.run_queue._most = 6  # as HUTCH_QUEUE_MAX would
    runs = [
        await hutch.runs.submit(user_id, NewRun("claude", f"{n}", idempotency_key=f"k{n}"))
        for n in range(3)
    ]
    await until_going(world, runs[:2])
    other = await new_user(hutch, "other")
    # Two go, three wait.
    runs += [await hutch.runs.submit(user_id, NewRun("claude", f"{n}")) for n in range(3, 5)]
    with pytest.raises(QueueFull, match="on this service"):
        await hutch.runs.submit(user_id, NewRun("claude", "x"))
    before = await hutch.runs.submit(other, NewRun("claude", "x"))  # who has none waiting
    body = {"provider": "claude", "prompt": "x"}
    status, answer = await api("POST", "/v1/runs", key, json=body)
    assert (status, answer["error"]["code"]) == (429, "queue_full")
    assert 1 <= int(api.headers["Retry-After"]) <= 120
    # What was accepted is found all the same.
    again = await hutch.runs.submit(user_id, NewRun("claude", "2", idempotency_key="k2"))
    assert again.id == runs[2].id
    assert len(await hutch.runs.page(user_id, session_id=None, before=None, limit=100)) == 5
    assert len(await hutch.runs.page(other, session_id=None, before=None, limit=100)) == 1
    world.runtime.release.set()
    for run in runs:
        assert (await hutch.runs.finished(user_id, run.id)).state == "succeeded"
    assert (await hutch.runs.finished(other, before.id)).state == "succeeded"


@dataclass
class Waits:
    """A run that only waits."""

    run: Run

    def tell_queued(self, standing: Standing) -> None:
        """Into no log."""


@given(st.lists(st.sampled_from("aaaabbc"), max_size=60), st.integers(2, 20))
def test_no_user_takes_what_is_left_for_others(users: str, most: int) -> None:
    queue = RunQueue(Steered(), most=most, places=never)
    count: Counter[str] = Counter()
    for n, user in enumerate(users):
        run = Run(f"run{n}", user, f"ses{n}", "claude", None, "x", 10, "queued", 0.0)
        free = most - queue.depth()
        refused = None
        try:
            queue.enter(Waits(run), Limits(2, 100, 1), has_container=False)
        except QueueFull as error:
            refused = error
        else:
            count[user] += 1
        if refused is not None:
            assert count[user] >= free  # a newcomer only when nothing at all is free
            assert 1 <= refused.retry_after_s <= RETRY_MAX_S
        assert queue.depth() == count.total() <= most
    if len(count) == 1:
        assert count.total() <= (most + 1) // 2


def never() -> Places:
    raise AssertionError


async def until_going(world: World, runs: list[Run]) -> None:
    async with asyncio.timeout(20):
        while not {run.id for run in runs} <= set(world.runtime.executions):
            await asyncio.sleep(0.01)


async def test_a_users_own_limit(world: World) -> None:
    settings(world, queue_free=2)
    async with world.orchestrator() as hutch:
        user, other = await new_user(hutch, "greedy"), await new_user(hutch, "other")
        await run_to_end(hutch, user)
        world.runtime.script = waits_for_release
        runs = [await hutch.runs.submit(user, NewRun("claude", f"{n}")) for n in range(2)]
        await until_going(world, runs)
        runs += [await hutch.runs.submit(user, NewRun("claude", f"{n}")) for n in range(2)]
        with pytest.raises(QueueFull, match="of your runs"):
            await hutch.runs.submit(user, NewRun("claude", "one more"))
        world.runtime.release.set()
        assert (await run_to_end(hutch, other)).state == "succeeded"
        for run in runs:
            assert (await hutch.runs.finished(user, run.id)).state == "succeeded"


async def test_who_waits_for_a_container_is_told_and_gets_it(world: World) -> None:
    settings(world, max_containers=1)
    async with world.orchestrator() as hutch:
        users = [await new_user(hutch, name) for name in ("ada", "bob", "eve")]
        await run_to_end(hutch, users[0])
        runs = [await hutch.runs.submit(user, NewRun("claude", "x")) for user in users[1:]]
        async with asyncio.timeout(10):
            while [hutch.runs.standing(run) for run in runs] != [
                Standing("capacity", 1),
                Standing("capacity", 2),
            ]:
                await asyncio.sleep(0.01)
        await hutch.sandboxes.destroy(users[0])
        assert (await hutch.runs.finished(users[1], runs[0].id)).state == "succeeded"
        await asyncio.sleep(1.2)  # it is told once a second
        await hutch.sandboxes.destroy(users[1])
        assert (await hutch.runs.finished(users[2], runs[1].id)).state == "succeeded"
        # It waits for the first one's container, then for the second one's, then for its own.
        assert await queued(hutch, runs[1]) == [
            ("capacity", 2),
            ("capacity", 1),
            ("pool_empty", 1),
        ]
        assert len(await hutch.sandboxes.all()) == 1


async def test_no_end_before_its_turn_costs_a_container(world: World) -> None:
    """Cancelled, or out of time, while it waits for a container."""
    settings(world, max_containers=1)
    async with world.orchestrator() as hutch:
        ada, bob = await new_user(hutch, "ada"), await new_user(hutch, "bob")
        await run_to_end(hutch, ada)
        late = await hutch.runs.submit(bob, NewRun("claude", "x", timeout_s=0.3))
        unwanted = await hutch.runs.submit(bob, NewRun("claude", "x"))
        await asyncio.sleep(0.1)
        await hutch.runs.cancel(bob, unwanted.id)
        assert (await hutch.runs.finished(bob, unwanted.id)).state == "cancelled"
        assert (await hutch.runs.finished(bob, late.id)).error_code == "timeout"
        assert hutch.places.waiting() == hutch.run_queue.depth() == 0
        await hutch.sandboxes.destroy(ada)
        await asyncio.sleep(0.1)
        assert await hutch.sandboxes.all() == []
        assert set(world.runtime.executions).isdisjoint({late.id, unwanted.id})


async def test_a_restart_keeps_the_order_and_loses_nothing(world: World) -> None:
    settings(world, runs_free=1)
    world.runtime.script = waits_for_release
    async with world.orchestrator() as first:
        user = await new_user(first, "someone")
        runs = [await first.runs.submit(user, NewRun("claude", f"{n}")) for n in range(8)]
        await until_going(world, runs[:1])
    async with world.orchestrator() as second:
        assert [second.runs.standing(run) for run in runs[1:3]] == [
            Standing("user_limit", 1),
            Standing("user_limit", 2),
        ]
        world.runtime.release.set()
        for run in runs:
            assert (await second.runs.finished(user, run.id)).state == "succeeded"
        log = await log_of(second, runs[5])
        assert [entry.seq for entry in log] == list(range(1, len(log) + 1))
    assert world.runtime.most_at_once == 1
    assert world.runtime.executions == [run.id for run in runs]
