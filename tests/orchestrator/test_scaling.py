"""How large the pool should be: the rules, the operator's word, and what is said about both."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from typer.testing import CliRunner

from hutch.app import Hutch
from hutch.cli.main import app
from hutch.client import Client
from hutch.control.pressure import Pressure
from hutch.control.scaling import Rules, Scaling, rules_for
from hutch.control.scaling_rows import ScalingRows
from hutch.load import CpuTime, FixedLoad, Memory, ProcLoad
from hutch.runs.service import NewRun
from hutch.sandboxes.census import Census
from hutch.store.open import open_database
from tests.orchestrator.conftest import Api, World, new_user, run_to_end
from tests.orchestrator.test_places import Steered


@dataclass
class Situation:
    """What scaling asks of the queue, the places and the sandboxes."""

    depth: int = 0
    warm: int = 0
    expected_mb: int = 450

    def for_containers(self) -> int:
        return self.depth

    async def census(self) -> Census:
        return Census(self.warm, self.warm, 0, 0, 0, 0, frozenset(), frozenset())

    async def all(self) -> list[object]:
        return []


@dataclass
class Desk:
    situation: Situation
    clock: Steered
    load: FixedLoad
    rows: ScalingRows
    scaling: Scaling

    async def passes(self, seconds: int) -> None:
        for _ in range(0, seconds, 2):
            self.clock.time += 2
            await self.scaling.run()

    def fresh(self, rules: Rules) -> Scaling:
        return Scaling(
            self.rows,
            self.situation,  # type: ignore[arg-type]  # as much of it as is asked
            self.situation,  # type: ignore[arg-type]
            self.situation,  # type: ignore[arg-type]
            self.clock,
            rules=rules,
            pressure=Pressure(self.load, cpu_limit=80, memory_limit=85),
            memory_hard_mb=1024,
        )


@pytest.fixture
async def desk(database_url: str) -> AsyncIterator[Desk]:
    database = open_database(database_url)
    rows = ScalingRows(database)
    made = Desk(Situation(warm=5), Steered(), FixedLoad(), rows, None)  # type: ignore[arg-type]  # given below
    made.scaling = made.fresh(Rules(least=5, most=10, up_above=3, down_after_s=600))
    yield made
    await database.close()


def told(scaling: Scaling) -> list[tuple[str, int, int]]:
    return [(one.what, one.before, one.after) for one in reversed(scaling.decisions())]


async def test_a_queue_makes_it_grow_and_idleness_shrink(desk: Desk) -> None:
    desk.situation.depth = 3
    await desk.passes(60)
    assert told(desk.scaling) == []
    desk.situation.depth = 4
    await desk.passes(2)
    assert told(desk.scaling) == [("up", 5, 6)]
    assert "4 runs wait" in desk.scaling.decisions()[0].why
    desk.situation.depth = 12
    await desk.passes(60)
    assert desk.scaling.target == 10  # and no more
    desk.situation.depth, desk.situation.warm = 0, 10
    await desk.passes(590)
    assert desk.scaling.target == 10
    desk.situation.warm = 5  # claimed, for a moment
    await desk.passes(4)
    desk.situation.warm = 10
    await desk.passes(590)
    assert desk.scaling.target == 10
    await desk.passes(20)
    assert desk.scaling.target == 5
    assert told(desk.scaling)[-1] == ("down", 10, 5)
    assert "10 minutes" in desk.scaling.decisions()[0].why
    await desk.passes(1200)
    assert told(desk.scaling)[-1] == ("down", 10, 5)  # said once


async def test_the_operators_word_outlives_a_restart(desk: Desk) -> None:
    await desk.scaling.set_by_hand(8)
    desk.situation.depth = 50
    await desk.passes(60)
    assert told(desk.scaling) == [("by_hand", 5, 8)]
    again = desk.fresh(desk.scaling.rules)
    await again.load()
    assert (again.target, again.by_hand) == (8, True)
    await again.set_by_hand(0)
    await again.run()
    assert again.target == 0
    await again.set_by_hand(None)
    await again.run()
    assert told(again) == [("by_hand", 8, 0), ("auto", 0, 5)]


async def test_no_more_are_asked_for_while_the_host_is_short(desk: Desk) -> None:
    desk.load.now = Memory(1000, 100)
    await desk.passes(70)
    assert [alert.what for alert in desk.scaling.alerts()] == ["memory_high"]
    desk.situation.depth = 20
    await desk.passes(60)
    assert told(desk.scaling) == []


async def test_a_pool_of_none_stays_that(desk: Desk) -> None:
    scaling = desk.fresh(rules_for(0, "auto", up_above=3, down_after_s=600))
    desk.situation.depth = 20
    for _ in range(20):
        desk.clock.time += 2
        await scaling.run()
    assert scaling.target == 0


def test_only_the_last_hundred_are_kept(desk: Desk) -> None:
    for n in range(150):
        desk.scaling._decide("up", "why", n, 0.0)
    kept = desk.scaling.decisions()
    assert (len(kept), kept[0].after) == (100, 149)
    assert desk.scaling.decided["up"] == 150


def test_the_rules_of_a_machine() -> None:
    assert rules_for(5, "auto", up_above=3, down_after_s=600) == Rules(5, 10, 3, 600)
    assert rules_for(5, 3, up_above=3, down_after_s=600).most == 5
    assert rules_for(0, "auto", up_above=3, down_after_s=600).most == 0


def test_alerts_are_of_a_minute_and_do_not_flicker() -> None:
    load = FixedLoad()
    pressure = Pressure(load, cpu_limit=80, memory_limit=85)
    now, busy, total = 0.0, 0, 0
    seen: list[tuple[float, list[str]]] = []

    def passes(seconds: int, percent: int) -> None:
        nonlocal now, busy, total
        for _ in range(0, seconds, 2):
            now, busy, total = now + 2, busy + 2 * percent, total + 200
            load.ticks = CpuTime(busy, total)
            load.now = Memory(100, 100 - percent)
            pressure.look(now)
            raised = [alert.what for alert in pressure.alerts(now)]
            if not seen or seen[-1][1] != raised:
                seen.append((now, raised))

    passes(20, 100)  # a peak
    passes(120, 20)
    assert [raised for _, raised in seen] == [[]]
    passes(120, 82)
    assert seen[-1][1] == ["cpu_high"]
    passes(120, 76)  # below the limit, not yet well below
    assert seen[-1][1] == ["cpu_high"]
    passes(120, 90)
    assert seen[-1][1] == ["cpu_high", "memory_high"]
    passes(120, 50)
    assert seen[-1][1] == []
    assert len(seen) < 8


def test_this_machine_can_be_read(tmp_path: Path) -> None:
    load = ProcLoad()
    memory, cpu = load.memory(), load.cpu()
    assert memory is not None
    assert 0 < memory.available_mb < memory.total_mb
    assert cpu is not None
    assert 0 < cpu.busy < cpu.total
    elsewhere = ProcLoad(tmp_path)
    assert (elsewhere.memory(), elsewhere.cpu()) == (None, None)


async def test_the_verbs_over_http(hutch: Hutch, api: Api, user_id: str) -> None:
    admin = (await hutch.accounts.create_key("admin")).text
    service = (await hutch.accounts.create_key("service")).text
    for path in ("/v1/admin/health", "/v1/admin/scaling"):
        assert (await api("GET", path, service))[0] == 403
    status, scaled = await api("PUT", "/v1/admin/pool", admin, json={"size": 2})
    assert status == 200
    assert scaled["pool"] == {"target": 2, "by_hand": True, "least": 0, "most": 0}
    assert [one["what"] for one in scaled["decisions"]] == ["by_hand"]
    for bad in (-1, "many", 5000, None):
        assert (await api("PUT", "/v1/admin/pool", admin, json={"size": bad}))[0] == 400
    async with asyncio.timeout(20):
        warm: list[str] = []
        while len(warm) < 2:
            status, done = await api("POST", "/v1/admin/maintain", admin)
            assert [task["name"] for task in done["tasks"]] == ["scaling", "pool"]
            warm = [s.id for s in await hutch.sandboxes.all() if s.observed == "warm"]
    _, health = await api("GET", "/v1/admin/health", admin)
    assert health["containers"] == {"warm": 2}
    assert health["queue"] == {
        "depth": 0,
        "oldest_wait_s": 0.0,
        "reasons": {},
        "waiting_users": 0,
    }
    # assign, then release: what nobody used stays, what was used never goes back.
    whose = {"x-hutch-user": user_id}
    _, given = await api("PUT", "/v1/container", service, headers=whose)
    assert given["id"] in warm
    await api("PUT", "/v1/admin/pool", admin, json={"size": 1})
    [unused] = [one for one in warm if one != given["id"]]
    released = [
        (await api("POST", f"/v1/admin/containers/{one}/release", admin))[1]
        for one in (unused, given["id"])
    ]
    assert [one["kept"] for one in released] == [True, False]
    assert [s.id for s in await hutch.sandboxes.all()] == [unused]
    assert (await api("POST", f"/v1/admin/containers/{given['id']}/release", admin))[0] == 404
    _, back = await api("PUT", "/v1/admin/pool", admin, json={"size": "auto"})
    assert back["pool"]["by_hand"] is False


async def test_the_verbs_from_python_and_the_command_line(
    hutch: Hutch, api: Api, user_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    admin = (await hutch.accounts.create_key("admin")).text
    monkeypatch.setenv("HUTCH_URL", api.url)
    monkeypatch.setenv("HUTCH_ADMIN_KEY", admin)

    monkeypatch.setenv("HUTCH_API_KEY", admin)
    monkeypatch.setenv("HUTCH_USER", user_id)

    def command(*arguments: str, top: str = "admin") -> str:
        result = CliRunner().invoke(app, [top, *arguments], catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return result.output

    def drive() -> None:
        with Client(api.url, admin, user_id=user_id) as client:
            run = client.run("claude", "hello").check()
            assert run.provider == "claude"
            container = client.get_or_create_container()
            assert client.health()["containers"] == {"running": 1}
            assert client.scale_pool(1)["pool"]["target"] == 1
            assert [task["name"] for task in client.maintain()["tasks"]] == ["scaling", "pool"]
            assert client.assign(user_id).id == container.id
            assert client.hibernate().observed == "hibernated"
            again = client.get_or_create_container()
            assert again.id != container.id
            assert client.release(again.id)["kept"] is False
            assert "1 by hand" in command("pool", "show")
            assert "0 by hand" in command("pool", "scale", "0")
            assert "0 by the rules (0 to 0)" in command("pool", "scale", "auto")
            assert "pool        0 by the rules" in command("health")
            assert "scaling" in command("maintain")
            assert command("assign", user_id).split()[1] == "running"
            [container] = client.containers()
            assert command("release", container.id) == "destroyed\n"
            for verb, state in (
                ("get", "running"),
                ("hibernate", "hibernated"),
                ("get", "running"),
                ("destroy", "destroyed"),
            ):
                assert command(verb, top="container").split()[1] == state
            client.get_or_create_container()
            assert client.destroy_container().observed == "destroyed"

    await asyncio.to_thread(drive)


async def test_an_alert_of_the_host_is_among_the_others(hutch: Hutch, api: Api) -> None:
    admin = (await hutch.accounts.create_key("admin")).text
    alert = Pressure(FixedLoad(Memory(100, 1)), cpu_limit=80, memory_limit=85)
    alert.look(0.0)
    alert.look(60.0)
    hutch.scaling._alerts.now(alert.alerts(60.0))
    _, page = await api("GET", "/v1/admin/alerts", admin)
    assert [(one["what"], one["exit_id"]) for one in page["alerts"]] == [("memory_high", None)]


async def test_a_busy_user_lets_go_and_both_are_served(world: World) -> None:
    """One place, two users, the real hibernation: nobody waits for the other's whole backlog."""
    world.settings = world.settings.model_copy(
        update={"max_containers": 1, "turn_s": 0.3, "runs_free": 1, "queue_free": 1000}
    )
    async with world.orchestrator() as hutch:
        many, one = await new_user(hutch, "many"), await new_user(hutch, "one")
        await run_to_end(hutch, many)
        runs = [
            await hutch.runs.submit(many, NewRun("claude", "x " * 50 + str(n))) for n in range(80)
        ]
        ended = await run_to_end(hutch, one)
        assert ended.state == "succeeded"
        waiting = [run for run in runs if not (await hutch.runs.get(many, run.id)).finished]
        assert waiting
        for run in runs:
            assert (await hutch.runs.finished(many, run.id)).state == "succeeded"
        assert len(set(world.runtime.executions)) == len(world.runtime.executions) == 82
