"""WebSockets on the providers' routes: the request as any other, then frames as they are."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

import h11
from yarl import URL

from hutch.gateway.connector import open_transport
from hutch.gateway.dial import lane_of
from hutch.gateway.gate import Gate, route_of
from hutch.gateway.headers import to_provider, to_sandbox
from hutch.gateway.pace import Pace
from hutch.gateway.refusals import Refusal, exit_unavailable
from hutch.gateway.relay import IDLE_S
from hutch.gateway.seats import Seat
from hutch.gateway.table import ExitProxy, Way
from hutch.gateway.target import parse_target
from hutch.gateway.traffic import Exchange
from hutch.gateway.visitor import HEAD_MAX, Visitor
from hutch_runtime.protocol import KIB

_CHUNK: Final = 64 * KIB
_ANSWER_S: Final = 60.0  # an upgrade is answered before any model thinks
_PARTING_S: Final = 5.0  # for the last frames
_SWITCH: Final = [("Connection", "Upgrade"), ("Upgrade", "websocket")]

Headers = list[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class _Stream:
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter


@dataclass(frozen=True, slots=True)
class _Asked:
    """An upgrade that is let through."""

    sandbox: h11.Connection
    url: URL
    headers: Headers
    way: Way


async def serve_upgrade(gate: Gate, visitor: Visitor) -> None:
    exchange = Exchange("websocket", "GET")
    try:
        asked = await _admit(gate, visitor, exchange)
        assert exchange.entry is not None  # noqa: S101 - for mypy: _admit has set it
        with gate.seats.seated(exchange.entry) as seat:
            async with _provider(asked) as provider:
                await _serve(gate, visitor, exchange, asked, provider, seat=seat)
    except Refusal as refusal:
        exchange.refusal = refusal
        if exchange.status == 499:  # nothing was answered yet
            exchange.status = refusal.status
            await visitor.refuse(refusal, exchange.provider)
    finally:
        gate.traffic.finished(exchange)


async def _admit(gate: Gate, visitor: Visitor, exchange: Exchange) -> _Asked:
    sandbox, request = visitor.parsed()
    raw = request.target.decode()
    headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in request.headers]
    refused: Refusal | None = None
    target = None
    try:
        target = parse_target(raw)
        exchange.path = raw.partition("?")[0]
    except Refusal as refusal:  # told only to those whom we know
        refused = refusal
    keys = target.presented if target else ()
    entry = exchange.entry = await gate.entry(visitor.address, dict(headers), keys)
    if target is None:
        raise refused or Refusal(400, "the request's path is not one that can be forwarded.")
    exchange.provider = target.provider
    upgrades = [value.strip().lower() for name, value in headers if name == "upgrade"]
    if request.method != b"GET" or request.http_version != b"1.1" or upgrades != ["websocket"]:
        raise Refusal(426, "the only upgrade that is forwarded is a WebSocket's.")
    route = route_of(entry, target)
    way = lane_of(entry).way
    exchange.exit = way.id if isinstance(way, ExitProxy) else None
    url = target.url(route.base_url, route.strip)
    host = url.raw_authority
    outgoing = [("Host", host), *_SWITCH, *to_provider(headers, route).items()]
    return _Asked(sandbox, url, outgoing, way)


@asynccontextmanager
async def _provider(asked: _Asked) -> AsyncIterator[_Stream]:
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=_CHUNK)
    transport, protocol = await open_transport(
        lambda: asyncio.StreamReaderProtocol(reader), asked.way, asked.url
    )
    try:
        yield _Stream(reader, asyncio.StreamWriter(transport, protocol, reader, loop))
    finally:
        transport.abort()  # what had to arrive was drained


async def _serve(
    gate: Gate,
    visitor: Visitor,
    exchange: Exchange,
    asked: _Asked,
    provider: _Stream,
    *,
    seat: Seat,
) -> None:
    api = h11.Connection(h11.CLIENT, max_incomplete_event_size=HEAD_MAX)
    try:
        async with asyncio.timeout(_ANSWER_S):
            provider.writer.write(
                api.send(
                    h11.Request(method="GET", target=asked.url.raw_path_qs, headers=asked.headers)
                )
            )
            provider.writer.write(api.send(h11.EndOfMessage()))
            await provider.writer.drain()
            answer = await _event(api, provider)
            while isinstance(answer, h11.InformationalResponse) and answer.status_code != 101:
                answer = await _event(api, provider)
        if not isinstance(answer, h11.Response | h11.InformationalResponse):
            raise _failed(exchange)
        exchange.status = answer.status_code
        headers = to_sandbox(
            (name.decode("latin-1"), value.decode("latin-1")) for name, value in answer.headers
        ).items()
        if isinstance(answer, h11.Response):
            head = h11.Response(
                status_code=answer.status_code,
                reason=answer.reason,
                headers=[*headers, ("Connection", "close")],
            )
            await visitor.send(asked.sandbox.send(head) or b"")
            await _rest(exchange, visitor, asked.sandbox, api, provider)
            await visitor.part()
            return
        switch = h11.InformationalResponse(status_code=101, headers=[*headers, *_SWITCH])
        await visitor.send(asked.sandbox.send(switch) or b"")
    except TimeoutError:
        raise Refusal(504, f"the API of {exchange.provider} does not answer.") from None
    except (OSError, h11.RemoteProtocolError, h11.LocalProtocolError):
        raise _failed(exchange) from None
    early = bytes(api.trailing_data[0])
    reader, writer = await asyncio.open_connection(sock=visitor.sock)
    sandbox = _Stream(reader, writer)
    both = (visitor.rest, early)
    await _frames(gate, exchange, sandbox, provider, seat=seat, early=both)


async def _rest(
    exchange: Exchange,
    visitor: Visitor,
    sandbox: h11.Connection,
    api: h11.Connection,
    provider: _Stream,
) -> None:
    """The body of an answer that is no upgrade: most often a few words why not."""
    while True:
        async with asyncio.timeout(_ANSWER_S):
            event = await _event(api, provider)
        if isinstance(event, h11.Data):
            exchange.down += len(event.data)
        elif not isinstance(event, h11.EndOfMessage):
            raise _failed(exchange)
        await visitor.send(sandbox.send(event) or b"")
        if isinstance(event, h11.EndOfMessage):
            return


async def _event(api: h11.Connection, provider: _Stream) -> object:
    """The provider's next. Raises ``h11.RemoteProtocolError`` and ``OSError``."""
    while (event := api.next_event()) is h11.NEED_DATA:
        api.receive_data(await provider.reader.read(_CHUNK))
    return event


