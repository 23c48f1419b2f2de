"""The words that the runtime and the orchestrator share: events, their limits, and error codes.

The only module that both sides import. Standard library only: it is in every container.

A run is an append-only log of events. Each is one JSON object, the envelope::

    {"run_id": str, "seq": int, "time": float, "type": str, ...fields of that type}

``seq`` starts at 1 and grows by 1 with no gaps; ``time`` is Unix seconds on the sandbox's clock.
The log ends with exactly one ``run.finished``; nothing follows it.

===================  ===============================================================================
type                 fields
===================  ===============================================================================
``run.started``      provider, session (the CLI's own id), model or null, cli_version,
                     agent: one of ``AGENT_ORIGINS``
``text.delta``       text: a piece of the answer as it is written
``text``             text: a whole block of the answer (repeats its deltas)
``reasoning.delta``  text
``tool.started``     tool_id, kind (``TOOL_KINDS``), name, input (object)
``tool.output``      tool_id, text
``tool.finished``    tool_id, ok (bool), output (str, may be "")
``plan``             items: [{text, status: pending | in_progress | completed}]
``approval.``        approval_id, tool_id, kind, name, input (object), diff (unified, or null where
``requested``        no file is edited or the CLI does not tell), truncated (bool: input or diff is
                     not whole), timeout_s. The agent waits for a decision
``approval.decided`` approval_id, decision: one of ``DECISIONS``, by: one of ``DECIDERS``
``files.changed``    files: [{path, change: one of ``CHANGES``, size_before, size_after (bytes or
                     null), in_diff}], diff: unified, complete (bool); in runs that ask for it
``usage``            input_tokens, output_tokens, cached_tokens (ints), cost_usd (float or null)
``retrying``         attempt (int), delay_ms (int or null), status (HTTP status or null), code
``agent.restarted``  reason, how: resumed (from the CLI's session files) | replayed (transcript)
``truncated``        scope: field | line | run; limit_bytes; dropped_bytes
``unparsed``         line: what the CLI said that this version does not know (an alarm)
``run.finished``     stop_reason (``STOP_REASONS``), error: {code, message} or null, text: the last
                     block of the answer, timings: {first_event_ms, total_ms} in the runtime
===================  ===============================================================================
"""

from __future__ import annotations

import base64
import json
import re
from dataclasses import dataclass, field
from typing import Any, Final, Literal, TypeAlias, get_args

# Grows with every change that the other side has to know of. Both sides tell theirs before an image
# is used; see ``hutch.runs.trial``.
PROTOCOL_VERSION: Final = 1

Provider: TypeAlias = Literal["claude", "codex", "gemini"]
PROVIDERS: Final[tuple[Provider, ...]] = get_args(Provider)

StopReason: TypeAlias = Literal[
    "end_turn", "max_turns", "max_cost", "refusal", "cancelled", "error"
]
STOP_REASONS: Final[tuple[StopReason, ...]] = get_args(StopReason)

ToolKind: TypeAlias = Literal["shell", "read", "edit", "search", "fetch", "mcp", "other"]
TOOL_KINDS: Final[tuple[ToolKind, ...]] = get_args(ToolKind)

# warm: started ahead, first use. live: has served this session before. started: cold, for this run.
# resumed, replayed: a new process that took up an earlier session.
AgentOrigin: TypeAlias = Literal["warm", "live", "started", "resumed", "replayed"]
AGENT_ORIGINS: Final[tuple[AgentOrigin, ...]] = get_args(AgentOrigin)

# always: and what is like it, without asking, as long as the CLI remembers.
Decision: TypeAlias = Literal["allow", "always", "deny"]
DECISIONS: Final[tuple[Decision, ...]] = get_args(Decision)
# timeout: nobody said anything in time. cancel: the run was ended. agent: the CLI asks no longer.
Decider: TypeAlias = Literal["user", "timeout", "cancel", "agent"]
DECIDERS: Final[tuple[Decider, ...]] = get_args(Decider)

# auto: agents do what they want, inside the walls. ask: what changes something waits for a person.
PermissionMode: TypeAlias = Literal["auto", "ask"]
PERMISSION_MODES: Final[tuple[PermissionMode, ...]] = get_args(PermissionMode)

