"""``WS /v1/terminal``: a terminal's bytes in binary frames, and what is said of it in text frames.

Output and input are numbered by byte. A client that comes back says what output it has seen, and is
told what input has arrived; one that says as it goes (``seen``) is never sent more than a window of
output that it has not seen, however slow it is.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from typing import Any, Final

from fastapi import APIRouter
from starlette.websockets import WebSocket, WebSocketDisconnect

from hutch.accounts.models import ApiKey
from hutch.accounts.tickets import PREFIX as TICKET
from hutch.accounts.tickets import TERMINAL
from hutch.api.caller import acting_for, known, source_in
from hutch.api.websockets import CLOSES, FAILED, REASON_MAX
from hutch.app import Hutch
from hutch.audit.models import Entry
from hutch.errors import HutchError, InvalidRequest, ReadOnlyKey, Unauthorized, Unavailable
from hutch.terminals.connection import Connection
from hutch.terminals.models import NewTerminal
from hutch_runtime.frames import count_of, size_of

router = APIRouter()

PATH: Final = "/v1/terminal"
PROTOCOL: Final = "hutch.terminal"  # a browser that sends a ticket has to name one that we take
ENDED: Final = 1000
GOING_DOWN: Final = 1012  # the terminal lives on; come back with its id and the last place
REPLACED: Final = 4409  # another connection has taken over
_KEY_LOOKED_AT_EVERY_S: Final = 30.0  # a revoked key's shell must not stay open
_MESSAGES: Final = "resize, seen and eof are what a terminal is told."


@dataclass(frozen=True, slots=True)
class _Visitor:
    user_id: str
    key: ApiKey


@router.websocket(PATH)
async def use_terminal(websocket: WebSocket) -> None:
    hutch: Hutch = websocket.app.state.hutch
    offered = websocket.scope.get("subprotocols", [])
    await websocket.accept(subprotocol=PROTOCOL if PROTOCOL in offered else None)
    try:
        code, reason = await _serve(hutch, websocket, offered)
    except HutchError as error:
        code = next((code for kind, code in CLOSES if isinstance(error, kind)), FAILED)
        reason = f"{error.code}: {error.message}"
        if isinstance(error, Unavailable) and hutch.terminals.going_down:
            code = GOING_DOWN
        told = {
            "type": "error",
            "code": error.code,
            "message": error.message,
            "hint": error.hint,
        }
        if not await _said(websocket, told):
            return
    except WebSocketDisconnect:
        return
    try:
        await websocket.close(code, reason.encode()[:REASON_MAX].decode(errors="ignore"))
    except (WebSocketDisconnect, RuntimeError):  # it is gone by now
        return


async def _serve(hutch: Hutch, websocket: WebSocket, offered: list[str]) -> tuple[int, str]:
    """The close code and its reason."""
    visitor = await _visitor(hutch, websocket, offered)
    query = websocket.query_params
    after = _number(query.get("after", "0"), "after")
    terminal_id = query.get("terminal")
    if terminal_id is None:
        new = NewTerminal(
            rows=_number(query.get("rows", "24"), "rows"),
            columns=_number(query.get("columns", "80"), "columns"),
            term=query.get("term", "xterm-256color"),
        )
        terminal_id = (await hutch.terminals.open(visitor.user_id, new)).id
    async with hutch.terminals.attach(visitor.user_id, terminal_id, after=after) as (
        connection,
        outputs,
    ):
        await _note(hutch, websocket, visitor, terminal_id)
        listening = asyncio.create_task(_listen(websocket, connection))
        telling = asyncio.create_task(_tell(websocket, terminal_id, outputs))
        looking = asyncio.create_task(_look_at_key(hutch, websocket))
        tasks = (listening, telling, looking)
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            done = next(task for task in (telling, listening, looking) if task.done())
            return done.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


async def _visitor(hutch: Hutch, websocket: WebSocket, offered: list[str]) -> _Visitor:
    """By a key or by a ticket; not by a key that may only read."""
    scheme, _, text = websocket.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        key = await known(hutch, text, websocket)
        if key.read_only:
            raise ReadOnlyKey(
                "This key may only read.", hint="Use a key that was not made with `read_only`."
            )
        acting = await acting_for(hutch, key, websocket.headers.get("x-hutch-user"))
        return _Visitor(acting.user_id, key)
    ticket = next((name for name in offered if name.startswith(TICKET)), None)
    if ticket is None:
        raise Unauthorized("This needs an API key or a ticket.")
    redeemed = hutch.tickets.redeem(ticket, TERMINAL)
    return _Visitor(redeemed.user_id, redeemed.key)


async def _note(hutch: Hutch, websocket: WebSocket, visitor: _Visitor, terminal_id: str) -> None:
    """Who used which terminal from when on, before anything of it is seen."""
    await hutch.audit.record(
        Entry(
            f"WS {PATH}",
            "ok",
            visitor.key.id,
            visitor.key.scope,
            visitor.user_id,
            source_in(hutch, websocket.scope),
            (("terminal_id", terminal_id),),
        )
    )


async def _tell(websocket: WebSocket, terminal_id: str, outputs: Any) -> tuple[int, str]:
    last = "exit"
    async for output in outputs:
        if output.said is None:
            await websocket.send_bytes(output.data)
            continue
        said = dict(output.said)
        last = said["type"]
        if last == "replaced":
            return REPLACED, "replaced: another connection has taken over"
        if last == "ready":
            said["terminal"] = terminal_id
        await websocket.send_text(json.dumps(said, ensure_ascii=False))
        if last == "exit":
            return ENDED, "exit"
    return FAILED, "The connection to the container broke: connect again."


async def _listen(websocket: WebSocket, connection: Connection) -> tuple[int, str]:
    """Raises ``WebSocketDisconnect``, ``InvalidRequest``."""
    while True:
        message = await websocket.receive()
        if message["type"] == "websocket.disconnect":
            raise WebSocketDisconnect(int(message.get("code") or 1005))
        if (data := message.get("bytes")) is not None:
            await connection.enter(data)
        else:
            await _obey(message.get("text") or "", connection)


async def _obey(text: str, connection: Connection) -> None:
    try:
        said = json.loads(text)
    except (ValueError, RecursionError):
        said = None
    if not isinstance(said, dict):
        raise InvalidRequest("A text frame is no JSON object.", hint="Input goes in binary frames.")
    match said.get("type"):
        case "resize":
            size = size_of(said.get("rows"), said.get("columns"))
            if size is None:
                raise InvalidRequest("resize needs rows and columns, each from 1 to 1000.")
            await connection.resize(*size)
        case "seen":
            offset = count_of(said.get("offset"))
            if offset is None:
                raise InvalidRequest("seen needs an offset.")
            await connection.saw(offset)
        case "eof":
            await connection.end_input()
        case _:
            raise InvalidRequest("A text frame has no type that is known.", hint=_MESSAGES)


async def _look_at_key(hutch: Hutch, websocket: WebSocket) -> tuple[int, str]:
    """Raises ``Unauthorized`` once the key is revoked or over. A ticket's lasts as its terminal."""
    text = websocket.headers.get("authorization", "").partition(" ")[2]
    while True:
        await asyncio.sleep(_KEY_LOOKED_AT_EVERY_S)
        if text:
            await hutch.accounts.authenticate(text)


async def _said(websocket: WebSocket, told: dict[str, str]) -> bool:
    try:
        await websocket.send_text(json.dumps(told, ensure_ascii=False))
    except (WebSocketDisconnect, RuntimeError):
        return False
    return True


def _number(text: str, name: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 15):
        raise InvalidRequest(f"{name} is not a number.")
    return int(text)
