"""A run as chunks of a chat completion, or as a whole one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final, Literal

from hutch.api.compat.dialects import openai_error
from hutch.api.compat.reading import Activity, End, Piece, Reader, Text, Thought
from hutch.api.compat.sending import Frame
from hutch.api.compat.shapes import (
    ChatAnswer,
    ChatChoice,
    ChatCompletion,
    ChatUsage,
    HutchPart,
    PromptDetails,
)
from hutch.api.refusal import Refusal
from hutch.runs.models import Run

_DONE: Final = Frame("[DONE]")
Finish = Literal["stop", "length", "content_filter"]
_FINISH: Final[dict[str, Finish]] = {"max_turns": "length", "refusal": "content_filter"}


def completion_id(run: Run) -> str:
    return "chatcmpl-" + run.id.removeprefix("run_")


class ChatChunks:
    """What is no text stands in the field ``hutch`` of chunks that say nothing else."""

    def __init__(self, run: Run, *, model: str, include_usage: bool) -> None:
        self.reader = Reader.of(run)
        self._run = run
        self._include_usage = include_usage
        self._envelope = {
            "id": completion_id(run),
            "object": "chat.completion.chunk",
            "created": int(run.created_at),
            "model": model,
        }

    def begin(self) -> Iterator[Frame]:
        about = {"run_id": self._run.id, "session_id": self._run.session_id}
        yield self._chunk({"role": "assistant", "content": ""}, hutch=about)

    def take(self, piece: Piece) -> Iterator[Frame]:
        match piece:
            case Text(text):
                yield self._chunk({"content": text})
            case Thought(text):
                yield self._chunk({"reasoning_content": text})
            case Activity(event):
                yield self._chunk({}, hutch={"event": event})
            case End():
                yield self._chunk({}, finish=_finish(piece))
                if self._include_usage:
                    usage = _usage(self.reader).model_dump()
                    yield Frame({**self._envelope, "choices": [], "usage": usage})
                yield _DONE

    def fail(self, refusal: Refusal) -> Iterator[Frame]:
        yield Frame(openai_error(refusal))
        yield _DONE

    def _chunk(
        self,
        delta: dict[str, Any],
        *,
        finish: Finish | None = None,
        hutch: dict[str, Any] | None = None,
    ) -> Frame:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        chunk: dict[str, Any] = {**self._envelope, "choices": [choice]}
        if self._include_usage:
            chunk["usage"] = None
        if hutch is not None:
            chunk["hutch"] = hutch
        return Frame(chunk)


def answer_of(run: Run, reader: Reader, *, model: str) -> ChatCompletion:
    """Of a run that has not failed."""
    end = reader.end or End("end_turn")
    message = ChatAnswer(content=reader.text, reasoning_content=reader.thoughts or None)
    return ChatCompletion(
        id=completion_id(run),
        created=int(run.created_at),
        model=model,
        choices=[ChatChoice(message=message, finish_reason=_finish(end))],
        usage=_usage(reader),
        hutch=HutchPart.of(run, reader),
    )


def _finish(end: End) -> Finish:
    return _FINISH.get(end.stop_reason, "stop")


def _usage(reader: Reader) -> ChatUsage:
    return ChatUsage(
        prompt_tokens=reader.input_tokens,
        completion_tokens=reader.output_tokens,
        total_tokens=reader.input_tokens + reader.output_tokens,
        prompt_tokens_details=PromptDetails(cached_tokens=reader.cached_tokens),
    )
