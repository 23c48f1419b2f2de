"""Pass requests on to the process that leads, so that a take-over is not seen by their senders.

A request whose leader died is sent to the next one when that is safe: a GET always; a new run
always, since it carries an Idempotency-Key, of ours if it had none; any other only when it was
certainly not received. A stream of events that was cut goes on after the last that was passed on.
"""

from __future__ import annotations

import asyncio
import json
import re
import secrets
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import parse_qs

import aiohttp
from starlette.types import Message, Receive, Scope, Send

from hutch.accounts.sources import CLIENT, Sources
from hutch.api.compat.dialects import error_frame, speaks_another
from hutch.api.errors import body as error_body
from hutch.api.front_terminal import TerminalRelay
from hutch.api.front_websocket import WebSocketRelay
from hutch.api.limits import STREAMED, most, too_large
from hutch.api.refusal import Refusal
from hutch.api.terminal_websocket import PATH as TERMINAL
from hutch.store.seat import Leader, Seat

# To a leader: this comes from a front, so do not pass it on. From one: it leads no more.
FORWARDED: Final = b"x-hutch-forwarded"
NOT_LEADING: Final = b"x-hutch-not-leading"
WAIT_S: Final = 10.0  # for a next leader; a take-over takes less than 5
_STREAM_WAIT_S: Final = 30.0  # whoever reads a stream is patient: runs take minutes
_CONNECT_S: Final = 1.0
_PAUSE_S: Final = 0.05
_FRAME_MAX: Final = 32 * 1024 * 1024  # bytes; an event has far less
# Of one connection, not of the message (RFC 9110, section 7.6.1).
_HOP: Final = frozenset(
    {b"connection", b"keep-alive", b"te", b"trailer", b"expect", b"transfer-encoding", b"upgrade"}
    | {b"proxy-connection", b"host", b"content-length", FORWARDED}
)
_NEW_RUNS: Final = frozenset({"/v1/runs", "/v1/chat/completions", "/v1/responses", "/v1/messages"})
_RUN: Final = re.compile(r"/v1/runs/([A-Za-z0-9_]+)/events")

_CUT: Final = Refusal(
    503,
    "unavailable",
    "The process that served this stream died; the run goes on without it.",
    "GET /v1/runs shows how it ended.",
)
Headers = list[tuple[bytes, bytes]]


@dataclass(frozen=True, slots=True)
class _Request:
    method: str
    path: str  # as it came, with the query
    headers: Headers
    body: bytes

    @property
    def repeatable(self) -> bool:
        return self.method in {"GET", "HEAD"} or self.is_new_run

    @property
    def is_new_run(self) -> bool:
        return self.method == "POST" and self.endpoint in _NEW_RUNS

    @property
    def endpoint(self) -> str:
        return self.path.partition("?")[0]

    @property
    def after(self) -> str:
        """Where a stream is to begin, by the query."""
        found = parse_qs(self.path.partition("?")[2]).get("after", ["0"])[-1]
        return found if found.isascii() and found.isdigit() else "0"

    def header(self, name: bytes) -> str:
        return next((v.decode("latin-1") for n, v in self.headers if n == name), "")


class _NotReceived(Exception):
    """The leader is not there, or leads no more: it has done nothing."""


class _Unclear(Exception):
    """The connection broke after the request was sent."""


