"""The events of a run, a class for each type, as ``docs/api.md`` lists them.

>>> match event:
...     case TextDelta(text=text): print(text, end="")
...     case RunFinished(error=error) if error: print(error["message"])

One of a type that this version does not know is a plain ``Event``; ``raw`` has all of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

from pydantic import ValidationError

from hutch.client.decoding import adapter
from hutch.client.errors import UnexpectedAnswer

Json: TypeAlias = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """``seq`` counts from 1 without gaps; ``time`` is Unix seconds; ``raw`` is all that came."""

    run_id: str
    seq: int
    time: float
    type: str
    raw: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunStarted(Event):
    provider: str
    session: str
    model: str | None
    cli_version: str
    agent: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Queued(Event):
    reason: str
    position: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TextDelta(Event):
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Text(Event):
    """A whole block of the answer; repeats its deltas."""

    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ReasoningDelta(Event):
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolStarted(Event):
    """``kind``: shell, read, edit, search, fetch, mcp, other."""

    tool_id: str
    kind: str
    name: str
    input: Json


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolOutput(Event):
    tool_id: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolFinished(Event):
    tool_id: str
    ok: bool
    output: str


@dataclass(frozen=True, slots=True)
class PlanItem:
    """``status``: pending, in_progress, completed."""

    text: str
    status: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan(Event):
    items: tuple[PlanItem, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ApprovalRequested(Event):
    """The agent waits for ``client.decide(run_id, approval_id, "allow")``. ``diff``: unified, of
    files that it would change; ``truncated``: it, or the input, is not whole.
    """

    approval_id: str
    tool_id: str
    kind: str
    name: str
    input: Json
    diff: str | None
    truncated: bool
    timeout_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ApprovalDecided(Event):
    """``decision``: allow, always, deny. ``by``: user, timeout, cancel, agent."""

    approval_id: str
    decision: str
    by: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FilesChanged(Event):
    """Of a run with ``diff``. ``files``: objects with the fields of ``models.ChangedFile``."""

    files: tuple[Json, ...]
    diff: str
    complete: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageReported(Event):
    input_tokens: int
    output_tokens: int
    cached_tokens: int
    cost_usd: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Retrying(Event):
    attempt: int
    delay_ms: int | None
    status: int | None
    code: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentRestarted(Event):
    reason: str
    how: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Truncated(Event):
    scope: str
    limit_bytes: int
    dropped_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Unparsed(Event):
    line: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFinished(Event):
    """The last one. ``error``: ``code`` and ``message``."""

    stop_reason: str
    error: Json | None
    text: str
    timings: dict[str, float]


TYPES: Final[Mapping[str, type[Event]]] = {
    "run.started": RunStarted,
    "queued": Queued,
    "text.delta": TextDelta,
    "text": Text,
    "reasoning.delta": ReasoningDelta,
    "tool.started": ToolStarted,
    "tool.output": ToolOutput,
    "tool.finished": ToolFinished,
    "plan": Plan,
    "approval.requested": ApprovalRequested,
    "approval.decided": ApprovalDecided,
    "files.changed": FilesChanged,
    "usage": UsageReported,
    "retrying": Retrying,
    "agent.restarted": AgentRestarted,
    "truncated": Truncated,
    "unparsed": Unparsed,
    "run.finished": RunFinished,
}


def parse(raw: Mapping[str, Any]) -> Event:
    """Raises ``UnexpectedAnswer`` for what is no event at all."""
    kind = TYPES.get(str(raw.get("type")), Event)
    try:
        return adapter(kind).validate_python({**raw, "raw": raw})
    except ValidationError:
        pass
    given = _whole({**raw, "raw": raw})
    for possible in (kind, Event):  # of a type that has changed since: still one that counts
        try:
            return adapter(possible).validate_python(given)
        except ValidationError:
            continue
    raise UnexpectedAnswer("What came in a run's stream is no event.")


def _whole(value: Any) -> Any:
    """JSON can say half of a surrogate pair; no text may hold one."""
    match value:
        case str():
            return value.encode("utf-8", "replace").decode()
        case list():
            return [_whole(item) for item in value]
        case dict():
            return {_whole(name): _whole(item) for name, item in value.items()}
    return value
