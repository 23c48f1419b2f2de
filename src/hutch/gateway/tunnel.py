"""CONNECT: an allowed host, an address that was checked, then bytes both ways."""

from __future__ import annotations

import asyncio
import contextlib

import h11

from hutch.errors import InvalidRequest
from hutch.gateway.dial import Dialled, connect_checked, lane_of
from hutch.gateway.gate import Gate
from hutch.gateway.hosts import check_allowed
from hutch.gateway.names import authority, written
from hutch.gateway.refusals import Refusal, exit_unavailable
from hutch.gateway.relay import Relayed, relay
from hutch.gateway.table import ExitProxy
from hutch.gateway.traffic import Exchange
from hutch.gateway.visitor import Visitor

_OPEN = b"HTTP/1.1 200 Connection established\r\n\r\n"


async def serve_tunnel(gate: Gate, visitor: Visitor) -> None:
    exchange = Exchange("connect", "CONNECT")
    try:
        await _join(gate, visitor, exchange, await _admit(gate, visitor, exchange))
    except Refusal as refusal:  # before anything was answered
        exchange.status, exchange.refusal = refusal.status, refusal
        await visitor.refuse(refusal)
    finally:
        gate.traffic.finished(exchange)


async def _admit(gate: Gate, visitor: Visitor, exchange: Exchange) -> Dialled:
    _, request = visitor.parsed()
    entry = exchange.entry = await gate.entry(visitor.address, headers_of(request))
    try:
        host, port = authority(request.target.decode())
    except InvalidRequest as error:
        raise Refusal(400, error.message) from None
    exchange.host = written(host, port)
    check_allowed(entry, host, port)
    way = lane_of(entry).way
    exchange.exit = way.id if isinstance(way, ExitProxy) else None
    return await connect_checked(gate.check, way, host, port)


async def _join(gate: Gate, visitor: Visitor, exchange: Exchange, dialled: Dialled) -> None:
    assert exchange.entry is not None  # noqa: S101 - for mypy: _admit has set it
    relayed = Relayed(up=len(visitor.rest), down=len(dialled.early))
    try:
        with gate.seats.seated(exchange.entry) as seat, contextlib.suppress(TimeoutError):
            await visitor.send(_OPEN + dialled.early)
            exchange.status = 200
            if visitor.rest:
                await asyncio.get_running_loop().sock_sendall(dialled.sock, visitor.rest)
            async with asyncio.timeout(gate.total_s):
                await relay(visitor.sock, dialled.sock, relayed, up=seat.up, down=seat.down)
    except OSError:
        relayed.broken = relayed.broken or "sandbox"
    finally:
        dialled.sock.close()
        exchange.up, exchange.down = relayed.up, relayed.down
    if relayed.broken == "destination" and exchange.exit is not None:
        exchange.refusal = exit_unavailable(
            f"the connection to {exchange.host} through exit {exchange.exit} broke off."
        )


def headers_of(request: h11.Request) -> dict[str, str]:
    """For looking at; of a repeated header the last."""
    return {name.decode("latin-1"): value.decode("latin-1") for name, value in request.headers}