class Front:
    def __init__(self, seat: Seat, sources: Sources, *, tls: ssl.SSLContext | None = None) -> None:
        """``tls``: how the others are known, where they speak TLS."""
        self._seat = seat
        self._sources = sources
        self._tls = tls
        self._sessions: dict[bool, aiohttp.ClientSession] = {}

    async def close(self) -> None:
        for session in self._sessions.values():
            await session.close()
        self._sessions.clear()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        peer = scope["client"][0] if scope.get("client") else None
        source = self._sources.of(peer, scope["headers"])
        scope["headers"] = [*scope["headers"], (CLIENT, self._sources.sign(source))]
        if scope["type"] == "websocket":
            kind = TerminalRelay if scope["path"] == TERMINAL else WebSocketRelay
            session = self._session(repeatable=True)
            relay = kind(self._seat, session, scope, forwarded=FORWARDED, wait_s=_STREAM_WAIT_S)
            return await relay.carry(receive, send)
        if scope["path"] in STREAMED:
            return await self._carry(scope, receive, send)
        limit = most(scope["method"], scope["path"])
        request = await _read(scope, receive, limit)
        if request is None:
            code, message = "request_too_large", too_large(limit)
            return await _refuse(send, 413, code, message, endpoint=scope["path"])
        answering = asyncio.ensure_future(self._answer(request, send))
        gone = asyncio.ensure_future(_until_disconnected(receive))
        try:
            await asyncio.wait({answering, gone}, return_when=asyncio.FIRST_COMPLETED)
            if answering.done():
                answering.result()
        finally:
            for task in (answering, gone):
                task.cancel()
            await asyncio.gather(answering, gone, return_exceptions=True)
        return None

    async def _carry(self, scope: Scope, receive: Receive, send: Send) -> None:
        """A file on its way, of which nothing is kept here: so it is asked for once."""
        until = _now() + WAIT_S
        while (leader := self._seat.leader) is None and _now() < until:
            await self._seat.changed(_PAUSE_S)
        request = _Request(scope["method"], _whole_path(scope), list(scope["headers"]), b"")
        sends = scope["method"] == "PUT"
        begun = False
        if leader is None:
            message = "No process of this service leads at the moment."
            return await _unavailable(send, scope["path"], message, "Try again.")
        try:
            session = self._session(repeatable=False)
            body = _body(receive) if sends else None
            async with _asking(session, leader, request, body) as answer:
                begun = True
                length = answer.headers.get("content-length")
                headers = _passed(answer.raw_headers)
                headers += [(b"content-length", length.encode())] if length is not None else []
                await send(_start(answer.status, headers))
                async for part in answer.content.iter_any():
                    await _send_part(send, part)
        except (_NotReceived, _Unclear, aiohttp.ClientError, OSError):
            if begun:
                return None  # the connection is closed: nobody takes it for whole
            message = "The process that had this request died, or leads no more."
            return await _unavailable(send, scope["path"], message, "Try again.")
        return await send({"type": "http.response.body", "body": b""})

    async def _answer(self, request: _Request, send: Send) -> None:
        until = _now() + WAIT_S
        while True:
            leader = self._seat.leader
            asked_at = _now()
            try:
                if leader is not None:
                    return await self._pass_on(leader, request, send)
            except _NotReceived:
                pass
            except _Unclear:
                until += _now() - asked_at  # it may have been waiting for a run's end
                if not request.repeatable:
                    return await _unavailable(
                        send,
                        request.endpoint,
                        "The process that had this request died; whether it was done is not known.",
                        "Look at what is there before you repeat it.",
                    )
            if _now() > until:
                message = "No process of this service leads at the moment."
                return await _unavailable(send, request.endpoint, message, "Try again.")
            await self._seat.changed(_PAUSE_S)

    async def _pass_on(self, leader: Leader, request: _Request, send: Send) -> None:
        async with _asking(self._session(repeatable=request.repeatable), leader, request) as answer:
            headers = _passed(answer.raw_headers)
            if answer.content_type != "text/event-stream":
                content = await _content(answer)
                await send(_start(answer.status, [*headers, _length(content)]))
                await send({"type": "http.response.body", "body": content})
                return
            await send(_start(answer.status, headers))
            found = _RUN.search(request.path)
            stream = _Events(
                run_id=found.group(1) if found else answer.headers.get("x-hutch-run", ""),
                last=request.header(b"last-event-id") or request.after,
            )
            await stream.pass_on(answer, send)
        if speaks_another(request.endpoint):  # which cannot be gone on with in the middle
            if stream.broken:
                await _send_part(send, error_frame(request.endpoint, _CUT))
            stream.finished = True
        while not stream.finished:
            if not await self._go_on(stream, request, send):
                break
        await send({"type": "http.response.body", "body": b""})

    async def _go_on(self, stream: _Events, request: _Request, send: Send) -> bool:
        """Read on at whoever leads now; false when there is nothing more to come."""
        known = (b"authorization", b"x-hutch-user", b"accept", CLIENT)
        headers = [(name, value) for name, value in request.headers if name in known]
        path = f"/v1/runs/{stream.run_id}"
        until = _now() + _STREAM_WAIT_S
        while _now() < until:
            await self._seat.changed(_PAUSE_S)
            leader = self._seat.leader
            if leader is None:
                continue
            session = self._session(repeatable=True)
            follow = _Request(
                "GET",
                f"{path}/events",
                [*headers, (b"last-event-id", stream.last.encode())],
                b"",
            )
            try:
                # Ended before it is read on: then nothing comes after what is read.
                async with _asking(session, leader, _Request("GET", path, headers, b"")) as answer:
                    if answer.status != 200:
                        return False
                    ended = json.loads(await _content(answer)).get("finished_at") is not None
                async with _asking(session, leader, follow) as answer:
                    if answer.status != 200:
                        return False
                    await stream.pass_on(answer, send)
                return not ended
            except (_NotReceived, _Unclear):
                continue
        return False

    def _session(self, *, repeatable: bool) -> aiohttp.ClientSession:
        """A kept connection may be closed by the other side at the moment of sending, and then one
        does not know whether it was received: others than repeatable requests get fresh ones.
        """
        if repeatable not in self._sessions:
            session = self._sessions[repeatable] = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(
                    limit=0, force_close=not repeatable, ssl=self._tls or True
                ),
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_S),
                auto_decompress=False,
                trust_env=False,
            )
            # Else it repeats a PUT or a DELETE by itself, of which one does not know what it did.
            session._retry_connection = False  # noqa: SLF001  it has no public name; a test holds it
        return self._sessions[repeatable]


