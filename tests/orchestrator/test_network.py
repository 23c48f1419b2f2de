"""A user's own allowed hosts: checked, stored, and at the gateway before the answer."""

from __future__ import annotations

import pytest

from hutch.app import Hutch
from hutch.config import GIT_HOSTS, Settings
from hutch.errors import HostNotReady
from hutch.gateway.table import HostRule
from tests.orchestrator.conftest import Api, World, run_to_end


async def test_a_list_is_stored_and_holds_at_once(
    world: World, hutch: Hutch, api: Api, user_id: str, key: str
) -> None:
    status, said = await api("GET", "/v1/network", key)
    assert (status, said) == (200, {"allow": [], "always": list(GIT_HOSTS)})
    await run_to_end(hutch, user_id)  # there is a sandbox now
    (entry,) = world.gateway.table._by_sandbox.values()
    assert entry.allow == tuple(HostRule(host, 443) for host in GIT_HOSTS)
    asked = ["Example.ORG.", "*.files.example.org", "db.example.org:5432", "[2001:DB8::1]:8443",
             "example.org:443", "1.2.3.4"]  # fmt: skip
    status, said = await api("PUT", "/v1/network", key, json={"allow": asked})
    assert status == 200, said
    assert said["allow"] == ["*.files.example.org", "1.2.3.4", "[2001:db8::1]:8443",
                             "db.example.org:5432", "example.org"]  # fmt: skip
    (entry,) = world.gateway.table._by_sandbox.values()
    assert set(entry.allow) == {
        *(HostRule(host, 443) for host in GIT_HOSTS),
        HostRule("example.org", 443), HostRule("*.files.example.org", 443),
        HostRule("db.example.org", 5432), HostRule("2001:db8::1", 8443), HostRule("1.2.3.4", 443),
    }  # fmt: skip
    # What was answered can be sent back, and an empty list forgets everything.
    assert (await api("PUT", "/v1/network", key, json={"allow": said["allow"]}))[1] == said
    assert (await api("PUT", "/v1/network", key, json={"allow": []}))[1]["allow"] == []
    (entry,) = world.gateway.table._by_sandbox.values()
    assert len(entry.allow) == len(GIT_HOSTS)


@pytest.mark.parametrize(
    "rule",
    ["", "*", "*.org", "*.1.2.3.4", "a.*.example.org", "http://example.org", "example.org/x",
     "example.org:0", "example.org:65536", "example.org:x", "127.1", "0x7f.1", "bücher.example",
     "exa mple.org", "a@example.org", "example.org:25", "[::1", "-a.example", "a" * 64 + ".org"],
)  # fmt: skip
async def test_a_rule_that_says_nothing_clear_changes_nothing(
    api: Api, key: str, rule: str
) -> None:
    await api("PUT", "/v1/network", key, json={"allow": ["kept.example.org"]})
    status, said = await api("PUT", "/v1/network", key, json={"allow": ["example.org", rule]})
    assert status == 400, said
    assert said["error"]["code"] == "invalid_request"
    assert repr(rule) in said["error"]["message"]
    assert said["error"]["hint"]
    assert (await api("GET", "/v1/network", key))[1]["allow"] == ["kept.example.org"]


async def test_no_more_than_100(api: Api, key: str) -> None:
    rules = [f"host-{number}.example.org" for number in range(101)]
    assert (await api("PUT", "/v1/network", key, json={"allow": rules}))[0] == 400
    assert (await api("PUT", "/v1/network", key, json={"allow": rules[:100]}))[0] == 200


async def test_one_users_list_is_not_anothers(hutch: Hutch, api: Api, key: str) -> None:
    await api("PUT", "/v1/network", key, json={"allow": ["example.org"]})
    other = await hutch.accounts.create_user("another", "free")
    others_key = (await hutch.accounts.create_key("user", other.id)).text
    assert (await api("GET", "/v1/network", others_key))[1]["allow"] == []


async def test_a_wrong_rule_of_the_operators_stops_the_start(world: World) -> None:
    world.settings.egress_allow = ("example.org", "http://x")
    with pytest.raises(HostNotReady, match="HUTCH_EGRESS_ALLOW"):
        async with world.orchestrator():
            pass


def test_operators_rules_are_read_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HUTCH_EGRESS_ALLOW", "example.org, *.example.net:8443")
    assert Settings().egress_allow == ("example.org", "*.example.net:8443")
