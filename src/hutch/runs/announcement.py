"""What a webhook is told of a run that has ended: what ``GET /v1/runs/{run_id}`` says, without the
prompt, and with an answer of bounded length.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Final

from hutch.runs.models import Run
from hutch_runtime.protocol import KIB

TEXT_MAX_CHARS: Final = 64 * KIB


def message_id(run: Run) -> str:
    """One message for a run's end, however often that is stored."""
    return "msg_" + run.id.removeprefix("run_")


def announcement(run: Run) -> dict[str, Any]:
    return {
        "id": run.id,
        "user_id": run.user_id,
        "session_id": run.session_id,
        "provider": run.provider,
        "model": run.model,
        "state": run.state,
        "stop_reason": run.stop_reason,
        "error": {"code": run.error_code, "message": run.error_message or ""}
        if run.error_code
        else None,
        "text": run.text[:TEXT_MAX_CHARS],
        "text_truncated": len(run.text) > TEXT_MAX_CHARS,
        "usage": run.usage,
        "timings": run.timings,
        "created_at": _time(run.created_at),
        "started_at": _time(run.started_at),
        "finished_at": _time(run.finished_at),
    }


def _time(at: float | None) -> str | None:
    if at is None:
        return None
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds")
