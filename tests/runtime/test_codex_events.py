from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hutch_runtime.protocol import EVENT_TYPES
from hutch_runtime.providers.codex_errors import read_error
from hutch_runtime.providers.codex_events import TurnTranslator
from tests.runtime.recorded import recorded

Events = list[tuple[str, dict[str, Any]]]
_FRESH = (0, 0, 0)


def play(name: str, before: tuple[int, int, int] | None = _FRESH) -> tuple[Events, TurnTranslator]:
    events: Events = []
    translator = TurnTranslator(lambda type_, **data: events.append((type_, data)), before)
    for message, line in recorded(f"codex/{name}"):
        translator.take(message["method"], message["params"], line)
    translator.close()
    assert {type_ for type_, _ in events} <= EVENT_TYPES
    assert "unparsed" not in {type_ for type_, _ in events}
    return events, translator


def types(events: Events) -> list[str]:
    return [type_ for type_, _ in events]


def test_an_answer_with_reasoning() -> None:
    events, translator = play("reasoning")
    assert types(events) == ["reasoning.delta", "text.delta", "text.delta", "text", "usage"]
    assert events[0][1] == {"text": "hmm thinking"}
    assert events[1][1]["text"] + events[2][1]["text"] == events[3][1]["text"]
    assert events[4][1] == {
        "input_tokens": 11,
        "output_tokens": 5,
        "cached_tokens": 3,
        "cost_usd": None,
    }
    assert translator.status == "completed"
    assert translator.failure is None


def test_a_shell_command_with_its_output() -> None:
    events, _ = play("shell", (11, 5, 3))
    tools = [(type_, data) for type_, data in events if type_.startswith("tool.")]
    assert types(tools) == ["tool.started", "tool.output", "tool.finished"]
    assert tools[0][1]["kind"] == "shell"
    assert tools[0][1]["input"]["cwd"] == "/workspace"
    assert "echo b > f.txt" in tools[0][1]["input"]["command"]
    assert tools[1][1]["text"] == "b\n"
    assert tools[2][1]["ok"] is True
    assert "b\n" in tools[2][1]["output"]
    assert len({data["tool_id"] for _, data in tools}) == 1
    # Two model calls: Codex's totals are of the whole thread, an event's are of the turn.
    assert events[-1] == (
        "usage",
        {"input_tokens": 22, "output_tokens": 10, "cached_tokens": 6, "cost_usd": None},
    )


def test_a_command_that_failed() -> None:
    events, _ = play("shell-failed")
    assert dict(events)["tool.finished"]["ok"] is False


def test_an_edit() -> None:
    events, _ = play("edit")
    started = dict(events)["tool.started"]
    assert started["kind"] == "edit"
    assert started["input"]["changes"][0]["path"] == "/workspace/q.txt"
    assert dict(events)["tool.finished"]["ok"] is True


def test_an_interrupted_tool_is_ended() -> None:
    events, translator = play("interrupted-shell", (33, 15, 9))
    assert translator.status == "interrupted"
    finished = [data for type_, data in events if type_ == "tool.finished"]
    assert [data["ok"] for data in finished] == [False]


def test_interrupted_text_reports_no_tokens_of_the_turn_before() -> None:
    events, translator = play("interrupted-text", (11, 5, 3))
    assert translator.status == "interrupted"
    assert types(events) == ["text.delta"] * 3 + ["text"]
    assert events[-1][1]["text"] == translator.text == "tok0 tok1 tok2 "


def test_a_resumed_thread_says_its_totals_first() -> None:
    lines = recorded("codex/resumed")
    assert lines[0][0]["method"] == "thread/tokenUsage/updated"
    events, _ = play("resumed", None)
    assert events[-1][0] == "usage"
    # With nothing known before, the first update's own call is what is counted.
    assert events[-1][1]["input_tokens"] == 22


@pytest.mark.parametrize(
    ("name", "code", "http_status", "retries"),
    [
        ("error-400", "provider_bad_request", None, 0),
        ("error-401", "provider_auth", 401, 2),
        ("error-404", "model_not_found", 404, 2),
        ("error-429", "provider_rate_limited", 429, 0),
        ("error-503", "provider_overloaded", 503, 2),
        ("unreachable", "provider_unreachable", None, 2),
    ],
)
def test_errors(name: str, code: str, http_status: int | None, retries: int) -> None:
    events, translator = play(name)
    assert translator.status == "failed"
    assert translator.failure is not None
    assert (translator.failure.code, translator.failure.http_status) == (code, http_status)
    retrying = [data for type_, data in events if type_ == "retrying"]
    assert [data["attempt"] for data in retrying] == list(range(1, retries + 1))
    assert {data["code"] for data in retrying} <= {code}
    assert types(events) == ["retrying"] * retries


