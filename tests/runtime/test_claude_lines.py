from __future__ import annotations

import json
from typing import Any

import pytest

from hutch_runtime.protocol import ErrorCode, ToolKind
from hutch_runtime.providers.base import Outcome
from hutch_runtime.providers.claude_lines import ClaudeTurn
from hutch_runtime.providers.claude_tools import tool_kind
from tests.runtime.recorded import recorded

Events = list[tuple[str, dict[str, Any]]]


class _Log:
    def __init__(self) -> None:
        self.events: Events = []

    def emit(self, event_type: str, /, **fields: Any) -> None:
        self.events.append((event_type, fields))


def _play(name: str, *, cancelled: bool = False) -> tuple[Outcome, Events]:
    """The turn of a recording; its outcome comes with its last line and not before."""
    log = _Log()
    turn = ClaudeTurn(log)
    outcomes = [turn.feed(line, cancelled=cancelled) for line, _ in recorded(f"claude/{name}")]
    assert outcomes[-1] is not None
    assert outcomes[:-1] == [None] * (len(outcomes) - 1)
    assert [fields for kind, fields in log.events if kind == "unparsed"] == []
    return outcomes[-1], log.events


def _feed(line: dict[str, Any]) -> Events:
    log = _Log()
    ClaudeTurn(log).feed(line, cancelled=False)
    return log.events


def _of(events: Events, kind: str) -> list[dict[str, Any]]:
    return [fields for seen, fields in events if seen == kind]


def test_an_answer_is_its_deltas_then_the_whole_then_the_usage() -> None:
    outcome, events = _play("text")
    assert outcome.stop_reason == "end_turn"
    assert 'you said "hello"' in outcome.text
    assert "".join(delta["text"] for delta in _of(events, "text.delta")) == outcome.text
    assert _of(events, "text") == [{"text": outcome.text}]
    assert events[-1][0] == "usage"
    assert {kind for kind, _ in events} == {"text.delta", "text", "usage"}


def test_usage_is_this_turn_s_though_the_cli_counts_on() -> None:
    _, events = _play("reasoning")  # the fifth turn of its process
    assert _of(events, "usage") == [
        {"input_tokens": 13051, "output_tokens": 61, "cached_tokens": 0, "cost_usd": 0.053424}
    ]


def test_thinking() -> None:
    _, events = _play("reasoning")
    thought = "Hutch offline model (not a real model): no thought went into this."
    assert _of(events, "reasoning.delta") == [{"text": thought}]


def test_a_shell_call() -> None:
    outcome, events = _play("shell")
    [started], [finished] = _of(events, "tool.started"), _of(events, "tool.finished")
    assert (started["kind"], started["name"]) == ("shell", "Bash")
    assert started["input"]["command"] == "echo hi; echo err >&2"
    assert finished == {"tool_id": started["tool_id"], "ok": True, "output": "hi\nerr"}
    assert outcome.stop_reason == "end_turn"


def test_a_shell_call_that_fails() -> None:
    _, events = _play("shell-failed")
    [finished] = _of(events, "tool.finished")
    assert (finished["ok"], finished["output"]) == (False, "Exit code 3")


def test_a_file_that_is_written() -> None:
    _, events = _play("write")
    [started] = _of(events, "tool.started")
    assert (started["kind"], started["name"]) == ("edit", "Write")


@pytest.mark.parametrize("name", ["interrupted-text", "interrupted-shell"])
def test_an_interruption_is_a_cancel_if_we_asked(name: str) -> None:
    outcome, events = _play(name, cancelled=True)
    assert (outcome.stop_reason, outcome.error) == ("cancelled", None)
    assert len(_of(events, "usage")) == 1  # what was used until then


def test_an_interruption_that_nobody_asked_for_is_an_error() -> None:
    outcome, _ = _play("interrupted-text")
    assert outcome.error is not None
    assert outcome.error.code == "provider_error"


def test_a_turn_that_ended_before_the_cancel_came_has_ended() -> None:
    assert _play("text", cancelled=True)[0].stop_reason == "end_turn"


