"""Who comes in: strangers are closed on unread, heads have a deadline, each kind its server."""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import Callable, Sized
from typing import Final, cast

from hutch.gateway.gate import Gate, Peer
from hutch.gateway.refusals import Refusal
from hutch.gateway.tunnel import serve_tunnel
from hutch.gateway.upgrade import serve_upgrade
from hutch.gateway.visitor import Visitor
from hutch_runtime.protocol import KIB

_BREATH_S: Final = 0.1  # when the machine has no more file descriptors
# Sent before the answer to an earlier one: no CLI does that, and each takes memory.
_AHEAD_MAX: Final = 8
_AHEAD_BYTES: Final = 512 * KIB  # more than one read has
# Looked for, not parsed: what this misses, the HTTP server sees, and refuses.
_UPGRADE: Final = re.compile(rb"\n[Uu][Pp][Gg][Rr][Aa][Dd][Ee]:")

HttpFactory = Callable[[], asyncio.BaseProtocol]


class Door:
    """Accepts on ``listener``; ``http`` makes the protocol for ordinary requests."""

    def __init__(self, gate: Gate, listener: socket.socket, http: HttpFactory) -> None:
        self._gate = gate
        self._listener = listener
        self._http = http
        self._tasks: set[asyncio.Task[None]] = set()
        self._accepting: asyncio.Task[None] | None = None

    def open(self, backlog: int) -> None:
        self._listener.listen(backlog)
        self._accepting = asyncio.get_running_loop().create_task(self._accept())

    async def close(self) -> None:
        """No newcomers, and no more tunnels. The HTTP server ends its own connections."""
        if self._accepting is not None:
            self._accepting.cancel()
            await asyncio.gather(self._accepting, return_exceptions=True)
        self._listener.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                sock, peer = await loop.sock_accept(self._listener)
            except OSError:  # the connection is gone again, or we are out of descriptors
                await asyncio.sleep(_BREATH_S)
                continue
            if not self._admits(peer[0]):
                sock.close()
                continue
            task = loop.create_task(self._serve(Visitor(sock, peer[0]), peer))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def _admits(self, address: str) -> bool:
        # Before the first table nobody is known, and everybody may be.
        if self._gate.synced.is_set() and not self._gate.table.knows(address):
            self._gate.traffic.turned_away("unknown")
            return False
        if not self._gate.seats.take(address):
            self._gate.traffic.turned_away("too_many")
            return False
        self._gate.traffic.connections.set(self._gate.seats.connections)
        return True

    async def _serve(self, visitor: Visitor, peer: Peer) -> None:
        handed_over = False
        try:
            visitor.sock.setblocking(False)
            visitor.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            await self._gate.seats.arrived(peer[0])
            await visitor.read_head()
            if visitor.head.startswith(b"CONNECT "):
                await serve_tunnel(self._gate, visitor)
            elif _UPGRADE.search(visitor.head):
                await serve_upgrade(self._gate, visitor)
            else:
                handed_over = await self._hand_over(visitor, peer)
        except Refusal as refusal:
            self._gate.traffic.turned_away("slow" if refusal.status == 408 else "too_large")
            if await self._gate.ready() and self._gate.table.knows(visitor.address):
                await visitor.refuse(refusal)
        except OSError:
            pass  # the sandbox has gone away
        finally:
            if not handed_over:
                visitor.sock.close()
                self._left(peer)

    async def _hand_over(self, visitor: Visitor, peer: Peer) -> bool:
        protocol = _Resumed(
            cast("asyncio.Protocol", self._http()),
            visitor.head + visitor.rest,
            lambda: self._left(peer),
        )
        await asyncio.get_running_loop().connect_accepted_socket(
            lambda: protocol, sock=visitor.sock
        )
        return True

    def _left(self, peer: Peer) -> None:
        self._gate.left(peer)
        self._gate.seats.leave(peer[0])
        self._gate.traffic.connections.set(self._gate.seats.connections)


class _Resumed(asyncio.Protocol):
    """Another protocol, from the first byte on, though some were read before; tells its end."""

    def __init__(self, inner: asyncio.Protocol, read: bytes, lost: Callable[[], None]) -> None:
        self._inner, self._read, self._lost = inner, read, lost
        # aiohttp has no word for it, and would keep a thousand, with their heads.
        self._waiting: Sized = inner._messages  # type: ignore[attr-defined]  # noqa: SLF001
        self._ahead = 0  # bytes that came while requests waited
        self._transport: asyncio.Transport | None = None
        self.eof_received = inner.eof_received  # type: ignore[method-assign]
        self.pause_writing = inner.pause_writing  # type: ignore[method-assign]
        self.resume_writing = inner.resume_writing  # type: ignore[method-assign]

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._inner.connection_made(transport)
        self.data_received(self._read)
        self._read = b""

    def data_received(self, data: bytes) -> None:
        # Asked before: a request that comes whole waits for a moment too, once it was read.
        ahead = bool(self._waiting)
        self._inner.data_received(data)
        self._ahead = self._ahead + len(data) if ahead else 0
        too_much = len(self._waiting) > _AHEAD_MAX or self._ahead > _AHEAD_BYTES
        if too_much and self._transport is not None:
            self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._lost()
        self._inner.connection_lost(exc)
