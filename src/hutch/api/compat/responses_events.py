"""A run as the events of a response, or as a whole one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal, TypeAlias

from hutch.api.compat.dialects import openai_error
from hutch.api.compat.forms import schema_of
from hutch.api.compat.reading import Activity, End, Piece, Reader, Text, Thought
from hutch.api.compat.sending import Frame
from hutch.api.compat.shapes import (
    CachedTokens,
    ConversationOf,
    HutchPart,
    Incomplete,
    ResponseAnswer,
    ResponseError,
    ResponseMessage,
    ResponseText,
    ResponseUsage,
)
from hutch.api.refusal import Refusal
from hutch.runs.models import Run

Status: TypeAlias = Literal["in_progress", "completed", "incomplete", "failed", "cancelled"]
_INCOMPLETE: Final[Mapping[str, Incomplete]] = {
    "max_turns": Incomplete(reason="max_output_tokens"),
    "refusal": Incomplete(reason="content_filter"),
}


@dataclass(frozen=True, slots=True)
class About:
    """What a response says beside the answer."""

    run: Run
    model: str
    instructions: str | None = None
    previous: str | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)

    @property
    def message_id(self) -> str:
        return "msg_" + self.run.id.removeprefix("run_")


def run_id_of(response_id: str) -> str:
    return "run_" + response_id.removeprefix("resp_")


class ResponseEvents:
    """What is no text stands in the field ``hutch`` of further ``response.in_progress``: a client
    knows that type, and has nothing to do at it.
    """

    def __init__(self, about: About) -> None:
        self.reader = Reader.of(about.run)
        self._about = about
        self._number = -1
        self._open = False  # the one message

    def begin(self) -> Iterator[Frame]:
        for kind in ("response.created", "response.in_progress"):
            yield self._frame(kind, response=self._answer())

    def take(self, piece: Piece) -> Iterator[Frame]:
        match piece:
            case Text(text):
                yield from self._begin_message()
                yield self._part("response.output_text.delta", delta=text, logprobs=[])
            case Thought(text):
                yield self._activity({"type": "reasoning.delta", "text": text})
            case Activity(event):
                yield self._activity(event)
            case End():
                yield from self._begin_message()
                yield from self._end_message()
                answer = self._answer()
                yield self._frame(f"response.{answer['status']}", response=answer)

    def fail(self, refusal: Refusal) -> Iterator[Frame]:
        answer = self._answer()
        answer["status"] = "failed"
        answer["error"] = {"code": refusal.code, "message": refusal.sentence}
        yield self._frame("response.failed", response=answer)
        # Clients raise at this, whatever else they know.
        error = openai_error(refusal)["error"]
        flat = {name: error[name] for name in ("code", "message", "param")}
        yield self._frame("error", **flat, error=error)

    def _begin_message(self) -> Iterator[Frame]:
        if self._open:
            return
        self._open = True
        item = _message(self._about, "in_progress", []).model_dump()
        yield self._frame("response.output_item.added", output_index=0, item=item)
        part = ResponseText(text="").model_dump()
        yield self._part("response.content_part.added", part=part)

    def _end_message(self) -> Iterator[Frame]:
        text = ResponseText(text=self.reader.text)
        yield self._part("response.output_text.done", text=text.text, logprobs=[])
        yield self._part("response.content_part.done", part=text.model_dump())
        item = _message(self._about, "completed", [text]).model_dump()
        yield self._frame("response.output_item.done", output_index=0, item=item)

    def _answer(self) -> dict[str, Any]:
        return answer_of(self._about, self.reader).model_dump()

    def _activity(self, event: dict[str, Any]) -> Frame:
        frame = self._frame("response.in_progress", response=self._bare())
        assert isinstance(frame.data, dict)  # noqa: S101  made two lines above
        frame.data["hutch"] = {"event": event}
        return frame

    def _bare(self) -> dict[str, Any]:
        """Without the text so far, which would be sent again and again."""
        return answer_of(self._about, Reader()).model_dump()

    def _part(self, kind: str, **fields: Any) -> Frame:
        at = {"item_id": self._about.message_id, "output_index": 0, "content_index": 0}
        return self._frame(kind, **at, **fields)

    def _frame(self, kind: str, **fields: Any) -> Frame:
        self._number += 1
        return Frame({"type": kind, "sequence_number": self._number, **fields}, event=kind)


def answer_of(about: About, reader: Reader) -> ResponseAnswer:
    """As far as the run has come."""
    run, end = about.run, reader.end
    incomplete = _INCOMPLETE.get(end.stop_reason) if end is not None else None
    failure = end.failure if end is not None else None
    error = ResponseError(code=failure.code, message=failure.message) if failure else None
    output = []
    if reader.text or (end is not None and failure is None):
        status: Literal["in_progress", "completed"] = "completed" if end else "in_progress"
        output = [_message(about, status, [ResponseText(text=reader.text)])]
    return ResponseAnswer(
        id="resp_" + run.id.removeprefix("run_"),
        created_at=int(run.created_at),
        status=_status(end),
        error=error,
        incomplete_details=incomplete,
        instructions=about.instructions,
        model=about.model,
        output=output,
        text={"format": _format(run)},
        previous_response_id=about.previous,
        conversation=ConversationOf(id=run.session_id),
        usage=_usage(reader) if end is not None else None,
        metadata=dict(about.metadata),
        hutch=HutchPart.of(run, reader),
    )


def _status(end: End | None) -> Status:
    if end is None:
        return "in_progress"
    if end.failure is not None:
        return "cancelled" if end.failure.code == "cancelled" else "failed"
    return "incomplete" if end.stop_reason in _INCOMPLETE else "completed"


def _format(run: Run) -> dict[str, Any]:
    schema = schema_of(run.options)
    if schema is None:
        return {"type": "text"}
    return {"type": "json_schema", "name": "answer", "schema": schema, "strict": True}


def _message(
    about: About, status: Literal["in_progress", "completed"], content: list[ResponseText]
) -> ResponseMessage:
    return ResponseMessage(id=about.message_id, status=status, content=content)


def _usage(reader: Reader) -> ResponseUsage:
    return ResponseUsage(
        input_tokens=reader.input_tokens,
        input_tokens_details=CachedTokens(cached_tokens=reader.cached_tokens),
        output_tokens=reader.output_tokens,
        total_tokens=reader.input_tokens + reader.output_tokens,
    )