@pytest.mark.parametrize(
    ("name", "code", "retries"),
    [
        ("error-400", "provider_bad_request", 0),
        ("error-401", "provider_auth", 2),
        ("error-403", "provider_auth", 0),
        ("error-404", "model_not_found", 0),
        ("error-413", "provider_bad_request", 0),
        ("error-429", "provider_rate_limited", 2),
        ("error-500", "provider_overloaded", 2),
        ("error-529", "provider_overloaded", 2),
        ("unreachable", "provider_unreachable", 2),
    ],
)
def test_model_errors(name: str, code: ErrorCode, retries: int) -> None:
    outcome, events = _play(name)
    assert outcome.stop_reason == "error"
    assert outcome.error is not None
    assert outcome.error.code == code
    assert outcome.error.message
    assert outcome.text == ""
    assert _of(events, "text") == []  # the CLI's words for it are no answer
    told = _of(events, "retrying")
    assert [retry["attempt"] for retry in told] == list(range(1, retries + 1))
    assert {retry["code"] for retry in told} <= {code}
    assert all(retry["delay_ms"] > 0 for retry in told)


@pytest.mark.parametrize(
    "line",
    [
        {"type": "from_the_future"},
        {"type": "system", "subtype": "from_the_future"},
        {"type": "stream_event", "event": {"type": "from_the_future"}},
        {
            "type": "stream_event",
            "event": {"type": "content_block_delta", "delta": {"type": "from_the_future"}},
        },
        {"type": "assistant", "message": {"content": [{"type": "from_the_future"}]}},
        {},
    ],
)
def test_what_is_not_known_is_told(line: dict[str, Any]) -> None:
    [(kind, fields)] = _feed(line)
    assert kind == "unparsed"
    assert json.loads(fields["line"]) == line


@pytest.mark.parametrize(
    "line",
    [
        {"type": "stream_event"},
        {"type": "stream_event", "event": []},
        {"type": "assistant", "message": None},
        {"type": "assistant", "message": {"content": [None, 3]}},
        {"type": "user", "message": {"content": {"type": "tool_result"}}},
        {"type": "system", "subtype": "api_retry", "attempt": "x", "error_status": -1},
        {"type": "result", "api_error_status": "401", "model_usage_since_last_result": {"m": 1}},
    ],
)
def test_broken_lines_break_nothing(line: dict[str, Any]) -> None:
    _feed(line)


def test_a_subagent_s_words_are_not_the_answer() -> None:
    delta = {"type": "content_block_delta", "delta": {"type": "text_delta", "text": "x"}}
    message = {"content": [{"type": "text", "text": "x"}]}
    assert _feed({"type": "stream_event", "event": delta, "parent_tool_use_id": "t"}) == []
    assert _feed({"type": "assistant", "message": message, "parent_tool_use_id": "t"}) == []


def test_a_to_do_list_is_a_plan() -> None:
    log = _Log()
    turn = ClaudeTurn(log)
    todos = [{"content": "a", "status": "completed"}, {"content": "b", "status": "odd"}]
    use = {"type": "tool_use", "id": "t1", "name": "TodoWrite", "input": {"todos": todos}}
    turn.feed({"type": "assistant", "message": {"content": [use]}}, cancelled=False)
    result = {"type": "tool_result", "tool_use_id": "t1", "content": "ok"}
    turn.feed({"type": "user", "message": {"content": [result]}}, cancelled=False)
    items = [{"text": "a", "status": "completed"}, {"text": "b", "status": "pending"}]
    assert log.events == [("plan", {"items": items})]


@pytest.mark.parametrize(
    ("subtype", "extra", "stop_reason"),
    [
        ("error_max_turns", {"is_error": True}, "max_turns"),
        ("success", {"is_error": False, "stop_reason": "refusal"}, "refusal"),
        ("error_during_execution", {"is_error": True, "errors": ["broke"]}, "error"),
    ],
)
def test_other_ends(subtype: str, extra: dict[str, Any], stop_reason: str) -> None:
    line = {"type": "result", "subtype": subtype, **extra}
    outcome = ClaudeTurn(_Log()).feed(line, cancelled=False)
    assert outcome is not None
    assert outcome.stop_reason == stop_reason
    assert (outcome.error is not None) == (stop_reason == "error")


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("Bash", "shell"),
        ("Read", "read"),
        ("Edit", "edit"),
        ("Write", "edit"),
        ("Grep", "search"),
        ("Glob", "search"),
        ("WebFetch", "fetch"),
        ("mcp__github__search", "mcp"),
        ("Task", "other"),
    ],
)
def test_tool_kinds(name: str, kind: ToolKind) -> None:
    assert tool_kind(name) == kind
