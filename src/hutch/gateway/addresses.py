"""Which addresses a name that somebody else chose may lead to: the public ones, and what the
operator has opened.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Final

from hutch.errors import HostNotReady
from hutch.gateway.refusals import Refusal

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network
# A host's name → its addresses, as text. Raises ``OSError``.
Resolver = Callable[[str], Awaitable[Sequence[str]]]

_RESOLVE_S: Final = 5
# IANA's special-purpose registries (2026-06): Python's own ``is_global`` differs between versions.
_CLOSED: Final = tuple(
    ipaddress.ip_network(text)
    for text in (
        "0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16",
        "172.16.0.0/12", "192.0.0.0/24", "192.0.2.0/24", "192.31.196.0/24", "192.52.193.0/24",
        "192.88.99.0/24", "192.168.0.0/16", "192.175.48.0/24", "198.18.0.0/15", "198.51.100.0/24",
        "203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4",
        "168.63.129.16/32",  # Azure's own services inside each machine, at a public address
    )
)  # fmt: skip
# All global unicast of IPv6 is in here; of that, these are not for the open internet.
_OPEN_V6: Final = ipaddress.IPv6Network("2000::/3")
_CLOSED_V6: Final = tuple(
    ipaddress.IPv6Network(text)
    for text in ("2001::/23", "2001:db8::/32", "2620:4f:8000::/48", "3fff::/20")
)
_NAT64: Final = ipaddress.IPv6Network("64:ff9b::/96")


def is_open(address: Address, opened: Iterable[Network] = ()) -> bool:
    """Whether a sandbox may be connected to it. One IPv4 address inside an IPv6 one (mapped,
    NAT64, 6to4) counts as that; Teredo, whose ends are two, never is.
    """
    address = _embedded(address)
    if any(address in network for network in opened):
        return True
    if isinstance(address, ipaddress.IPv4Address):
        return not any(address in network for network in _CLOSED)
    return address in _OPEN_V6 and not any(address in network for network in _CLOSED_V6)


def _embedded(address: Address) -> Address:
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return address.ipv4_mapped
        if address.sixtofour is not None:
            return address.sixtofour
        if address in _NAT64:
            return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address


def _network(text: str, setting: str) -> Network:
    try:
        return ipaddress.ip_network(text)
    except ValueError as error:
        raise HostNotReady(
            f"{setting}: {error}.", hint="For example: 10.20.0.0/16,192.168.7.0/24"
        ) from None


async def resolve(host: str) -> Sequence[str]:
    found = await asyncio.get_running_loop().getaddrinfo(host, 0, type=socket.SOCK_STREAM)
    return [str(address[0]) for *_, address in found]


class AddressCheck:
    """``opened``: networks that are allowed though they are private, as CIDR. Raises
    ``HostNotReady`` for one that cannot be read.
    """

    def __init__(
        self,
        opened: Iterable[str] = (),
        resolver: Resolver = resolve,
        *,
        setting: str = "HUTCH_EGRESS_NETWORKS",
    ) -> None:
        self._opened = tuple(_network(text, setting) for text in opened)
        self._resolver = resolver

    @property
    def opens_any(self) -> bool:
        return bool(self._opened)

    def opened(self, address: str) -> bool:
        """Whether it is in a network that is allowed though it is private."""
        found = _embedded(ipaddress.ip_address(address))
        return any(found in network for network in self._opened)

    def allows(self, address: str) -> bool:
        found = ipaddress.ip_address(address)
        return is_open(found, self._opened) and not self._is_own(found)

    async def addresses(self, host: str) -> list[str]:
        """The literal addresses to dial for ``host``, IPv4 first; nothing else may be dialled, or
        a name could lead elsewhere the second time. Raises ``Refusal`` if even one of them is not
        open: a name that leads in and out is a trap.
        """
        try:
            found = [ipaddress.ip_address(host)]
        except ValueError:
            found = await self._resolve(host)
        for address in found:
            if is_open(address, self._opened):
                if self._is_own(address):
                    raise Refusal(403, f"{host} is this server itself.")
                continue
            raise Refusal(
                403, f"{host} leads to {address}, an address that is not on the open internet."
            )
        return [str(a) for a in sorted(dict.fromkeys(found), key=lambda a: a.version)]

    async def _resolve(self, host: str) -> list[Address]:
        try:
            async with asyncio.timeout(_RESOLVE_S):
                # Zones (fe80::1%eth0) belong to addresses that are closed anyway.
                texts = [text.partition("%")[0] for text in await self._resolver(host)]
                found = [ipaddress.ip_address(text) for text in texts]
        except TimeoutError:
            raise Refusal(504, f"the name {host} is not answered for.") from None
        except (OSError, ValueError):
            found = []
        if not found:
            raise Refusal(502, f"the name {host} is unknown.")
        return found

    def _is_own(self, address: Address) -> bool:
        """Whether it is one of this machine's: services that trust neighbours listen there."""
        address = _embedded(address)
        if any(address in network for network in self._opened):
            return False
        family = socket.AF_INET if address.version == 4 else socket.AF_INET6
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            try:
                probe.connect((str(address), 9))  # sends nothing: asks the kernel for a route
            except OSError:
                return False
            return str(probe.getsockname()[0]) == str(address)