@pytest.mark.parametrize(
    ("info", "code"),
    [
        ("unauthorized", "provider_auth"),
        ("usageLimitExceeded", "provider_rate_limited"),
        ("serverOverloaded", "provider_overloaded"),
        ("modelNotFound", "model_not_found"),
        ("contextWindowExceeded", "provider_bad_request"),
        ("somethingNew", "provider_error"),
        ({"responseTooManyFailedAttempts": {"httpStatusCode": 529}}, "provider_overloaded"),
        ({"activeTurnNotSteerable": {"turnKind": "x"}}, "provider_error"),
        ({"httpConnectionFailed": {"httpStatusCode": "401"}}, "provider_unreachable"),
        ({}, "provider_error"),
        ([], "provider_error"),
        (None, "provider_error"),
    ],
)
def test_error_info(info: object, code: str) -> None:
    assert read_error({"message": "m", "codexErrorInfo": info}).code == code


def test_a_policy_stop_is_a_refusal() -> None:
    assert read_error({"message": "no", "codexErrorInfo": "cyberPolicy"}).refusal


def test_other_tools_from_the_schema() -> None:
    events: Events = []
    translator = TurnTranslator(lambda type_, **data: events.append((type_, data)), _FRESH)
    items: list[dict[str, Any]] = [
        {
            "type": "mcpToolCall",
            "id": "m",
            "server": "docs",
            "tool": "find",
            "status": "completed",
            "arguments": {"q": 1},
            "result": {"content": [{"type": "text", "text": "found"}]},
            "error": None,
        },
        {"type": "webSearch", "id": "w", "query": "hutch", "action": None},
        {"type": "imageView", "id": "i", "path": "/workspace/a.png"},
    ]
    for item in items:
        translator.take("item/completed", {"item": item}, "")
    started = [data for type_, data in events if type_ == "tool.started"]
    assert [data["kind"] for data in started] == ["mcp", "search", "read"]
    assert started[0]["name"] == "docs.find"
    assert started[0]["input"] == {"q": 1}
    assert events[1][1]["output"] == "found"
    assert types(events) == ["tool.started", "tool.finished"] * 3


def test_a_plan() -> None:
    events: Events = []
    translator = TurnTranslator(lambda type_, **data: events.append((type_, data)), _FRESH)
    plan = [{"step": "one", "status": "inProgress"}, {"step": "two", "status": "pending"}]
    translator.take("turn/plan/updated", {"plan": plan}, "")
    assert events == [
        (
            "plan",
            {
                "items": [
                    {"text": "one", "status": "in_progress"},
                    {"text": "two", "status": "pending"},
                ]
            },
        )
    ]


@pytest.mark.parametrize(
    "message",
    [
        {"method": "item/brandNew", "params": {}},
        {"method": "item/started", "params": {"item": {"type": "brandNew", "id": "x"}}},
        {"method": "item/completed", "params": {"item": 7}},
    ],
)
def test_what_is_unknown_is_an_alarm(message: dict[str, Any]) -> None:
    events: Events = []
    translator = TurnTranslator(lambda type_, **data: events.append((type_, data)), _FRESH)
    translator.take(message["method"], message["params"], json.dumps(message))
    assert events == [("unparsed", {"line": json.dumps(message)})]


_METHODS = st.sampled_from(
    [
        "error",
        "item/agentMessage/delta",
        "item/commandExecution/outputDelta",
        "item/completed",
        "item/reasoning/textDelta",
        "item/started",
        "thread/tokenUsage/updated",
        "turn/completed",
        "turn/plan/updated",
    ]
)
_KEYS = st.sampled_from(
    [
        "item",
        "type",
        "id",
        "itemId",
        "delta",
        "text",
        "status",
        "error",
        "turn",
        "plan",
        "result",
        "tokenUsage",
        "total",
        "last",
        "inputTokens",
        "codexErrorInfo",
        "message",
        "exitCode",
        "commandExecution",
        "mcpToolCall",
        "agentMessage",
        "reasoning",
        "summary",
        "content",
    ]
)
_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | _KEYS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_KEYS, inner, max_size=5),
    max_leaves=12,
)


@given(st.lists(st.tuples(_METHODS, st.dictionaries(_KEYS, _VALUES, max_size=5)), max_size=6))
def test_hostile_notifications_never_break_the_translator(
    notifications: list[tuple[str, dict[str, Any]]],
) -> None:
    events: Events = []
    translator = TurnTranslator(lambda type_, **data: events.append((type_, data)), None)
    for method, params in notifications:
        translator.take(method, params, "line")
    translator.close()
    assert set(types(events)) <= EVENT_TYPES
    started = [data["tool_id"] for type_, data in events if type_ == "tool.started"]
    finished = [data["tool_id"] for type_, data in events if type_ == "tool.finished"]
    assert sorted(started) == sorted(finished)
