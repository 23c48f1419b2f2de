from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hutch.runs.inbound import parse_event
from hutch_runtime.journal import Journal
from hutch_runtime.protocol import EVENT_MAX_BYTES, FIELD_MAX_BYTES, MIB, RUN_MAX_BYTES

_TEXT = st.text(st.characters(), max_size=50)  # half surrogate pairs included
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | _TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_TEXT, inner, max_size=4),
    max_leaves=12,
)
_EVENTS = st.lists(
    st.one_of(
        st.tuples(st.just("text.delta"), st.fixed_dictionaries({"text": _TEXT})),
        st.tuples(
            st.just("tool.started"),
            st.fixed_dictionaries(
                {
                    "tool_id": st.text(max_size=2000),
                    "kind": st.just("other"),
                    "name": _TEXT,
                    "input": st.dictionaries(_TEXT, _JSON, max_size=4),
                }
            ),
        ),
        st.tuples(st.just("unparsed"), st.fixed_dictionaries({"line": _TEXT})),
    ),
    max_size=20,
)
_FINISHED: dict[str, Any] = {
    "stop_reason": "end_turn",
    "error": None,
    "text": "done",
    "timings": {"first_event_ms": 1.5, "total_ms": 2.5},
}


async def _read(journal: Journal, after: int = 0) -> list[dict[str, Any]]:
    return _events(b"".join([batch async for batch in journal.follow(after)]))


def _events(stream: bytes) -> list[dict[str, Any]]:
    """Parsed as the orchestrator does it, which refuses what breaks the contract."""
    found = []
    for frame in stream.decode().split("\n\n")[:-1]:
        number, kind, data = frame.split("\n")
        value: dict[str, Any] = json.loads(data.removeprefix("data: "))
        assert len(data.encode()) <= EVENT_MAX_BYTES
        parse_event(data.removeprefix("data: ").encode(), run_id="r")
        assert (number, kind) == (f"id: {value['seq']}", f"event: {value['type']}")
        found.append(value)
    return found


@settings(deadline=None)
@given(_EVENTS, st.integers(0, 25))
def test_the_log_is_gapless_ends_once_and_its_tail_is_what_a_follower_gets(
    events: list[Any], after: int
) -> None:
    async def check() -> None:
        journal = Journal("r")
        following = asyncio.create_task(_read(journal, after))
        for kind, fields in events:
            journal.append(kind, **fields)
            await asyncio.sleep(0)
        journal.append("run.finished", **_FINISHED)
        journal.append("text", text="too late")
        journal.append("run.finished", **_FINISHED)
        log = await _read(journal)
        assert [event["seq"] for event in log] == list(range(1, len(log) + 1))
        assert [event["type"] for event in log].count("run.finished") == 1
        assert log[-1]["type"] == "run.finished"
        assert await following == log[after:]
        assert await _read(journal, after) == log[after:]

    asyncio.run(check())


async def test_a_long_field_is_cut_at_a_character_and_said_so() -> None:
    journal = Journal("r")
    journal.append("text", text="é" * FIELD_MAX_BYTES)
    journal.append("run.finished", **_FINISHED)
    text, truncated, _ = await _read(journal)
    assert text["text"] == "é" * (FIELD_MAX_BYTES // 2)
    assert truncated["scope"] == "field"
    assert truncated["limit_bytes"] == FIELD_MAX_BYTES
    assert truncated["dropped_bytes"] == FIELD_MAX_BYTES


async def test_an_event_of_many_long_fields_loses_them_but_stays() -> None:
    journal = Journal("r")
    many = {str(number): "\x00" * FIELD_MAX_BYTES for number in range(10)}
    journal.append("tool.started", tool_id="t", kind="other", name="n", input=many)
    journal.append("run.finished", **_FINISHED)
    started, truncated, _ = await _read(journal)
    assert (started["tool_id"], started["input"]) == ("t", {})
    assert (truncated["scope"], truncated["limit_bytes"]) == ("field", EVENT_MAX_BYTES)


async def test_a_number_that_no_machine_holds_is_told_as_text() -> None:
    journal = Journal("r")
    given = {"most": 2**64 - 1, "more": 2**64, "least": -(2**63), "less": -(10**40)}
    journal.append("tool.started", tool_id="t", kind="other", name="n", input=given)
    journal.append("run.finished", **_FINISHED)
    event = (await _read(journal))[0]
    assert event["input"] == {**given, "more": str(2**64), "less": str(-(10**40))}


async def test_past_a_run_s_limit_only_its_course_is_told() -> None:
    journal = Journal("r")
    piece = "x" * FIELD_MAX_BYTES
    for _ in range(2 * RUN_MAX_BYTES // FIELD_MAX_BYTES):
        journal.append("text.delta", text=piece)
    journal.append("usage", input_tokens=1, output_tokens=2, cached_tokens=0, cost_usd=None)
    journal.append("run.finished", **_FINISHED)
    log = await _read(journal)
    assert [event["type"] for event in log[-3:]] == ["truncated", "usage", "run.finished"]
    assert [event["type"] for event in log].count("truncated") == 1
    assert log[-3]["scope"] == "run"
    assert RUN_MAX_BYTES - FIELD_MAX_BYTES - 1000 < journal.size < RUN_MAX_BYTES + 1000


async def test_not_even_what_is_always_told_is_told_without_end() -> None:
    journal = Journal("r")
    for _ in range(100):
        journal.append("agent.restarted", reason="x" * FIELD_MAX_BYTES, how="resumed")
    journal.append("run.finished", **_FINISHED)
    assert journal.size < RUN_MAX_BYTES + 2 * MIB
    assert (await _read(journal))[-1]["type"] == "run.finished"


async def test_an_event_is_there_for_its_follower_at_once() -> None:
    journal = Journal("r")
    follower = journal.follow()
    waiting = asyncio.ensure_future(anext(follower))
    await asyncio.sleep(0)
    journal.append("text", text="a")
    for _ in range(3):  # turns of the event loop, no time
        await asyncio.sleep(0)
    assert waiting.done()
    await follower.aclose()


async def test_a_follower_that_leaves_leaves_nothing_behind() -> None:
    journal = Journal("r")
    task = asyncio.create_task(_read(journal))
    await asyncio.sleep(0)
    assert len(journal._waiting) == 1
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert journal._waiting == set()
