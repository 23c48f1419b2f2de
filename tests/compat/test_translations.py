"""Any log of a run says the same by each protocol, streamed and whole."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hutch.api.compat.chat_chunks import ChatChunks
from hutch.api.compat.chat_chunks import answer_of as completion_of
from hutch.api.compat.conversation import AFTER, Said, prompt_of
from hutch.api.compat.dialects import error_body
from hutch.api.compat.messages_events import MessageEvents, message_of
from hutch.api.compat.reading import Reader, failed
from hutch.api.compat.responses_events import About, ResponseEvents
from hutch.api.compat.responses_events import answer_of as response_of
from hutch.api.compat.sending import Frame, Translation, frames_of
from hutch.api.refusal import Refusal
from hutch.errors import InvalidRequest
from hutch.runs.models import LogEntry, Run

# On a busy machine anything is slow.
any_log = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow], max_examples=60)
RUN = Run("run_0", "user_0", "ses_0", "claude", None, "x", 1, "running", 0)
ABOUT = About(RUN, model="claude")

words = st.text(max_size=12)
tool = {"tool_id": "t", "kind": "shell", "name": "Bash", "input": {}}


@st.composite
def blocks(draw: st.DrawFn) -> list[tuple[str, dict[str, Any]]]:
    """One of text: in pieces that are all of it, the beginning of it, or none."""
    pieces = draw(st.lists(words, max_size=4))
    told = [("text.delta", {"text": piece}) for piece in pieces]
    whole = "".join(pieces)
    if draw(st.booleans()):
        told = told[: draw(st.integers(0, len(told)))]
    return [*told, ("text", {"text": whole})]


others = st.sampled_from(
    [
        [("reasoning.delta", {"text": "hm"})],
        [("tool.started", tool), ("tool.finished", {"tool_id": "t", "ok": True, "output": ""})],
        [("queued", {"reason": "session", "position": 1})],
        [("usage", {"input_tokens": 3, "output_tokens": 1, "cached_tokens": 9, "cost_usd": None})],
    ]
)


@st.composite
def logs(draw: st.DrawFn) -> tuple[list[LogEntry], str]:
    """A whole one, and the answer that is in it."""
    parts = draw(st.lists(st.one_of(blocks(), others), max_size=6))
    told = [("run.started", {}), *(event for part in parts for event in part)]
    texts = [data["text"] for kind, data in told if kind == "text" and data["text"]]
    reason = draw(st.sampled_from(["end_turn", "max_turns", "refusal"]))
    end: dict[str, Any] = {
        "stop_reason": reason,
        "error": None,
        "text": texts[-1] if texts else "",
        "timings": {},
    }
    told.append(("run.finished", end))
    entries = [LogEntry("run_0", n, None, 0, kind, data) for n, (kind, data) in enumerate(told, 1)]
    return entries, "\n\n".join(texts)


def streamed(translation: Translation, entries: list[LogEntry]) -> list[dict[str, Any]]:
    def frames() -> Iterator[Frame]:
        yield from translation.begin()
        for entry in entries:
            yield from frames_of(translation, entry)

    found = []
    for frame in frames():
        lines = frame.encode().decode().removesuffix("\n\n").split("\n")
        assert len(lines) == (2 if frame.event else 1)  # no text may end a line of the protocol
        data = lines[-1].removeprefix("data: ")
        found.append({} if data == "[DONE]" else json.loads(data))
    return found


def read(entries: list[LogEntry]) -> Reader:
    reader = Reader()
    for entry in entries:
        for _ in reader.take(entry):
            pass
    return reader


@any_log
@given(logs())
def test_chat(log: tuple[list[LogEntry], str]) -> None:
    entries, text = log
    told = streamed(ChatChunks(RUN, model="m", include_usage=True), entries)
    whole = completion_of(RUN, read(entries), model="m")
    assert whole.choices[0].message.content == text
    choices = [choice for chunk in told for choice in chunk.get("choices", [])]
    assert "".join(choice["delta"].get("content", "") for choice in choices) == text
    finishes = [choice["finish_reason"] for choice in choices if choice["finish_reason"]]
    assert finishes == [whole.choices[0].finish_reason]
    assert told[-2]["usage"] == whole.usage.model_dump()
    assert whole.usage.prompt_tokens_details.cached_tokens <= whole.usage.prompt_tokens


@any_log
@given(logs())
def test_messages(log: tuple[list[LogEntry], str]) -> None:
    entries, text = log
    told = streamed(MessageEvents(RUN, model="m"), entries)
    whole = message_of(RUN, read(entries), model="m")
    assert whole.content[0].text == text
    kinds = [event["type"] for event in told if event["type"] != "ping"]
    deltas = [event["delta"]["text"] for event in told if event["type"] == "content_block_delta"]
    assert "".join(deltas) == text
    assert kinds == [
        "message_start",
        "content_block_start",
        *["content_block_delta"] * len(deltas),
        "content_block_stop",
        "message_delta",
        "message_stop",
    ]
    assert told[-2]["usage"] == whole.usage.model_dump()
    assert told[-2]["delta"]["stop_reason"] == whole.stop_reason


@any_log
@given(logs())
def test_responses(log: tuple[list[LogEntry], str]) -> None:
    entries, text = log
    told = streamed(ResponseEvents(ABOUT), entries)
    whole = response_of(ABOUT, read(entries)).model_dump()
    assert whole["output"][0]["content"][0]["text"] == text
    deltas = [e["delta"] for e in told if e["type"] == "response.output_text.delta"]
    assert "".join(deltas) == text
    assert [event["sequence_number"] for event in told] == list(range(len(told)))
    assert told[-1]["response"] == whole
    assert told[-1]["type"] == f"response.{whole['status']}"


@any_log
@given(st.lists(st.tuples(st.sampled_from(["system", "user", "assistant"]), words), max_size=6))
def test_no_text_passes_itself_off_as_another_message(
    given_messages: list[tuple[Any, str]],
) -> None:
    said = [Said(role, text) for role, text in given_messages]
    said.append(Said("user", "now"))
    prompt = prompt_of(said, begun=False)
    split = len(said)
    while split and said[split - 1].role == "user":
        split -= 1
    now = "\n\n".join(one.text for one in said[split:])
    earlier = [one for one in said[:split] if one.text.strip()]
    assert prompt.endswith(now)
    if not earlier:
        assert prompt == now
        return
    lines = prompt.removesuffix(now).split("\n")
    told = [json.loads(line) for line in lines if line.startswith("{")]
    assert told == [{"role": one.role, "content": one.text} for one in earlier]
    assert lines.count(AFTER) == 1
    assert prompt_of(said, begun=True) == now


@pytest.mark.parametrize("said", [[], [Said("assistant", "x")], [Said("user", " ")]])
def test_the_last_word_is_the_users(said: list[Said]) -> None:
    with pytest.raises(InvalidRequest):
        prompt_of(said, begun=False)


def test_errors_have_the_shape_of_their_endpoint() -> None:
    refusal = Refusal(429, "queue_full", "Full.", "Wait.")
    own = {"error": {"code": "queue_full", "message": "Full.", "hint": "Wait."}}
    for path in ("/v1/runs", "/v1/modelsx", "/v1/message", ""):
        assert error_body(path, refusal) == own
    for path in ("/v1/chat/completions", "/v1/responses/x", "/v1/models"):
        error = error_body(path, refusal)["error"]
        assert error["message"] == "Full. Wait."
        assert error["type"] == "rate_limit_error"
    for path in ("/v1/messages", "/v1/messages/count_tokens"):
        assert error_body(path, refusal)["type"] == "error"


def test_a_failed_run_is_never_repeated_by_a_client_of_its_own_accord() -> None:
    for code, status in (("provider_auth", 422), ("provider_rate_limited", 429), ("new", 502)):
        refusal = failed(code, "m")
        assert (refusal.status, refusal.headers) == (status, {"x-should-retry": "false"})