EventType: TypeAlias = Literal[
    "run.started",
    "text.delta",
    "text",
    "reasoning.delta",
    "tool.started",
    "tool.output",
    "tool.finished",
    "plan",
    "approval.requested",
    "approval.decided",
    "files.changed",
    "usage",
    "retrying",
    "agent.restarted",
    "truncated",
    "unparsed",
    "run.finished",
]
EVENT_TYPES: Final[frozenset[str]] = frozenset(get_args(EventType))

ErrorCode: TypeAlias = Literal[
    "provider_auth",  # 401, 403: the model API refused the credential
    "provider_bad_request",  # 400, 413, 422
    "model_not_found",  # 404
    "provider_rate_limited",  # 429
    "provider_overloaded",  # 5xx, 529
    "provider_unreachable",  # no connection, or it broke; 502 and 504, which gateways say of that
    "provider_error",  # the CLI reported a failure that fits no other code
    "agent_died",  # the CLI process ended in the middle of the turn
    "agent_start_failed",  # the CLI process could not be started, or did not become ready
    "output_invalid",  # the answer is not what output_schema asked for
    "not_supported",  # this CLI cannot do what the run asks for
    "session_not_found",  # the CLI has no such session any more
    "session_busy",  # another run of the same session has not finished
    "too_many_runs",  # the sandbox's limit of runs at once
    "prompt_too_large",
    "bad_request",
    "unauthorized",
    "run_not_found",
    "runtime_error",  # a bug of ours inside the sandbox
]
ERROR_CODES: Final[frozenset[str]] = frozenset(get_args(ErrorCode))
# Of requests that are no runs.
RequestCode: TypeAlias = Literal["terminal_not_found", "terminal_failed", "too_many_terminals"]

# Why something with files was not done; ``hutch.files.service`` says each to people.
FileErrorCode: TypeAlias = Literal[
    "file_not_found",
    "file_exists",
    "is_a_directory",
    "not_a_directory",
    "not_a_file",  # a link, a pipe, a socket: read and written are ordinary files alone
    "directory_not_empty",
    "permission_denied",  # the agents' own permissions
    "file_too_large",
    "no_space",
    "invalid_path",
    "invalid_range",
    "invalid_archive",
    "precondition_failed",
    "bad_request",
    "runtime_error",
]
FILE_ERROR_CODES: Final[frozenset[str]] = frozenset(get_args(FileErrorCode))

KIB: Final = 1024
MIB: Final = 1024 * KIB

PROMPT_MAX_BYTES: Final = 1 * MIB  # UTF-8 bytes
# One line of a CLI's output; a longer one is dropped whole and reported. Claude repeats a tool's
# result (up to 1 MB) JSON-escaped in one line, hence the room.
LINE_MAX_BYTES: Final = 8 * MIB
# One string inside an event; a longer one is cut at a character boundary.
FIELD_MAX_BYTES: Final = 256 * KIB
# All events of one run; past it output is dropped, but the run still ends with run.finished.
RUN_MAX_BYTES: Final = 8 * MIB
# One event on the wire: a full field, JSON-escaped at worst sixfold, with room for the others.
EVENT_MAX_BYTES: Final = 2 * MIB

# The file, below the home directory, in which a CLI keeps the login that it made itself.
LOGIN_FILES: Final[dict[Provider, str]] = {
    "claude": ".claude/.credentials.json",
    "codex": ".codex/auth.json",
}
CloneOutcome: TypeAlias = Literal[
    "ok", "exists", "not_found", "branch_not_found", "auth_failed", "not_allowed", "too_large",
    "timeout", "unreachable", "failed",
]  # fmt: skip
MCP_SERVERS_MAX_BYTES: Final = 64 * KIB  # of all that a user has
LOGIN_MAX_BYTES: Final = 64 * KIB  # real ones have 2 to 6


# What a run may ask for besides its prompt, and which CLIs can do it. Codex takes instructions when
# a session begins, for all of it; Claude Code for one run. Only that one knows what a turn costs.
OptionName: TypeAlias = Literal[
    "system_prompt",
    "append_system_prompt",
    "max_turns",
    "max_cost_usd",
    "output_schema",
    "permission_mode",
    "approval_timeout_s",
]
OPTION_NAMES: Final[tuple[OptionName, ...]] = get_args(OptionName)
# Each agent can be told to ask, and not to ask any more, between two of its turns.
APPROVAL_OPTIONS: Final[frozenset[OptionName]] = frozenset(
    {"permission_mode", "approval_timeout_s"}
)
SUPPORTED: Final[dict[Provider, frozenset[OptionName]]] = {
    "claude": frozenset(OPTION_NAMES),
    "codex": APPROVAL_OPTIONS | {"system_prompt", "append_system_prompt", "output_schema"},
    "gemini": APPROVAL_OPTIONS,
}
AT_SESSION_START: Final[dict[Provider, frozenset[OptionName]]] = {
    "claude": frozenset(),
    "codex": frozenset({"system_prompt", "append_system_prompt"}),
    "gemini": frozenset(),
}
CAN_FORK: Final[frozenset[Provider]] = frozenset({"claude", "codex"})

