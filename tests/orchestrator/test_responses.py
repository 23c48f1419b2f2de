"""``/v1/responses`` over a real socket."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.orchestrator.compatible import is_limited, prompts, works
from tests.orchestrator.conftest import Api, World

RESPONSES = "/v1/responses"


def response(said: Any, **options: Any) -> dict[str, Any]:
    return {"model": "claude", "input": said, **options}


def events(stream: str) -> list[dict[str, Any]]:
    found = []
    for frame in stream.strip().split("\n\n"):
        name, data = frame.split("\n")
        found.append(json.loads(data.removeprefix("data: ")))
        assert name == f"event: {found[-1]['type']}"
    assert [event["sequence_number"] for event in found] == list(range(len(found)))
    return found


async def test_a_response(world: World, api: Api, key: str) -> None:
    world.runtime.script = works
    asked = response("go", metadata={"a": "b"}, max_output_tokens=5, tools=[])
    status, answer = await api("POST", RESPONSES, key, json=asked)
    assert (status, answer["status"], answer["object"]) == (200, "completed", "response")
    text = {"type": "output_text", "text": "let me look\n\none file"}
    assert answer["output"][0]["content"] == [{**text, "annotations": [], "logprobs": []}]
    assert answer["usage"]["input_tokens_details"] == {"cached_tokens": 20}
    assert answer["metadata"] == {"a": "b"}
    status, again = await api("GET", f"{RESPONSES}/{answer['id']}", key)
    assert (status, again["output"], again["usage"]) == (200, answer["output"], answer["usage"])
    status, answer = await api("GET", f"{RESPONSES}/resp_none", key)
    assert (status, answer["error"]["type"]) == (404, "invalid_request_error")
    halves = response("go", metadata={"a": "\ud800"})
    status, answer = await api("POST", RESPONSES, key, json=halves)
    assert (status, answer["metadata"]) == (200, {"a": "?"})


async def test_a_stream(world: World, api: Api, key: str) -> None:
    world.runtime.script = works
    status, stream = await api("POST", RESPONSES, key, json=response("go", stream=True))
    assert status == 200
    told = events(stream)
    kinds = [event["type"] for event in told if "hutch" not in event]
    assert kinds == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        *["response.output_text.delta"] * 3,
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]
    deltas = [e["delta"] for e in told if e["type"] == "response.output_text.delta"]
    answer = told[-1]["response"]
    assert "".join(deltas) == answer["output"][0]["content"][0]["text"]
    tools = [event["hutch"]["event"]["type"] for event in told if "hutch" in event]
    assert {"tool.started", "tool.finished"} <= set(tools)
    assert answer["usage"]["total_tokens"] == 37
    status, whole = await api("GET", f"{RESPONSES}/{answer['id']}", key)
    assert whole["output"] == answer["output"]


async def test_the_conversation(world: World, api: Api, key: str) -> None:
    _, first = await api("POST", RESPONSES, key, json=response("one", instructions="be brief"))
    asked = response("two", previous_response_id=first["id"])
    status, second = await api("POST", RESPONSES, key, json=asked)
    assert (status, second["previous_response_id"]) == (200, first["id"])
    assert second["conversation"] == first["conversation"]
    asked = response("three", conversation=first["conversation"], instructions="in French")
    assert (await api("POST", RESPONSES, key, json=asked))[0] == 200
    one, two, three = prompts(world)
    assert '"be brief"' in one
    assert two == "two"
    assert '"in French"' in three
    assert '"one"' not in three
    # It cannot be gone on with from the middle.
    asked = response("x", previous_response_id=first["id"])
    status, answer = await api("POST", RESPONSES, key, json=asked)
    assert (status, answer["error"]["param"]) == (400, "previous_response_id")
    asked = response("x", previous_response_id="resp_none")
    assert (await api("POST", RESPONSES, key, json=asked))[0] == 404
    asked = response("x", previous_response_id=first["id"], conversation="another")
    assert (await api("POST", RESPONSES, key, json=asked))[0] == 400


async def test_a_repeat_finds_its_response_when_the_conversation_has_gone_on(
    world: World, api: Api, key: str
) -> None:
    _, first = await api("POST", RESPONSES, key, json=response("one"))
    asked = response("two", previous_response_id=first["id"])
    again = {"headers": {"idempotency-key": "k"}, "json": asked}
    _, second = await api("POST", RESPONSES, key, **again)
    status, repeated = await api("POST", RESPONSES, key, **again)
    assert (status, repeated["id"]) == (200, second["id"])
    assert prompts(world) == ["one", "two"]


async def test_input_as_items(world: World, api: Api, key: str) -> None:
    said = [
        {"role": "developer", "content": "sys"},
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "a"}]},
        {"role": "assistant", "content": [{"type": "output_text", "text": "b", "annotations": []}]},
        {"role": "user", "content": "c"},
    ]
    assert (await api("POST", RESPONSES, key, json=response(said)))[0] == 200
    (prompt,) = prompts(world)
    assert '{"role": "assistant", "content": "b"}' in prompt
    assert prompt.endswith("\n\nc")


@pytest.mark.parametrize(
    ("asked", "param"),
    [
        ({"tools": [{"type": "web_search"}]}, "tools"),
        ({"background": True}, "background"),
        ({"store": False}, "store"),
        ({"text": {"format": {"type": "json_schema"}}}, "text.format"),
        ({"input": [{"type": "function_call_output", "output": "x"}]}, "input.0"),
        (
            {"input": [{"role": "user", "content": [{"type": "input_image"}]}]},
            "input.0.content.0",
        ),
    ],
)
async def test_what_does_not_map_is_refused_by_name(
    world: World, api: Api, key: str, asked: dict[str, Any], param: str
) -> None:
    status, answer = await api("POST", RESPONSES, key, json={**response("x"), **asked})
    assert (status, answer["error"]["param"]) == (400, param)
    assert answer["error"]["code"] == "unsupported_parameter"
    assert prompts(world) == []


async def test_a_run_that_fails_is_an_error(world: World, api: Api, key: str) -> None:
    world.runtime.script = is_limited
    status, answer = await api("POST", RESPONSES, key, json=response("x"))
    assert (status, answer["error"]["code"]) == (429, "provider_rate_limited")
    _, stream = await api("POST", RESPONSES, key, json=response("x", stream=True))
    *_, failed, error = events(stream)
    assert failed["response"]["status"] == "failed"
    assert error["error"]["code"] == error["code"] == "provider_rate_limited"
    status, answer = await api("GET", f"{RESPONSES}/{failed['response']['id']}", key)
    assert (status, answer["status"]) == (200, "failed")
