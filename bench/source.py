"""``python -m bench.source PORT``: what the relays are measured against.

A line with a number is answered with so many bytes and the connection's end, ``GET`` with a word.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from typing import Final, cast

import uvloop

_BLOCK: Final = 1 << 20
_ANSWER: Final = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Type: text/plain\r\n\r\nok"


class _Words(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._read = b""

    def data_received(self, data: bytes) -> None:
        self._read += data
        while b"\r\n\r\n" in self._read:
            self._read = self._read.partition(b"\r\n\r\n")[2]
            self._transport.write(_ANSWER)


def _bulk(listener: socket.socket) -> None:
    """One process a connection; the file's pages are sent without a copy."""
    block = os.memfd_create("block")
    os.truncate(block, _BLOCK)
    while True:
        connection, _ = listener.accept()
        if os.fork():
            connection.close()
            continue
        left = int(connection.makefile("rb").readline())
        while left:
            left -= os.sendfile(connection.fileno(), block, 0, min(left, _BLOCK))
        connection.close()
        os._exit(0)


async def _words(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(_Words, "127.0.0.1", port)
    await server.serve_forever()


def main() -> None:
    """Bulk at PORT, words at PORT + 1."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the forked ones are not waited for
    port = int(sys.argv[1])
    if os.fork() == 0:
        with socket.create_server(("127.0.0.1", port), backlog=64) as listener:
            _bulk(listener)
    uvloop.run(_words(port + 1))


if __name__ == "__main__":
    main()
