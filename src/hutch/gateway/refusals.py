"""What the gateway answers itself, in the shape that the asking CLI expects of its API."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Final

from hutch.errors import ExitUnavailable
from hutch_runtime.protocol import Provider

# HTTP status: the error type of the Anthropic, the OpenAI and the Google API.
_TYPES: Final[dict[int, tuple[str, str, str]]] = {
    400: ("invalid_request_error", "invalid_request_error", "INVALID_ARGUMENT"),
    403: ("permission_error", "permission_error", "PERMISSION_DENIED"),
    408: ("timeout_error", "timeout_error", "DEADLINE_EXCEEDED"),
    413: ("request_too_large", "invalid_request_error", "INVALID_ARGUMENT"),
    426: ("invalid_request_error", "invalid_request_error", "FAILED_PRECONDITION"),
    502: ("api_error", "server_error", "UNAVAILABLE"),
    503: ("overloaded_error", "server_error", "UNAVAILABLE"),
    504: ("timeout_error", "server_error", "DEADLINE_EXCEEDED"),
}


EXIT_UNAVAILABLE: Final = ExitUnavailable.code


@dataclass(eq=False)
class Refusal(Exception):
    """Raised to answer with ``status`` instead of forwarding. ``message`` is for the user: never
    a password, a header or a query in it. ``code`` is one of ``hutch.errors``, or empty.
    """

    status: int
    message: str
    retry_after_s: int | None = None
    code: str = ""
    answered: int | None = None

    def __str__(self) -> str:
        return self.text

    @property
    def text(self) -> str:
        return f"hutch gateway: {f'{self.code}: ' if self.code else ''}{self.message}"

    def headers(self, provider: Provider | None) -> dict[str, str]:
        kind = "application/json" if provider else "text/plain; charset=utf-8"
        headers = {"Content-Type": kind}
        if self.retry_after_s is not None:
            headers["Retry-After"] = str(self.retry_after_s)
        if self.code == EXIT_UNAVAILABLE:
            # The CLIs' libraries would go on for minutes; a dead exit is for us to mend.
            headers["x-should-retry"] = "false"
        return headers

    def body(self, provider: Provider | None) -> bytes:
        """Plain text where it is not known which CLI asks."""
        if provider is None:
            return f"{self.text}\n".encode()
        return json.dumps(_shaped(provider, self)).encode()

    def response(self, provider: Provider | None) -> bytes:
        """A whole HTTP response, after which the connection ends. Its reason phrase is the text:
        most clients show that of a refused CONNECT, and none the body.
        """
        body = self.body(provider)
        reason = "".join(c if " " <= c <= "~" else "?" for c in self.text)
        headers = {
            **self.headers(provider),
            "Content-Length": str(len(body)),
            "Connection": "close",
        }
        lines = [f"HTTP/1.1 {self.status} {reason}", *(f"{k}: {v}" for k, v in headers.items())]
        return "\r\n".join((*lines, "", "")).encode() + body


def exit_unavailable(message: str, *, answered: int | None = None) -> Refusal:
    """``answered``: the status of an exit that is there, and did not connect."""
    return Refusal(502, message, code=EXIT_UNAVAILABLE, answered=answered)


def way_changed() -> Refusal:
    """What was admitted a moment ago may not leave that way any more."""
    return Refusal(503, "the way out has changed just now; try again.", 1)


def _shaped(provider: Provider, refusal: Refusal) -> dict[str, Any]:
    status, message = refusal.status, refusal.text
    anthropic, openai, google = _TYPES.get(status, ("api_error", "server_error", "UNKNOWN"))
    code = refusal.code or None
    match provider:
        case "claude":
            return {"type": "error", "error": {"type": anthropic, "message": message}}
        case "codex":
            return {"error": {"message": message, "type": openai, "param": None, "code": code}}
        case "gemini":
            return {"error": {"code": status, "message": message, "status": google}}
