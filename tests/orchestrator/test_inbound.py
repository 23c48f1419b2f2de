"""What a sandbox may say. Its agent may have taken it over, so anything can come."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hutch.runs.inbound import parse_event
from hutch_runtime.protocol import (
    APPROVAL_MAX_BYTES,
    EVENT_MAX_BYTES,
    EVENT_TYPES,
    Event,
    ProtocolError,
)

RUN = "run_x"
GOOD: dict[str, dict[str, Any]] = {
    "run.started": {
        "provider": "claude",
        "session": "s",
        "model": None,
        "cli_version": "1",
        "agent": "warm",
    },
    "text.delta": {"text": "a"},
    "text": {"text": "a"},
    "reasoning.delta": {"text": "a"},
    "tool.started": {"tool_id": "t", "kind": "shell", "name": "Bash", "input": {"a": [1]}},
    "tool.output": {"tool_id": "t", "text": "x"},
    "tool.finished": {"tool_id": "t", "ok": True, "output": ""},
    "plan": {"items": [{"text": "a", "status": "pending"}]},
    "approval.requested": {
        "approval_id": "apr_1",
        "tool_id": "t",
        "kind": "edit",
        "name": "Write",
        "input": {"a": [1]},
        "diff": "+x",
        "truncated": False,
        "timeout_s": 300,
    },
    "approval.decided": {"approval_id": "apr_1", "decision": "always", "by": "user"},
    "files.changed": {
        "files": [
            {"path": "a", "change": "added", "size_before": None, "size_after": 1, "in_diff": True}
        ],
        "diff": "+x",
        "complete": True,
    },
    "usage": {"input_tokens": 1, "output_tokens": 2, "cached_tokens": 0, "cost_usd": 0.5},
    "retrying": {"attempt": 1, "delay_ms": None, "status": 529, "code": "provider_overloaded"},
    "agent.restarted": {"reason": "it died", "how": "resumed"},
    "truncated": {"scope": "run", "limit_bytes": 1, "dropped_bytes": 2},
    "unparsed": {"line": "?"},
    "run.finished": {"stop_reason": "end_turn", "error": None, "text": "", "timings": {}},
}
BAD_APPROVALS: list[tuple[str, Any]] = [
    ("approval_id", "apr_0"),
    ("approval_id", "apr_1\n"),
    ("approval_id", "../apr_1"),
    ("kind", "sudo"),
    ("input", []),
    ("input", {"a": "x" * APPROVAL_MAX_BYTES}),
    ("diff", "x" * (APPROVAL_MAX_BYTES + 1)),
    ("truncated", 0),
    ("timeout_s", 1e9),
]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


def raw(kind: str, data: dict[str, Any], **envelope: Any) -> bytes:
    return json.dumps(
        {"run_id": RUN, "seq": 1, "time": 1.0, "type": kind, **data, **envelope}
    ).encode()


def test_every_type_has_an_example() -> None:
    assert set(GOOD) == EVENT_TYPES


@pytest.mark.parametrize("kind", sorted(GOOD))
def test_what_the_runtime_writes_is_read(kind: str) -> None:
    event = Event(RUN, 7, 12.5, kind, GOOD[kind])
    inbound = parse_event(event.to_json().encode(), run_id=RUN)
    assert (inbound.seq, inbound.time, inbound.type, inbound.data) == (7, 12.5, kind, GOOD[kind])


@given(st.binary() | JSON.map(lambda value: json.dumps(value).encode()))
def test_anything_is_an_event_or_a_protocol_error(line: bytes) -> None:
    with pytest.raises(ProtocolError):
        parse_event(line, run_id=RUN)


@pytest.mark.parametrize("depth", [40, 300, 800, 990])
def test_no_depth_of_what_is_passed_over_overflows_a_stack(depth: int) -> None:
    deep = b"[" * depth + b"]" * depth
    line = raw("text", {"text": "a\ud800", "more": 0}).replace(b'"more": 0', b'"more": ' + deep)
    try:
        assert parse_event(line, run_id=RUN).data == {"text": "a?"}
    except ProtocolError:
        assert depth > 40


@given(st.sampled_from(sorted(GOOD)), st.data())
def test_a_field_of_another_kind_is_refused_or_harmless(kind: str, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(sorted(GOOD[kind])))
    value = data.draw(JSON)
    try:
        inbound = parse_event(raw(kind, {**GOOD[kind], name: value}), run_id=RUN)
    except ProtocolError:
        return
    json.dumps(inbound.data, ensure_ascii=False, allow_nan=False).encode()  # may be sent on


@pytest.mark.parametrize(
    "line",
    [
        raw("text", {"text": "a"}, run_id="run_of_somebody_else"),
        raw("text", {"text": "a"}, seq=0),
        raw("text", {"text": "a"}, seq=True),
        raw("text", {"text": "a"}, seq=1.5),
        raw("text", {"text": "a"}, time="now"),
        raw("text", {"text": "a"}, time=float("nan")),
        raw("text", {"text": "a"}, type="root.shell"),
        raw("text", {"text": ["a"]}),
        raw("text", {}),
        raw("tool.started", {**GOOD["tool.started"], "input": "rm"}),
        raw("tool.started", {**GOOD["tool.started"], "kind": "sudo"}),
        raw("tool.started", {**GOOD["tool.started"], "name": "x" * 1000}),
        *(
            raw("approval.requested", {**GOOD["approval.requested"], name: value})
            for name, value in BAD_APPROVALS
        ),
        raw("approval.decided", {**GOOD["approval.decided"], "decision": "perhaps"}),
        raw("approval.decided", {**GOOD["approval.decided"], "by": "root"}),
        raw("usage", {**GOOD["usage"], "input_tokens": -1}),
        raw("usage", {**GOOD["usage"], "cost_usd": float("inf")}),
        raw("run.finished", {**GOOD["run.finished"], "error": {"code": "new", "message": ""}}),
        raw("run.finished", {**GOOD["run.finished"], "stop_reason": "bored"}),
        raw("text", {"text": "x" * EVENT_MAX_BYTES}),
        b"[" * 100_000,
        raw("text", {"text": "a"}).replace(b"1.0", b"1" + b"0" * 400),  # no float holds it
        raw("text", {"text": "a"}).replace(b"1.0", b"1e400"),
        b'{"run_id":"run_x","seq":1,"time":1,"type":"text","text":"\xed\xa0\x80"}',
        raw("text", {"text": "a"}).decode().encode("utf-16"),
        raw("plan", {"items": [{"text": "a", "status": []}]}),
        raw("run.finished", {**GOOD["run.finished"], "error": {"code": [], "message": ""}}),
        raw("tool.started", {**GOOD["tool.started"], "input": {"a": 10**40}}),
        raw("tool.started", {**GOOD["tool.started"], "input": {"a": float("nan")}}),
    ],
)
def test_bad_events_are_refused(line: bytes) -> None:
    with pytest.raises(ProtocolError):
        parse_event(line, run_id=RUN)


def test_unknown_fields_do_not_pass() -> None:
    inbound = parse_event(raw("text", {"text": "a", "user_id": "user_1"}), run_id=RUN)
    assert inbound.data == {"text": "a"}


def test_half_a_surrogate_pair_becomes_a_question_mark() -> None:
    line = b'{"run_id":"run_x","seq":1,"time":1,"type":"text","text":"a\\ud800b"}'
    assert parse_event(line, run_id=RUN).data == {"text": "a?b"}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("path", ""),
        ("path", "x" * 5000),
        ("path", 1),
        ("change", "eaten"),
        ("change", []),
        ("size_after", -1),
        ("size_before", 1.5),
        ("in_diff", None),
        ("more", 1),
    ],
)
def test_changes_that_cannot_be(name: str, value: Any) -> None:
    told = GOOD["files.changed"]
    for bad in (
        {**told, "files": [{**told["files"][0], name: value}]},
        {**told, "files": told["files"] * 501},
        {**told, "diff": "x" * (128 * 1024 + 1)},
        {**told, "complete": "yes"},
    ):
        raw = Event(RUN, 1, 1.0, "files.changed", bad).to_json().encode()
        with pytest.raises(ProtocolError):
            parse_event(raw, run_id=RUN)
