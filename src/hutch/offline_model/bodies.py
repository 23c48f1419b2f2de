"""Reading a request's body within bounds of size and time."""

from __future__ import annotations

import asyncio
import json
from typing import Any, Final

from starlette.requests import Request

from hutch.offline_model.conversation import Malformed

MAX_BODY_BYTES: Final = 32 * 1024 * 1024  # Anthropic's own limit
BODY_TIMEOUT_S: Final = 60.0


class TooLarge(Malformed):
    pass


async def read_json(request: Request) -> dict[str, Any]:
    """The body as a JSON object.

    Raises ``TooLarge``, ``Malformed`` (not JSON, not an object, encoded, or too slow).
    """
    if request.headers.get("content-encoding", "identity") != "identity":
        raise Malformed("content-encoding is not supported by the Hutch offline model")
    try:
        async with asyncio.timeout(BODY_TIMEOUT_S):
            body = await _read(request)
    except TimeoutError as error:
        raise Malformed(f"the body took longer than {BODY_TIMEOUT_S:.0f} s") from error
    try:
        value = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise Malformed("the body is not valid JSON") from error
    if not isinstance(value, dict):
        raise Malformed("the body is not a JSON object")
    return value


async def _read(request: Request) -> bytes:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY_BYTES:
            raise TooLarge(f"the body is larger than {MAX_BODY_BYTES} bytes")
    return bytes(body)