class _Events:
    """A run's stream of events: which was the last to be passed on."""

    def __init__(self, *, run_id: str, last: str) -> None:
        self.run_id = run_id
        self.last = last
        self.finished = False
        self.broken = False

    async def pass_on(self, answer: aiohttp.ClientResponse, send: Send) -> None:
        """Whole events only, until the stream ends in whatever way."""
        pending = b""
        try:
            async for chunk in answer.content.iter_any():
                pending += chunk
                *frames, pending = pending.split(b"\n\n")
                for frame in frames:
                    self._note(frame)
                if frames:
                    await _send_part(send, b"".join(frame + b"\n\n" for frame in frames))
                if len(pending) > _FRAME_MAX:
                    return
        except (aiohttp.ClientError, OSError):
            self.broken = True

    def _note(self, frame: bytes) -> None:
        for line in frame.split(b"\n"):
            name, _, value = line.partition(b": ")
            if name == b"id" and value.isdigit():
                self.last = value.decode()
            elif name == b"event" and value == b"run.finished":
                self.finished = True


class _asking:  # noqa: N801  used as a function
    """One request to a leader. Raises ``_NotReceived`` or ``_Unclear`` on entering."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        leader: Leader,
        request: _Request,
        body: AsyncIterator[bytes] | None = None,
    ) -> None:
        """``body``: what is sent as it comes, once the leader takes it."""
        headers = _for_the_leader(request)
        if body is not None and (length := request.header(b"content-length")):
            headers.append(("content-length", length))
        self._asked = session.request(
            request.method,
            leader.url + request.path,
            headers=headers,
            data=body or request.body or None,
            expect100=body is not None,
            allow_redirects=False,
        )

    async def __aenter__(self) -> aiohttp.ClientResponse:
        try:
            answer = await self._asked.__aenter__()
        except aiohttp.ClientConnectorError as error:
            raise _NotReceived from error
        except (aiohttp.ClientError, OSError) as error:  # TimeoutError is an OSError
            raise _Unclear from error
        mark = answer.headers.get(NOT_LEADING.decode(), "")
        if mark:
            answer.close()
            raise _NotReceived if mark == "refused" else _Unclear
        return answer

    async def __aexit__(self, *_: object) -> None:
        await self._asked.__aexit__(None, None, None)


async def _content(answer: aiohttp.ClientResponse) -> bytes:
    try:
        return await answer.read()
    except (aiohttp.ClientError, OSError) as error:
        raise _Unclear from error


def _for_the_leader(request: _Request) -> list[tuple[str, str]]:
    headers = [(n.decode("latin-1"), v.decode("latin-1")) for n, v in _passed(request.headers)]
    headers.append((FORWARDED.decode(), "1"))
    return headers


def _passed(headers: Any) -> Headers:
    return [(name.lower(), value) for name, value in headers if name.lower() not in _HOP]


def _length(content: bytes) -> tuple[bytes, bytes]:
    return (b"content-length", str(len(content)).encode())


def _start(status: int, headers: Headers) -> Message:
    return {"type": "http.response.start", "status": status, "headers": headers}


async def _send_part(send: Send, part: bytes) -> None:
    await send({"type": "http.response.body", "body": part, "more_body": True})


async def _unavailable(send: Send, endpoint: str, message: str, hint: str) -> None:
    retry = [(b"retry-after", b"1")]
    await _refuse(send, 503, "unavailable", message, hint=hint, headers=retry, endpoint=endpoint)


async def refuse_as_not_leading(send: Send) -> None:
    """To a front that has old news."""
    message = "This process does not lead."
    await _refuse(send, 503, "unavailable", message, headers=[(NOT_LEADING, b"refused")])


async def _refuse(
    send: Send,
    status: int,
    code: str,
    message: str,
    *,
    hint: str = "",
    headers: Headers | None = None,
    endpoint: str = "",
) -> None:
    content = json.dumps(error_body(code, message, hint, status=status, path=endpoint)).encode()
    kind = (b"content-type", b"application/json")
    await send(_start(status, [kind, _length(content), *(headers or [])]))
    await send({"type": "http.response.body", "body": content})


async def _read(scope: Scope, receive: Receive, limit: int) -> _Request | None:
    """The whole request, to be sent twice if need be; None when it is too large."""
    parts: list[bytes] = []
    size = 0
    async for part in _parts(receive):
        size += len(part)
        if size > limit:
            return None
        parts.append(part)
    request = _Request(
        scope["method"],
        _whole_path(scope),
        list(scope["headers"]),
        b"".join(parts),
    )
    if request.is_new_run and not request.header(b"idempotency-key"):
        request.headers.append((b"idempotency-key", f"front-{secrets.token_hex(16)}".encode()))
    return request


def _whole_path(scope: Scope) -> str:
    path: str = (scope.get("raw_path") or scope["path"].encode()).decode("latin-1")
    query = scope["query_string"].decode("latin-1")
    return path + (f"?{query}" if query else "")


async def _body(receive: Receive) -> AsyncIterator[bytes]:
    """Raises ``ConnectionError`` where it breaks off, so that it does not pass for whole."""
    while True:
        message = await receive()
        if message["type"] != "http.request":
            raise ConnectionError
        if part := message.get("body", b""):
            yield part
        if not message.get("more_body"):
            return


async def _parts(receive: Receive) -> AsyncIterator[bytes]:
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return
        yield message.get("body", b"")
        if not message.get("more_body"):
            return


async def _until_disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _now() -> float:
    return asyncio.get_running_loop().time()
