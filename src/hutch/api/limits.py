"""Refuse a body that is larger than any request needs, before it is parsed."""

from __future__ import annotations

from typing import Final

from fastapi.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hutch.api.errors import body
from hutch_runtime.protocol import KIB, PROMPT_MAX_BYTES

# JSON may write one byte of a prompt as six ("\u0000"); the other fields are small.
BODY_MAX_BYTES: Final = 6 * PROMPT_MAX_BYTES + 64 * KIB


class _TooLarge(Exception):
    pass


class BodyLimit:
    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        received = 0
        started = False

        async def limited() -> Message:
            nonlocal received
            message = await receive()
            if message["type"] == "http.request":
                received += len(message.get("body", b""))
                if received > BODY_MAX_BYTES:
                    raise _TooLarge
            return message

        async def watched(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self._app(scope, limited, watched)
        except _TooLarge:
            if started:
                raise
            answer = JSONResponse(
                body(
                    "body_too_large",
                    f"The request is larger than {BODY_MAX_BYTES} bytes.",
                    f"A prompt has at most {PROMPT_MAX_BYTES} bytes of UTF-8.",
                ),
                status_code=413,
            )
            await answer(scope, receive, send)
