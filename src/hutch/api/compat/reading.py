"""A run's events, sorted into what the protocols tell: text, thoughts, the rest, and the end."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

from hutch.api.refusal import Refusal
from hutch.runs.models import LogEntry, Run

# Of a failed run's code. Statuses of the model API's own are told as they were, but for those that
# a client would take for a fault of its Hutch key.
_STATUS: Final[dict[str, int]] = {
    "provider_auth": 422,
    "needs_login": 422,
    "provider_bad_request": 400,
    "prompt_too_large": 413,
    "model_not_found": 404,
    "not_found": 404,
    "session_not_found": 409,
    "session_lost": 409,
    "session_busy": 409,
    "cancelled": 409,
    "provider_rate_limited": 429,
    "too_many_runs": 429,
    "runtime_error": 500,
    "provider_overloaded": 503,
    "exit_unavailable": 503,
    "timeout": 504,
}


@dataclass(frozen=True, slots=True)
class Text:
    text: str


@dataclass(frozen=True, slots=True)
class Thought:
    text: str


@dataclass(frozen=True, slots=True)
class Activity:
    """Anything else that happened, as ``/v1/runs`` tells it."""

    event: dict[str, Any]


@dataclass(frozen=True, slots=True)
class End:
    stop_reason: str
    failure: Refusal | None = None


Piece: TypeAlias = Text | Thought | Activity | End


def failed(code: str, message: str) -> Refusal:
    """Of a run. Clients repeat some statuses by themselves, which would let an agent do again what
    it has done; the header is the one by which theirs are told not to.
    """
    status = _STATUS.get(code, 502)
    return Refusal(status, code, message, headers={"x-should-retry": "false"})


@dataclass(slots=True)
class Reader:
    """Takes entries in their order. What ``take`` gives as text makes up ``text``: all blocks of
    the answer, an empty line between two; with ``last_only``, where it has to fit a schema, the
    answer that the run ends with and no word beside it.
    """

    text: str = ""
    thoughts: str = ""
    usage: dict[str, Any] = field(default_factory=dict)
    tools: dict[str, dict[str, Any]] = field(default_factory=dict)  # by their ids
    end: End | None = None
    last_only: bool = False
    _block: str = ""  # of the block that is being written
    _between: bool = False

    @classmethod
    def of(cls, run: Run) -> Reader:
        return cls(last_only="output_schema" in (run.options or {}))

    def take(self, entry: LogEntry) -> Iterator[Piece]:
        data = entry.data
        match entry.type:
            case "text.delta" | "text" if self.last_only:
                pass
            case "text.delta":
                yield from self._say(data["text"])
            case "text":
                whole: str = data["text"]
                if whole.startswith(self._block):
                    yield from self._say(whole[len(self._block) :])
                self._block, self._between = "", bool(self.text)
            case "reasoning.delta":
                self.thoughts += data["text"]
                yield Thought(data["text"])
            case "usage":
                self.usage = data
            case "run.started":
                pass
            case "run.finished":
                yield from self._finish(data)
            case kind:
                if kind == "tool.started":
                    told = {name: data[name] for name in ("tool_id", "kind", "name")}
                    self.tools[data["tool_id"]] = {**told, "ok": None}
                elif kind == "tool.finished" and data["tool_id"] in self.tools:
                    self.tools[data["tool_id"]]["ok"] = data["ok"]
                yield Activity(entry.to_dict())

    def _say(self, text: str) -> Iterator[Piece]:
        if not text:
            return
        self._block += text
        if self._between:
            text, self._between = f"\n\n{text}", False
        self.text += text
        yield Text(text)

    def _finish(self, data: dict[str, Any]) -> Iterator[Piece]:
        error, reason = data["error"], data["stop_reason"]
        if not self.text and error is None:
            yield from self._say(data["text"])
        failure = None
        if error is not None:
            failure = failed(error["code"], error["message"])
        elif reason == "cancelled":
            failure = failed("cancelled", "The run was cancelled.")
        self.end = End(reason, failure)
        yield self.end

    @property
    def input_tokens(self) -> int:
        """Cached ones included."""
        return int(self.usage.get("input_tokens", 0))

    @property
    def cached_tokens(self) -> int:
        return min(int(self.usage.get("cached_tokens", 0)), self.input_tokens)

    @property
    def output_tokens(self) -> int:
        return int(self.usage.get("output_tokens", 0))
