from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hutch_runtime.protocol import EVENT_TYPES
from hutch_runtime.providers.gemini_errors import error_code, readable
from hutch_runtime.providers.gemini_events import TurnTranslator, stop_reason
from tests.runtime.recorded import recorded

Events = list[tuple[str, dict[str, Any]]]


def play(name: str) -> tuple[Events, dict[str, Any]]:
    """The events of a recorded turn, and the result that it ended with."""
    events: Events = []
    result: dict[str, Any] = {}
    translator = TurnTranslator(lambda type_, **data: events.append((type_, data)))
    for message, line in recorded(f"gemini/{name}"):
        if "method" in message:
            translator.update(message["params"]["update"], line)
        else:
            result = message.get("result", {})
    translator.close()
    translator.usage(result)
    assert {type_ for type_, _ in events} <= EVENT_TYPES - {"unparsed"}
    return events, result


def types(events: Events) -> list[str]:
    return [type_ for type_, _ in events]


def test_an_answer_with_a_thought() -> None:
    events, result = play("thought")
    assert types(events) == ["reasoning.delta", "text.delta", "text.delta", "text", "usage"]
    assert events[1][1]["text"] + events[2][1]["text"] == events[3][1]["text"]
    assert events[4][1]["input_tokens"] == 11
    assert events[4][1]["output_tokens"] == 5
    assert stop_reason(result) == "end_turn"


@pytest.mark.parametrize(
    ("name", "kind", "tool", "shown"),
    [
        ("shell", "shell", "run_shell_command", {"command": "echo a; sleep 1; echo b > f.txt"}),
        ("write", "edit", "write_file", {"paths": ["/workspace/g.txt"]}),
        ("replace", "edit", "replace", {"paths": ["/workspace/g.txt"]}),
        ("read", "read", "read_file", {"paths": ["/workspace/g.txt"]}),
        ("grep", "search", "grep_search", {"title": "'ho' within ./"}),
    ],
)
def test_tools(name: str, kind: str, tool: str, shown: dict[str, Any]) -> None:
    events, _ = play(name)
    assert types(events)[:2] == ["tool.started", "tool.finished"]
    started, finished = events[0][1], events[1][1]
    assert (started["kind"], started["name"]) == (kind, tool)
    for key, value in shown.items():
        given = started["input"][key]
        assert given.startswith(value) if isinstance(value, str) else given == value
    assert finished["ok"] is True
    assert finished["tool_id"] == started["tool_id"]
    if kind == "edit":
        assert finished["output"].endswith(" /workspace/g.txt")


def test_a_tool_that_failed_says_why() -> None:
    events, _ = play("read-failed")
    assert events[1][1]["ok"] is False
    assert events[1][1]["output"] == "File not found: /workspace/nope.txt"


def test_cancelled_in_the_middle_of_text() -> None:
    events, result = play("cancelled-text")
    assert stop_reason(result) == "cancelled"
    assert types(events) == ["text.delta"] * 4 + ["text"]


def test_cancelled_in_the_middle_of_a_tool() -> None:
    events, result = play("cancelled-shell")
    assert stop_reason(result) == "cancelled"
    # Gemini itself calls the command that it killed "completed".
    assert types(events) == ["tool.started", "tool.finished"]


def test_a_tool_that_gemini_forgets_is_ended() -> None:
    events: Events = []
    translator = TurnTranslator(lambda type_, **data: events.append((type_, data)))
    translator.update({"sessionUpdate": "tool_call", "toolCallId": "t", "kind": "execute"}, "")
    translator.close()
    assert events[-1] == ("tool.finished", {"tool_id": "t", "ok": False, "output": ""})


