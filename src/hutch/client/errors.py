"""Everything that the client raises: one tree, each with what the service said of it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Final


class ClientError(Exception):
    """``code`` is stable, and the service's own where it has said one; ``hint`` says what to do.
    ``status`` is HTTP's, or None where there was no answer; ``retry_after`` is in seconds.
    """

    code = "client_error"

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        hint: str = "",
        status: int | None = None,
        retry_after: float | None = None,
    ) -> None:
        self.message = message
        self.code = code or type(self).code
        self.hint = hint
        self.status = status
        self.retry_after = retry_after
        super().__init__(f"{message} ({self.code})")


class Unreachable(ClientError):
    """The service does not answer, or the connection broke."""

    code = "unreachable"


class NotSent(Unreachable):
    """There was no connection, so that the service has seen nothing of the request."""


class TimedOut(Unreachable):
    """No answer within the time limit. What was asked for may have happened."""

    code = "timed_out"


class UnexpectedAnswer(ClientError):
    """Something answered that is not Hutch, or another version of it."""

    code = "unexpected_answer"


class RunFailed(ClientError):
    """Of ``Run.check()``: the run was accepted, and did not end well. ``code`` is the run's."""

    code = "run_failed"


class ApiError(ClientError):
    """The service refused the request, or failed."""

    code = "unknown"
    status: int

    def __init__(
        self,
        message: str,
        *,
        status: int,
        code: str | None = None,
        hint: str = "",
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message, code=code, hint=hint, status=status, retry_after=retry_after)


class Invalid(ApiError):
    """400, 405, 413, 416, 422: a field is wrong, or something is missing first, as a credential."""


class Unauthorized(ApiError):
    """401: no key, an unknown one, or one whose time is over."""


class Forbidden(ApiError):
    """403."""


class NotFound(ApiError):
    """404: no such thing, or not yours."""


class Conflict(ApiError):
    """409, 412: it is in use, or no longer what you meant to change."""


class RateLimited(ApiError):
    """429: too much of something; ``retry_after`` says when to come back."""


class Unavailable(ApiError):
    """5xx: the service, or what stands before it, cannot now."""


_KINDS: Final[Mapping[int, type[ApiError]]] = {
    400: Invalid,
    401: Unauthorized,
    403: Forbidden,
    404: NotFound,
    405: Invalid,
    409: Conflict,
    412: Conflict,
    413: Invalid,
    416: Invalid,
    422: Invalid,
    429: RateLimited,
}


def refusal(status: int, headers: Mapping[str, str], body: bytes) -> ApiError:
    """What an answer with an error status means; also of what a proxy has said in its place."""
    kind = _KINDS.get(status, Unavailable if status >= 500 else ApiError)
    try:
        error = json.loads(body)["error"]
        code, message, hint = str(error["code"]), str(error["message"]), str(error.get("hint", ""))
    except (ValueError, KeyError, TypeError, AttributeError):
        code, message, hint = "unknown", f"An answer with status {status}.", ""
    return kind(
        message,
        status=status,
        code=code,
        hint=hint,
        retry_after=_seconds(headers.get("retry-after")),
    )


def _seconds(text: str | None) -> float | None:
    # The date that HTTP also allows is not what Hutch sends; a proxy's is passed over.
    return float(text) if text is not None and text.isascii() and text.isdigit() else None
