"""Refuse a body that is larger than any request needs, before it is parsed."""

from __future__ import annotations

from typing import Final

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hutch_runtime.protocol import KIB, PROMPT_MAX_BYTES

# JSON may write one byte of a prompt as six ("\u0000"); the other fields are small.
BODY_MAX_BYTES: Final = 6 * PROMPT_MAX_BYTES + 64 * KIB


class BodyLimit:
    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        received = 0

        async def limited() -> Message:
            nonlocal received
            message = await receive()
            if message["type"] == "http.request":
                received += len(message.get("body", b""))
                if received > BODY_MAX_BYTES:
                    # Anything else FastAPI takes for a fault of its parser and calls it a 400.
                    raise HTTPException(
                        413,
                        f"The request is larger than {BODY_MAX_BYTES} bytes; a prompt has at "
                        f"most {PROMPT_MAX_BYTES} bytes of UTF-8.",
                    )
            return message

        await self._app(scope, limited if scope["type"] == "http" else receive, send)
