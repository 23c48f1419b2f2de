"""What the gateway answers itself, in the shape that the asking CLI expects of its API."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Final

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


@dataclass(frozen=True, slots=True)
class Refusal(Exception):
    """Raised to answer with ``status`` instead of forwarding. ``message`` is for the user."""

    status: int
    message: str
    retry_after_s: int | None = None

    def headers(self, provider: Provider | None) -> dict[str, str]:
        kind = "application/json" if provider else "text/plain; charset=utf-8"
        headers = {"Content-Type": kind}
        if self.retry_after_s is not None:
            headers["Retry-After"] = str(self.retry_after_s)
        return headers

    def body(self, provider: Provider | None) -> bytes:
        """Plain text where it is not known which CLI asks."""
        if provider is None:
            return f"hutch gateway: {self.message}\n".encode()
        return json.dumps(_shaped(provider, self.status, f"hutch gateway: {self.message}")).encode()


def _shaped(provider: Provider, status: int, message: str) -> dict[str, Any]:
    anthropic, openai, google = _TYPES.get(status, ("api_error", "server_error", "UNKNOWN"))
    match provider:
        case "claude":
            return {"type": "error", "error": {"type": anthropic, "message": message}}
        case "codex":
            return {"error": {"message": message, "type": openai, "param": None, "code": None}}
        case "gemini":
            return {"error": {"code": status, "message": message, "status": google}}
