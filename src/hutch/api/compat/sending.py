"""Answers that are made of a run's events. A client that goes away wants no more: its run ends."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Final, Protocol

from fastapi import Request
from fastapi.responses import Response
from starlette.types import Receive, Scope, Send

from hutch.api.compat.reading import End, Piece, Reader
from hutch.api.refusal import Refusal
from hutch.api.streams import beating
from hutch.app import Hutch
from hutch.errors import Unavailable
from hutch.runs.models import LogEntry, Run

_GONE: Final = 499  # nobody reads it


@dataclass(frozen=True, slots=True)
class Frame:
    """One server-sent event."""

    data: dict[str, Any] | str
    event: str | None = None

    def encode(self) -> bytes:
        data = self.data
        if not isinstance(data, str):
            data = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
        name = f"event: {self.event}\n" if self.event else ""
        return f"{name}data: {data}\n\n".encode()


class Translation(Protocol):
    """Of one run into one protocol's stream. ``reader`` has taken what ``take`` is given."""

    reader: Reader

    def begin(self) -> Iterator[Frame]: ...

    def take(self, piece: Piece) -> Iterator[Frame]:
        """Not of an end with a failure."""
        ...

    def fail(self, refusal: Refusal) -> Iterator[Frame]: ...


def headers_of(run: Run) -> dict[str, str]:
    return {"x-hutch-run": run.id, "x-hutch-session": run.session_id}


async def read_to_end(
    request: Request, hutch: Hutch, run: Run, *, outlives: bool
) -> Reader | Response:
    """What the run said, once it has ended; an answer for nobody when the client has gone."""
    reading = asyncio.create_task(_read(hutch, run))
    gone = asyncio.create_task(_until_gone(request.receive))
    try:
        await asyncio.wait({reading, gone}, return_when=asyncio.FIRST_COMPLETED)
        if reading.done():
            return reading.result()
        if not outlives:
            await hutch.runs.cancel(run.user_id, run.id)
        return Response(status_code=_GONE)
    finally:
        for task in (reading, gone):
            task.cancel()
        await asyncio.gather(reading, gone, return_exceptions=True)


class TranslatedStream(Response):
    def __init__(
        self,
        hutch: Hutch,
        run: Run,
        entries: AsyncIterator[LogEntry],
        translation: Translation,
        *,
        outlives: bool,
    ) -> None:
        headers = {"cache-control": "no-store", "x-accel-buffering": "no", **headers_of(run)}
        super().__init__(media_type="text/event-stream", headers=headers)
        del self.headers["content-length"]  # of the empty answer that it would be
        self._hutch = hutch
        self._run = run
        self._entries = entries
        self._translation = translation
        self._outlives = outlives

    async def __call__(self, _scope: Scope, receive: Receive, send: Send) -> None:
        sending = asyncio.create_task(self._send(send))
        gone = asyncio.create_task(_until_gone(receive))
        try:
            await asyncio.wait({sending, gone}, return_when=asyncio.FIRST_COMPLETED)
            if sending.done():
                sending.result()
            elif not self._outlives:
                await self._hutch.runs.cancel(self._run.user_id, self._run.id)
        finally:
            for task in (sending, gone):
                task.cancel()
            await asyncio.gather(sending, gone, return_exceptions=True)

    async def _send(self, send: Send) -> None:
        start = {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
        await send(start)
        async for part in self._parts():
            await send({"type": "http.response.body", "body": part, "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    async def _parts(self) -> AsyncIterator[bytes]:
        yield _encoded(self._translation.begin())
        async with aclosing(beating(self._entries)) as beats:
            async for entry in beats:
                if entry is None:
                    yield b": heartbeat\n\n"
                elif part := _encoded(frames_of(self._translation, entry)):
                    yield part
        if self._translation.reader.end is None:
            yield _encoded(self._translation.fail(going_down()))


def frames_of(translation: Translation, entry: LogEntry) -> Iterator[Frame]:
    for piece in translation.reader.take(entry):
        if isinstance(piece, End) and piece.failure is not None:
            yield from translation.fail(piece.failure)
        else:
            yield from translation.take(piece)


def going_down() -> Refusal:
    return Refusal(
        503,
        "unavailable",
        "The service is going down; the run goes on without it.",
        headers={"x-should-retry": "false"},
    )


async def _read(hutch: Hutch, run: Run) -> Reader:
    reader = Reader.of(run)
    async for entry in await hutch.runs.events(run.user_id, run.id):
        for _ in reader.take(entry):
            pass
    if reader.end is None:
        raise Unavailable(
            "The service is going down; the run goes on without it.",
            hint=f"GET /v1/runs/{run.id} in a moment.",
        )
    return reader


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _encoded(frames: Iterator[Frame]) -> bytes:
    return b"".join(frame.encode() for frame in frames)
