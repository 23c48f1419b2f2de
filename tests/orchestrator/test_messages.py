"""``/v1/messages`` over a real socket."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from hutch.app import Hutch
from hutch.audit.models import Entry
from tests.orchestrator.compatible import is_limited, prompts, until_a_run, works
from tests.orchestrator.conftest import Api, World
from tests.orchestrator.runtime import waits_for_cancel

MESSAGES = "/v1/messages"


def message(text: str, **options: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": text}]
    return {"model": "claude", "max_tokens": 100, "messages": messages, **options}


def events(stream: str) -> list[dict[str, Any]]:
    found = []
    for frame in stream.strip().split("\n\n"):
        name, data = frame.split("\n")
        found.append(json.loads(data.removeprefix("data: ")))
        assert name == f"event: {found[-1]['type']}"
    return found


async def test_a_message(world: World, api: Api, key: str) -> None:
    world.runtime.script = works
    asked = message("go", model="claude-opus-9")
    status, answer = await api("POST", MESSAGES, headers={"x-api-key": key}, json=asked)
    assert status == 200
    assert answer["content"] == [{"type": "text", "text": "let me look\n\none file"}]
    assert (answer["type"], answer["role"], answer["stop_reason"]) == (
        "message",
        "assistant",
        "end_turn",
    )
    assert answer["usage"] == {
        "input_tokens": 10,
        "output_tokens": 7,
        "cache_read_input_tokens": 20,
        "cache_creation_input_tokens": 0,
    }
    run = (await api("GET", f"/v1/runs/{answer['hutch']['run_id']}", key))[1]
    assert (run["provider"], run["model"]) == ("claude", "claude-opus-9")


async def test_a_stream(world: World, api: Api, key: str) -> None:
    world.runtime.script = works
    status, stream = await api("POST", MESSAGES, key, json=message("go", stream=True))
    assert status == 200
    told = events(stream)
    assert told[0]["message"]["content"] == []
    assert told[0]["message"]["stop_reason"] is None
    kinds = [event["type"] for event in told if event["type"] != "ping"]
    assert kinds == [
        "message_start",
        "content_block_start",
        *["content_block_delta"] * 3,
        "content_block_stop",
        "message_delta",
        "message_stop",
    ]
    text = [e["delta"]["text"] for e in told if e["type"] == "content_block_delta"]
    assert "".join(text) == "let me look\n\none file"
    tools = [e["hutch"]["event"]["type"] for e in told if "hutch" in e and e["type"] == "ping"]
    assert [kind for kind in tools if kind != "queued"] == [
        "reasoning.delta",
        "tool.started",
        "tool.finished",
    ]
    assert told[-2]["delta"]["stop_reason"] == "end_turn"
    assert told[-2]["usage"]["output_tokens"] == 7


async def test_the_conversation(world: World, api: Api, key: str) -> None:
    headers = {"x-hutch-session": "t"}
    system = [{"type": "text", "text": "be brief", "cache_control": {"type": "ephemeral"}}]
    asked = message("one", system=system)
    assert (await api("POST", MESSAGES, key, json=asked, headers=headers))[0] == 200
    thought = {"type": "thinking", "thinking": "hm", "signature": "x"}
    asked["messages"] += [
        {"role": "assistant", "content": [thought, {"type": "text", "text": "1"}]},
        {"role": "user", "content": [{"type": "text", "text": "two"}]},
    ]
    assert (await api("POST", MESSAGES, key, json=asked, headers=headers))[0] == 200
    assert (await api("POST", MESSAGES, key, json=asked))[0] == 200
    first, second, anew = prompts(world)
    assert '{"role": "system", "content": "be brief"}' in first
    assert first.endswith("\n\none")
    assert second == "two"
    assert '{"role": "assistant", "content": "1"}' in anew


@pytest.mark.parametrize(
    ("asked", "param"),
    [
        ({"tools": [{"name": "x"}]}, "tools"),
        ({"stop_sequences": ["x"]}, "stop_sequences"),
        ({"mcp_servers": [{}]}, "mcp_servers"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image", "source": {}}]}]},
            "messages.0.content.0",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "tool_result"}]}]},
            "messages.0.content.0",
        ),
    ],
)
async def test_what_would_change_the_answer_is_refused(
    world: World, api: Api, key: str, asked: dict[str, Any], param: str
) -> None:
    status, answer = await api("POST", MESSAGES, key, json={**message("x"), **asked})
    assert (status, answer["type"]) == (400, "error")
    assert answer["error"]["type"] == "invalid_request_error"
    assert answer["error"]["message"].startswith(f"{param}: ")
    assert prompts(world) == []


async def test_refusals_have_the_protocols_shape(api: Api, key: str) -> None:
    async def refused(status: int, kind: str, with_key: str = key, **options: Any) -> None:
        got, answer = await api("POST", MESSAGES, with_key, **options)
        assert (got, answer["type"], answer["error"]["type"]) == (status, "error", kind)
        assert answer["error"]["message"]

    await refused(401, "authentication_error", "", json=message("x"))
    wrong = {"headers": {"x-api-key": "hutch_user_wrong"}}
    await refused(401, "authentication_error", "", json=message("x"), **wrong)
    await refused(404, "not_found_error", json=message("x", model="llama"))
    await refused(400, "invalid_request_error", json={"model": "claude"})
    ends_with_the_model = message("x")
    ends_with_the_model["messages"].append({"role": "assistant", "content": "I"})
    await refused(400, "invalid_request_error", json=ends_with_the_model)
    status, answer = await api("POST", f"{MESSAGES}/count_tokens", key, json=message("x"))
    assert (status, answer["error"]["code"]) == (400, "unsupported_parameter")


async def test_a_run_that_fails_is_an_error(
    world: World, hutch: Hutch, api: Api, key: str, user_id: str
) -> None:
    world.runtime.script = is_limited
    status, answer = await api("POST", MESSAGES, key, json=message("x"))
    assert (status, answer["error"]["type"]) == (429, "rate_limit_error")
    assert api.headers["x-should-retry"] == "false"
    # It was a run all the same.
    await hutch.audit.run()
    await hutch.audit.record(Entry("test"))
    lines = [json.loads(link.line) for link in await hutch.audit.oldest(after=0, limit=100)]
    (line,) = [line for line in lines if line["action"] == "POST /v1/messages"]
    assert (line["user"], line["result"]) == (user_id, "provider_rate_limited")
    assert line["target"]["run_id"] == api.headers["x-hutch-run"]
    _, stream = await api("POST", MESSAGES, key, json=message("x", stream=True))
    assert events(stream)[-1]["error"]["type"] == "rate_limit_error"


async def test_a_client_that_goes_away_ends_its_run(
    world: World, hutch: Hutch, api: Api, key: str, user_id: str
) -> None:
    world.runtime.script = waits_for_cancel
    asking = asyncio.create_task(api("POST", MESSAGES, key, json=message("x", stream=True)))
    await until_a_run(hutch, user_id, "running")
    asking.cancel()
    await until_a_run(hutch, user_id, "cancelled")