SYSTEM_PROMPT_MAX_BYTES: Final = 64 * KIB  # of either; it is sent with each request of the CLI
OUTPUT_SCHEMA_MAX_BYTES: Final = 32 * KIB
MAX_TURNS_MAX: Final = 10_000
MAX_COST_USD_MAX: Final = 1_000_000.0
APPROVAL_TIMEOUT_S: Final = 300.0
APPROVAL_TIMEOUT_MAX_S: Final = 3600.0  # as long as a run may take by default
# Of one run, at once: a CLI asks for one thing at a time, or for the tool calls of one answer.
APPROVALS_OPEN_MAX: Final = 16
APPROVALS_MAX: Final = 1000  # of one run, in all
# Of input and diff together, as JSON: what somebody can be expected to read is far smaller.
APPROVAL_MAX_BYTES: Final = 128 * KIB
APPROVAL_ID: Final = re.compile(r"apr_[1-9][0-9]{0,3}")
ATTACHMENTS_MAX: Final = 10
# Of all of a run's together. Model APIs take images up to 5 MB; the workspace has 60.
ATTACHMENTS_MAX_BYTES: Final = 5 * MIB
ATTACHMENT_NAME_MAX_BYTES: Final = 200
IMAGE_TYPES: Final = frozenset({"image/png", "image/jpeg", "image/gif", "image/webp"})
_MEDIA_TYPE: Final = re.compile(r"[a-z0-9][a-z0-9.+-]{0,60}/[a-z0-9][a-z0-9.+-]{0,100}")


# What a run did to the workspace: how many files are named, and how much of it is shown.
Change: TypeAlias = Literal["added", "modified", "deleted"]
CHANGES: Final[tuple[Change, ...]] = get_args(Change)
CHANGED_FILES_MAX: Final = 500
CHANGES_DIFF_MAX_BYTES: Final = 128 * KIB

WORKSPACE: Final = "/workspace"
FILE_PATH_MAX_BYTES: Final = 4000  # Linux takes 4095 of a whole path
FILE_NAME_MAX_BYTES: Final = 255
FILES_PAGE_MAX: Final = 1000  # entries of one answer
# Of one archive that is unpacked: those of 60 MB of small files, and no more than can be counted.
ARCHIVE_ENTRIES_MAX: Final = 50_000


class ProtocolError(ValueError):
    """What came from the other side is not an event."""


class OptionError(ValueError):
    """An option or an attachment is not what it may be; the text says which, for its sender."""


class PathError(ValueError):
    """A path may not be what it is; the text says why, for its sender."""


def file_path(given: str) -> str:
    """From what a caller says to a path below the workspace, whose own is "": no dots, no empty
    parts. What is below ``/workspace`` may be said with it. Raises ``PathError``.
    """
    if given == WORKSPACE or given.startswith(f"{WORKSPACE}/"):
        given = given.removeprefix(WORKSPACE)
    elif given.startswith("/"):
        raise PathError(f"paths are relative to {WORKSPACE}, and nothing else can be reached")
    parts = [part for part in given.split("/") if part not in {"", "."}]
    if ".." in parts:
        raise PathError("a path has no .. in it")
    try:
        sizes = [len(part.encode()) for part in parts]
    except UnicodeEncodeError:
        raise PathError("a path holds half of a surrogate pair") from None
    if "\0" in given:
        raise PathError("a path holds no NUL")
    if any(size > FILE_NAME_MAX_BYTES for size in sizes):
        raise PathError(f"a name in a path has more than {FILE_NAME_MAX_BYTES} bytes")
    if sum(sizes) + len(sizes) > FILE_PATH_MAX_BYTES:
        raise PathError(f"a path has more than {FILE_PATH_MAX_BYTES} bytes")
    return "/".join(parts)


