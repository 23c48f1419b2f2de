"""Another image: how it is checked, tried, taken and taken back, with a clock that tests steer."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest

from hutch.app import Hutch
from hutch.backends.base import Image
from hutch.control.rollout import CHECK_WITHIN_S
from hutch.errors import Conflict, InvalidRequest, NotFound
from hutch.rollouts.models import Phase, Plan, Rollout
from hutch.rollouts.prune import unused
from hutch.rollouts.verdict import RunCounts, Seen, judge
from hutch.sandboxes.models import ImageRef, Sandbox
from hutch_runtime.protocol import PROTOCOL_VERSION
from tests.orchestrator.conftest import Api, World, new_user, run_to_end
from tests.orchestrator.runtime import ScriptedRun, answers, finished
from tests.orchestrator.test_pool import Steered, entry_of

OLD, NEW = "sha256:1", "sha256:2"


@pytest.fixture
def steered(world: World) -> Steered:
    world.clock = clock = Steered()
    world.settings = world.settings.model_copy(update={"pool_size": 2})
    world.backend.add_image("hutch-sandbox:next", NEW, made_at=2.0)
    return clock


@contextlib.asynccontextmanager
async def at_work(world: World, steered: Steered) -> AsyncIterator[Hutch]:
    """An orchestrator with a full pool; the clock goes on, a second a look."""
    async with world.orchestrator() as hutch:
        await until(hutch, steered, lambda live: warm(live) == 2)
        yield hutch


def warm(live: list[Sandbox]) -> int:
    return sum(s.observed == s.desired == "warm" for s in live)


def images(live: list[Sandbox]) -> list[str | None]:
    return sorted((s.image_id for s in live if s.observed == s.desired == "warm"), key=str)


async def look(hutch: Hutch, steered: Steered) -> None:
    steered.time += 1
    for task in hutch.driver.status():
        if task.name in {"images", "pool"}:
            task.woken.set()
    await asyncio.sleep(0.01)


async def until(hutch: Hutch, steered: Steered, met: object) -> None:
    assert callable(met)
    async with asyncio.timeout(30):
        while not met(await hutch.sandboxes.all()):
            await look(hutch, steered)


async def until_phase(hutch: Hutch, steered: Steered, phase: Phase) -> Rollout:
    async with asyncio.timeout(30):
        while (rollout := (await hutch.rollouts.status()).history[0]).phase != phase:
            assert rollout.under_way, rollout
            await look(hutch, steered)
    return rollout


async def roll(hutch: Hutch, *, for_s: float = 60) -> None:
    await hutch.rollouts.roll("hutch-sandbox:next", share=20, for_s=for_s)


async def test_a_good_image_is_taken_and_given_back(world: World, steered: Steered) -> None:
    async with at_work(world, steered) as hutch:
        keeper = await new_user(hutch, "keeper")
        kept = await hutch.sandboxes.ensure(keeper)
        await roll(hutch)
        canary = await until_phase(hutch, steered, "canary")
        assert (await hutch.rollouts.current()).id == OLD
        await until(hutch, steered, lambda live: images(live) == [OLD, NEW])
        assert await world.backend.inspect(f"{kept.handle}") is not None
        done = await until_phase(hutch, steered, "done")
        assert done.done_at is not None
        assert canary.canary_at is not None
        assert done.done_at - canary.canary_at >= 60
        await until(hutch, steered, lambda live: images(live) == [NEW, NEW])
        assert (await hutch.sandboxes.of(keeper)).image_id == OLD
        assert (await hutch.rollouts.rollback()).image_id == NEW
        await until(hutch, steered, lambda live: images(live) == [OLD, OLD])
        assert not [s for s in await hutch.sandboxes.all() if s.trial]
        with pytest.raises(Conflict):
            await hutch.rollouts.rollback()


async def test_enough_good_runs_end_the_canary_early(world: World, steered: Steered) -> None:
    async with at_work(world, steered) as hutch:
        await roll(hutch, for_s=24 * 3600)
        await until_phase(hutch, steered, "canary")
        await until(hutch, steered, lambda live: images(live) == [OLD, NEW])
        users = [await new_user(hutch, f"user{n}") for n in range(2)]
        for user_id in users:
            for _ in range(20):
                await run_to_end(hutch, user_id)
        assert (await until_phase(hutch, steered, "done")).reason == "20 runs went well in it"


@pytest.mark.parametrize(
    ("health", "reason"),
    [
        ({"protocol": PROTOCOL_VERSION + 1}, "speaks protocol"),
        ({"protocol": None}, "speaks protocol None"),
        ({"cli": {"claude": "1.2.3", "codex": "unknown", "gemini": "1.2.3"}}, "version of codex"),
        ({"agents": [{"provider": "gemini", "state": "failed", "reason": "no"}]}, "of gemini did"),
    ],
)
async def test_a_bad_image_changes_nothing(
    world: World, steered: Steered, health: dict[str, object], reason: str
) -> None:
    async with at_work(world, steered) as hutch:
        before = await hutch.sandboxes.all()
        world.runtime.health.update(health)
        await roll(hutch)
        assert reason in (await until_phase(hutch, steered, "failed")).reason
        for _ in range(10):
            await look(hutch, steered)
        assert await hutch.sandboxes.all() == before
        assert await hutch.rollouts.plan() == Plan(ImageRef("hutch-sandbox:latest", OLD))


async def test_one_that_never_becomes_ready_is_given_up(world: World, steered: Steered) -> None:
    async with at_work(world, steered) as hutch:
        world.runtime.health["status"] = "starting"
        await roll(hutch)
        await until(hutch, steered, lambda live: any(s.trial for s in live))
        steered.time += CHECK_WITHIN_S
        assert "not ready" in (await until_phase(hutch, steered, "failed")).reason


async def test_canaries_that_die_stop_it(world: World, steered: Steered) -> None:
    async with at_work(world, steered) as hutch:
        await roll(hutch)
        await until_phase(hutch, steered, "canary")
        for _ in range(2):
            await until(hutch, steered, lambda live: images(live) == [OLD, NEW])
            [canary] = [s for s in await hutch.sandboxes.all() if s.image_id == NEW]
            world.backend.end(str(canary.handle), exit_code=139)
            for task in hutch.driver.status():
                task.woken.set()
            gone = canary.id
            await until(hutch, steered, lambda live, gone=gone: gone not in {s.id for s in live})
            steered.time += 10  # the pool holds back after a failure
        stopped = await until_phase(hutch, steered, "failed")
        assert "2 sandboxes of it failed: The container ended by itself" in stopped.reason
        await until(hutch, steered, lambda live: images(live) == [OLD, OLD])


async def test_runs_that_fail_in_it_stop_it(world: World, steered: Steered) -> None:
    async with at_work(world, steered) as hutch:
        await roll(hutch, for_s=24 * 3600)
        await until_phase(hutch, steered, "canary")
        await until(hutch, steered, lambda live: images(live) == [OLD, NEW])
        users = [await new_user(hutch, f"user{n}") for n in range(2)]
        for user_id in users:
            failing = (await hutch.sandboxes.ensure(user_id)).image_id == NEW
            world.runtime.script = dies if failing else answers
            for _ in range(5):
                await run_to_end(hutch, user_id)
        stopped = await until_phase(hutch, steered, "failed")
        assert "5 of its 5 runs failed (100%), 0%" in stopped.reason


async def dies(run: ScriptedRun) -> AsyncIterator[tuple[str, dict[str, Any]]]:
    yield run.started()
    yield finished("error", error={"code": "agent_died", "message": "it died"})


@pytest.mark.parametrize("phase", ["checking", "canary", "done", "failed", "rolled_back"])
async def test_a_restart_in_each_phase(world: World, steered: Steered, phase: Phase) -> None:
    async with at_work(world, steered) as hutch:
        if phase in {"checking", "failed"}:
            world.runtime.health["status"] = "starting"
        await roll(hutch)
        if phase == "checking":
            await until(hutch, steered, lambda live: any(s.trial for s in live))
        else:
            steered.time += CHECK_WITHIN_S if phase == "failed" else 0
            await until_phase(hutch, steered, "done" if phase == "rolled_back" else phase)
        if phase == "rolled_back":
            await hutch.rollouts.rollback()
    world.runtime.health["status"] = "ready"
    async with world.orchestrator() as hutch:
        if phase in {"checking", "canary", "done"}:
            await until_phase(hutch, steered, "done")
        expected = OLD if phase in {"failed", "rolled_back"} else NEW
        await until(hutch, steered, lambda live: images(live) == [expected, expected])
        await until(hutch, steered, lambda live: len(live) == 2)
        assert len(await world.backend.list()) == 2


async def test_an_operator_stops_it_in_each_phase(world: World, steered: Steered) -> None:
    async with at_work(world, steered) as hutch:
        for phase in ("checking", "canary"):
            await roll(hutch)
            await until_phase(hutch, steered, phase)
            await hutch.rollouts.rollback()
            await until(hutch, steered, lambda live: images(live) == [OLD, OLD])
            await until(hutch, steered, lambda live: not any(s.trial for s in live))


async def test_a_moved_tag_is_followed_until_something_is_rolled_out(
    world: World, steered: Steered
) -> None:
    async with at_work(world, steered) as hutch:
        world.backend.add_image("hutch-sandbox:latest", "sha256:3")
        await until(hutch, steered, lambda live: images(live) == ["sha256:3"] * 2)
        await roll(hutch, for_s=0)
        await until_phase(hutch, steered, "done")
        world.backend.add_image("hutch-sandbox:latest", "sha256:4")
        await until(hutch, steered, lambda live: images(live) == [NEW, NEW])
        assert (await hutch.rollouts.status()).history[0].phase == "passed_over"
        world.backend.add_image("hutch-sandbox:third", "sha256:3")
        await hutch.rollouts.rollback()
        await until(hutch, steered, lambda live: images(live) == ["sha256:3"] * 2)
    world.settings = world.settings.model_copy(update={"image": "hutch-sandbox:next"})
    async with world.orchestrator() as hutch:  # who changes the setting means it
        await until(hutch, steered, lambda live: images(live) == [NEW, NEW])


async def test_what_cannot_be_rolled_out_is_refused_at_once(world: World, steered: Steered) -> None:
    world.backend.add_image("postgres:17", "sha256:9", ours=False)
    async with at_work(world, steered) as hutch:
        for name, error in (
            ("hutch-sandbox:typo", NotFound),
            ("../containers/json", InvalidRequest),
            ("postgres:17", InvalidRequest),
            ("hutch-sandbox:latest", Conflict),
        ):
            with pytest.raises(error):
                await hutch.rollouts.roll(name, share=20, for_s=60)
        await roll(hutch)
        with pytest.raises(Conflict):
            await roll(hutch)


async def test_a_trial_is_nobodys_and_gets_out_to_no_provider(
    world: World, steered: Steered
) -> None:
    world.settings = world.settings.model_copy(update={"pool_size": 0})
    async with world.orchestrator() as hutch:
        world.runtime.health["status"] = "starting"
        await look(hutch, steered)
        await roll(hutch)
        await until(hutch, steered, lambda live: any(s.trial and s.address for s in live))
        [trial] = await hutch.sandboxes.all()
        while not len(world.gateway.table):  # its address is written down before it is let out
            await asyncio.sleep(0)
        entry = entry_of(world.gateway, trial)
        assert (entry.user_id, entry.routes, entry.allow) == ("image-trial", {}, ())
        world.runtime.health["status"] = "ready"
        user_id = await new_user(hutch, "somebody")
        assert (await hutch.sandboxes.ensure(user_id)).id != trial.id
        assert (await until_phase(hutch, steered, "done")).reason.startswith("there is no warm")


def test_what_goes_and_what_stays() -> None:
    def image(n: int, *names: str) -> Image:
        return Image(f"sha256:{n}", names, {"hutch.image": "1"}, float(n))

    mine = [image(n, f"hutch-sandbox:{n}") for n in range(6)]
    strange = [
        image(7, "hutch-sandbox:7", "somebody/else:7"),
        image(8),
        image(9, "hutch-sandbox-other:9"),
        replace(image(10, "hutch-sandbox:10"), labels={}),
    ]
    gone = unused([*strange, *mine], {"sha256:1", None}, repository="hutch-sandbox")
    assert [i.id for i in gone] == ["sha256:0", "sha256:2", "sha256:3"]


@pytest.mark.parametrize(
    ("seen", "others", "verdict"),
    [
        (Seen(), RunCounts(), "wait"),
        (Seen(ready_since=50.0), RunCounts(), "wait"),
        (Seen(ready_since=40.0), RunCounts(), "done"),
        (Seen(ready_since=50.0, runs=RunCounts(20, 0)), RunCounts(), "done"),
        (Seen(ready_since=40.0, failed=1), RunCounts(), "done"),
        (Seen(ready_since=40.0, failed=2), RunCounts(), "stop"),
        (Seen(ready_since=50.0, runs=RunCounts(0, 2)), RunCounts(9, 0), "wait"),
        (Seen(ready_since=50.0, runs=RunCounts(0, 3)), RunCounts(9, 0), "stop"),
        (Seen(ready_since=50.0, runs=RunCounts(5, 5)), RunCounts(7, 3), "wait"),
        (Seen(ready_since=50.0, runs=RunCounts(5, 5)), RunCounts(9, 1), "stop"),
    ],
)
def test_the_verdict(seen: Seen, others: RunCounts, verdict: str) -> None:
    assert judge(seen, others, now=100.0, for_s=60.0)[0] == verdict


async def test_over_http(world: World, hutch: Hutch, api: Api) -> None:
    key = (await hutch.accounts.create_key("admin")).text
    user = (await hutch.accounts.create_key("service")).text
    world.backend.add_image("hutch-sandbox:next", NEW)
    hutch.driver.wake("images")
    async with asyncio.timeout(10):
        while (await hutch.rollouts.current()).id is None:
            await asyncio.sleep(0.01)
    assert (await api("GET", "/v1/admin/image", user))[0] == 403
    status, answer = await api("GET", "/v1/admin/image", key)
    assert (status, answer["current"]["id"]) == (200, OLD)
    asked = {"image": "hutch-sandbox:next", "share": 0}
    assert (await api("POST", "/v1/admin/image/roll", key, json=asked))[0] == 400
    asked = {"image": "hutch-sandbox:none"}
    assert (await api("POST", "/v1/admin/image/roll", key, json=asked))[0] == 404
    asked = {"image": "hutch-sandbox:next"}
    status, answer = await api("POST", "/v1/admin/image/roll", key, json=asked)
    assert (status, answer["phase"], answer["share"]) == (202, "checking", 20)
    assert (await api("POST", "/v1/admin/image/rollback", key))[1]["image_id"] == NEW
    assert (await api("POST", "/v1/admin/image/rollback", key))[0] == 409
    assert (await api("POST", "/v1/admin/image/prune", key)) == (200, {"removed": []})
