"""A run as the events of an Anthropic message, or as a whole one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from hutch.api.compat.dialects import anthropic_error
from hutch.api.compat.reading import Activity, End, Piece, Reader, Text, Thought
from hutch.api.compat.sending import Frame
from hutch.api.compat.shapes import HutchPart, Message, MessageStop, MessageText, MessageUsage
from hutch.api.refusal import Refusal
from hutch.runs.models import Run

_STOPS: Final[dict[str, MessageStop]] = {"max_turns": "max_tokens", "refusal": "refusal"}


def message_id(run: Run) -> str:
    return "msg_" + run.id.removeprefix("run_")


class MessageEvents:
    """What is no text stands in the field ``hutch`` of pings, which clients pass over. Anthropic's
    own keep them to themselves, so the tools are told once more with the end.
    """

    def __init__(self, run: Run, *, model: str) -> None:
        self.reader = Reader.of(run)
        self._run = run
        self._model = model
        self._open = False  # the one block of text

    def begin(self) -> Iterator[Frame]:
        message = message_of(self._run, self.reader, model=self._model).model_dump()
        message["content"], message["stop_reason"] = [], None
        yield _frame("message_start", message=message)
        yield _frame("ping")

    def take(self, piece: Piece) -> Iterator[Frame]:
        match piece:
            case Text(text):
                if not self._open:
                    yield self._block()
                delta = {"type": "text_delta", "text": text}
                yield _frame("content_block_delta", index=0, delta=delta)
            case Thought(text):
                event = {"type": "reasoning.delta", "text": text}
                yield _frame("ping", hutch={"event": event})
            case Activity(event):
                yield _frame("ping", hutch={"event": event})
            case End():
                if not self._open:
                    yield self._block()
                yield _frame("content_block_stop", index=0)
                ended: dict[str, Any] = {"stop_reason": _stop(piece), "stop_sequence": None}
                usage = _usage(self.reader).model_dump()
                told = HutchPart.of(self._run, self.reader).model_dump()
                yield _frame("message_delta", delta=ended, usage=usage, hutch=told)
                yield _frame("message_stop")

    def fail(self, refusal: Refusal) -> Iterator[Frame]:
        yield Frame(anthropic_error(refusal), event="error")

    def _block(self) -> Frame:
        self._open = True
        return _frame("content_block_start", index=0, content_block={"type": "text", "text": ""})


def message_of(run: Run, reader: Reader, *, model: str) -> Message:
    """Of a run that has not failed."""
    return Message(
        id=message_id(run),
        model=model,
        content=[MessageText(text=reader.text)],
        stop_reason=_stop(reader.end) if reader.end else None,
        usage=_usage(reader),
        hutch=HutchPart.of(run, reader),
    )


def _stop(end: End) -> MessageStop:
    return _STOPS.get(end.stop_reason, "end_turn")


def _usage(reader: Reader) -> MessageUsage:
    """Anthropic counts tokens from its cache apart."""
    return MessageUsage(
        input_tokens=reader.input_tokens - reader.cached_tokens,
        output_tokens=reader.output_tokens,
        cache_read_input_tokens=reader.cached_tokens,
    )


def _frame(kind: str, **fields: Any) -> Frame:
    return Frame({"type": kind, **fields}, event=kind)
