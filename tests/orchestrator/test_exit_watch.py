"""What the control loop makes of probes and counters."""

from __future__ import annotations

from typing import Any

import pytest

from hutch.app import Hutch
from hutch.clock import Clock
from hutch.control.exits import ExitWatch
from hutch.exits.probe import Probe
from hutch.gateway.base import ExitTraffic
from hutch.gateway.table import ExitProxy
from tests.gateway import exits as kinds
from tests.orchestrator.conftest import Api, World, new_user
from tests.orchestrator.test_exits import add_exits, world

__all__ = ["world"]  # the fixture


@pytest.fixture
async def admin_key(hutch: Hutch) -> str:
    return (await hutch.accounts.create_key("admin")).text


class Hands(Clock):
    """Time that a test moves."""

    def __init__(self) -> None:
        self.at = 1_000_000.0

    def now(self) -> float:
        return self.at


class Looks:
    """Answers each probe with what the test says."""

    def __init__(self) -> None:
        self.says: dict[str, Probe] = {}
        self.probed: list[str] = []

    async def __call__(self, proxy: ExitProxy, url: str) -> Probe:
        assert url == "http://probe.test/"
        assert proxy.password.reveal()
        self.probed.append(proxy.id)
        return self.says.get(proxy.id, Probe(True, seen_ip=f"192.0.2.{proxy.host[4:-5]}"))


@pytest.fixture
def clock(hutch: Hutch, monkeypatch: pytest.MonkeyPatch) -> Hands:
    hands = Hands()
    monkeypatch.setattr(hutch.exits, "_clock", hands)
    return hands


@pytest.fixture
def looks() -> Looks:
    return Looks()


@pytest.fixture
async def watch(hutch: Hutch, world: World, clock: Hands, looks: Looks) -> ExitWatch:
    await hutch.driver.stop()
    return ExitWatch(
        hutch.exits,
        world.gateway,
        clock,
        url="http://probe.test/",
        every_s=300,
        spare_after=2,
        look=looks,
    )


def whats(watch: ExitWatch) -> list[tuple[str, str]]:
    return [(alert.what, alert.exit_id or "") for alert in watch.alerts()]


async def test_the_leased_are_probed_more_often_than_the_free(
    hutch: Hutch, watch: ExitWatch, looks: Looks, clock: Hands
) -> None:
    exits = await add_exits(hutch, 2)
    first = (await hutch.exits.lease(await new_user(hutch, "someone"))).exit.id
    [second] = set(exits) - {first}
    await watch.run()
    assert sorted(looks.probed) == sorted(exits)
    assert hutch.exits.get(exits[0]).seen_ip == "192.0.2.1"
    looks.probed.clear()
    for _ in range(60):
        clock.at += 10
        await watch.run()
    assert looks.probed == [first, first]  # in ten minutes, every five or a little sooner
    for _ in range(130):
        clock.at += 10
        await watch.run()
    assert looks.probed.count(second) == 1


async def test_drift(hutch: Hutch, watch: ExitWatch, looks: Looks, clock: Hands) -> None:
    [exit_id] = await add_exits(hutch, 1)
    await watch.run()
    looks.says[exit_id] = Probe(True, seen_ip="192.0.2.99")
    clock.at += 3000
    await watch.run()
    exit_ = hutch.exits.get(exit_id)
    assert (exit_.health, exit_.seen_ip) == ("drifted", "192.0.2.1")
    assert exit_.reason == "It is seen from 192.0.2.99, not from 192.0.2.1."
    assert whats(watch) == [("exit_drifted", exit_id)]
    looks.says.clear()
    clock.at += 20
    await watch.run()
    assert hutch.exits.get(exit_id).health == "up"
    assert whats(watch) == []


async def test_an_exit_of_another_address_than_was_sold_is_not_used(
    hutch: Hutch, watch: ExitWatch
) -> None:
    [exit_id] = await add_exits(hutch, 1, extra=",192.0.2.50")
    await watch.run()
    assert hutch.exits.get(exit_id).health == "drifted"
    assert not hutch.exits.get(exit_id).free(0)


async def test_a_spare_after_two_failures_and_back(
    hutch: Hutch, watch: ExitWatch, looks: Looks, clock: Hands
) -> None:
    user = await new_user(hutch, "someone")
    exits = set(await add_exits(hutch, 3))
    home = (await hutch.exits.lease(user)).exit.id
    await watch.run()
    looks.says[home] = Probe(False, reason="it is gone.")
    clock.at += 300
    report = await watch.run()
    assert (report["down"], whats(watch)) == (1, [("exit_down", home)])
    assert used(hutch, user) == home
    clock.at += 15
    await watch.run()
    spare = used(hutch, user)
    assert spare != home
    # The spare fails as well: another one.
    looks.says[spare] = Probe(False, reason="gone, too.")
    clock.at += 300
    await watch.run()
    [third] = exits - {home, spare}
    assert used(hutch, user) == third
    looks.says.clear()
    clock.at += 15
    await watch.run()
    assert used(hutch, user) == home
    assert hutch.exits.get(third).user_id is None
    told = [(h.what, h.exit_id) for h in reversed(await hutch.exits.history(user))]
    assert [what for what, _ in told].count("spare") == 2
    assert told[-1] == ("healed", home)
    assert [what for what, _ in told].count("healed") == 1


