"""The endpoints of terminals. ``attach`` is one request for as long as a client is there: frames
come in its body and go out in its answer (docs/decisions/0033).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from collections.abc import Awaitable, Callable
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from hutch_runtime.frames import (
    DATA,
    FrameError,
    FrameReader,
    control,
    count_of,
    frame,
    read_control,
    size_of,
)
from hutch_runtime.protocol import KIB
from hutch_runtime.runs import Refused
from hutch_runtime.terminals.service import Terminals
from hutch_runtime.terminals.terminal import Attachment, Terminal

Endpoint = Callable[[Request], Awaitable[Response]]

BODY_MAX: Final = 256 * KIB
ARGUMENTS_MAX: Final = 256
ARGUMENTS_MAX_BYTES: Final = 64 * KIB
HEARTBEAT_S: Final = 15.0
_ID: Final = re.compile(r"[A-Za-z0-9_]{1,64}")
_SECONDS_MAX: Final = 30 * 24 * 3600.0


class TerminalRoutes:
    def __init__(self, terminals: Terminals) -> None:
        self._terminals = terminals

    def all(self) -> list[tuple[str, str, Endpoint]]:
        """Path, method and endpoint of each but the attachment."""
        return [
            ("/terminals", "POST", self._open),
            ("/terminals", "GET", self._list),
            ("/terminals/{terminal_id}", "DELETE", self._end),
        ]

    async def _open(self, http: Request) -> Response:
        given = await _body(http)
        tty, size = given.get("tty"), size_of(given.get("rows"), given.get("columns"))
        terminal_id, term = given.get("terminal_id"), given.get("term")
        if not isinstance(terminal_id, str) or not _ID.fullmatch(terminal_id):
            raise Refused("bad_request", "terminal_id is malformed.")
        if size is None or not isinstance(tty, bool) or not isinstance(term, str):
            raise Refused("bad_request", "tty, term, rows or columns are malformed.")
        await self._terminals.open(
            terminal_id,
            argv=_arguments(given.get("command")),
            tty=tty,
            rows=size[0],
            columns=size[1],
            term=term,
            idle_s=_seconds(given, "idle_s"),
            detached_s=_seconds(given, "detached_s"),
        )
        return JSONResponse({})

    async def _list(self, _http: Request) -> Response:
        return JSONResponse({"terminals": self._terminals.report()})

    async def _end(self, http: Request) -> Response:
        await self._terminals.end(http.path_params["terminal_id"], "It was ended.")
        return JSONResponse({})


class Attach:
    """``POST /terminals/{terminal_id}/attach?after=N``; an ASGI application, since no framework
    reads and writes at once.
    """

    def __init__(self, terminals: Terminals, refusal: Callable[[Refused], Response]) -> None:
        self._terminals = terminals
        self._refusal = refusal

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        http = Request(scope)
        try:
            terminal = self._terminals.get(scope["path_params"]["terminal_id"])
            after = _position(http.query_params.get("after", "0"))
        except Refused as refused:
            await self._refusal(refused)(scope, receive, send)
            return
        attachment = terminal.attach(after)
        headers = [(b"content-type", b"application/octet-stream"), (b"cache-control", b"no-store")]
        listening = asyncio.create_task(_listen(terminal, attachment, receive))
        telling = asyncio.create_task(_tell(terminal, attachment, send))
        try:
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await asyncio.wait({listening, telling}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            terminal.detach(attachment)
            for task in (listening, telling):
                task.cancel()
            await asyncio.gather(listening, telling, return_exceptions=True)
        await send({"type": "http.response.body", "body": b""})


async def _tell(terminal: Terminal, attachment: Attachment, send: Send) -> None:
    async def say(data: bytes) -> None:
        await send({"type": "http.response.body", "body": data, "more_body": True})

    written = terminal.written
    await say(
        control(
            "ready",
            offset=attachment.position,
            lost=attachment.lost,
            input=terminal.received,
            written=written,
        )
    )
    while True:
        # What is looked at here and what is waited for in ``output`` lie in one step of the loop.
        if attachment.replaced:
            return await say(control("replaced"))
        if terminal.written > written:
            written = terminal.written
            await say(control("written", input=written))
        elif attachment.warning_s is not None:
            ends_in_s, attachment.warning_s = attachment.warning_s, None
            await say(control("warning", ends_in_s=ends_in_s))
        elif data := await _next(terminal, attachment, say):
            await say(frame(DATA, data))
        elif (end := terminal.end_of_it) is not None and attachment.position == terminal.offset:
            return await say(control("exit", code=end.code, reason=end.reason))


async def _next(
    terminal: Terminal, attachment: Attachment, say: Callable[[bytes], Awaitable[None]]
) -> bytes:
    try:
        async with asyncio.timeout(HEARTBEAT_S):
            return await terminal.output(attachment)
    except TimeoutError:
        await say(control("alive"))
        return b""


async def _listen(terminal: Terminal, attachment: Attachment, receive: Receive) -> None:
    """Until the other side has gone."""
    reader = FrameReader()
    while True:
        message = await receive()
        if message["type"] != "http.request" or attachment.replaced:
            return
        with contextlib.suppress(FrameError):
            for kind, payload in reader.feed(message.get("body", b"")):
                if kind == DATA:
                    await terminal.enter(payload)
                else:
                    _obey(terminal, attachment, read_control(payload))
            if message.get("more_body"):
                continue
        return


def _obey(terminal: Terminal, attachment: Attachment, said: dict[str, Any]) -> None:
    match said["type"]:
        case "resize":
            size = size_of(said.get("rows"), said.get("columns"))
            if size is not None:
                terminal.resize(*size)
        case "seen":
            offset = count_of(said.get("offset"))
            if offset is not None:
                terminal.saw(attachment, offset)
        case "eof":
            terminal.end_input()
        case _:  # of an orchestrator that is newer
            pass


def _position(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,15}", text):
        raise Refused("bad_request", "after is not a position.")
    return int(text)


async def _body(http: Request) -> dict[str, Any]:
    body = bytearray()
    async for part in http.stream():
        body += part
        if len(body) > BODY_MAX:
            raise Refused("bad_request", f"The body is larger than {BODY_MAX} bytes.")
    try:
        given = json.loads(body)
    except (ValueError, RecursionError):
        given = None
    if not isinstance(given, dict):
        raise Refused("bad_request", "The body is not a JSON object.")
    return given


def _arguments(given: object) -> tuple[str, ...]:
    """None: the user's shell."""
    if given is None:
        return ()
    if not isinstance(given, list) or not 1 <= len(given) <= ARGUMENTS_MAX:
        raise Refused("bad_request", "command is not a list of a program and its arguments.")
    if not all(isinstance(one, str) and "\0" not in one for one in given) or not given[0]:
        raise Refused("bad_request", "command has a part that is no argument.")
    try:
        size = sum(len(one.encode()) for one in given)
    except UnicodeEncodeError:
        raise Refused("bad_request", "command holds half of a surrogate pair.") from None
    if size > ARGUMENTS_MAX_BYTES:
        raise Refused("bad_request", f"command is larger than {ARGUMENTS_MAX_BYTES} bytes.")
    return tuple(given)


def _seconds(given: dict[str, Any], name: str) -> float:
    value = given.get(name)
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise Refused("bad_request", f"{name} is not a number.")
    if not 0 < value <= _SECONDS_MAX:
        raise Refused("bad_request", f"{name} is out of range.")
    return float(value)
