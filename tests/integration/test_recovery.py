"""Parts that die at the worst moment, requests that come twice, and containers that vanish."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from hutch.client import ApiError
from hutch_runtime.protocol import PROVIDERS, Provider
from tests.integration.driving import Following, check_log, content
from tests.service import Service, User, docker

each_provider = pytest.mark.parametrize("provider", PROVIDERS)


def test_ten_requests_with_one_key_are_one_run(service: Service, user: User) -> None:
    prompt = "only once, please [[slow:10,20]]"
    headers = {"idempotency-key": "ten-at-once"}
    with ThreadPoolExecutor(10) as pool:
        asked = [pool.submit(user.run, "codex", prompt, headers=headers) for _ in range(10)]
        runs = [one.result(timeout=60) for one in asked]
    assert runs[0]["state"] == "succeeded", runs[0]
    assert all(run == runs[0] for run in runs)
    assert len(service.model.asked(prompt)) == 1
    with pytest.raises(ApiError) as refused:
        user.run("codex", prompt + " and more", headers=headers)
    assert (refused.value.status, refused.value.code) == (409, "idempotency_mismatch")
    # Later, and as a stream, it is the same run still.
    asking = {"provider": "codex", "prompt": prompt}
    assert user.client.call("POST", "/v1/runs", json=asking, headers=headers) == runs[0]
    assert len(service.model.asked(prompt)) == 1


def test_a_key_belongs_to_its_user(service: Service, user: User) -> None:
    headers = {"idempotency-key": "of-two-users"}
    mine = user.run("codex", "mine", headers=headers)
    other = service.make_user()
    theirs = other.run("codex", "theirs", headers=headers)
    assert theirs["id"] != mine["id"]
    assert '"theirs"' in theirs["text"]
    other.client.call("DELETE", "/v1/container")


@each_provider
def test_the_api_dies_in_the_middle_of_a_run(
    service: Service, user: User, provider: Provider
) -> None:
    prompt = f"[[slow:100,40]] while the API of {provider} dies"
    following = Following(user, provider, prompt)
    service.model.wait_asked(prompt)
    time.sleep(0.7)  # some events are stored by then, some are not
    service.restart("api")
    following.breaks()
    run_id, seen = following.run_id, following.events
    assert seen[-1]["type"] != "run.finished"

    rest = list(user.client.follow(run_id, after=seen[-1]["seq"]))
    check_log(seen + rest)
    assert content(list(user.client.follow(run_id))) == content(seen + rest)
    run = user.client.get_run(run_id)
    assert (run["state"], run["error"]) == ("succeeded", None)
    assert run["text"].endswith(" token100")
    deltas = [e["text"] for e in seen + rest if e["type"] == "text.delta"]
    assert "".join(deltas) == run["text"]
    assert len(service.model.asked(prompt)) == 1
    # The session is where it was, in the same container.
    assert prompt in user.run(provider, "[[recall]]", session_id=run["session_id"])["text"]


def test_a_run_ends_while_the_api_is_dead(service: Service, user: User) -> None:
    prompt = "[[slow:10,40]] without an API"
    following = Following(user, "claude", prompt)
    service.model.wait_asked(prompt)
    with service.without("api"):
        following.breaks()
        time.sleep(1.5)
    log = list(user.client.follow(following.run_id))
    check_log(log)
    assert log[-1]["text"].endswith(" token10")
    assert len(service.model.asked(prompt)) == 1


def test_the_gateway_dies_between_runs(service: Service, user: User) -> None:
    session_id = user.run("claude", "before")["session_id"]
    service.restart("gateway")
    for provider in PROVIDERS:
        run = user.run(provider, "after")
        assert run["state"] == "succeeded", run
    assert user.run("claude", "more", session_id=session_id)["state"] == "succeeded"


def test_the_gateway_dies_in_the_middle_of_a_run(service: Service, user: User) -> None:
    prompt = "[[slow:600,50]] while the gateway dies"
    following = Following(user, "codex", prompt)
    service.model.wait_asked(prompt)
    service.restart("gateway")
    # The CLI may ask once more by itself, which is then the whole answer; it must not hang.
    time.sleep(1)
    user.client.cancel(following.run_id)
    assert following.last()["stop_reason"] in {"cancelled", "error"}
    assert user.run("codex", "after")["state"] == "succeeded"


def check_new_container(user: User, lost: str, session_id: str) -> None:
    run = user.run("codex", "in a new one")
    assert run["state"] == "succeeded", run
    assert user.client.container()["id"] != lost
    again = user.run("codex", "[[recall]]", session_id=session_id)
    assert (again["state"], again["error"]["code"]) == ("failed", "session_lost")
    assert "session_id" in again["error"]["message"]


def test_a_container_killed_in_the_middle_of_a_run(service: Service, user: User) -> None:
    session_id = user.run("codex", "soon forgotten")["session_id"]
    prompt = "[[slow:600,50]] until the container dies"
    following = Following(user, "codex", prompt)
    service.model.wait_asked(prompt)
    lost, name = user.client.container()["id"], user.container()
    began = time.monotonic()
    docker("kill", name)
    last = following.last()
    assert time.monotonic() - began < 10
    assert (last["stop_reason"], last["error"]["code"]) == ("error", "sandbox_lost")
    check_log(following.events)
    assert user.client.get_run(following.run_id)["state"] == "failed"
    check_new_container(user, lost, session_id)
    assert docker("ps", "-aq", "--filter", f"name={name}") == ""


def test_a_container_removed_by_its_user(user: User) -> None:
    session_id = user.run("codex", "soon forgotten")["session_id"]
    following = Following(user, "codex", "[[hang]] until the container is removed")
    name = user.container()
    assert following.run_id
    ended: dict[str, Any] = user.client.call("DELETE", "/v1/container")
    assert ended["observed"] == "destroyed"
    assert docker("ps", "-aq", "--filter", f"name={name}") == ""
    assert following.last()["error"]["code"] == "sandbox_lost"
    with pytest.raises(ApiError) as missing:
        user.client.container()
    assert (missing.value.status, missing.value.code) == (404, "not_found")
    check_new_container(user, ended["id"], session_id)