@dataclass(frozen=True, slots=True)
class Options:
    """None is what the CLI does by itself. ``output_schema`` is a JSON schema as JSON text."""

    system_prompt: str | None = None
    append_system_prompt: str | None = None
    max_turns: int | None = None
    max_cost_usd: float | None = None
    output_schema: str | None = None
    permission_mode: PermissionMode | None = None
    approval_timeout_s: float | None = None
    diff: bool = False  # tell what the run changed; the CLI has no part in it

    @property
    def asks(self) -> bool:
        """Whether a person decides what the agent may do."""
        return self.permission_mode == "ask"

    @property
    def given(self) -> frozenset[OptionName]:
        return frozenset(name for name in OPTION_NAMES if getattr(self, name) is not None)

    def to_dict(self) -> dict[str, Any]:
        given: dict[str, Any] = {"diff": True} if self.diff else {}
        return given | {n: getattr(self, n) for n in OPTION_NAMES if n in self.given}


@dataclass(frozen=True, slots=True)
class Attachment:
    name: str
    media_type: str
    content: bytes

    @property
    def is_image(self) -> bool:
        """One that is shown to the model as such."""
        return self.media_type in IMAGE_TYPES


def read_options(given: Any) -> Options:
    """From what ``Options.to_dict`` gives; unknown names are refused. Raises ``OptionError``."""
    if not isinstance(given, dict) or not given.keys() <= {*OPTION_NAMES, "diff"}:
        raise OptionError("the options are not those that there are")
    options = Options(**given)
    if not isinstance(options.diff, bool):
        raise OptionError("diff is true or false")
    for name in ("system_prompt", "append_system_prompt"):
        _check_text(name, given.get(name), SYSTEM_PROMPT_MAX_BYTES)
    turns, cost = options.max_turns, options.max_cost_usd
    if turns is not None and not (
        isinstance(turns, int) and not isinstance(turns, bool) and 1 <= turns <= MAX_TURNS_MAX
    ):
        raise OptionError(f"max_turns is a whole number from 1 to {MAX_TURNS_MAX}")
    if cost is not None and not (
        isinstance(cost, int | float)
        and not isinstance(cost, bool)
        and 0 < cost <= MAX_COST_USD_MAX  # false for what is no number
    ):
        raise OptionError(f"max_cost_usd is above 0 and at most {MAX_COST_USD_MAX:.0f}")
    _check_text("output_schema", options.output_schema, OUTPUT_SCHEMA_MAX_BYTES)
    if options.output_schema is not None:
        _check_schema(options.output_schema)
    _check_approvals(options)
    return options


def unsupported(
    provider: Provider, options: Options, *, new_session: bool
) -> tuple[OptionName, bool] | None:
    """The first option that this CLI cannot do for this run, and whether it could at the start of a
    session.
    """
    for name in OPTION_NAMES:
        if name in options.given:
            if name not in SUPPORTED[provider]:
                return name, False
            if name in AT_SESSION_START[provider] and not new_session:
                return name, True
    return None


def read_attachments(given: Any) -> tuple[Attachment, ...]:
    """From a list of ``{"name", "media_type", "data"}``, the last in base64. Raises
    ``OptionError``.
    """
    if not isinstance(given, list) or len(given) > ATTACHMENTS_MAX:
        raise OptionError(f"there are at most {ATTACHMENTS_MAX} attachments")
    found: list[Attachment] = []
    size = 0
    for item in given:
        attachment = _attachment(item)
        size += len(attachment.content)
        if size > ATTACHMENTS_MAX_BYTES:
            raise OptionError(
                f"the attachments have more than {ATTACHMENTS_MAX_BYTES} bytes together"
            )
        found.append(attachment)
    if len({attachment.name for attachment in found}) < len(found):
        raise OptionError("two attachments have one name")
    return tuple(found)


def _attachment(item: Any) -> Attachment:
    if not isinstance(item, dict) or item.keys() != {"name", "media_type", "data"}:
        raise OptionError("an attachment has name, media_type and data")
    name, media_type, data = item["name"], item["media_type"], item["data"]
    if not isinstance(name, str) or not _is_file_name(name):
        raise OptionError(
            f"an attachment's name is a file's: printable, no slash, no dot or dash in front, at "
            f"most {ATTACHMENT_NAME_MAX_BYTES} bytes"
        )
    if not isinstance(media_type, str) or not _MEDIA_TYPE.fullmatch(media_type):
        raise OptionError("an attachment's media_type is like image/png")
    if not isinstance(data, str) or len(data) > 2 * ATTACHMENTS_MAX_BYTES:
        raise OptionError(
            f"an attachment's data is base64 of at most {ATTACHMENTS_MAX_BYTES} bytes"
        )
    try:
        content = base64.b64decode(data, validate=True)
    except ValueError:
        raise OptionError("an attachment's data is not base64") from None
    return Attachment(name, media_type, content)


