"""How a turn can end other than well, and that the session goes on after each."""

from __future__ import annotations

import time
from typing import Any

import pytest

from hutch_runtime.protocol import PROVIDERS, Provider
from tests.integration.driving import Following, kill_agents
from tests.service import Service, User

each_provider = pytest.mark.parametrize("provider", PROVIDERS)


def opened(user: User, provider: Provider) -> str:
    """A session that has something to remember."""
    first = user.run(provider, "the password is 7421")
    assert first["state"] == "succeeded", first
    session_id: str = first["session_id"]
    return session_id


def check_goes_on(user: User, provider: Provider, session_id: str) -> dict[str, Any]:
    run = user.run(provider, "[[recall]]", session_id=session_id)
    assert run["state"] == "succeeded", run
    assert "the password is 7421" in run["text"]
    return run


@each_provider
@pytest.mark.parametrize("word", ["[[slow:600,50]]", "[[hang]]"])
def test_cancel_from_another_connection(
    service: Service, user: User, provider: Provider, word: str
) -> None:
    session_id = opened(user, provider)
    prompt = f"{word} {provider}"
    following = Following(user, provider, prompt, session_id=session_id)
    service.model.wait_asked(prompt)
    began = time.monotonic()
    user.client.cancel(following.run_id)
    last = following.last()
    assert time.monotonic() - began < 3
    assert (last["stop_reason"], last["error"]) == ("cancelled", None)
    run = user.client.get_run(following.run_id)
    assert (run["state"], run["stop_reason"], run["error"]) == ("cancelled", "cancelled", None)
    # Nobody pays for an answer that nobody waits for.
    until = time.monotonic() + 5
    while not service.model.asked(prompt)[-1]["disconnected_early"]:
        assert time.monotonic() < until, "the request to the model was left open"
        time.sleep(0.05)
    assert user.client.cancel(run["id"])["state"] == "cancelled"  # harmless by now
    check_goes_on(user, provider, session_id)


@each_provider
def test_a_time_limit_ends_the_run(user: User, provider: Provider) -> None:
    session_id = opened(user, provider)
    began = time.monotonic()
    run = user.run(provider, "[[hang]]", session_id=session_id, timeout_s=1.5)
    assert 1.4 < time.monotonic() - began < 5
    assert (run["state"], run["error"]["code"]) == ("failed", "timeout")
    check_goes_on(user, provider, session_id)


@each_provider
def test_an_agent_killed_between_turns(user: User, provider: Provider) -> None:
    session_id = opened(user, provider)
    kill_agents(user, provider)
    # A prompt that reaches the runtime in the milliseconds before it has noticed is a death in the
    # middle of a turn.
    until = time.monotonic() + 5
    while {"provider": provider, "state": "idle"} in user.client.container()["agents"]:
        assert time.monotonic() < until, "the death was not noticed"
        time.sleep(0.05)
    run = check_goes_on(user, provider, session_id)
    log = list(user.client.follow(run["id"]))
    assert log[0]["agent"] in {"resumed", "replayed"}
    restarted = [event for event in log if event["type"] == "agent.restarted"]
    assert len(restarted) == 1
    assert restarted[0]["reason"]
    assert restarted[0]["how"] == log[0]["agent"]
    # And a new session is served too.
    assert user.run(provider, "hello again")["state"] == "succeeded"


@each_provider
def test_an_agent_killed_in_the_middle_of_a_turn(
    service: Service, user: User, provider: Provider
) -> None:
    session_id = opened(user, provider)
    prompt = f"[[slow:600,50]] until killed, {provider}"
    following = Following(user, provider, prompt, session_id=session_id)
    service.model.wait_asked(prompt)
    began = time.monotonic()
    kill_agents(user, provider)
    last = following.last()
    assert time.monotonic() - began < 5
    assert (last["stop_reason"], last["error"]["code"]) == ("error", "agent_died")
    assert user.client.get_run(following.run_id)["state"] == "failed"
    check_goes_on(user, provider, session_id)


CODES = {
    400: "provider_bad_request",
    401: "provider_auth",
    404: "model_not_found",
    429: "provider_rate_limited",
    500: "provider_overloaded",
    503: "provider_overloaded",
    529: "provider_overloaded",
}


@each_provider
def test_each_error_of_the_model_has_its_code(user: User, provider: Provider) -> None:
    session_id = opened(user, provider)
    seen = {}
    for status in CODES:
        run = user.run(provider, f"[[status:{status}]]", session_id=session_id)
        assert (run["state"], run["stop_reason"]) == ("failed", "error")
        assert run["error"]["message"]
        seen[status] = run["error"]["code"]
    assert seen == CODES
    check_goes_on(user, provider, session_id)
