"""A run's events over a WebSocket: the same as by server-sent events, one text frame each.

A refusal is told by a close code after the handshake has succeeded, since a browser shows its page
nothing of one that has not.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import Final

from fastapi import APIRouter
from starlette.websockets import WebSocket, WebSocketDisconnect

from hutch.accounts.tickets import PREFIX as TICKET
from hutch.api.caller import acting_for, known
from hutch.app import Hutch
from hutch.errors import (
    Forbidden,
    HutchError,
    InvalidRequest,
    NotFound,
    TooManyFailures,
    TooManyUses,
    Unauthorized,
)
from hutch_runtime.protocol import KIB

router = APIRouter()

PROTOCOL: Final = "hutch.events"  # a browser that sends a ticket has to name one that we take
MESSAGE_MAX_BYTES: Final = 64 * KIB  # of a client, which has nothing to say
PING_EVERY_S: Final = 15.0  # proxies cut a connection that is silent for 30 to 60 s
PING_WITHIN_S: Final = 20.0

ENDED: Final = 1000  # every event was sent, or there is none after what was asked for
GOING_DOWN: Final = 1012  # the run goes on; come back with the last number
FAILED: Final = 1011
# The last three digits are the statuses of the same refusals over HTTP.
CLOSES: Final[tuple[tuple[type[HutchError], int], ...]] = (
    (InvalidRequest, 4400),
    (Unauthorized, 4401),
    (TooManyFailures, 4429),
    (Forbidden, 4403),
    (NotFound, 4404),
    (TooManyUses, 4429),
)
REASON_MAX: Final = 123  # bytes, by RFC 6455


@router.websocket("/v1/runs/{run_id}/events")
async def follow_run(websocket: WebSocket, run_id: str) -> None:
    hutch: Hutch = websocket.app.state.hutch
    offered = websocket.scope.get("subprotocols", [])
    await websocket.accept(subprotocol=PROTOCOL if PROTOCOL in offered else None)
    listening = asyncio.create_task(_until_gone(websocket))
    sending = asyncio.create_task(_send_events(hutch, websocket, run_id, offered))
    try:
        await asyncio.wait({listening, sending}, return_when=asyncio.FIRST_COMPLETED)
        if not listening.done():
            code, reason = sending.result()
            await websocket.close(code, reason.encode()[:REASON_MAX].decode(errors="ignore"))
    except WebSocketDisconnect:
        pass
    finally:
        for task in (listening, sending):
            task.cancel()
        await asyncio.gather(listening, sending, return_exceptions=True)


async def _send_events(
    hutch: Hutch, websocket: WebSocket, run_id: str, offered: list[str]
) -> tuple[int, str]:
    """The close code and its reason."""
    try:
        user_id = await _user(hutch, websocket, run_id, offered)
        after = _after(websocket.query_params.get("after", "0"))
        async for entry in await hutch.runs.events(user_id, run_id, after=after):
            await websocket.send_text(
                json.dumps(entry.to_dict(), ensure_ascii=False, separators=(",", ":"))
            )
        if (await hutch.runs.get(user_id, run_id)).finished:
            return ENDED, "run.finished"
    except HutchError as error:
        code = next((code for kind, code in CLOSES if isinstance(error, kind)), FAILED)
        return code, f"{error.code}: {error.message}"
    return GOING_DOWN, "going_down: come back with ?after=N"


async def _user(hutch: Hutch, websocket: WebSocket, run_id: str, offered: list[str]) -> str:
    """Whose events they are, by a key or by a ticket."""
    scheme, _, key = websocket.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        presented = await known(hutch, key, websocket)
        return (await acting_for(hutch, presented, websocket.headers.get("x-hutch-user"))).user_id
    ticket = next((name for name in offered if name.startswith(TICKET)), None)
    if ticket is None:
        raise Unauthorized("This needs an API key or a ticket.")
    return hutch.tickets.redeem(ticket, run_id).user_id


def _after(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 12):
        raise InvalidRequest("after is not a number.", hint="Send the last seq you saw.")
    return int(text)


async def _until_gone(websocket: WebSocket) -> None:
    """What a client sends is read, so that its pongs and its end are noticed, and passed over."""
    with contextlib.suppress(WebSocketDisconnect):
        while True:
            message = await websocket.receive()
            if message["type"] == "websocket.disconnect":
                return