def _is_file_name(name: str) -> bool:
    return (
        name.isprintable()
        and name[:1] not in {"", ".", "-", " "}
        and not {"/", "\\"} & set(name)
        and len(name.encode(errors="replace")) <= ATTACHMENT_NAME_MAX_BYTES
        and name.encode(errors="ignore") == name.encode(errors="replace")
    )


def _check_text(name: str, value: Any, most: int) -> None:
    if value is None:
        return
    if not isinstance(value, str) or not value.strip() or "\0" in value:
        raise OptionError(f"{name} is a text that is not blank")
    try:
        size = len(value.encode())
    except UnicodeEncodeError:
        raise OptionError(f"{name} holds half of a surrogate pair") from None
    if size > most:
        raise OptionError(f"{name} has {size} bytes; {most} are the most")


def _check_approvals(options: Options) -> None:
    mode, limit = options.permission_mode, options.approval_timeout_s
    if mode is not None and not (isinstance(mode, str) and mode in PERMISSION_MODES):
        raise OptionError(f"permission_mode is one of {', '.join(PERMISSION_MODES)}")
    if limit is None:
        return
    if mode != "ask":
        raise OptionError("approval_timeout_s goes with permission_mode ask")
    if (
        not isinstance(limit, int | float)
        or isinstance(limit, bool)
        or not 0 < limit <= APPROVAL_TIMEOUT_MAX_S
    ):
        raise OptionError(f"approval_timeout_s is above 0 and at most {APPROVAL_TIMEOUT_MAX_S:.0f}")


def _check_schema(text: str) -> None:
    try:
        schema = json.loads(text)
    except (ValueError, RecursionError):
        schema = None
    if not isinstance(schema, dict) or schema.get("type") != "object":
        raise OptionError('output_schema is a JSON schema with "type": "object"')


@dataclass(frozen=True, slots=True)
class Event:
    """One entry of a run's log. ``data`` holds the fields that belong to ``type``."""

    run_id: str
    seq: int
    time: float
    type: str
    data: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        return {
            "run_id": self.run_id,
            "seq": self.seq,
            "time": round(self.time, 6),
            "type": self.type,
            **self.data,
        }

    def to_json(self) -> str:
        return json.dumps(self.to_dict(), ensure_ascii=False, separators=(",", ":"))

    @property
    def is_last(self) -> bool:
        return self.type == "run.finished"


def login_holds(provider: Provider, content: bytes) -> bool:
    """Whether a login file has tokens in it: Claude Code blanks them when a refresh was refused.

    Raises ``ValueError`` for what is no JSON object, as when it is only half written.
    """
    try:
        parsed = json.loads(content)
    except RecursionError:
        raise ValueError("nested too deep") from None
    if not isinstance(parsed, dict):
        raise ValueError("not an object")  # noqa: TRY004 - one kind of error for its callers
    table, names = {
        "codex": ("tokens", ("access_token", "refresh_token")),
        "claude": ("claudeAiOauth", ("accessToken", "refreshToken")),
    }[provider]
    tokens = parsed.get(table)
    return isinstance(tokens, dict) and all(
        isinstance(tokens.get(name), str) and tokens[name] for name in names
    )


def status_code(http_status: int) -> ErrorCode:
    """The stable code for an HTTP status that a model API answered with."""
    if http_status in {401, 403}:
        return "provider_auth"
    if http_status == 404:
        return "model_not_found"
    if http_status == 429:
        return "provider_rate_limited"
    if http_status in {502, 504}:
        return "provider_unreachable"
    if http_status >= 500:
        return "provider_overloaded"
    if http_status >= 400:
        return "provider_bad_request"
    return "provider_error"


def sse(event: Event) -> bytes:
    """The event as one server-sent event; ``id`` is its ``seq``."""
    return f"id: {event.seq}\nevent: {event.type}\ndata: {event.to_json()}\n\n".encode()
