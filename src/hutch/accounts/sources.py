"""Where a request came from, as far as that can be known.

A header can be written by anybody: it counts as far as it was written by a proxy of the operator's
own, whose addresses are a setting, or by another process of this service, which signs it.
"""

from __future__ import annotations

import hmac
import ipaddress
from collections.abc import Iterable
from typing import Final, TypeAlias

from hutch.errors import HostNotReady

# From a process that passes a request on to the one that leads.
CLIENT: Final = b"x-hutch-client"
FORWARDED_FOR: Final = b"x-forwarded-for"
FORWARDED_PROTO: Final = b"x-forwarded-proto"
UNKNOWN: Final = "unknown"
_HOPS_MAX: Final = 32

Headers: TypeAlias = Iterable[tuple[bytes, bytes]]
Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network
_Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address


class Sources:
    def __init__(self, proxies: Iterable[str], secret: bytes) -> None:
        """``proxies``: addresses or networks of those whose X-Forwarded-For counts. Raises
        ``HostNotReady``.
        """
        self._proxies = [_network(text) for text in proxies]
        self._secret = hmac.digest(secret, b"hutch request sources v1", "sha256")

    def of(self, peer: str | None, headers: Headers) -> str:
        """The client's address, an IPv6 one by its network of 64 bits: one holder has all of it."""
        headers = list(headers)
        signed = _last(headers, CLIENT).decode("latin-1")
        if signed and hmac.compare_digest(self.sign(signed.partition(" ")[0]).decode(), signed):
            return signed.partition(" ")[0]
        address = _address(peer or "")
        if address is None:
            return UNKNOWN
        if self._is_proxy(address):
            # From the right: each proxy appends whom it was asked by; what stands left of the
            # first that is not ours may be made up.
            named = b",".join(value for name, value in headers if name == FORWARDED_FOR)
            for text in reversed(named.decode("latin-1").split(",")[-_HOPS_MAX:]):
                before = _address(text.strip())
                if before is None:
                    break
                address = before
                if not self._is_proxy(address):
                    break
        return _told(address)

    def under_tls(self, scheme: str, peer: str | None, headers: Headers) -> bool:
        """Whether the client spoke TLS, to us or to a proxy of the operator's."""
        if scheme == "https":
            return True
        address = _address(peer or "")
        if address is None or not self._is_proxy(address):
            return False
        return _last(headers, FORWARDED_PROTO).strip().lower() == b"https"

    def sign(self, source: str) -> bytes:
        """For ``CLIENT``."""
        mac = hmac.digest(self._secret, source.encode(), "sha256").hex()
        return f"{source} {mac}".encode()

    def _is_proxy(self, address: _Address) -> bool:
        return any(address in network for network in self._proxies)


def _network(text: str) -> Network:
    try:
        return ipaddress.ip_network(text, strict=False)
    except ValueError:
        raise HostNotReady(
            f"HUTCH_TRUSTED_PROXIES: {text!r} is neither an address nor a network.",
            hint="Such as 127.0.0.1 or 10.0.0.0/8, comma-separated.",
        ) from None


def _address(text: str) -> _Address | None:
    try:
        address = ipaddress.ip_address(text.partition("%")[0].strip("[]"))
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


def _told(address: _Address) -> str:
    if isinstance(address, ipaddress.IPv4Address) or address.is_loopback:
        return str(address)
    return str(ipaddress.ip_network((address, 64), strict=False))


def _last(headers: Headers, name: bytes) -> bytes:
    found = b""
    for one, value in headers:
        if one == name:
            found = value
    return found
