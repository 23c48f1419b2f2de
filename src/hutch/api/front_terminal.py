"""A terminal's WebSocket that is passed on to the process that leads, in both directions.

When a leader goes, the client is told to come back: it knows how much output it has seen, and asks
the next leader how much of its input has arrived.
"""

from __future__ import annotations

import asyncio
from typing import Final

import aiohttp
from starlette.types import Receive, Scope, Send

from hutch.api.front_websocket import LEADER_GONE, passed_headers
from hutch.api.terminal_websocket import GOING_DOWN
from hutch.api.websockets import PING_EVERY_S, PING_WITHIN_S
from hutch.store.seat import Leader, Seat
from hutch_runtime.frames import FRAME_MAX_BYTES

_PAUSE_S: Final = 0.05
_FRAME_MAX: Final = 2 * FRAME_MAX_BYTES


class TerminalRelay:
    """One client's connection; little is kept on the way, so the slower side holds up the other."""

    def __init__(
        self,
        seat: Seat,
        http: aiohttp.ClientSession,
        scope: Scope,
        *,
        forwarded: bytes,
        wait_s: float,
    ) -> None:
        """``wait_s``: for a leader."""
        self._seat = seat
        self._http = http
        path = (scope.get("raw_path") or scope["path"].encode()).decode("latin-1")
        query = scope["query_string"].decode("latin-1")
        self._path = path + (f"?{query}" if query else "")
        self._headers = passed_headers(scope, forwarded)
        self._offered = tuple(scope.get("subprotocols", ()))
        self._wait_s = wait_s

    async def carry(self, receive: Receive, send: Send) -> None:
        await receive()  # its wish to connect
        code, reason = GOING_DOWN, "going_down: come back with ?terminal=ID&after=N"
        socket = await self._connected()
        if socket is None:
            await send({"type": "websocket.accept", "subprotocol": None})
        else:
            async with socket:
                await send({"type": "websocket.accept", "subprotocol": socket.protocol})
                told = await self._between(socket, receive, send)
            if told is None:
                return  # the client has gone
            if told[0] not in LEADER_GONE:
                code, reason = told
        await send({"type": "websocket.close", "code": code, "reason": reason})

    async def _connected(self) -> aiohttp.ClientWebSocketResponse | None:
        until = asyncio.get_running_loop().time() + self._wait_s
        while asyncio.get_running_loop().time() < until:
            if (leader := self._seat.leader) is not None:
                try:
                    return await self._connect(leader)
                except (aiohttp.ClientError, OSError):
                    pass  # it is not there, or does not lead
            await self._seat.changed(_PAUSE_S)
        return None

    async def _connect(self, leader: Leader) -> aiohttp.ClientWebSocketResponse:
        return await self._http.ws_connect(
            leader.url + self._path,
            headers=self._headers,
            protocols=self._offered,
            heartbeat=PING_EVERY_S + PING_WITHIN_S,
            max_msg_size=_FRAME_MAX,
        )

    async def _between(
        self, socket: aiohttp.ClientWebSocketResponse, receive: Receive, send: Send
    ) -> tuple[int, str] | None:
        """The leader's close code and reason; None if the client went first."""
        inward = asyncio.create_task(_pass_in(socket, receive))
        outward = asyncio.create_task(_pass_out(socket, send))
        try:
            await asyncio.wait({inward, outward}, return_when=asyncio.FIRST_COMPLETED)
            if outward.done() or inward.result():  # else the leader broke off: it says how
                return await outward
            return None
        finally:
            for task in (inward, outward):
                task.cancel()
            await asyncio.gather(inward, outward, return_exceptions=True)


async def _pass_in(socket: aiohttp.ClientWebSocketResponse, receive: Receive) -> bool:
    """Whether it was the leader that broke off."""
    while True:
        message = await receive()
        if message["type"] == "websocket.disconnect":
            return False
        try:
            if (data := message.get("bytes")) is not None:
                await socket.send_bytes(data)
            else:
                await socket.send_str(message.get("text") or "")
        except (aiohttp.ClientError, OSError):
            return True


async def _pass_out(socket: aiohttp.ClientWebSocketResponse, send: Send) -> tuple[int, str]:
    while True:
        message = await socket.receive()
        match message.type:
            case aiohttp.WSMsgType.BINARY:
                await send({"type": "websocket.send", "bytes": message.data})
            case aiohttp.WSMsgType.TEXT:
                await send({"type": "websocket.send", "text": message.data})
            case aiohttp.WSMsgType.CLOSE:
                return int(message.data or 1006), str(message.extra or "")
            case _:
                return 1006, ""
