"""What goes over the wire. Times are ISO 8601 in UTC; durations carry their unit in the name."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Annotated, Any, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, PlainSerializer, model_validator

from hutch.accounts.models import NewKey, Tier
from hutch.errors import InvalidRequest
from hutch.runs.models import Run, RunState, Standing, WaitReason
from hutch.vault.models import Kind, PutKind, Result, State
from hutch_runtime.protocol import (
    ATTACHMENT_NAME_MAX_BYTES,
    ATTACHMENTS_MAX,
    OPTION_NAMES,
    Attachment,
    Decider,
    Decision,
    OptionError,
    Options,
    PermissionMode,
    Provider,
    StopReason,
    ToolKind,
    read_attachments,
    read_options,
)

Time = Annotated[
    float,
    PlainSerializer(
        lambda at: datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds"),
        return_type=str,
        when_used="json",
    ),
]


# Of a request that waits for a run; whoever wants longer asks again.
WAIT_MAX_S: Final = 60.0


class Shape(BaseModel):
    model_config = ConfigDict(from_attributes=True)


class Asked(BaseModel):
    """A request body: an unknown field is an error, since it would silently do nothing."""

    model_config = ConfigDict(extra="forbid")


class AttachmentRequest(Asked):
    name: str = Field(max_length=ATTACHMENT_NAME_MAX_BYTES, description="Of the file.")
    media_type: str = Field(max_length=200, description="image/png, text/csv, …")
    data: str = Field(description="Base64.", repr=False)


class RunRequest(Asked):
    provider: Provider
    prompt: str = Field(description="At most 1 MB of UTF-8.")
    model: str | None = Field(
        None,
        max_length=200,
        pattern=r"^[A-Za-z0-9][\x21-\x7e]*$",
        description="A name that the CLI knows; its own default if left out.",
    )
    session_id: str | None = Field(None, description="Go on with this session; new if left out.")
    stream: bool = Field(False, description="Answer with server-sent events, as they come.")
    timeout_s: float | None = Field(None, gt=0, description="Time limit, the wait included.")
    wait: float | None = Field(
        None,
        ge=0,
        le=WAIT_MAX_S,
        description="Answer after so many seconds at most, whether it has ended or not; "
        "0: at once. Without it: once it has ended.",
    )

    system_prompt: str | None = Field(None, description="Instead of the CLI's own.")
    append_system_prompt: str | None = Field(None, description="Behind the CLI's own.")
    max_turns: int | None = Field(None, description="Of the model, tool calls between them.")
    max_cost_usd: float | None = Field(None, description="Ends the run once it has cost more.")
    output_schema: dict[str, Any] | None = Field(
        None, description="A JSON schema, of an object, that the answer fits."
    )
    permission_mode: PermissionMode | None = Field(
        None,
        description="ask: a person decides what the agent may do. auto, if left out and the "
        "operator did not set another.",
    )
    approval_timeout_s: float | None = Field(
        None, description="With ask: what is not decided in so many seconds is denied; 300."
    )
    diff: bool = Field(False, description="Tell what it changed: an event files.changed.")
    attachments: list[AttachmentRequest] = Field(
        [],
        max_length=ATTACHMENTS_MAX,
        description="Files for the agent, at most 5 MB together; images are shown to the model.",
    )

    def options(self) -> Options:
        """Raises ``InvalidRequest``."""
        given: dict[str, Any] = {"diff": True} if self.diff else {}
        given |= {
            name: value for name in OPTION_NAMES if (value := getattr(self, name)) is not None
        }
        if self.output_schema is not None:
            given["output_schema"] = json.dumps(self.output_schema, ensure_ascii=False)
        try:
            return read_options(given)
        except OptionError as error:
            raise InvalidRequest(f"{error}.".capitalize()) from None

    def files(self) -> tuple[Attachment, ...]:
        """Raises ``InvalidRequest``."""
        try:
            return read_attachments([one.model_dump() for one in self.attachments])
        except OptionError as error:
            raise InvalidRequest(f"{error}.".capitalize()) from None

    @model_validator(mode="after")
    def _one_way_to_answer(self) -> Self:
        if self.stream and self.wait is not None:
            raise ValueError("a stream begins at once; leave out wait")
        return self


class RunError(Shape):
    code: str
    message: str


class Usage(Shape):
    input_tokens: int
    output_tokens: int
    cached_tokens: int
    cost_usd: float | None


class RunQueued(Shape):
    reason: WaitReason = Field(description="What it waits for.")
    position: int = Field(description="In that line; 1 is next.")


class RunExit(Shape):
    id: str
    ip: str | None = Field(description="The address that the run was seen from.")


class RunAnswer(Shape):
    id: str
    user_id: str
    session_id: str
    provider: Provider
    model: str | None
    state: RunState
    queue: RunQueued | None = Field(None, description="While it waits, of a single run.")
    stop_reason: StopReason | None
    error: RunError | None
    text: str = Field(description="The last block of the answer.")
    usage: Usage | None
    timings: dict[str, float] = Field(description="Milliseconds since the request.")
    provider_session: str | None = Field(description="The CLI's own id of the session.")
    cli_version: str | None
    exit: RunExit | None = Field(description="Null: the server's own address.")
    created_at: Time
    started_at: Time | None
    finished_at: Time | None

    @classmethod
    def of(cls, run: Run, standing: Standing | None = None) -> RunAnswer:
        error = (
            RunError(code=run.error_code, message=run.error_message or "")
            if run.error_code
            else None
        )
        return cls(
            id=run.id,
            user_id=run.user_id,
            session_id=run.session_id,
            provider=run.provider,
            model=run.model,
            state=run.state,
            queue=RunQueued.model_validate(standing) if standing else None,
            stop_reason=run.stop_reason,
            error=error,
            text=run.text,
            usage=Usage(**run.usage) if run.usage else None,
            timings=run.timings,
            provider_session=run.provider_session,
            cli_version=run.cli_version,
            exit=RunExit(id=run.exit_id, ip=run.exit_ip) if run.exit_id else None,
            created_at=run.created_at,
            started_at=run.started_at,
            finished_at=run.finished_at,
        )


class AttachmentAnswer(Shape):
    name: str
    media_type: str
    bytes: int


class RunWithPrompt(RunAnswer):
    prompt: str
    options: dict[str, Any] = Field(description="Those that were given.")
    attachments: list[AttachmentAnswer]

    @classmethod
    def whole(cls, run: Run, standing: Standing | None) -> RunWithPrompt:
        options = dict(run.options or {})
        if "output_schema" in options:
            options["output_schema"] = json.loads(options["output_schema"])
        return cls(
            **RunAnswer.of(run, standing).model_dump(),
            prompt=run.prompt,
            options=options,
            attachments=[AttachmentAnswer(**one) for one in run.attachments or []],
        )


class RunPage(Shape):
    runs: list[RunAnswer]
    next: str | None = Field(description="Send it as `before` for the next page; null at the end.")


class DecisionRequest(Asked):
    decision: Decision = Field(
        description="always: also what is like it, as long as the CLI remembers."
    )


class ApprovalAnswer(Shape):
    """What the agent may do only if somebody allows it."""

    id: str
    run_id: str
    tool_id: str = Field(description="Of the event tool.started.")
    kind: ToolKind
    name: str
    input: dict[str, Any]
    diff: str | None = Field(description="Unified, of files that it would change.")
    truncated: bool = Field(description="input or diff is not whole.")
    requested_at: Time
    expires_at: Time = Field(description="Denied then, if nobody has decided.")
    decision: Decision | None = Field(description="Null while it waits.")
    by: Decider | None
    decided_at: Time | None


class ApprovalPage(Shape):
    approvals: list[ApprovalAnswer]


class TicketRequest(Asked):
    run_id: str | None = None
    terminal: bool = False


class TicketAnswer(Shape):
    ticket: str
    run_id: str | None = Field(description="None: it is for a terminal.")
    expires_at: Time


class TerminalRequest(Asked):
    command: list[str] | None = Field(
        default=None, description="A program and its arguments; by default the shell."
    )
    tty: bool = Field(
        default=True, description="False: two pipes instead, which carry any bytes and drop none."
    )
    rows: int = Field(default=24, ge=1, le=1000)
    columns: int = Field(default=80, ge=1, le=1000)
    term: str = Field(default="xterm-256color", max_length=64, description="As TERM says it.")


class TerminalAnswer(Shape):
    id: str
    command: list[str] | None
    tty: bool
    attached: bool = Field(description="Whether a connection is there.")
    created_at: Time


class TerminalList(Shape):
    terminals: list[TerminalAnswer]


class SessionAnswer(Shape):
    id: str
    provider: Provider
    name: str | None
    provider_session: str | None
    forked_from: str | None = Field(description="The session that it began as a copy of.")
    created_at: Time
    last_used_at: Time


class SessionChange(Asked):
    name: str | None = Field(description="Null: none.")


class ForkRequest(Asked):
    name: str | None = Field(None, description="Of the new session.")


class SessionPage(Shape):
    sessions: list[SessionAnswer]


class ContainerStats(Shape):
    cpu_seconds: float
    memory_bytes: int
    memory_limit_bytes: int
    pids: int


class ContainerAgent(Shape):
    """A CLI process, or a session of one, in the container."""

    provider: Provider
    state: str = Field(description="spare (started ahead), starting, idle, busy, failed, ended")


class ContainerSnapshot(Shape):
    """What is stored of a hibernated container: its home directory and its workspace."""

    bytes: int
    stored_bytes: int = Field(description="Compressed and encrypted.")
    created_at: Time
    kept_until: Time = Field(description="Deleted then, if no run has woken it before.")


class CpuQuota(Shape):
    share: float = Field(description="CPUs that it has when all want some.")
    ceiling: float = Field(description="CPUs, never more.")
    used_seconds: float | None = Field(description="Since it was started.")


class MemoryQuota(Shape):
    """The directories that can be written are counted too: they are in memory."""

    soft_bytes: int = Field(
        description="What is above it goes first when the host is short of memory."
    )
    hard_bytes: int = Field(description="At it, what is inside is ended.")
    used_bytes: int | None


class ProcessQuota(Shape):
    """Threads count."""

    limit: int
    limit_of_agents: int | None = Field(
        description="Of what agents start, where gVisor is: each counts twice in `used` there."
    )
    used: int | None


class OpenFilesQuota(Shape):
    limit_of_a_process: int


class DiskQuota(Shape):
    place: Literal["workspace", "home", "tmp"]
    limit_bytes: int
    used_bytes: int
    limit_files: int | None = Field(description="null: counted into memory, as gVisor does.")
    used_files: int | None


class EgressQuota(Shape):
    mb_per_s: float | None = Field(description="Each way, of all connections; null: no limit.")
    connections: int = Field(description="Open at once.")


class RunQuota(Shape):
    at_once: int
    waiting: int
    timeout_s: float = Field(description="Unless a run asks for another.")
    timeout_max_s: float
    output_bytes: int = Field(description="Of a run's events; what is beyond is left out.")


class Quotas(Shape):
    """By container and user; `used` is null where nothing runs that could use anything."""

    cpu: CpuQuota
    memory: MemoryQuota
    processes: ProcessQuota
    open_files: OpenFilesQuota
    disk: list[DiskQuota] = Field(description="Empty unless the container runs.")
    egress: EgressQuota
    runs: RunQuota


class ContainerAnswer(Shape):
    id: str
    user_id: str | None = Field(description="null: of the warm pool, nobody's yet.")
    incarnation: str
    observed: str = Field(
        description="provisioning, warm, running, frozen, hibernated, failed or destroyed."
    )
    desired: str
    reason: str
    isolation: str | None
    image: str
    cli_versions: dict[str, str]
    created_at: Time
    changed_at: Time
    stats: ContainerStats | None = None
    snapshot: ContainerSnapshot | None = Field(None, description="Only of a hibernated one.")
    agents: list[ContainerAgent] = Field([], description="Only for one's own container.")
    quotas: Quotas | None = Field(None, description="Only of GET /v1/container.")


class ContainerPage(Shape):
    containers: list[ContainerAnswer]


class DepartureAnswer(Shape):
    hibernated: int
    stayed: int = Field(description="In use, or not to be stored; the log says why.")
    left: int = Field(description="Not tried for want of time.")


class CredentialRequest(Asked):
    """``kind`` and the one field that goes with it. Kept encrypted; never shown again."""

    kind: PutKind = "api_key"
    api_key: str | None = Field(None, description="With kind api_key.", repr=False)
    session_token: str | None = Field(
        None, description="With kind session_token, for claude.", repr=False
    )
    auth_json: str | dict[str, Any] | None = Field(
        None,
        description="With kind chatgpt, for codex: the content of ~/.codex/auth.json.",
        repr=False,
    )

    def text(self) -> str:
        """Raises ``InvalidRequest``."""
        field = "auth_json" if self.kind == "chatgpt" else self.kind
        given = {
            name: value
            for name in ("api_key", "session_token", "auth_json")
            if (value := getattr(self, name)) is not None
        }
        if set(given) != {field}:
            raise InvalidRequest(
                f"With the kind `{self.kind}` goes the field `{field}`, and no other.",
                hint=f'Send {{"kind": "{self.kind}", "{field}": …}}.',
            )
        value = given[field]
        return value if isinstance(value, str) else json.dumps(value)


class CheckAnswer(Shape):
    result: Literal[Result, "unchecked"] = Field(
        description="Of one cheap request. unchecked: a login, which only its CLI may use."
    )
    detail: str


class CredentialAnswer(Shape):
    provider: Provider
    kind: Kind
    last_four: str = Field(description="Empty for a login, and for a very short key.")
    fingerprint: str
    state: State = Field(description="needs_login: it no longer works, and reason says why.")
    reason: str
    created_at: Time
    used_at: Time | None = Field(description="Within a minute.")
    last_result: Result | None = Field(description="Of the last use or check.")


class StoredCredential(CredentialAnswer):
    verified: CheckAnswer | None = Field(None, description="With ?verify=true.")


class CredentialPage(Shape):
    credentials: list[CredentialAnswer]


class AgreementAnswer(Shape):
    document: str
    version: str
    text: str
    required: bool = Field(description="Before the first run.")
    accepted_at: Time | None = Field(description="When this version was; null: it was not.")


class AgreementPage(Shape):
    agreements: list[AgreementAnswer]


class AcceptRequest(Asked):
    document: str
    version: str = Field(description="Of the text that was read.")


class NetworkRequest(Asked):
    allow: list[str] = Field(
        description="At most 100 of `host`, `*.host` or `host:port`; 443 without a port."
    )


class NetworkAnswer(Shape):
    allow: list[str] = Field(description="The user's own rules.")
    always: list[str] = Field(description="The operator's, which hold for everyone.")


class DeletionAnswer(Shape):
    """What went. The data key goes first; without it nothing that it sealed opens again."""

    user_id: str
    name: str
    data_key: str | None = Field(description="Fingerprint of the key that was destroyed.")
    opens: bool = Field(description="Whether a ciphertext kept from before still opened after.")
    credentials: int
    api_keys: int
    sessions: int
    runs: int
    events: int
    agreements: int
    allowed_hosts: int
    container: str | None
    exits: list[str] = Field(description="Leased to the user until now.")


class RotationAnswer(Shape):
    master_key: str = Field(description="Id of the key that now wraps all data keys.")
    rewrapped: int
    unreadable: int = Field(description="Data keys that no master key opens; left as they are.")
    forgotten: list[str] = Field(description="Ids of master keys that are gone for good.")


class UserRequest(Asked):
    name: str
    tier: Tier = "free"


class UserAnswer(Shape):
    id: str
    name: str
    tier: str
    created_at: Time


class UserPage(Shape):
    users: list[UserAnswer]


class KeyRequest(Asked):
    name: str = Field("", description="To tell it from others; at most 100 characters.")
    read_only: bool = Field(False, description="It may only read: GET.")
    expires_in_s: float | None = Field(None, description="Seconds; null: it does not expire.")


class InstallationKeyRequest(KeyRequest):
    scope: Literal["service", "admin"] = "service"


class RotateRequest(Asked):
    grace_s: float = Field(
        24 * 3600, description="Seconds for which the key that is replaced goes on; 0: none."
    )
    expires_in_s: float | None = Field(
        None, description="Of the successor; null: as long as the key before it, from now on."
    )


class KeyInfo(Shape):
    id: str
    name: str
    scope: str
    user_id: str | None
    read_only: bool
    prefix: str = Field(description="What the key begins with.")
    created_at: Time
    expires_at: Time | None
    last_used_at: Time | None = Field(description="Within a minute.")
    successor_id: str | None = Field(description="The key that was made in its place.")


class KeyPage(Shape):
    keys: list[KeyInfo]


class KeyAnswer(KeyInfo):
    key: str = Field(description="Shown this once; only a hash of it is kept.")

    @classmethod
    def of(cls, new: NewKey) -> KeyAnswer:
        return cls(**KeyInfo.model_validate(new.key).model_dump(), key=new.text)


class UserWithKey(UserAnswer):
    key: str = Field(description="Shown this once; only a hash of it is kept.")


class TaskAnswer(Shape):
    name: str
    every_s: float
    report: dict[str, Any]
    error: str
    finished_at: Time | None


class LeaderAnswer(Shape):
    url: str
    term: int = Field(description="Grows with each take-over.")
    since: Time


class TaskPage(Shape):
    tasks: list[TaskAnswer]
    leader: LeaderAnswer | None = Field(
        None, description="Which of several processes runs them; null if there is but one."
    )
