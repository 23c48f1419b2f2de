"""Each wire protocol over a real socket."""

from __future__ import annotations

import hashlib
import json
import time
from typing import Any

import httpx2
import pytest

from hutch.offline_model.behaviour import LABEL
from hutch_runtime.protocol import PROVIDERS, Provider
from tests.offline_model.requests import (
    KEY,
    TOOLS,
    Asked,
    ask,
    events_of,
    send,
    streamed_text,
    text_of,
)

every_provider = pytest.mark.parametrize("provider", PROVIDERS)
ODD_TEXT = "  quotes \"' $(id) `id`\nnewline\ttab \\ emoji 🦦 nul \x00 end \n"


def whole(http: httpx2.Client, provider: Provider, *texts: str, **more: Any) -> str:
    response = send(http, provider, ask(provider, *texts, **more))
    assert response.status_code == 200, response.text
    return text_of(provider, response.json())


@every_provider
def test_echo_names_itself_and_proves_what_arrived(http: httpx2.Client, provider: Provider) -> None:
    response = send(http, provider, ask(provider, ODD_TEXT))
    text = text_of(provider, response.json())
    assert text.startswith(f'{LABEL}: you said "{ODD_TEXT}". ')
    assert f"key={hashlib.sha256(KEY.encode()).hexdigest()[:8]} peer=127.0.0.1" in text
    assert f"chars={len(ODD_TEXT)} sha256={hashlib.sha256(ODD_TEXT.encode()).hexdigest()}" in text
    assert response.headers["x-hutch-offline-model"] == "1"


@every_provider
def test_a_stream_says_the_same(http: httpx2.Client, provider: Provider) -> None:
    response = send(http, provider, ask(provider, ODD_TEXT, stream=True))
    assert response.headers["content-type"].startswith("text/event-stream")
    events = events_of(response)
    assert streamed_text(provider, events) == whole(http, provider, ODD_TEXT)


def test_streams_are_well_formed(http: httpx2.Client) -> None:
    claude = events_of(send(http, "claude", ask("claude", "hi", stream=True)))
    assert [event["type"] for event in claude if event["type"] != "content_block_delta"] == [
        "message_start",
        "ping",
        "content_block_start",
        "content_block_stop",
        "message_delta",
        "message_stop",
    ]
    codex = events_of(send(http, "codex", ask("codex", "hi", stream=True)))
    assert [event["sequence_number"] for event in codex] == list(range(len(codex)))
    assert codex[-1]["type"] == "response.completed"
    assert codex[-1]["response"]["status"] == "completed"
    gemini = events_of(send(http, "gemini", ask("gemini", "hi", stream=True)))
    assert gemini[-1]["candidates"][0]["finishReason"] == "STOP"


@every_provider
def test_usage_is_never_zero(http: httpx2.Client, provider: Provider) -> None:
    answer = send(http, provider, ask(provider, "x")).json()
    names = {
        "claude": ("usage", "input_tokens", "output_tokens"),
        "codex": ("usage", "input_tokens", "output_tokens"),
        "gemini": ("usageMetadata", "promptTokenCount", "candidatesTokenCount"),
    }
    usage, *counts = names[provider]
    assert all(answer[usage][name] > 0 for name in counts)


@every_provider
def test_recall_lists_the_earlier_user_texts(http: httpx2.Client, provider: Provider) -> None:
    text = whole(http, provider, "first", "second " + "x" * 200, "and now? [[recall]]")
    earlier = json.loads(text.partition(" earlier=")[2])
    assert earlier == ["first", ("second " + "x" * 200)[:100]]


@every_provider
@pytest.mark.parametrize("status", [400, 401, 404, 429, 500, 503, 529])
def test_errors_have_the_providers_own_shape(
    http: httpx2.Client, provider: Provider, status: int
) -> None:
    response = send(http, provider, ask(provider, f"[[status:{status}]]"))
    overload = 503 if provider != "claude" and status == 529 else status
    assert response.status_code == overload
    assert response.headers["x-hutch-offline-model"] == "1"
    error = response.json()["error"]
    assert LABEL in error["message"]
    expected = {
        ("claude", 401): ("type", "authentication_error"),
        ("claude", 429): ("type", "rate_limit_error"),
        ("claude", 529): ("type", "overloaded_error"),
        ("codex", 401): ("code", "invalid_api_key"),
        ("codex", 429): ("code", "rate_limit_exceeded"),
        ("codex", 529): ("code", "server_is_overloaded"),
        ("gemini", 401): ("status", "UNAUTHENTICATED"),
        ("gemini", 429): ("status", "RESOURCE_EXHAUSTED"),
        ("gemini", 529): ("status", "UNAVAILABLE"),
    }.get((provider, status))
    if expected:
        assert error[expected[0]] == expected[1]


