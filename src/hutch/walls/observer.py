"""Who waits outside for what must not arrive."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import ipaddress
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Final

_TCP: Final = ("host_ports", "host_by_other_addresses")
_UDP: Final = ("host_udp", "broadcast", "link_local_ipv6")
_SIOCGIFADDR: Final = 0x8915
_ADDRESSES_MAX: Final = 8


class Observer:
    """``watched``: the port on which each attempt is waited for. ``seen``: those that came from the
    network of ``gateway``; others may well knock at a port of this machine.
    """

    def __init__(self, gateway: str) -> None:
        self._network = ipaddress.ip_network(f"{gateway}/16", strict=False)
        self.watched: dict[str, int] = {}
        self.seen: set[str] = set()

    def came(self, attempt: str, source: str) -> None:
        address = ipaddress.ip_address(source.partition("%")[0])
        mapped = getattr(address, "ipv4_mapped", None)
        if address.is_link_local or (mapped or address) in self._network:
            self.seen.add(attempt)


class _Datagrams(asyncio.DatagramProtocol):
    def __init__(self, observer: Observer, attempt: str) -> None:
        self._observer = observer
        self._attempt = attempt

    def datagram_received(self, data: bytes, addr: tuple[Any, ...]) -> None:
        del data
        self._observer.came(self._attempt, str(addr[0]))


@asynccontextmanager
async def observing(gateway: str, gateway_port: int) -> AsyncIterator[Observer]:
    """On every address of this machine. Where no gateway listens yet somebody does, so that its
    port can be reached.
    """
    observer = Observer(gateway)
    async with AsyncExitStack() as stack:
        for attempt in _TCP:
            server = await _tcp(observer, attempt, _any_address(socket.SOCK_STREAM))
            observer.watched[attempt] = server.sockets[0].getsockname()[1]
            stack.push_async_callback(_end, server)
        for attempt in _UDP:
            sock = _any_address(socket.SOCK_DGRAM)
            observer.watched[attempt] = sock.getsockname()[1]
            transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(
                lambda attempt=attempt: _Datagrams(observer, attempt),  # type: ignore[misc]
                sock=sock,
            )
            stack.callback(transport.close)
        with contextlib.suppress(OSError):  # then the gateway itself is there
            listener = socket.create_server((gateway, gateway_port))
            stack.push_async_callback(_end, await _tcp(observer, "", listener))
        yield observer


def host_addresses(gateway: str) -> list[str]:
    """This machine's other IPv4 addresses, as far as they are an interface's first."""
    found = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        for _, name in socket.if_nameindex():
            with contextlib.suppress(OSError):
                request = struct.pack("256s", name.encode()[:15])
                answer = fcntl.ioctl(sock, _SIOCGIFADDR, request)
                found.append(socket.inet_ntoa(answer[20:24]))
    return [a for a in found if a != gateway and not a.startswith("127.")][:_ADDRESSES_MAX]


def _any_address(kind: socket.SocketKind) -> socket.socket:
    """Both families on one port, where the machine has both."""
    try:
        sock = socket.socket(socket.AF_INET6, kind)
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        sock.bind(("::", 0))
    except OSError:
        sock = socket.socket(socket.AF_INET, kind)
        sock.bind(("0.0.0.0", 0))  # noqa: S104  all addresses are what is attacked
    if kind == socket.SOCK_DGRAM:
        sock.setblocking(False)
    return sock


async def _tcp(observer: Observer, attempt: str, sock: socket.socket) -> asyncio.Server:
    async def came(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if attempt:
            observer.came(attempt, str(writer.get_extra_info("peername")[0]))
        writer.close()

    return await asyncio.start_server(came, sock=sock)


async def _end(server: asyncio.Server) -> None:
    server.close()
    await server.wait_closed()