def used(hutch: Hutch, user: str) -> str:
    lease = hutch.exits.of(user)
    assert lease is not None
    return lease.exit.id


async def test_a_probe_that_knows_nothing_changes_nothing(
    hutch: Hutch, watch: ExitWatch, looks: Looks, clock: Hands
) -> None:
    [exit_id] = await add_exits(hutch, 1)
    await watch.run()
    looks.says[exit_id] = Probe(None, reason="the page is away.")
    clock.at += 3000
    await watch.run()
    exit_ = hutch.exits.get(exit_id)
    assert (exit_.health, exit_.failures, exit_.probed_at) == ("up", 0, clock.at)


async def test_errors_of_an_exit_raise_an_alert(
    hutch: Hutch, world: World, watch: ExitWatch, clock: Hands
) -> None:
    first, second = await add_exits(hutch, 2)
    gateway: Any = world.gateway

    async def after(seconds: float, **traffic: ExitTraffic) -> list[tuple[str, str]]:
        clock.at += seconds
        gateway.traffic = {first: traffic["one"], second: traffic["two"]}
        await watch.run()
        return whats(watch)

    # The counters are since the gateway's start: what was before counts once.
    assert await after(0, one=ExitTraffic(1000, 40), two=ExitTraffic(5, 5)) == []
    assert await after(60, one=ExitTraffic(1100, 45), two=ExitTraffic(19, 19)) == []
    raised = await after(60, one=ExitTraffic(1200, 60), two=ExitTraffic(20, 19))
    assert raised == [("exit_errors", first)]
    assert watch.alerts()[0].detail == "10% of its requests failed."
    # A minute later it is still the same alert.
    since = watch.alerts()[0].since
    assert await after(60, one=ExitTraffic(1201, 60), two=ExitTraffic(20, 19)) == raised
    assert watch.alerts()[0].since == since
    assert await after(400, one=ExitTraffic(1300, 61), two=ExitTraffic(20, 19)) == []
    # Another gateway counts from nothing.
    assert await after(5, one=ExitTraffic(10, 10), two=ExitTraffic(0, 0)) == []


async def test_over_http(api: Api, user_id: str, key: str, admin_key: str) -> None:
    async with kinds.an_exit(kinds.that_cannot_connect) as there:
        await over_http(api, user_id, key, admin_key, there.proxy.port)


async def over_http(api: Api, user_id: str, key: str, admin_key: str, port: int) -> None:
    text = f"127.0.0.1:{port}:user1:password-1\n"
    status, done = await api(
        "POST", "/v1/admin/exits/import", admin_key, json={"text": text, "dry_run": False}
    )
    assert (status, done) == (
        200,
        {"added": 1, "updated": 0, "unchanged": 0, "egress": "exits"},
    )
    status, refused = await api(
        "POST", "/v1/admin/exits/import", admin_key, json={"text": "h:x:u:password-1"}
    )
    assert (status, refused["error"]["code"]) == (400, "invalid_request")
    assert "password-1" not in str(refused)
    status, own = await api("GET", "/v1/exit", key)
    assert (status, own["egress"], own["exit"], own["history"]) == (200, "exits", None, [])
    status, leased = await api("POST", f"/v1/admin/users/{user_id}/exit", admin_key)
    assert status == 200, leased
    assert (leased["user_id"], leased["role"]) == (user_id, "home")
    assert leased["probed_at"] is not None
    assert leased["health"] == "unknown"  # it is there, and does not reach the probe's page
    status, page = await api("GET", "/v1/admin/exits", admin_key)
    assert [exit_["id"] for exit_ in page["exits"]] == [leased["id"]]
    assert "password" not in str(page)
    status, own = await api("GET", "/v1/exit", key)
    assert own["exit"]["id"] == own["home"]["id"] == leased["id"]
    # Where it is and how it is logged in to is the operator's business.
    assert str(port) not in str(own)
    path = f"/v1/admin/exits/{leased['id']}"
    assert (await api("DELETE", path, admin_key))[0] == 409
    assert (await api("POST", f"{path}/drain?move=true", admin_key))[0] == 503
    assert (await api("POST", f"{path}/probe", admin_key))[0] == 200
    assert (await api("DELETE", f"/v1/admin/users/{user_id}/exit", admin_key))[0] == 204
    assert (await api("DELETE", path, admin_key))[0] == 204
    assert (await api("POST", f"{path}/probe", admin_key))[1]["error"]["code"] == "not_found"
    assert (await api("GET", "/v1/admin/alerts", admin_key))[1] == {"alerts": []}
    for method, path in (("GET", "/v1/admin/exits"), ("GET", "/v1/admin/alerts")):
        assert (await api(method, path, key))[0] == 403
