"""A sandbox's connection before anything has been made of it: a socket and the head it sent."""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
from dataclasses import dataclass
from typing import Final

import h11

from hutch.gateway.refusals import Refusal
from hutch_runtime.protocol import KIB, Provider

HEAD_MAX: Final = 32 * KIB
HEAD_S: Final = 10.0  # a head comes in one packet; whoever trickles it wants to hold us up
_END: Final = b"\r\n\r\n"
# Lines that are folded or do not end in CR LF: h11 puts up with them, others read them otherwise.
_LOOSE: Final = re.compile(rb"\n[ \t]|(?<!\r)\n|\r(?!\n)")
_PARTING_S: Final = 1.0
_WRITE_S: Final = 10.0


@dataclass(slots=True)
class Visitor:
    """``head`` ends with its blank line; ``rest`` is what came behind it."""

    sock: socket.socket
    address: str
    head: bytes = b""
    rest: bytes = b""

    async def read_head(self) -> None:
        """Raises ``Refusal`` for one that is too slow (408) or too large (431), and
        ``ConnectionError`` when nobody wants anything any more.
        """
        loop, read = asyncio.get_running_loop(), bytearray()
        try:
            async with asyncio.timeout(HEAD_S):
                while True:
                    data = await loop.sock_recv(self.sock, HEAD_MAX)
                    if not data:
                        raise ConnectionResetError
                    # The blank line may lie across two reads.
                    searched = max(0, len(read) - len(_END) + 1)
                    read += data
                    end = read.find(_END, searched)
                    if (end if end >= 0 else len(read)) > HEAD_MAX:
                        raise Refusal(431, f"a request's head may have {HEAD_MAX // KIB} KB.")
                    if end >= 0:
                        break
        except TimeoutError:
            raise Refusal(408, "the request's head does not come.") from None
        self.head, self.rest = bytes(read[: end + len(_END)]), bytes(read[end + len(_END) :])

    def parsed(self) -> tuple[h11.Connection, h11.Request]:
        """The head, read strictly. Raises ``Refusal`` for whatever could be read in two ways, and
        for one that announces a body: what looks like it might be the next request.
        """
        if _LOOSE.search(self.head):
            raise Refusal(400, "the request cannot be read.")
        connection = h11.Connection(h11.SERVER, max_incomplete_event_size=HEAD_MAX + KIB)
        connection.receive_data(self.head)
        try:
            request = connection.next_event()
            if not isinstance(request, h11.Request):
                raise Refusal(400, "the request cannot be read.")
        except h11.RemoteProtocolError:
            raise Refusal(400, "the request cannot be read.") from None
        if any(name in {b"content-length", b"transfer-encoding"} for name, _ in request.headers):
            raise Refusal(400, "such a request has no body.")
        return connection, request

    async def send(self, data: bytes) -> None:
        """Raises ``OSError``, ``TimeoutError`` among it."""
        async with asyncio.timeout(_WRITE_S):
            await asyncio.get_running_loop().sock_sendall(self.sock, data)

    async def refuse(self, refusal: Refusal, provider: Provider | None = None) -> None:
        with contextlib.suppress(OSError):
            await self.send(refusal.response(provider))
            await self.part()

    async def part(self) -> None:
        """Close so that what was sent arrives: unread bytes would make the kernel reset."""
        loop = asyncio.get_running_loop()
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_WR)
            async with asyncio.timeout(_PARTING_S):
                while await loop.sock_recv(self.sock, 64 * KIB):
                    pass
        self.sock.close()
