from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final, Literal, TypeAlias

from hutch_runtime.protocol import Decider, Decision, Provider, StopReason, ToolKind

RunState: TypeAlias = Literal["queued", "running", "succeeded", "failed", "cancelled"]
FINISHED: Final[frozenset[RunState]] = frozenset({"succeeded", "failed", "cancelled"})

# What a queued run waits for: the one before it in its session; another of its user to end; a
# container, because no warm one is there (pool_empty), or there are as many as there may be
# (capacity) or as the memory carries (memory); others who waited longer (others_first).
WaitReason: TypeAlias = Literal[
    "session", "user_limit", "pool_empty", "capacity", "memory", "others_first"
]
# Of a run's log, besides those of the runtime (``hutch_runtime.protocol``).
OWN_EVENT_TYPES: Final = frozenset({"queued"})


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a queued run stands: what it waits for, and its number in that line; 1 is next."""

    reason: WaitReason
    position: int


@dataclass(frozen=True, slots=True)
class Session:
    """A conversation with one provider. ``provider_session`` is the CLI's own id of it, and
    ``incarnation`` the sandbox whose disk holds it; both null until its first run has started.
    """

    id: str
    user_id: str
    provider: Provider
    provider_session: str | None
    incarnation: str | None
    created_at: float
    last_used_at: float
    name: str | None = None
    forked_from: str | None = None


@dataclass(frozen=True, slots=True)
class Run:
    id: str
    user_id: str
    session_id: str
    provider: Provider
    model: str | None
    prompt: str
    timeout_s: float
    state: RunState
    created_at: float
    idempotency_key: str | None = None
    request_hash: str = ""
    incarnation: str | None = None
    cancel_requested: bool = False
    stop_reason: StopReason | None = None
    error_code: str | None = None
    error_message: str | None = None
    text: str = ""
    usage: dict[str, Any] | None = None
    # Milliseconds: sandbox_ms until one was ready, first_event_ms and total_ms since the request.
    timings: dict[str, float] = field(default_factory=dict)
    provider_session: str | None = None
    cli_version: str | None = None
    exit_id: str | None = None  # None: the server's own address
    exit_ip: str | None = None  # as last probed
    started_at: float | None = None
    finished_at: float | None = None
    options: dict[str, Any] | None = None  # as ``Options.to_dict``
    attachments: list[dict[str, Any]] | None = None  # name, media_type, bytes

    @property
    def finished(self) -> bool:
        return self.state in FINISHED


@dataclass(frozen=True, slots=True)
class Approval:
    """What a run's agent may do only if a person allows it. ``decision`` is None while it waits,
    and where the run ended before it was decided.
    """

    id: str
    run_id: str
    tool_id: str
    kind: ToolKind
    name: str
    input: dict[str, Any]
    diff: str | None
    truncated: bool  # input or diff is not whole
    requested_at: float
    expires_at: float
    decision: Decision | None = None
    by: Decider | None = None
    decided_at: float | None = None


@dataclass(frozen=True, slots=True)
class LogEntry:
    """An event as Hutch keeps it: ``seq`` is Hutch's own, without gaps, from 1."""

    run_id: str
    seq: int
    runtime_seq: int | None
    time: float
    type: str
    data: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        return {
            "run_id": self.run_id,
            "seq": self.seq,
            "time": self.time,
            "type": self.type,
            **self.data,
        }
