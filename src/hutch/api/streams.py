"""Run events as server-sent events, with heartbeats; they end when the service goes down."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Final

from fastapi.responses import Response, StreamingResponse

from hutch.runs.models import LogEntry
from hutch_runtime.protocol import MIB

PAGE_MAX_CHARS: Final = 2 * MIB  # of events in one answer; one alone may have as much
HEARTBEAT_S: Final = 15.0  # proxies cut a connection that is silent for 30 to 60 s


def event_stream(
    entries: AsyncIterator[LogEntry], *, headers: dict[str, str] | None = None
) -> StreamingResponse:
    return StreamingResponse(
        _encode(entries),
        media_type="text/event-stream",
        headers={"cache-control": "no-store", "x-accel-buffering": "no", **(headers or {})},
    )


def event_page(page: tuple[list[LogEntry], bool], *, after: int) -> Response:
    """``page``: entries, and whether the log ends with them."""
    entries, ended = page
    parts: list[str] = []
    size = 0
    for entry in entries:
        part = _json(entry)
        size += len(part)
        if parts and size > PAGE_MAX_CHARS:
            ended = False
            break
        parts.append(part)
        after = entry.seq
    content = f'{{"events":[{",".join(parts)}],"next":{after},"finished":{json.dumps(ended)}}}'
    return Response(content, media_type="application/json", headers={"cache-control": "no-store"})


async def beating(entries: AsyncIterator[LogEntry]) -> AsyncGenerator[LogEntry | None]:
    """With None whenever there was nothing for so long that a heartbeat is due."""
    step: asyncio.Task[LogEntry | None] | None = None
    try:
        while True:
            step = step or asyncio.ensure_future(_next(entries))
            done, _ = await asyncio.wait({step}, timeout=HEARTBEAT_S)
            if not done:
                yield None
                continue
            entry, step = step.result(), None
            if entry is None:
                return
            yield entry
    finally:
        if step is not None:
            step.cancel()


async def _encode(entries: AsyncIterator[LogEntry]) -> AsyncIterator[bytes]:
    async with aclosing(beating(entries)) as beats:
        async for entry in beats:
            yield b": heartbeat\n\n" if entry is None else _sse(entry)


async def _next(entries: AsyncIterator[LogEntry]) -> LogEntry | None:
    return await anext(entries, None)


def _sse(entry: LogEntry) -> bytes:
    return f"id: {entry.seq}\nevent: {entry.type}\ndata: {_json(entry)}\n\n".encode()


def _json(entry: LogEntry) -> str:
    return json.dumps(entry.to_dict(), ensure_ascii=False, separators=(",", ":"))