@every_provider
def test_text_of_a_given_size(http: httpx2.Client, provider: Provider) -> None:
    for size in (10, 300_001):
        assert len(whole(http, provider, f"é [[text:{size}]]").encode()) == size


@every_provider
def test_slow_tokens_come_one_by_one(http: httpx2.Client, provider: Provider) -> None:
    asked = ask(provider, "[[slow:4,100]]", stream=True)
    started = time.monotonic()
    with http.stream("POST", asked.path, json=asked.body) as response:
        arrivals = [
            time.monotonic() - started for line in response.iter_lines() if " token" in line
        ]
    assert arrivals[0] < 0.3
    assert 0.25 < arrivals[3] - arrivals[0] < 2


@every_provider
def test_reasoning_comes_first(http: httpx2.Client, provider: Provider) -> None:
    asked = ask(provider, "[[reasoning]]", stream=True)
    raw = send(http, provider, asked).text
    assert 0 < raw.index("no thought went into this") < raw.index("you said")


@every_provider
def test_a_hang_ends_with_the_client_and_is_recorded(
    http: httpx2.Client, provider: Provider
) -> None:
    asked = ask(provider, "[[hang]]", stream=True)
    with http.stream("POST", asked.path, json=asked.body, timeout=1) as response:
        assert response.status_code == 200
        lines = response.iter_lines()
        assert next(lines)
        with pytest.raises(httpx2.ReadTimeout):
            list(lines)
    deadline = time.monotonic() + 5
    while not http.get("/_control/requests").json()["requests"][0]["disconnected_early"]:
        assert time.monotonic() < deadline
        time.sleep(0.02)


@every_provider
def test_a_clients_own_requests_trigger_no_magic(http: httpx2.Client, provider: Provider) -> None:
    asked = ask(provider, "[[status:500]] [[hang]]", system="Write a title.")
    response = send(http, provider, asked)
    assert text_of(provider, response.json()) == LABEL
    assert http.get("/_control/requests").json()["requests"][0]["kind"] == "side"


@every_provider
def test_a_tool_is_called_once(http: httpx2.Client, provider: Provider) -> None:
    text = "[[tool:shell echo 'it''s' \"$HOME\"]]"
    asked = ask(provider, text, tools=TOOLS[provider])
    answer = send(http, provider, asked).json()
    match provider:
        case "claude":
            call = answer["content"][-1]
            assert answer["stop_reason"] == "tool_use"
            assert call["input"]["command"] == "echo 'it''s' \"$HOME\""
            result = {"type": "tool_result", "tool_use_id": call["id"], "content": "out: 7"}
            asked.body["messages"] += [
                {"role": "assistant", "content": answer["content"]},
                {"role": "user", "content": [result]},
            ]
        case "codex":
            call = answer["output"][-1]
            command = json.dumps({"cmd": "echo 'it''s' \"$HOME\""})
            assert call["input"] == f"text((await tools.exec_command({command})).output)"
            done = {"type": "custom_tool_call_output", "call_id": call["call_id"]}
            asked.body["input"] += [call, {**done, "output": "out: 7"}]
        case "gemini":
            content = answer["candidates"][0]["content"]
            call = content["parts"][-1]["functionCall"]
            assert call["args"]["command"] == "echo 'it''s' \"$HOME\""
            part = {"functionResponse": {"name": call["name"], "response": {"output": "out: 7"}}}
            asked.body["contents"] += [content, {"role": "user", "parts": [part]}]
    final = send(http, provider, asked)
    assert "out: 7" in text_of(provider, final.json())


