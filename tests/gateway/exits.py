"""Exits, by what is wrong with them. Each notes the heads that it was sent."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from hutch.gateway.table import ExitProxy
from hutch.secrets import Secret

PASSWORD = "the-exits-password"

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@dataclass
class Exit:
    proxy: ExitProxy
    heads: list[bytes] = field(default_factory=list)


async def _answer(streams: Streams, answer: bytes) -> None:
    streams[1].write(answer)
    await streams[1].drain()


async def that_works(streams: Streams, head: bytes) -> None:
    host, _, port = head.split()[1].decode().rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))

    async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await source.read(65536):
                sink.write(data)
                await sink.drain()
            sink.write_eof()

    try:
        await _answer(streams, b"HTTP/1.1 200 Go\r\nX-Any: thing\r\n\r\n")
        await asyncio.gather(pump(streams[0], writer), pump(reader, streams[1]))
    finally:
        writer.close()


async def that_wants_another_password(streams: Streams, _: bytes) -> None:
    await _answer(
        streams, b'HTTP/1.1 407 No\r\nProxy-Authenticate: Basic realm="x"\r\n'
        b"Content-Length: 0\r\n\r\n",
    )  # fmt: skip


async def that_cannot_connect(streams: Streams, _: bytes) -> None:
    await _answer(streams, b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 3\r\n\r\nno!")


async def that_redirects(streams: Streams, _: bytes) -> None:
    await _answer(streams, b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1/\r\n\r\n")


async def that_talks_garbage(streams: Streams, _: bytes) -> None:
    await _answer(streams, b"\x15\x03\x01\x00\x02\x02\x28 " + PASSWORD.encode() + b"\r\n\r\n")


async def that_never_ends_its_head(streams: Streams, _: bytes) -> None:
    with contextlib.suppress(OSError):
        await _answer(streams, b"HTTP/1.1 200 OK\r\n")
        for number in range(100_000):
            await _answer(streams, b"X-%d: %s\r\n" % (number, b"y" * 100))


async def that_hangs_up(_: Streams, __: bytes) -> None:
    return


async def that_says_nothing(_: Streams, __: bytes) -> None:
    await asyncio.sleep(3600)


async def that_answers_for_the_destination(streams: Streams, _: bytes) -> None:
    """As an HTTP proxy would that was not asked to CONNECT; bytes that nobody has asked for."""
    await _answer(
        streams, b"HTTP/1.1 200 OK\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nfaked"
    )


BROKEN = (
    that_wants_another_password,
    that_cannot_connect,
    that_redirects,
    that_talks_garbage,
    that_never_ends_its_head,
    that_hangs_up,
    that_says_nothing,
)


@asynccontextmanager
async def an_exit(
    behaves: Callable[[Streams, bytes], Awaitable[None]], name: str = "ext_1"
) -> AsyncIterator[Exit]:
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            one.heads.append(head)
            await behaves((reader, writer), head)
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            tasks.discard(task)
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    one = Exit(ExitProxy(name, "127.0.0.1", port, "a-user", Secret(PASSWORD)))
    try:
        yield one
    finally:
        server.close()
        for task in list(tasks):
            task.cancel()
        await asyncio.sleep(0.02)  # for the transports to close