def test_text_around_a_tool_comes_in_two_blocks() -> None:
    events: Events = []
    translator = TurnTranslator(lambda type_, **data: events.append((type_, data)))
    chunk = {"sessionUpdate": "agent_message_chunk", "content": {"type": "text", "text": "one"}}
    call = {"sessionUpdate": "tool_call", "toolCallId": "mcp_docs_find-1795438589016-1"}
    translator.update(chunk, "")
    translator.update(call, "")
    translator.update({**call, "sessionUpdate": "tool_call_update", "status": "completed"}, "")
    translator.update({**chunk, "content": {"text": "two"}}, "")
    translator.close()
    assert [data["text"] for type_, data in events if type_ == "text"] == ["one", "two"]
    started = dict(events)["tool.started"]
    assert (started["kind"], started["name"]) == ("mcp", "mcp_docs_find")


def test_a_plan() -> None:
    events: Events = []
    translator = TurnTranslator(lambda type_, **data: events.append((type_, data)))
    entries = [{"content": "one", "status": "completed"}, {"content": "two", "status": "odd"}]
    translator.update({"sessionUpdate": "plan", "entries": entries}, "")
    assert events[0][1]["items"] == [
        {"text": "one", "status": "completed"},
        {"text": "two", "status": "pending"},
    ]


def test_what_is_unknown_is_an_alarm() -> None:
    events: Events = []
    translator = TurnTranslator(lambda type_, **data: events.append((type_, data)))
    translator.update({"sessionUpdate": "brand_new"}, "the line")
    assert events == [("unparsed", {"line": "the line"})]
    assert stop_reason({"stopReason": "brand_new"}) is None


@pytest.mark.parametrize(
    ("name", "code", "http_status"),
    [
        ("error-400", "provider_bad_request", 400),
        ("error-401", "provider_auth", 401),
        ("error-429", "provider_rate_limited", 429),
        ("error-500", "provider_overloaded", 500),
        ("error-503", "provider_overloaded", 503),
        ("unreachable", "provider_unreachable", None),
    ],
)
def test_errors(name: str, code: str, http_status: int | None) -> None:
    error = recorded(f"gemini/{name}")[-1][0]["error"]
    assert error_code(error["code"], error["message"]) == (code, http_status)


def test_a_404_has_lost_its_status_and_is_known_by_its_class() -> None:
    error = recorded("gemini/error-404")[-1][0]["error"]
    said = f"…Full report available at: /x.json ModelNotFoundError: {error['message']}\n  at"
    assert error_code(error["code"], error["message"]) == ("provider_error", None)
    assert error_code(error["code"], error["message"], said=said) == ("model_not_found", 404)


def test_a_404_of_the_real_api_is_known_by_its_words() -> None:
    said = "models/gemini-9 is not found for API version v1beta, or is not supported for …"
    assert error_code(500, said) == ("model_not_found", 404)


def test_the_sentence_is_taken_out_of_a_json_body() -> None:
    error = recorded("gemini/error-401")[-1][0]["error"]
    assert readable(error["message"]) == "stub error 401"
    assert readable("plain") == "plain"
    assert readable(json.dumps({"error": 7})) == '{"error": 7}'


_KEYS = st.sampled_from(
    [
        "sessionUpdate",
        "content",
        "text",
        "toolCallId",
        "status",
        "kind",
        "title",
        "locations",
        "path",
        "entries",
        "_meta",
        "quota",
        "token_count",
        "input_tokens",
        "type",
        "diff",
        "tool_call",
        "tool_call_update",
        "agent_message_chunk",
        "plan",
        "completed",
    ]
)
_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | _KEYS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_KEYS, inner, max_size=5),
    max_leaves=12,
)


@given(st.lists(st.dictionaries(_KEYS, _VALUES, max_size=6), max_size=6))
def test_hostile_updates_never_break_the_translator(updates: list[dict[str, Any]]) -> None:
    events: Events = []
    translator = TurnTranslator(lambda type_, **data: events.append((type_, data)))
    for update in updates:
        translator.update(update, "line")
        translator.usage(update)
        stop_reason(update)
    translator.close()
    assert set(types(events)) <= EVENT_TYPES
    started = [data["tool_id"] for type_, data in events if type_ == "tool.started"]
    finished = [data["tool_id"] for type_, data in events if type_ == "tool.finished"]
    assert sorted(started) == sorted(finished)
