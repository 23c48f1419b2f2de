"""Refuse a request that is larger than any that makes sense, before it is parsed."""

from __future__ import annotations

import json
from typing import Final

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hutch.api.errors import body
from hutch_runtime.protocol import (
    ATTACHMENTS_MAX_BYTES,
    KIB,
    MIB,
    OUTPUT_SCHEMA_MAX_BYTES,
    PROMPT_MAX_BYTES,
    SYSTEM_PROMPT_MAX_BYTES,
)

# JSON may write one byte of a prompt as six ("\u0000"); the other fields are small.
TEXT_RUN_MAX_BYTES: Final = 6 * PROMPT_MAX_BYTES + 64 * KIB
# With options and attachments; base64 writes three bytes as four.
RUN_MAX_BYTES: Final = (
    TEXT_RUN_MAX_BYTES
    + 6 * (2 * SYSTEM_PROMPT_MAX_BYTES + OUTPUT_SCHEMA_MAX_BYTES)
    + 4 * ATTACHMENTS_MAX_BYTES // 3
)
# What any other endpoint takes: the largest, a login's files, have 64 KB.
BODY_MAX_BYTES: Final = 256 * KIB
_LARGER: Final = {
    ("POST", "/v1/runs"): RUN_MAX_BYTES,
    ("POST", "/v1/chat/completions"): RUN_MAX_BYTES,
    ("POST", "/v1/responses"): RUN_MAX_BYTES,
    ("POST", "/v1/messages"): RUN_MAX_BYTES,
    ("POST", "/v1/admin/exits/import"): 8 * MIB,  # two million characters
}
# Whose bodies are streamed to where their own limit is; the largest workspace is far below.
STREAMED: Final = frozenset({"/v1/files/content", "/v1/files/archive"})
STREAMED_MAX_BYTES: Final = 1024 * 1024 * MIB
# Up to here a body that is too large is read and dropped, so that its sender sees the answer;
# beyond, the connection is closed.
DROPPED_MAX: Final = 64 * MIB


def most(method: str, path: str) -> int:
    """Bytes of a body."""
    if method == "PUT" and path in STREAMED:
        return STREAMED_MAX_BYTES
    return _LARGER.get((method, path), BODY_MAX_BYTES)


def too_large(limit: int) -> str:
    return f"The request's body is larger than {limit} bytes, the most that is taken here."


class BodyLimit:
    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        limit = most(scope["method"], scope["path"])
        declared = _declared(scope)
        if declared > limit:
            await _refuse(send, scope["path"], limit, close=declared > DROPPED_MAX)
            return
        received = 0

        async def limited() -> Message:
            nonlocal received
            message = await receive()
            if message["type"] == "http.request":
                received += len(message.get("body", b""))
                if received > limit:
                    # Anything else FastAPI takes for a fault of its parser and calls it a 400.
                    raise HTTPException(413, too_large(limit))
            return message

        await self._app(scope, limited, send)


def _declared(scope: Scope) -> int:
    for name, value in scope["headers"]:
        if name == b"content-length" and value.isdigit():
            return int(value[:20])
    return 0


async def _refuse(send: Send, path: str, limit: int, *, close: bool) -> None:
    hint = "A prompt has at most 1 MB of UTF-8."
    told = body("request_too_large", too_large(limit), hint, status=413, path=path)
    content = json.dumps(told).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(content)).encode()),
    ]
    if close:
        headers.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": 413, "headers": headers})
    await send({"type": "http.response.body", "body": content})
