"""Opens the gateway's connections: from the server's own address, or by CONNECT through an exit.

Which of the two is a value that the caller must have (``Way``), never a default: whoever has an
exit is not dialled directly, whatever happens to it. An exit is always asked to CONNECT, also for
plain HTTP, so that an answer of its own is never taken for the destination's.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import ipaddress
import os
import socket
from dataclasses import dataclass
from typing import Any, Final

import h11

from hutch.gateway.addresses import AddressCheck
from hutch.gateway.names import written
from hutch.gateway.refusals import Refusal, exit_unavailable
from hutch.gateway.table import Entry, ExitProxy, Lane, Way
from hutch_runtime.protocol import KIB

CONNECT_S: Final = 10.0
_ANSWER_MAX: Final = 8 * KIB  # what an exit may say before its blank line
_ADDRESSES_TRIED: Final = 3  # of a name; each gets its share of the time


@dataclass(frozen=True, slots=True)
class Dialled:
    """A connected, non-blocking socket, the caller's to close; ``early`` are bytes that the
    destination sent together with the exit's answer (a server that speaks first).
    """

    sock: socket.socket
    early: bytes = b""


def lane_of(entry: Entry) -> Lane:
    """How this sandbox's connections leave, and who else may use them. Raises ``Refusal`` if none
    may leave.
    """
    if entry.lane is None:
        raise exit_unavailable(entry.closed_because or "no exit is to be had for this user.")
    return entry.lane


async def connect(way: Way, host: str, port: int, *, timeout: float = CONNECT_S) -> Dialled:
    """A TCP connection to ``host`` (a name or a literal address) by this way and no other.

    Raises ``Refusal``: with the code ``exit_unavailable`` (status 502) for everything that goes
    wrong at an exit, since what is behind it cannot be told apart from here: not reached, no
    answer within ``timeout`` seconds (once for its connection, once for its answer), 407, any
    other status than 2xx, no HTTP, an answer of more than 8 KB. Without an exit, and without a
    code, 504 or 502 for a destination that does not answer or cannot be reached.
    """
    if isinstance(way, ExitProxy):
        return await _through(way, host, port, timeout)
    try:
        return Dialled(await _tcp(host, port, timeout))
    except TimeoutError:
        raise Refusal(504, f"{host}:{port} does not answer.") from None
    except OSError as error:
        raise Refusal(502, f"{host}:{port} cannot be reached ({_why(error)}).") from None


async def connect_checked(check: AddressCheck, way: Way, host: str, port: int) -> Dialled:
    """For a host that the sandbox named: it is resolved here, its addresses are checked, and one
    of those very addresses is dialled, by the exit as well. Raises ``Refusal`` as ``connect``
    does, and 403 for a name that leads somewhere private.
    """
    addresses = await check.addresses(host)
    if isinstance(way, ExitProxy):
        return await connect(way, addresses[0], port)
    tried = addresses[:_ADDRESSES_TRIED]
    status = 502
    for address in tried:
        try:
            return await connect(way, address, port, timeout=CONNECT_S / len(tried))
        except Refusal as refusal:
            status = refusal.status
    raise Refusal(status, f"{written(host, port)} cannot be reached.")


async def _through(way: ExitProxy, host: str, port: int, timeout: float) -> Dialled:
    try:
        sock = await _tcp(way.host, way.port, timeout)
    except TimeoutError:
        raise exit_unavailable(f"the exit {way.id} does not answer.") from None
    except OSError as error:
        raise exit_unavailable(f"the exit {way.id} cannot be reached ({_why(error)}).") from None
    try:
        async with asyncio.timeout(timeout):
            early = await _ask(sock, way, host, port)
    except TimeoutError:
        sock.close()
        raise exit_unavailable(
            f"the exit {way.id} did not connect to {host}:{port} in {timeout:g} s."
        ) from None
    except OSError as error:
        sock.close()
        raise exit_unavailable(f"the exit {way.id} broke off ({_why(error)}).") from None
    except BaseException:
        sock.close()
        raise
    return Dialled(sock, early)


async def _ask(sock: socket.socket, way: ExitProxy, host: str, port: int) -> bytes:
    loop = asyncio.get_running_loop()
    authority = written(host, port)
    login = base64.b64encode(f"{way.username}:{way.password.reveal()}".encode()).decode()
    proxy = h11.Connection(h11.CLIENT, max_incomplete_event_size=_ANSWER_MAX)
    request = h11.Request(
        method="CONNECT",
        target=authority,
        headers=[("Host", authority), ("Proxy-Authorization", f"Basic {login}")],
    )
    await loop.sock_sendall(sock, proxy.send(request))
    heard = 0
    while True:
        try:
            event = proxy.next_event()
        except h11.RemoteProtocolError:
            # Not its text: that may quote what the exit said.
            raise exit_unavailable(f"the exit {way.id} does not speak HTTP.") from None
        if event is h11.NEED_DATA:
            data = await loop.sock_recv(sock, _ANSWER_MAX)
            if not data or (heard := heard + len(data)) > 2 * _ANSWER_MAX:
                raise exit_unavailable(f"the exit {way.id} gave no proper answer.")
            proxy.receive_data(data)
        elif isinstance(event, h11.Response):
            if 200 <= event.status_code < 300:
                return bytes(proxy.trailing_data[0])
            status = event.status_code
            raise exit_unavailable(_meaning(way, status, authority), answered=status)
        elif not isinstance(event, h11.InformationalResponse):
            raise exit_unavailable(f"the exit {way.id} gave no proper answer.")


def _meaning(way: ExitProxy, status: int, authority: str) -> str:
    if status == 407:
        return f"the exit {way.id} does not take its user name and password (407)."
    return f"the exit {way.id} does not connect to {authority} ({status})."


async def _tcp(host: str, port: int, timeout: float) -> socket.socket:
    """Tries the name's first addresses in turn. Raises ``OSError``, ``TimeoutError`` among it."""
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(timeout):
        found = (await _addresses(host, port))[:_ADDRESSES_TRIED]
        failure: OSError = OSError("no address")
        for number, (family, address) in enumerate(found):
            sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
            try:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                last = number == len(found) - 1
                async with asyncio.timeout(None if last else timeout / len(found)):
                    await loop.sock_connect(sock, address)
            except OSError as error:
                sock.close()
                failure = error
            except BaseException:
                sock.close()
                raise
            else:
                return sock
        raise failure


async def _addresses(host: str, port: int) -> list[tuple[socket.AddressFamily, Any]]:
    with contextlib.suppress(ValueError):  # most often a literal that was checked before
        literal = ipaddress.ip_address(host)
        family = socket.AF_INET if literal.version == 4 else socket.AF_INET6
        return [(family, (str(literal), port))]
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [(family, address) for family, _, _, _, address in found]


def _why(error: OSError) -> str:
    if isinstance(error, socket.gaierror):
        return "its name is unknown"
    return os.strerror(error.errno).lower() if error.errno else type(error).__name__