async def _frames(
    gate: Gate,
    exchange: Exchange,
    sandbox: _Stream,
    provider: _Stream,
    *,
    seat: Seat,
    early: tuple[bytes, bytes],
) -> None:
    """Until either side closes: a WebSocket has no half-open state."""
    loop = asyncio.get_running_loop()
    exchange.up, exchange.down = len(early[0]), len(early[1])
    tasks: list[asyncio.Task[bool]] = []
    whole = False
    try:
        async with asyncio.timeout(gate.total_s), asyncio.timeout(IDLE_S) as idle:

            def went_up(count: int) -> None:
                exchange.up += count
                idle.reschedule(loop.time() + IDLE_S)

            def went_down(count: int) -> None:
                exchange.down += count
                idle.reschedule(loop.time() + IDLE_S)

            provider.writer.write(early[0])
            sandbox.writer.write(early[1])
            tasks = [
                loop.create_task(_pump(sandbox.reader, provider.writer, seat.up, went_up)),
                loop.create_task(_pump(provider.reader, sandbox.writer, seat.down, went_down)),
            ]
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            whole = all(task.result() for task in done)
            if tasks[1] in done and not tasks[1].result() and exchange.exit is not None:
                exchange.refusal = _failed(exchange)
    except TimeoutError:
        pass
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if whole:
            sandbox.writer.close()
            with contextlib.suppress(OSError):
                async with asyncio.timeout(_PARTING_S):
                    await sandbox.writer.wait_closed()
        sandbox.writer.transport.abort()


async def _pump(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    pace: Pace,
    moved: Callable[[int], None],
) -> bool:
    """False if the reader's side broke."""
    while True:
        try:
            data = await reader.read(_CHUNK)
        except OSError:
            return False
        if not data:
            return True
        with contextlib.suppress(OSError):  # the other direction notices it as well
            writer.write(data)
            await writer.drain()
        moved(len(data))
        await pace.passed(len(data))


def _failed(exchange: Exchange) -> Refusal:
    what = f"the connection to the API of {exchange.provider}"
    if exchange.exit is not None:
        return exit_unavailable(f"{what} through exit {exchange.exit} broke off.")
    return Refusal(502, f"{what} broke off.")
