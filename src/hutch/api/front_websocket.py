"""A WebSocket that is passed on to the process that leads; a take-over is not seen by its client.

When a leader goes, the events are read on at the next one, after the last that was passed on. A
ticket, which is used up by then, cannot do that: its client is told to come back with another.
"""

from __future__ import annotations

import asyncio
import re
from typing import Final
from urllib.parse import parse_qsl, urlencode

import aiohttp
from starlette.types import Receive, Scope, Send

from hutch.accounts.sources import CLIENT
from hutch.api.websockets import ENDED, GOING_DOWN, PING_EVERY_S, PING_WITHIN_S
from hutch.store.seat import Leader, Seat
from hutch_runtime.protocol import EVENT_MAX_BYTES

_PASSED: Final = (b"authorization", b"x-hutch-user", b"user-agent", CLIENT)
# Of an event, which is ours and begins like this.
_EVENT: Final = re.compile(r'\{"run_id":"[^"]*","seq":([0-9]+),"time":[^,]*,"type":"([^"]*)"')
LEADER_GONE: Final = frozenset({1001, 1006, 1012})
_PAUSE_S: Final = 0.05
_FRAME_MAX: Final = 2 * EVENT_MAX_BYTES


def passed_headers(scope: Scope, forwarded: bytes) -> list[tuple[str, str]]:
    """What the leader is to know of a client; ``forwarded`` says that a front has sent it."""
    headers = [
        (name.decode("latin-1"), value.decode("latin-1"))
        for name, value in scope["headers"]
        if name in _PASSED
    ]
    return [*headers, (forwarded.decode(), "1")]


class WebSocketRelay:
    """One client's connection, over as many leaders as it takes."""

    def __init__(
        self,
        seat: Seat,
        http: aiohttp.ClientSession,
        scope: Scope,
        *,
        forwarded: bytes,
        wait_s: float,
    ) -> None:
        """``wait_s``: for a next leader."""
        self._seat = seat
        self._http = http
        self._path = (scope.get("raw_path") or scope["path"].encode()).decode("latin-1")
        self._query = dict(parse_qsl(scope["query_string"].decode("latin-1")))
        self._headers = passed_headers(scope, forwarded)
        self._by_key = any(name == "authorization" for name, _ in self._headers)
        self._offered = tuple(scope.get("subprotocols", ()))
        self._wait_s = wait_s
        self._accepted = False
        self._finished = False

    async def carry(self, receive: Receive, send: Send) -> None:
        await receive()  # its wish to connect
        gone = asyncio.create_task(_until_gone(receive))
        relaying = asyncio.create_task(self._relay(send))
        try:
            await asyncio.wait({gone, relaying}, return_when=asyncio.FIRST_COMPLETED)
            if not gone.done():
                code, reason = relaying.result()
                await self._accept(send, None)
                await send({"type": "websocket.close", "code": code, "reason": reason})
        finally:
            for task in (gone, relaying):
                task.cancel()
            await asyncio.gather(gone, relaying, return_exceptions=True)

    async def _relay(self, send: Send) -> tuple[int, str]:
        """The code and reason to close with."""
        until = _now() + self._wait_s
        while _now() < until:
            leader = self._seat.leader
            if leader is not None:
                try:
                    code, reason = await self._follow(leader, send)
                except (aiohttp.ClientError, OSError):  # TimeoutError is an OSError
                    code, reason = 0, ""  # it is not there, or does not lead
                if code and code not in LEADER_GONE:
                    return code, reason
                if self._finished:
                    return ENDED, "run.finished"
                if code and not self._by_key:
                    break
                if code:
                    until = _now() + self._wait_s
            await self._seat.changed(_PAUSE_S)
        return GOING_DOWN, "going_down: come back with ?after=N"

    async def _follow(self, leader: Leader, send: Send) -> tuple[int, str]:
        url = leader.url + self._path
        if self._query:
            url += "?" + urlencode(self._query)
        async with self._http.ws_connect(
            url,
            headers=self._headers,
            protocols=self._offered,
            heartbeat=PING_EVERY_S + PING_WITHIN_S,
            max_msg_size=_FRAME_MAX,
        ) as socket:
            await self._accept(send, socket.protocol)
            while True:
                message = await socket.receive()
                if message.type is aiohttp.WSMsgType.TEXT:
                    self._note(message.data)
                    await send({"type": "websocket.send", "text": message.data})
                elif message.type is aiohttp.WSMsgType.CLOSE:
                    return int(message.data or 1006), str(message.extra or "")
                else:
                    return 1006, ""

    def _note(self, text: str) -> None:
        found = _EVENT.match(text)
        if found is not None:
            self._query["after"] = found[1]
            self._finished = found[2] == "run.finished"

    async def _accept(self, send: Send, protocol: str | None) -> None:
        if not self._accepted:
            self._accepted = True
            await send({"type": "websocket.accept", "subprotocol": protocol})


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "websocket.disconnect":
        pass


def _now() -> float:
    return asyncio.get_running_loop().time()
