"""Users behind real Squids: real containers, CLIs, gateway, and a model that sees who comes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pytest

from hutch.backends.base import LABEL_INSTANCE
from hutch.cli import leaks
from hutch.cli.squid import Squid
from hutch_runtime.protocol import PROVIDERS, Provider
from tests.exits.squids import line, squids
from tests.integration.driving import Following
from tests.offline_model.server import running_offline_model
from tests.service import Service, User, docker, running_service


@dataclass
class Street:
    """A service whose users leave through exits, and a user behind each."""

    service: Service
    users: list[User]
    squids: list[Squid]  # of the user at the same place


@pytest.fixture(scope="module")
def street(image: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Street]:
    with (
        squids(2) as exits,
        running_offline_model() as page,
        running_service(
            tmp_path_factory.mktemp("street"),
            IMAGE=image,
            ISOLATION="gvisor",
            EGRESS="exits",
            EXIT_PROBE_URL=f"{page}/ip",
            EXIT_PROBE_EVERY_S="2",
        ) as service,
    ):
        text = "\n".join(line(exit_) for exit_ in exits)
        done = service.admin.call("POST", "/v1/admin/exits/import", json={"text": text})
        assert done == {"added": 2, "updated": 0, "unchanged": 0, "egress": "exits"}
        users = [service.make_user() for _ in exits]
        by_port = {exit_.port: exit_ for exit_ in exits}
        leased = [
            by_port[service.admin.call("POST", f"/v1/admin/users/{user.id}/exit")["port"]]
            for user in users
        ]
        assert len(set(map(id, leased))) == 2
        yield Street(service, users, leased)


def peers(street: Street, prompt: str) -> set[str]:
    return {request["peer"] for request in street.service.model.asked(prompt)}


def wait_up(user: User) -> None:
    until = time.monotonic() + 40
    while user.client.call("GET", "/v1/exit")["exit"]["health"] != "up":
        assert time.monotonic() < until, user.client.call("GET", "/v1/exit")
        time.sleep(0.2)


def test_each_is_seen_from_their_own_address(street: Street) -> None:
    def run(number: int, provider: str) -> None:
        prompt = f"where does {provider} of {number} come from?"
        done = street.users[number].run(provider, prompt)
        address = street.squids[number].leaves_from
        assert (done["state"], done["exit"]["ip"]) == ("succeeded", address), done
        assert peers(street, prompt) == {address}

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(lambda pair: run(*pair), [(n, p) for n in (0, 1) for p in PROVIDERS]))


def test_a_third_user_leaves_by_no_other_way(street: Street) -> None:
    user = street.service.make_user()
    done = user.run("codex", "is there a way out?")
    assert done["error"]["code"] == "exit_unavailable"
    assert "no exit is free" in done["error"]["message"]
    assert done["exit"] is None
    assert peers(street, "is there a way out?") == set()


@pytest.mark.parametrize("provider", PROVIDERS)
def test_an_exit_killed_in_mid_stream(street: Street, provider: Provider) -> None:
    user, squid = street.users[0], street.squids[0]
    wait_up(user)
    prompt = f"{provider} tells a long story"
    street.service.model.behave(match=prompt, slow={"tokens": 400, "ms": 100})
    story = Following(user, provider, prompt)
    street.service.model.wait_asked(prompt)
    until = time.monotonic() + 20
    while not any(event["type"] == "text.delta" for event in list(story.events)):
        assert time.monotonic() < until, "no word came"
        time.sleep(0.05)
    squid.kill()
    try:
        last = story.last(within_s=60)
        assert last["error"]["code"] == "exit_unavailable", last
        after = user.run(provider, f"{provider} once more")
        assert after["error"]["code"] == "exit_unavailable", after
        neighbour = street.users[1].run(provider, f"{provider} of the neighbour")
        assert neighbour["state"] == "succeeded"
    finally:
        squid.start()
    assert peers(street, prompt) == {squid.leaves_from}
    assert peers(street, f"{provider} once more") == set()
    wait_up(user)
    assert user.run(provider, f"{provider} is back")["state"] == "succeeded"
    assert peers(street, f"{provider} is back") == {squid.leaves_from}


def test_a_restart_of_the_api_keeps_leases(street: Street) -> None:
    before = [user.client.call("GET", "/v1/exit")["exit"]["id"] for user in street.users]
    street.service.restart("api")
    for number, user in enumerate(street.users):
        assert user.client.call("GET", "/v1/exit")["exit"]["id"] == before[number]
        prompt = f"after the restart, {number}"
        assert user.run("gemini", prompt)["state"] == "succeeded"
        assert peers(street, prompt) == {street.squids[number].leaves_from}


def test_no_key_and_no_password_is_anywhere(street: Street) -> None:
    wanted = {
        f"the {provider} key of {user.id}": key.encode()
        for user in street.users
        for provider, key in user.provider_keys.items()
    }
    wanted |= {f"password {n}": s.login[1].encode() for n, s in enumerate(street.squids)}
    assert leaks.in_files(street.service.settings.data_dir, wanted) == []
    assert leaks.in_process_lists(wanted) == []
    label = f"label={LABEL_INSTANCE}={street.service.settings.instance}"
    containers = docker("ps", "-q", "--no-trunc", "--filter", label).split()
    assert len(containers) >= 2
    for container in containers:
        # Known to be there: a search that does not find it has not searched.
        places = leaks.in_container(container, {**wanted, "control": b"hutch-placeholder-"})
        assert [place for place in places if not place.startswith("control in ")] == []
        assert not leaks.missing(places, "control")
