"""Read an event that a sandbox sent. The sender is untrusted: its agent may have taken it over.

What passes has a known type, known fields of the right kinds, bounded sizes, and text that can be
encoded. Anything else raises ``ProtocolError`` and ends the run; nothing is repaired silently.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from hutch.sandboxes.untrusted import read_json
from hutch_runtime.protocol import (
    AGENT_ORIGINS,
    APPROVAL_ID,
    APPROVAL_MAX_BYTES,
    APPROVAL_TIMEOUT_MAX_S,
    CHANGED_FILES_MAX,
    CHANGES,
    CHANGES_DIFF_MAX_BYTES,
    DECIDERS,
    DECISIONS,
    ERROR_CODES,
    EVENT_MAX_BYTES,
    EVENT_TYPES,
    PROVIDERS,
    STOP_REASONS,
    TOOL_KINDS,
    ProtocolError,
)

_NAME_MAX: Final = 512  # characters of an id, a name, a reason
_COUNT_MAX: Final = 2**53
_ITEMS_MAX: Final = 1000
_DEPTH_MAX: Final = 32
_PATH_MAX: Final = 4096  # characters


@dataclass(frozen=True, slots=True)
class Inbound:
    seq: int
    time: float
    type: str
    data: dict[str, Any]


def parse_event(raw: bytes, *, run_id: str) -> Inbound:
    """One event of ``run_id``. Raises ``ProtocolError``, whose text holds nothing of the event."""
    if len(raw) > EVENT_MAX_BYTES:
        raise ProtocolError("an event that is too large")
    try:
        value: Any = read_json(raw)
    except ValueError as error:
        raise ProtocolError(f"an event that cannot be read: {error}") from None
    if value.get("run_id") != run_id:
        raise ProtocolError("an event of another run")
    seq, time, kind = value.get("seq"), value.get("time"), value.get("type")
    if not _is_count(seq) or seq < 1:
        raise ProtocolError("an event without a number")
    if not isinstance(time, int | float) or isinstance(time, bool):
        raise ProtocolError("an event without a time")
    if not isinstance(kind, str) or kind not in EVENT_TYPES:
        raise ProtocolError("an event of an unknown type")
    data = {}
    for name, check in _FIELDS[kind].items():
        if not check(value.get(name)):
            raise ProtocolError(f"a {kind} event with a bad {name}")
        data[name] = value.get(name)
    # There may be a hundred thousand of them, each with a copy of its own.
    return Inbound(int(seq), float(time), sys.intern(kind), data)


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and len(value) <= _NAME_MAX


def _is_short(most: int) -> Any:
    """A name that goes into a column of so many characters, in which no NUL may be."""
    return lambda value: isinstance(value, str) and len(value) <= most and "\0" not in value


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _COUNT_MAX


def _is_amount(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 1e12


def _or_null(check: Any) -> Any:
    return lambda value: value is None or check(value)


def _one_of(names: Any) -> Any:
    return lambda value: isinstance(value, str) and value in names


def _is_object(value: Any) -> bool:
    return isinstance(value, dict) and _shallow(value, _DEPTH_MAX)


def _shallow(value: Any, depth: int) -> bool:
    if isinstance(value, dict):
        return depth > 0 and all(_shallow(item, depth - 1) for item in value.values())
    if isinstance(value, list):
        return depth > 0 and all(_shallow(item, depth - 1) for item in value)
    return True


def _is_bool(value: Any) -> bool:
    return isinstance(value, bool)


def _is_approval_id(value: Any) -> bool:
    return isinstance(value, str) and APPROVAL_ID.fullmatch(value) is not None


def _is_readable(value: Any) -> bool:
    """What somebody can be expected to read before a decision: an object of bounded size."""
    return _is_object(value) and len(json.dumps(value)) <= APPROVAL_MAX_BYTES


def _is_changes(value: Any) -> bool:
    sizes = ("size_before", "size_after")
    return (
        isinstance(value, list)
        and len(value) <= CHANGED_FILES_MAX
        and all(
            isinstance(item, dict)
            and item.keys() == {"path", "change", "in_diff", *sizes}
            and isinstance(item["path"], str)
            and 0 < len(item["path"]) <= _PATH_MAX
            and _one_of(CHANGES)(item["change"])
            and all(item[name] is None or _is_count(item[name]) for name in sizes)
            and _is_bool(item["in_diff"])
            for item in value
        )
    )


def _is_plan(value: Any) -> bool:
    statuses = {"pending", "in_progress", "completed"}
    return (
        isinstance(value, list)
        and len(value) <= _ITEMS_MAX
        and all(
            isinstance(item, dict)
            and item.keys() == {"text", "status"}
            and isinstance(item["text"], str)
            and isinstance(item["status"], str)
            and item["status"] in statuses
            for item in value
        )
    )


def _is_error(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and value.keys() == {"code", "message"}
        and isinstance(value["code"], str)
        and value["code"] in ERROR_CODES
        and isinstance(value["message"], str)
    )


def _is_timings(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and value.keys() <= {"first_event_ms", "total_ms"}
        and all(item is None or _is_amount(item) for item in value.values())
    )


_FIELDS: Final[Mapping[str, Mapping[str, Any]]] = {
    "run.started": {
        "provider": _one_of(PROVIDERS),
        "session": _is_short(200),
        "model": _or_null(_is_name),
        "cli_version": _is_short(64),
        "agent": _one_of(AGENT_ORIGINS),
    },
    "text.delta": {"text": _is_text},
    "text": {"text": _is_text},
    "reasoning.delta": {"text": _is_text},
    "tool.started": {
        "tool_id": _is_name,
        "kind": _one_of(TOOL_KINDS),
        "name": _is_name,
        "input": _is_object,
    },
    "tool.output": {"tool_id": _is_name, "text": _is_text},
    "tool.finished": {
        "tool_id": _is_name,
        "ok": _is_bool,
        "output": _is_text,
    },
    "plan": {"items": _is_plan},
    "approval.requested": {
        "approval_id": _is_approval_id,
        "tool_id": _is_name,
        "kind": _one_of(TOOL_KINDS),
        "name": _is_name,
        "input": _is_readable,
        "diff": _or_null(lambda value: _is_text(value) and len(value) <= APPROVAL_MAX_BYTES),
        "truncated": _is_bool,
        "timeout_s": lambda value: _is_amount(value) and value <= APPROVAL_TIMEOUT_MAX_S,
    },
    "approval.decided": {
        "approval_id": _is_approval_id,
        "decision": _one_of(DECISIONS),
        "by": _one_of(DECIDERS),
    },
    "files.changed": {
        "files": _is_changes,
        "diff": lambda value: _is_text(value) and len(value.encode()) <= CHANGES_DIFF_MAX_BYTES,
        "complete": _is_bool,
    },
    "usage": {
        "input_tokens": _is_count,
        "output_tokens": _is_count,
        "cached_tokens": _is_count,
        "cost_usd": _or_null(_is_amount),
    },
    "retrying": {
        "attempt": _is_count,
        "delay_ms": _or_null(_is_count),
        "status": _or_null(_is_count),
        "code": _one_of(ERROR_CODES),
    },
    "agent.restarted": {"reason": _is_text, "how": _one_of({"resumed", "replayed"})},
    "truncated": {
        "scope": _one_of({"field", "line", "run"}),
        "limit_bytes": _is_count,
        "dropped_bytes": _is_count,
    },
    "unparsed": {"line": _is_text},
    "run.finished": {
        "stop_reason": _one_of(STOP_REASONS),
        "error": _or_null(_is_error),
        "text": _is_text,
        "timings": _is_timings,
    },
}
