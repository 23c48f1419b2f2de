"""A service whose answers break off, over real sockets: what networks do to a client."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

Reply: TypeAlias = tuple[int, dict[str, str], bytes]

RUN: Final[dict[str, Any]] = {
    "id": "run_1",
    "user_id": "user_1",
    "session_id": "ses_1",
    "provider": "codex",
    "model": None,
    "state": "succeeded",
    "stop_reason": "end_turn",
    "error": None,
    "text": "the end",
    "usage": None,
    "timings": {},
    "provider_session": None,
    "cli_version": None,
    "exit": None,
    "created_at": "2026-01-01T00:00:00.000+00:00",
    "started_at": None,
    "finished_at": None,
    "a_field_of_tomorrow": 1,
}


def log(run_id: str, count: int) -> list[dict[str, Any]]:
    """With separators of lines that are none of JSON's inside."""
    head: dict[str, Any] = {"run_id": run_id, "time": 1.0}
    events = [
        {**head, "seq": seq, "type": "text.delta", "text": f"{seq}\u2028\x85"}
        for seq in range(1, count)
    ]
    ending: dict[str, Any] = {
        "stop_reason": "end_turn",
        "error": None,
        "text": "the end",
        "timings": {},
    }
    return [*events, {**head, "seq": count, "type": "run.finished", **ending}]


@dataclass(frozen=True, slots=True)
class Asked:
    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: Any


@dataclass
class FaultyService:
    """Breaks as ``random`` says, ``faults`` times; then it behaves. Every run has the same log."""

    random: random.Random
    faults: int
    length: int = 40
    asked: list[Asked] = field(default_factory=list)
    runs: dict[str, str] = field(default_factory=dict)  # by Idempotency-Key
    replies: dict[str, list[Reply | Callable[[], Reply]]] = field(default_factory=dict)
    url: str = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            await self._answer(await _read(reader), writer)
        with contextlib.suppress(ConnectionError):
            writer.close()
            await writer.wait_closed()

    async def _answer(self, asked: Asked, writer: asyncio.StreamWriter) -> None:
        self.asked.append(asked)
        scripted = self.replies.get(f"{asked.method} {asked.path}")
        if scripted:
            reply = scripted.pop(0)
            await _send(writer, *(reply() if callable(reply) else reply))
            return
        fault = self._fault()
        match fault:
            case "reset before":
                _reset(writer)
                return
            case "502":
                await _send(writer, 502, {"content-type": "text/html"}, b"<h1>Bad Gateway</h1>")
                return
            case "503":
                error = {"error": {"code": "unavailable", "message": "going down", "hint": ""}}
                await _send(writer, 503, {}, json.dumps(error).encode())
                return
        if asked.method == "POST" and asked.path == "/v1/runs":
            key = asked.headers["idempotency-key"]
            run_id = self.runs.setdefault(key, f"run_{len(self.runs) + 1}")
            if asked.body.get("stream"):
                await self._stream(writer, run_id, 0, fault)
                return
        else:
            run_id = asked.path.split("/")[3]
        if asked.headers.get("accept") == "application/json" and not fault:
            events = log(run_id, self.length)[int(asked.query["after"]) :]
            page = {"events": events, "next": self.length, "finished": True}
            await _send(writer, 200, {}, json.dumps(page).encode())
        elif asked.path.endswith("/events") and "json" not in asked.headers["accept"]:
            await self._stream(writer, run_id, int(asked.query.get("after", 0)), fault)
        elif fault:
            _reset(writer)
        else:
            await _send(writer, 200, {}, json.dumps({**RUN, "id": run_id}).encode())

    def _fault(self) -> str:
        if not self.faults:
            return ""
        self.faults -= 1
        kinds = ("reset before", "502", "503", "cut", "reset", "end", "gap", "again")
        return self.random.choice(kinds)

    async def _stream(
        self, writer: asyncio.StreamWriter, run_id: str, after: int, fault: str
    ) -> None:
        events = log(run_id, self.length)[after:]
        if fault == "again":  # as of a proxy that plays back what it has
            events = log(run_id, self.length)[max(0, after - 3) :]
        head = (
            b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n"
        )
        writer.write(head + f"x-hutch-run: {run_id}\r\nx-hutch-session: ses_1\r\n\r\n".encode())
        stop = self.random.randrange(len(events)) if fault and events else len(events)
        for number, event in enumerate(events):
            data = json.dumps(event, ensure_ascii=False)
            text = (
                f": beat\n\nid: {event['seq']}\nevent: {event['type']}\ndata: {data}\n\n".encode()
            )
            if number == stop:
                if fault == "gap":
                    continue
                if fault == "end":
                    break
                if fault in {"cut", "reset"}:
                    _chunk(writer, text[: self.random.randrange(1, len(text))])
                    await writer.drain()
                    if fault == "reset":
                        _reset(writer)
                    return
            middle = self.random.randrange(1, len(text))
            _chunk(writer, text[:middle])
            _chunk(writer, text[middle:])
        writer.write(b"0\r\n\r\n")
        await writer.drain()


async def _read(reader: asyncio.StreamReader) -> Asked:
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    first, *lines = head.strip().split("\r\n")
    method, target, _ = first.split(" ")
    path, _, query = target.partition("?")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    body = await reader.readexactly(int(headers.get("content-length", 0)))
    pairs = dict(pair.split("=", 1) for pair in query.split("&") if pair)
    return Asked(method, path, pairs, headers, json.loads(body) if body else None)


async def _send(
    writer: asyncio.StreamWriter, status: int, headers: dict[str, str], body: bytes
) -> None:
    told = {"connection": "close", "content-length": str(len(body)), **headers}
    lines = "".join(f"{name}: {value}\r\n" for name, value in told.items())
    writer.write(f"HTTP/1.1 {status} X\r\n{lines}\r\n".encode() + body)
    await writer.drain()


def _chunk(writer: asyncio.StreamWriter, data: bytes) -> None:
    writer.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")


def _reset(writer: asyncio.StreamWriter) -> None:
    """RST instead of FIN."""
    writer.get_extra_info("socket").setsockopt(
        socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
    )
    writer.transport.abort()


@contextlib.contextmanager
def serving(service: FaultyService) -> Iterator[FaultyService]:
    """In a thread of its own, since half of its clients block."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()

    def here(coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, loop).result(10)

    server = here(asyncio.start_server(service.serve, "127.0.0.1", 0))
    service.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"

    async def end() -> None:
        server.close()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    try:
        yield service
    finally:
        here(end())
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()
