from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hutch_runtime.home import Home
from hutch_runtime.protocol import EVENT_TYPES
from hutch_runtime.providers.gemini_errors import error_code, readable
from hutch_runtime.providers.gemini_events import TurnTranslator, stop_reason
from hutch_runtime.providers.gemini_reports import TEMPORARY, take_report
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
    ("name", "code"),
    [
        ("error-400", "provider_bad_request"),
        ("error-401", "provider_auth"),
        ("error-404", "provider_error"),  # known by its report alone
        ("error-429", "provider_rate_limited"),
        ("error-500", "provider_overloaded"),
        ("error-503", "provider_overloaded"),
        ("unreachable", "provider_unreachable"),
    ],
)
def test_errors(name: str, code: str) -> None:
    error = recorded(f"gemini/{name}")[-1][0]["error"]
    assert error_code(error["code"], error["message"]) == code


def test_a_404_of_the_real_api_is_known_by_its_words() -> None:
    said = "models/gemini-9 is not found for API version v1beta, or is not supported for …"
    assert error_code(500, said) == "model_not_found"


def test_a_report_tells_the_class_of_an_error_and_is_removed(tmp_path: Path) -> None:
    home, reports = Home(tmp_path), tmp_path / TEMPORARY
    reports.mkdir(parents=True)

    def report(name: str, stack: str, age_s: float = 0) -> Path:
        path = reports / f"gemini-client-error-{name}.json"
        body = {"error": {"message": "…", "stack": stack}, "context": ["secret"]}
        path.write_text(json.dumps(body, indent=2, ensure_ascii=False))
        os.utime(path, (time.time() - age_s,) * 2)
        return path

    ours = report("ours", 'ModelNotFoundError: no "x" für dich\n    at y')
    other = report("other", "ApiError: no")
    old = report("old", "ApiError: no", age_s=3600)
    (reports / "gemini-client-error-directory.json").mkdir()
    assert not take_report(home, "ModelNotFoundError", "another")
    assert take_report(home, "ModelNotFoundError", 'no "x" für dich')
    assert not take_report(home, "ModelNotFoundError", 'no "x" für dich')
    assert (ours.exists(), other.exists(), old.exists()) == (False, True, False)


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
