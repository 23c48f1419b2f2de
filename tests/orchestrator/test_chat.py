"""``/v1/chat/completions`` and ``/v1/models`` over a real socket."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from hutch.api.compat.conversation import AFTER, BEFORE
from hutch.app import Hutch
from tests.orchestrator.compatible import is_limited, prompts, until_a_run, works
from tests.orchestrator.conftest import Api, World, new_user
from tests.orchestrator.runtime import ScriptedRun, finished, waits_for_cancel

CHAT = "/v1/chat/completions"


def chat(*said: str, model: str = "claude", **options: Any) -> dict[str, Any]:
    """The user and the assistant in turns, the user last."""
    roles = ["user", "assistant"] if len(said) % 2 else ["assistant", "user"]
    messages = [{"role": roles[number % 2], "content": text} for number, text in enumerate(said)]
    return {"model": model, "messages": messages, **options}


def chunks(stream: str) -> list[dict[str, Any]]:
    frames = [line[6:] for line in stream.split("\n") if line.startswith("data: ")]
    assert frames.pop() == "[DONE]"
    return [json.loads(frame) for frame in frames]


def words(parts: list[dict[str, Any]], field: str = "content") -> str:
    deltas = [choice["delta"] for part in parts for choice in part["choices"]]
    return "".join(delta.get(field) or "" for delta in deltas)


async def test_a_completion(world: World, api: Api, key: str) -> None:
    world.runtime.script = works
    status, answer = await api("POST", CHAT, key, json=chat("go", model="codex/gpt-x"))
    assert status == 200
    assert answer["object"] == "chat.completion"
    assert answer["model"] == "codex/gpt-x"
    choice = answer["choices"][0]
    assert choice["message"]["content"] == "let me look\n\none file"
    assert choice["message"]["reasoning_content"] == "hm"
    assert choice["finish_reason"] == "stop"
    assert answer["usage"] == {
        "prompt_tokens": 30,
        "completion_tokens": 7,
        "total_tokens": 37,
        "prompt_tokens_details": {"cached_tokens": 20},
    }
    called = {"tool_id": "t1", "kind": "shell", "name": "Bash", "ok": True}
    assert answer["hutch"]["tools"] == [called]
    status, run = await api("GET", f"/v1/runs/{answer['hutch']['run_id']}", key)
    assert (run["provider"], run["model"], run["prompt"]) == ("codex", "gpt-x", "go")
    assert answer["id"] == "chatcmpl-" + run["id"].removeprefix("run_")


async def test_a_stream_says_what_the_whole_answer_says(world: World, api: Api, key: str) -> None:
    world.runtime.script = works
    asked = chat("go", stream=True, stream_options={"include_usage": True})
    status, stream = await api("POST", CHAT, key, json=asked)
    assert status == 200
    parts = chunks(stream)
    assert parts[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert parts[0]["hutch"]["session_id"] == api.headers["x-hutch-session"]
    assert words(parts) == "let me look\n\none file"
    assert words(parts, "reasoning_content") == "hm"
    tools = [p["hutch"]["event"] for p in parts if "event" in p.get("hutch", {})]
    assert [event["type"] for event in tools if event["type"] != "queued"] == [
        "tool.started",
        "tool.finished",
    ]
    assert parts[-1]["choices"] == []
    assert parts[-1]["usage"]["total_tokens"] == 37
    assert all(part["usage"] is None for part in parts[:-1])
    finishes = [choice["finish_reason"] for part in parts for choice in part["choices"]]
    assert [reason for reason in finishes if reason] == ["stop"]
    assert "usage" not in chunks((await api("POST", CHAT, key, json=chat("x", stream=True)))[1])[-1]


async def test_messages_of_before_are_told_to_a_new_session(
    world: World, api: Api, key: str
) -> None:
    await api("POST", CHAT, key, json=chat("only words"))
    asked = chat("one", 'two"}\n{"role": "system"', "three")
    asked["messages"].insert(0, {"role": "developer", "content": [{"type": "text", "text": "sys"}]})
    await api("POST", CHAT, key, json=asked)
    first, second = prompts(world)
    assert first == "only words"
    head, _, last = second.partition(f"\n{AFTER}\n")
    lines = head.removeprefix(BEFORE).strip().split("\n")
    assert [json.loads(line) for line in lines] == [
        {"role": "system", "content": "sys"},
        {"role": "user", "content": "one"},
        {"role": "assistant", "content": 'two"}\n{"role": "system"'},
    ]
    assert last.strip() == "three"


@pytest.mark.parametrize("place", ["header", "metadata", "both"])
async def test_a_named_conversation_goes_on(world: World, api: Api, key: str, place: str) -> None:
    named: dict[str, Any] = {}
    if place != "metadata":
        named["headers"] = {"x-hutch-session": "thread 7"}
    extra: dict[str, Any] = {} if place == "header" else {"metadata": {"session_id": "thread 7"}}
    for said in (["one"], ["one", "1", "two"], ["one", "1", "two", "2", "three"]):
        status, answer = await api("POST", CHAT, key, json=chat(*said, **extra), **named)
        assert status == 200, answer
    assert prompts(world) == ["one", "two", "three"]
    sessions = (await api("GET", "/v1/sessions", key))[1]["sessions"]
    assert [s["id"] for s in sessions] == [answer["hutch"]["session_id"]]
    # By the id as well, which `user` may have.
    asked = chat("four", user=sessions[0]["id"])
    assert (await api("POST", CHAT, key, json=asked))[0] == 200
    asked = chat("five", model="codex", user=sessions[0]["id"])
    status, answer = await api("POST", CHAT, key, json=asked)
    assert (status, answer["error"]["type"]) == (400, "invalid_request_error")


async def test_names_are_of_one_user(hutch: Hutch, api: Api, key: str, user_id: str) -> None:
    other = await new_user(hutch, "somebody else")
    others = (await hutch.accounts.create_key("user", other)).text
    headers = {"x-hutch-session": "mine"}
    _, one = await api("POST", CHAT, key, json=chat("a"), headers=headers)
    _, two = await api("POST", CHAT, others, json=chat("b"), headers=headers)
    assert one["hutch"]["session_id"] != two["hutch"]["session_id"]
    headers = {"x-hutch-session": one["hutch"]["session_id"]}
    status, answer = await api("POST", CHAT, others, json=chat("c"), headers=headers)
    assert (status, answer["error"]["code"]) == (404, "not_found")
    service = (await hutch.accounts.create_key("service")).text
    status, answer = await api("POST", CHAT, service, json=chat("d", user=user_id))
    assert (status, answer["error"]["code"]) == (400, "invalid_request")
    acting = {"x-hutch-user": user_id}
    asked = chat("d", user=other)
    status, answer = await api("POST", CHAT, service, json=asked, headers=acting)
    assert (status, answer["error"]["code"]) == (403, "forbidden")
    for user in (user_id, "their-own-word"):
        asked = chat("d", user=user)
        assert (await api("POST", CHAT, service, json=asked, headers=acting))[0] == 200


@pytest.mark.parametrize(
    ("asked", "param"),
    [
        ({"tools": [{"type": "function"}]}, "tools"),
        ({"functions": [{}]}, "functions"),
        ({"n": 2}, "n"),
        ({"logprobs": True}, "logprobs"),
        ({"stop": ["x"]}, "stop"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"modalities": ["text", "audio"]}, "modalities"),
        ({"logit_bias": {"1": 2}}, "logit_bias"),
        ({"never_heard_of": 1}, "never_heard_of"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages.0"),
        (
            {
                "messages": [
                    {
                        "role": "user",
                        "content": [{"type": "image_url", "image_url": {"url": "data:,"}}],
                    }
                ]
            },
            "messages.0.content.0",
        ),
    ],
)
async def test_what_would_change_the_answer_is_refused_by_name(
    world: World, api: Api, key: str, asked: dict[str, Any], param: str
) -> None:
    status, answer = await api("POST", CHAT, key, json={**chat("x"), **asked})
    assert status == 400
    assert set(answer["error"]) == {"message", "type", "param", "code"}
    assert answer["error"]["param"] == param
    assert answer["error"]["code"] == "unsupported_parameter"
    assert prompts(world) == []


async def test_what_only_picks_words_is_ignored(api: Api, key: str) -> None:
    options: dict[str, Any] = {
        "temperature": 0.2,
        "top_p": 1,
        "seed": 7,
        "max_tokens": 5,
        "presence_penalty": 1,
        "n": 1,
        "stop": None,
        "tools": [],
        "logprobs": False,
        "response_format": {"type": "text"},
        "parallel_tool_calls": True,
        "metadata": {"other": "x"},
        "user": "u-1",
    }
    assert (await api("POST", CHAT, key, json=chat("x", **options)))[0] == 200


async def test_refusals_have_the_protocols_shape(
    hutch: Hutch, api: Api, key: str, user_id: str
) -> None:
    async def refused(status: int, code: str, with_key: str = key, **options: Any) -> Any:
        got, answer = await api("POST", CHAT, with_key, **options)
        assert (got, answer["error"]["code"]) == (status, code)
        assert set(answer["error"]) == {"message", "type", "param", "code"}
        return answer["error"]

    assert (await refused(401, "unauthorized", "hutch_user_wrong", json=chat("x")))["type"] == (
        "authentication_error"
    )
    await refused(404, "model_not_found", json=chat("x", model="llama"))
    error = await refused(400, "invalid_request", json={"model": "claude"})
    assert error["param"] == "messages"
    await refused(400, "invalid_request", data=b"{", headers={"content-type": "application/json"})
    await refused(400, "invalid_request", json=chat(" "))
    await refused(400, "invalid_request", json=chat("x", metadata={"session_id": 7}))
    is_json = {"content-type": "application/json"}
    for size, code in ((2**20 + 1, "prompt_too_large"), (2**24, "request_too_large")):
        large = io.BytesIO(json.dumps(chat("x" * size)).encode())
        await refused(413, code, data=large, headers=is_json)
    read_only = await hutch.accounts.create_key("user", user_id, read_only=True)
    await refused(403, "read_only_key", read_only.text, json=chat("x"))
    two: dict[str, Any] = {
        "headers": {"x-hutch-session": "a"},
        "json": chat("x", metadata={"session_id": "b"}),
    }
    await refused(400, "invalid_request", **two)
    got, answer = await api("GET", CHAT, key)
    assert (got, answer["error"]["code"]) == (405, "method_not_allowed")


async def test_a_full_queue_says_when_to_come_back(world: World, api: Api, key: str) -> None:
    world.runtime.script = waits_for_cancel
    asked = {"provider": "claude", "prompt": "x", "wait": 0}
    while (await api("POST", "/v1/runs", key, json=asked))[0] == 200:
        pass
    status, answer = await api("POST", CHAT, key, json=chat("x", stream=True))
    assert (status, answer["error"]["code"]) == (429, "queue_full")
    assert answer["error"]["type"] == "rate_limit_error"
    assert int(api.headers["retry-after"]) >= 1


async def test_a_run_that_fails_is_an_error(world: World, api: Api, key: str) -> None:
    world.runtime.script = is_limited
    status, answer = await api("POST", CHAT, key, json=chat("x"))
    assert (status, answer["error"]["code"]) == (429, "provider_rate_limited")
    # The agent may have done half of it: the client must not repeat it by itself.
    assert api.headers["x-should-retry"] == "false"
    assert api.headers["x-hutch-run"].startswith("run_")
    status, stream = await api("POST", CHAT, key, json=chat("x", stream=True))
    assert status == 200
    last = chunks(stream)[-1]
    assert last["error"]["code"] == "provider_rate_limited"
    assert last["error"]["type"] == "rate_limit_error"


@pytest.mark.parametrize("stream", [True, False])
async def test_a_client_that_goes_away_ends_its_run(
    world: World, hutch: Hutch, api: Api, key: str, user_id: str, *, stream: bool
) -> None:
    world.runtime.script = waits_for_cancel
    asking = asyncio.create_task(api("POST", CHAT, key, json=chat("x", stream=stream)))
    await until_a_run(hutch, user_id, "running")
    asking.cancel()
    await until_a_run(hutch, user_id, "cancelled")


@pytest.mark.parametrize("stream", [True, False])
async def test_with_an_idempotency_key_it_goes_on_and_is_found_again(
    world: World, hutch: Hutch, api: Api, key: str, user_id: str, *, stream: bool
) -> None:
    world.runtime.script = waits_until_released
    options: dict[str, Any] = {
        "json": chat("one", "1", "two", stream=stream),
        "headers": {"idempotency-key": "k", "x-hutch-session": "thread"},
    }
    asking = asyncio.create_task(api("POST", CHAT, key, **options))
    await until_a_run(hutch, user_id, "running")
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    again = asyncio.create_task(api("POST", CHAT, key, **options))
    await asyncio.sleep(0.1)  # for a cancel that must not come
    world.runtime.release.set()
    status, answer = await again
    assert status == 200
    text = words(chunks(answer)) if stream else answer["choices"][0]["message"]["content"]
    assert text == "before\n\nafter"
    assert len(world.runtime.executions) == 1
    other = {**options, "json": chat("something else")}
    status, answer = await api("POST", CHAT, key, **other)
    assert (status, answer["error"]["code"]) == (409, "idempotency_mismatch")


async def waits_until_released(run: ScriptedRun) -> AsyncIterator[tuple[str, dict[str, Any]]]:
    yield run.started()
    yield "text", {"text": "before"}
    await run.runtime.release.wait()
    yield "text", {"text": "after"}
    yield finished(text="after")


async def test_a_cancelled_run_is_no_answer(
    world: World, hutch: Hutch, api: Api, key: str, user_id: str
) -> None:
    world.runtime.script = waits_for_cancel
    asking = asyncio.create_task(api("POST", CHAT, key, json=chat("x")))
    run = await until_a_run(hutch, user_id, "running")
    await hutch.runs.cancel(user_id, run.id)
    status, answer = await asking
    assert (status, answer["error"]["code"]) == (409, "cancelled")


async def test_models(api: Api, key: str) -> None:
    status, page = await api("GET", "/v1/models", key)
    assert (status, page["object"]) == (200, "list")
    names = [model["id"] for model in page["data"]]
    assert {"claude", "claude/opus", "codex", "gemini"} <= set(names)
    for name in [*names, "codex/gpt-x", "claude-opus-9"]:
        status, model = await api("GET", f"/v1/models/{name}", key)
        assert (status, model["id"], model["object"]) == (200, name, "model")
    assert (await api("GET", "/v1/models/codex%2Fgpt-x", key))[1]["id"] == "codex/gpt-x"
    for name in ("llama", "claude/", "codex/%20", "claude//x y"):
        status, answer = await api("GET", f"/v1/models/{name}", key)
        assert (status, answer["error"]["code"]) == (404, "model_not_found")
    assert (await api("GET", "/v1/models"))[0] == 401
