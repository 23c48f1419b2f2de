"""A stand-in for the engine's socket that passes everything on, and knows what was asked."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

ENGINE = "/var/run/docker.sock"
_LINE = re.compile(rb"^([A-Z]+) (\S+) HTTP/1\.1\r$", re.MULTILINE)


class Recorder:
    def __init__(self) -> None:
        self.asked: list[tuple[str, str]] = []

    def changes(self) -> list[tuple[str, str]]:
        """Whatever was more than a look."""
        return [one for one in self.asked if one[0] != "GET"]

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        engine_reader, engine_writer = await asyncio.open_unix_connection(ENGINE)
        back = asyncio.create_task(_copy(engine_reader, writer))
        try:
            while data := await reader.read(1 << 16):
                self.asked += [(m.decode(), t.decode()) for m, t in _LINE.findall(data)]
                engine_writer.write(data)
                await engine_writer.drain()
        except ConnectionError:
            pass
        finally:
            back.cancel()
            engine_writer.close()
            writer.close()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(1 << 16):
        writer.write(data)
        await writer.drain()


@asynccontextmanager
async def recording(path: Path) -> AsyncIterator[Recorder]:
    recorder = Recorder()
    server = await asyncio.start_unix_server(recorder._relay, path)
    try:
        yield recorder
    finally:
        server.close()
