"""Codex's error reports (``TurnError``) as the stable codes of ``hutch_runtime.protocol``."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Final

from hutch_runtime.protocol import ErrorCode, status_code

MESSAGE_MAX_CHARS: Final = 2_000

_CODES: Final[dict[str, ErrorCode]] = {
    "badRequest": "provider_bad_request",
    "contextWindowExceeded": "provider_bad_request",
    "flexUnavailable": "provider_overloaded",
    "internalServerError": "provider_overloaded",
    "modelNotFound": "model_not_found",
    "policyCapacityUnavailable": "provider_overloaded",
    "rateLimitExceeded": "provider_rate_limited",
    "serverOverloaded": "provider_overloaded",
    "unauthorized": "provider_auth",
    "usageLimitExceeded": "provider_rate_limited",
}
_REFUSALS: Final = frozenset({"cyberPolicy", "misalignmentPolicyViolation"})


@dataclass(frozen=True, slots=True)
class Failure:
    code: ErrorCode
    message: str
    http_status: int | None = None
    refusal: bool = False  # the model's policy ended the turn; nothing broke


def read_error(error: object) -> Failure:
    """A ``TurnError``: ``{message, codexErrorInfo, additionalDetails}``."""
    if not isinstance(error, dict):
        return Failure("provider_error", "Codex reported a failure without details")
    message = error.get("message")
    text = message[:MESSAGE_MAX_CHARS] if isinstance(message, str) else "no message"
    info = error.get("codexErrorInfo")
    if isinstance(info, dict):
        return _connection_failure(info, text)
    if isinstance(info, str) and info in _REFUSALS:
        return Failure("provider_error", text, refusal=True)
    if isinstance(info, str) and info in _CODES:
        return Failure(_CODES[info], text)
    # A 400 comes as "other", with the API's body as the message and no status (seen with 0.169).
    if _is_error_body(text):
        return Failure("provider_bad_request", text)
    return Failure("provider_error", text)


def _connection_failure(info: dict[str, Any], text: str) -> Failure:
    """``{"httpConnectionFailed": {"httpStatusCode": 401}}`` and the like; null: no answer."""
    name, details = next(iter(info.items()), ("", None))
    if not isinstance(details, dict) or "httpStatusCode" not in details:
        return Failure("provider_error", text if name else "no message")
    status = details["httpStatusCode"]
    if type(status) is int and 400 <= status <= 599:
        return Failure(status_code(status), text, http_status=status)
    return Failure("provider_unreachable", text)


def _is_error_body(text: str) -> bool:
    try:
        body = json.loads(text)
    except (ValueError, RecursionError):
        return False
    return isinstance(body, dict) and isinstance(body.get("error"), dict)
