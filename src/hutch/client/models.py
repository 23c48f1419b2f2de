"""What the service answers, as frozen dataclasses; the fields are those of its OpenAPI document.

A newer service may send more fields, which are passed over, and new words in fields of fixed words,
which is why those are ``str``. Times are aware ``datetime``s.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from hutch.client.errors import RunFailed


@dataclass(frozen=True, slots=True)
class RunError:
    code: str
    message: str


@dataclass(frozen=True, slots=True)
class Usage:
    input_tokens: int
    output_tokens: int
    cached_tokens: int
    cost_usd: float | None


@dataclass(frozen=True, slots=True)
class RunQueued:
    reason: str
    position: int


@dataclass(frozen=True, slots=True)
class RunExit:
    id: str
    ip: str | None


@dataclass(frozen=True, slots=True)
class RunAttachment:
    name: str
    media_type: str
    bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Approval:
    """What a run's agent may do only if somebody allows it. ``decision``: allow, always, deny, or
    None while it waits. ``by``: user, timeout, cancel, agent.
    """

    id: str
    run_id: str
    tool_id: str
    kind: str
    name: str
    input: dict[str, Any]
    diff: str | None
    truncated: bool
    requested_at: datetime
    expires_at: datetime
    decision: str | None
    by: str | None
    decided_at: datetime | None


@dataclass(frozen=True, slots=True)
class ApprovalPage:
    approvals: tuple[Approval, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """``state``: queued, running, succeeded, failed, cancelled. ``text``: the last block of the
    answer. ``timings``: milliseconds since the request.
    """

    id: str
    user_id: str
    session_id: str
    provider: str
    model: str | None
    state: str
    queue: RunQueued | None = None
    stop_reason: str | None
    error: RunError | None
    text: str
    usage: Usage | None
    timings: dict[str, float]
    provider_session: str | None
    cli_version: str | None
    exit: RunExit | None
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    # Of a single run that was asked for:
    prompt: str | None = None
    options: dict[str, Any] | None = None
    attachments: tuple[RunAttachment, ...] = ()

    @property
    def finished(self) -> bool:
        return self.state in {"succeeded", "failed", "cancelled"}

    def check(self) -> Run:
        """Itself if it succeeded. Raises ``RunFailed``."""
        if self.state == "succeeded":
            return self
        if self.error is not None:
            raise RunFailed(self.error.message, code=self.error.code)
        raise RunFailed(f"The run {self.id} is {self.state}.", code=self.state)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunPage:
    runs: tuple[Run, ...]
    next: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class EventPage:
    """``events`` as ``hutch.client.events.parse`` takes them."""

    events: tuple[dict[str, Any], ...]
    next: int
    finished: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    id: str
    provider: str
    name: str | None
    provider_session: str | None
    forked_from: str | None
    created_at: datetime
    last_used_at: datetime


@dataclass(frozen=True, slots=True)
class SessionPage:
    sessions: tuple[Session, ...]


@dataclass(frozen=True, slots=True)
class ContainerStats:
    cpu_seconds: float
    memory_bytes: int
    memory_limit_bytes: int
    pids: int


@dataclass(frozen=True, slots=True)
class ContainerAgent:
    provider: str
    state: str


@dataclass(frozen=True, slots=True)
class ContainerSnapshot:
    bytes: int
    stored_bytes: int
    created_at: datetime
    kept_until: datetime


@dataclass(frozen=True, slots=True)
class CpuQuota:
    share: float
    ceiling: float
    used_seconds: float | None


@dataclass(frozen=True, slots=True)
class MemoryQuota:
    soft_bytes: int
    hard_bytes: int
    used_bytes: int | None


@dataclass(frozen=True, slots=True)
class ProcessQuota:
    limit: int
    limit_of_agents: int | None
    used: int | None


@dataclass(frozen=True, slots=True)
class OpenFilesQuota:
    limit_of_a_process: int


@dataclass(frozen=True, slots=True)
class DiskQuota:
    """``place``: workspace, home, tmp."""

    place: str
    limit_bytes: int
    used_bytes: int
    limit_files: int | None
    used_files: int | None


@dataclass(frozen=True, slots=True)
class EgressQuota:
    mb_per_s: float | None
    connections: int


@dataclass(frozen=True, slots=True)
class RunQuota:
    at_once: int
    waiting: int
    timeout_s: float
    timeout_max_s: float
    output_bytes: int


@dataclass(frozen=True, slots=True)
class Quotas:
    cpu: CpuQuota
    memory: MemoryQuota
    processes: ProcessQuota
    open_files: OpenFilesQuota
    disk: tuple[DiskQuota, ...]
    egress: EgressQuota
    runs: RunQuota


@dataclass(frozen=True, slots=True, kw_only=True)
class Container:
    """``observed``: provisioning, warm, running, frozen, hibernated, failed, destroyed."""

    id: str
    user_id: str | None
    incarnation: str
    observed: str
    desired: str
    reason: str
    isolation: str | None
    image: str
    cli_versions: dict[str, str]
    created_at: datetime
    changed_at: datetime
    stats: ContainerStats | None = None
    snapshot: ContainerSnapshot | None = None
    agents: tuple[ContainerAgent, ...] = ()
    quotas: Quotas | None = None


@dataclass(frozen=True, slots=True)
class ContainerPage:
    containers: tuple[Container, ...]


@dataclass(frozen=True, slots=True)
class Check:
    """``result``: ok, rejected, rate_limited, unreachable, error, unchecked."""

    result: str
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Credential:
    provider: str
    kind: str
    last_four: str
    fingerprint: str
    state: str
    reason: str
    created_at: datetime
    used_at: datetime | None
    last_result: str | None
    verified: Check | None = None  # of one that was stored with ``verify``


@dataclass(frozen=True, slots=True)
class CredentialPage:
    credentials: tuple[Credential, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SignIn:
    """``state``: none, pending, done, failed."""

    state: str
    reason: str
    url: str
    code: str
    expires_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiKey:
    id: str
    name: str
    scope: str
    user_id: str | None
    read_only: bool
    prefix: str
    created_at: datetime
    expires_at: datetime | None
    last_used_at: datetime | None
    successor_id: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class NewApiKey(ApiKey):
    key: str

    def __repr__(self) -> str:  # it is shown once, by whoever means to
        return f"NewApiKey(id={self.id!r}, prefix={self.prefix!r})"


@dataclass(frozen=True, slots=True)
class ApiKeyPage:
    keys: tuple[ApiKey, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    document: str
    version: str
    text: str
    required: bool
    accepted_at: datetime | None


@dataclass(frozen=True, slots=True)
class AgreementPage:
    agreements: tuple[Agreement, ...]


@dataclass(frozen=True, slots=True)
class Network:
    allow: tuple[str, ...]
    always: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class McpServer:
    """``env`` and ``headers`` are names: the values stay with the service."""

    name: str
    type: str  # stdio | http
    command: str | None
    args: tuple[str, ...]
    env: tuple[str, ...]
    url: str | None
    headers: tuple[str, ...]
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class McpServerPage:
    mcp_servers: tuple[McpServer, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Cloned:
    """``commit`` is None in an empty repository, ``branch`` of a tag."""

    commit: str | None
    branch: str | None
    directory: str
    bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class GitToken:
    host: str
    username: str
    created_at: datetime


@dataclass(frozen=True, slots=True)
class GitTokenPage:
    credentials: tuple[GitToken, ...]


@dataclass(frozen=True, slots=True)
class Ticket:
    ticket: str
    run_id: str | None  # None: it is for a terminal
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class TerminalInfo:
    """``command`` None is the shell."""

    id: str
    command: tuple[str, ...] | None
    tty: bool
    attached: bool
    created_at: datetime


@dataclass(frozen=True, slots=True)
class TerminalList:
    terminals: tuple[TerminalInfo, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class User:
    id: str
    name: str
    tier: str
    created_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class NewUser(User):
    key: str

    def __repr__(self) -> str:
        return f"NewUser(id={self.id!r}, name={self.name!r})"


@dataclass(frozen=True, slots=True)
class UserPage:
    users: tuple[User, ...]


@dataclass(frozen=True, slots=True)
class File:
    """``type``: file, directory, link, other. ``mode``: permissions. ``etag`` is another one once
    it was changed. ``target``: of a link. What is not ``reachable`` has a name that no path can
    say.
    """

    name: str
    type: str
    size: int
    modified_at: datetime
    mode: int
    etag: str
    target: str | None
    reachable: bool


@dataclass(frozen=True, slots=True)
class FilePage:
    path: str
    entries: tuple[File, ...]
    next: str | None


@dataclass(frozen=True, slots=True)
class ChangedFile:
    """``change``: added, modified, deleted. ``in_diff`` is false for what is no text, or large."""

    path: str
    change: str
    size_before: int | None
    size_after: int | None
    in_diff: bool


@dataclass(frozen=True, slots=True)
class Changes:
    """``diff``: unified. Not ``complete``: there is more than was looked at, or is told."""

    files: tuple[ChangedFile, ...]
    diff: str
    complete: bool


@dataclass(frozen=True, slots=True)
class Unpacked:
    """``bytes``: in files."""

    entries: int
    bytes: int
