"""Errors in the shape of the protocol that an endpoint speaks."""

from __future__ import annotations

import json
from typing import Any, Final, Literal

from pydantic import BaseModel, Field

from hutch.api.refusal import Refusal

_OPENAI: Final = ("/v1/chat/completions", "/v1/responses", "/v1/models")
_ANTHROPIC: Final = ("/v1/messages",)

_OPENAI_TYPES: Final = (
    (401, "authentication_error"),
    (403, "permission_error"),
    (429, "rate_limit_error"),
)
_ANTHROPIC_TYPES: Final = (
    (401, "authentication_error"),
    (403, "permission_error"),
    (404, "not_found_error"),
    (413, "request_too_large"),
    (429, "rate_limit_error"),
    (503, "overloaded_error"),
    (504, "timeout_error"),
)


class ErrorText(BaseModel):
    code: str = Field(description="Stable; docs/api.md explains each.")
    message: str
    hint: str = Field(description="What to do, or empty.")


class ErrorAnswer(BaseModel):
    error: ErrorText


class OpenAIErrorText(BaseModel):
    message: str
    type: str
    param: str | None
    code: str


class OpenAIError(BaseModel):
    error: OpenAIErrorText


class AnthropicErrorText(BaseModel):
    type: str
    message: str
    code: str


class AnthropicError(BaseModel):
    type: Literal["error"]
    error: AnthropicErrorText


def error_body(path: str, refusal: Refusal) -> dict[str, Any]:
    """As clients of the endpoint at this path expect it."""
    if _is_below(path, _OPENAI):
        return openai_error(refusal)
    if _is_below(path, _ANTHROPIC):
        return anthropic_error(refusal)
    error = {"code": refusal.code, "message": refusal.message, "hint": refusal.hint}
    return {"error": error}


def error_model(path: str) -> type[BaseModel]:
    """What ``error_body`` makes, as a shape."""
    if _is_below(path, _OPENAI):
        return OpenAIError
    return AnthropicError if _is_below(path, _ANTHROPIC) else ErrorAnswer


def error_frame(path: str, refusal: Refusal) -> bytes:
    """To end a stream of this path with."""
    return f"event: error\ndata: {json.dumps(error_body(path, refusal))}\n\n".encode()


def speaks_another(path: str) -> bool:
    """Whether an endpoint's protocol is not Hutch's own."""
    return _is_below(path, _OPENAI) or _is_below(path, _ANTHROPIC)


def openai_error(refusal: Refusal) -> dict[str, Any]:
    kind = _type(refusal.status, _OPENAI_TYPES, other="invalid_request_error", ours="server_error")
    return {
        "error": {
            "message": refusal.sentence,
            "type": kind,
            "param": refusal.param,
            "code": refusal.code,
        }
    }


def anthropic_error(refusal: Refusal) -> dict[str, Any]:
    kind = _type(refusal.status, _ANTHROPIC_TYPES, other="invalid_request_error", ours="api_error")
    message = f"{refusal.param}: {refusal.sentence}" if refusal.param else refusal.sentence
    # Anthropic has no code; a client that does not look for one sees none.
    return {"type": "error", "error": {"type": kind, "message": message, "code": refusal.code}}


def _type(status: int, types: tuple[tuple[int, str], ...], *, other: str, ours: str) -> str:
    return dict(types).get(status, ours if status >= 500 else other)


def _is_below(path: str, roots: tuple[str, ...]) -> bool:
    return any(path == root or path.startswith(f"{root}/") for root in roots)
