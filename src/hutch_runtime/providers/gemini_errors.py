"""The errors of ``gemini --acp`` 0.61 as the stable codes of ``hutch_runtime.protocol``."""

from __future__ import annotations

import json
import re
from typing import Final

from hutch_runtime.protocol import ErrorCode, status_code

# A failed turn is a JSON-RPC error whose code is the HTTP status, except where the CLI lost it:
# 500 with the API's bare message for a 404 (its ModelNotFoundError has no status; see
# ``gemini_reports``), and 500 with undici's words when there was no answer at all. A real 500 has
# the API's JSON as its message.
_LOST_STATUS: Final = 500
_NO_ANSWER: Final = re.compile(
    r"fetch failed|ECONNREFUSED|ECONNRESET|ETIMEDOUT|ENOTFOUND|EAI_AGAIN|socket hang up"
    r"|terminated|other side closed|network",
    re.IGNORECASE,
)
_NO_MODEL: Final = re.compile(r"not found|not supported|no such model", re.IGNORECASE)
MODEL_NOT_FOUND_CLASS: Final = "ModelNotFoundError"


def error_code(code: int, message: str) -> ErrorCode:
    """The stable code for the code and message of a JSON-RPC error."""
    status = _inner_status(message)
    if status is not None:
        return status_code(status)
    if code == _LOST_STATUS:
        if _NO_MODEL.search(message):
            return "model_not_found"
        return "provider_unreachable" if _NO_ANSWER.search(message) else "provider_error"
    return status_code(code) if 400 <= code <= 599 else "provider_error"


def readable(message: str) -> str:
    """The API's own sentence, where the message is the whole JSON body."""
    try:
        body = json.loads(message)
    except (ValueError, RecursionError):
        return message
    error = body.get("error") if isinstance(body, dict) else None
    inner = error.get("message") if isinstance(error, dict) else None
    return inner if isinstance(inner, str) and inner else message


def _inner_status(message: str) -> int | None:
    """The status in a message of the form ``{"error":{"code":401,…}}``."""
    try:
        body = json.loads(message)
    except (ValueError, RecursionError):
        return None
    error = body.get("error") if isinstance(body, dict) else None
    status = error.get("code") if isinstance(error, dict) else None
    return status if type(status) is int and 400 <= status <= 599 else None