@every_provider
def test_without_a_fitting_tool_it_says_so(http: httpx2.Client, provider: Provider) -> None:
    assert "no tool that could do this" in whole(http, provider, "[[tool:shell id]]")


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("exec_command", {"cmd": "id"}),
        ("shell_command", {"command": "id"}),
        ("shell", {"command": ["bash", "-lc", "id"]}),
    ],
)
def test_codex_tools_of_other_models(
    http: httpx2.Client, name: str, arguments: dict[str, Any]
) -> None:
    tools = [{"type": "function", "name": name}]
    call = send(http, "codex", ask("codex", "[[tool:shell id]]", tools=tools)).json()["output"][0]
    assert (call["type"], call["name"]) == ("function_call", name)
    assert json.loads(call["arguments"]) == arguments


def test_what_the_clis_wrap_around_a_prompt_is_not_the_users(http: httpx2.Client) -> None:
    claude = ask("claude", "x")
    claude.body["messages"] = [
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "<system-reminder>\nAbout commits\n</system-reminder>\n"},
                {"type": "text", "text": "first\n"},
                {"type": "text", "text": "[Request interrupted by user]\n"},
                {"type": "text", "text": "<b>mine</b> [[recall]]"},
                {"type": "text", "text": "<system-reminder>later</system-reminder>"},
            ],
        },
        {"role": "system", "content": [{"type": "text", "text": "# Environment"}]},
    ]
    codex = ask(
        "codex",
        "<environment_context>\n</environment_context>",
        "first",
        "<turn_aborted>\nx\n</turn_aborted>",
        "<b>mine</b> [[recall]]",
    )
    gemini = ask(
        "gemini", "<session_context>\nx\n</session_context>", "first", "<b>mine</b> [[recall]]"
    )
    requests: dict[Provider, Asked] = {"claude": claude, "codex": codex, "gemini": gemini}
    for provider, asked in requests.items():
        text = text_of(provider, send(http, provider, asked).json())
        assert 'you said "<b>mine</b> [[recall]]"' in text
        assert text.endswith('earlier=["first"]')


def test_a_side_request_gets_json_that_fits_its_schema(http: httpx2.Client) -> None:
    asked = ask("gemini", "hello", system="You are a router.")
    schema = {
        "type": "OBJECT",
        "properties": {
            "complexity_reasoning": {"type": "STRING"},
            "complexity_score": {"type": "INTEGER"},
            "next": {"type": "string", "enum": ["user", "model"]},
        },
    }
    config = {"responseMimeType": "application/json", "responseJsonSchema": schema}
    asked.body["generationConfig"] = config
    routed = json.loads(text_of("gemini", send(http, "gemini", asked).json()))
    assert routed == {
        "complexity_reasoning": "Hutch offline model",
        "complexity_score": 1,
        "next": "user",
    }


def test_small_endpoints(http: httpx2.Client) -> None:
    assert http.head("/").status_code == 200
    body = ask("claude", "x" * 400).body
    assert http.post("/v1/messages/count_tokens", json=body).json()["input_tokens"] > 100
    contents = ask("gemini", "x" * 400).body
    assert http.post("/v1beta/models/m:countTokens", json=contents).json()["totalTokens"] > 100
    assert http.get("/v1/models").json()["object"] == "list"
    assert http.get("/v1/models", headers={"anthropic-version": "1"}).json()["has_more"] is False
    assert http.get("/v1beta/models").json()["models"][0]["name"] == "models/hutch-offline"
    upgrade = {"connection": "Upgrade", "upgrade": "websocket"}
    assert http.get("/v1/responses", headers=upgrade).status_code == 426
    lost = http.get("/nowhere")
    assert (lost.status_code, lost.headers["x-hutch-offline-model"]) == (404, "1")


@every_provider
def test_malformed_and_oversized_bodies(http: httpx2.Client, provider: Provider) -> None:
    path = ask(provider, "x").path
    for body in (b"{", b"[]", b"{}", b"[" * 100_000, b'{"messages": 1, "input": 2, "contents": 3}'):
        response = http.post(path, content=body)
        assert response.status_code == 400, body[:40]
        assert "error" in response.json()
    half_a_pair = ask(provider, "\ud83d").body
    lone = http.post(path, content=json.dumps(half_a_pair).encode())
    assert lone.status_code == 200
    large = http.post(path, content=b" " * (32 * 1024 * 1024 + 1))
    assert large.status_code == 413
