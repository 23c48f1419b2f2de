"""What the host's packet filter is told about one bridge of sandboxes. Pure text for `nft -f`.

Two tables of the bridge's name, so that several installations, and whatever other firewall there
is, do not meet. Nothing goes into the text but what has been parsed here as an address or a number,
or matched as a name.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from typing import Final

from hutch.backends.base import RUNTIME_PORT
from hutch.errors import BackendError

BOUND: Final = "bound"  # the set of places
PORTS: Final = "ports"
# Counters of the first packets of connections to the gateway: at the bridge, and past every other
# filter of the host.
ASKED: Final = "asked"
LET_IN: Final = "let_in"
_CHAINS: Final = ("from_cable", "of_sandbox", "between")
_NAME: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,14}")  # the kernel's 15 characters
_PORT_NAME: Final = re.compile(r"[A-Za-z0-9_.-]{1,15}")
_MAC: Final = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}")
_LAST_PORT: Final = 65535


@dataclass(frozen=True, slots=True)
class Bridge:
    """The sandboxes' network as the host sees it. Raises ``BackendError`` for what cannot be."""

    name: str  # of the interface, and of our tables
    subnet: IPv4Network
    host: IPv4Address  # the host's own address in it
    gateway_port: int

    def __post_init__(self) -> None:
        _check(self.name)
        if not 0 < self.gateway_port <= _LAST_PORT:
            raise BackendError(f"{self.gateway_port} is no port.")


@dataclass(frozen=True, slots=True)
class Place:
    """Where one sandbox is plugged in, and the only addresses that it may use there."""

    port: str  # the host's end of its cable, a port of the bridge
    mac: str
    address: IPv4Address

    def __post_init__(self) -> None:
        if not _PORT_NAME.fullmatch(self.port) or not _MAC.fullmatch(self.mac):
            raise BackendError(f"No sandbox is at {self.port!r}, {self.mac!r}.")

    @property
    def element(self) -> str:
        return f'"{self.port}" . {self.mac} . {self.address}'


def load(bridge: Bridge, places: Collection[Place]) -> str:
    """Both tables as they have to be, whatever they were, in one transaction. Places that are known
    to the kernel stay: another process of ours may just have added one.
    """
    return f"{_host(bridge)}{_cables(bridge, places)}"


def remove(name: str) -> str:
    """Succeeds if they are not there. Raises ``BackendError``."""
    _check(name)
    return "".join(
        f"table {family} {name}\ndelete table {family} {name}\n" for family in ("inet", "bridge")
    )


def move(bridge: Bridge, place: Place, stale: Collection[Place]) -> str:
    """Let a sandbox speak, and nobody else with its address; ``stale`` must be there."""
    added = _element("add", bridge, BOUND, place.element)
    return forget(bridge, stale) + added + _element("add", bridge, PORTS, f'"{place.port}"')


def forget(bridge: Bridge, stale: Collection[Place]) -> str:
    lines = [_element("delete", bridge, BOUND, old.element) for old in stale]
    lines += [_element("delete", bridge, PORTS, f'"{old.port}"') for old in stale]
    return "".join(lines)


def _element(verb: str, bridge: Bridge, name: str, element: str) -> str:
    return f"{verb} element bridge {bridge.name} {name} {{ {element} }}\n"


def _host(bridge: Bridge) -> str:
    """From the bridge to the host: the gateway's port, and answers of the runtime. Looked at after
    connections are known and before addresses are translated, so that a published port of some
    other container is no way round it. Nothing is forwarded.
    """
    own = f"ip saddr {bridge.subnet} ip daddr {bridge.host}"
    return f"""\
table inet {bridge.name}
delete table inet {bridge.name}
table inet {bridge.name} {{
	counter {ASKED} {{ }}
	counter {LET_IN} {{ }}
	chain to_host {{
		type filter hook prerouting priority mangle; policy accept;
		iifname != "{bridge.name}" accept
		{own} tcp dport {bridge.gateway_port} goto to_gateway
		{own} tcp sport {RUNTIME_PORT} ct state established ct direction reply accept
		counter drop
	}}
	chain to_gateway {{
		tcp flags & (syn | ack) == syn counter name {ASKED}
		accept
	}}
	chain let_in {{
		type filter hook input priority 10000; policy accept;
		iifname "{bridge.name}" tcp flags & (syn | ack) == syn counter name {LET_IN}
	}}
	chain through {{
		type filter hook forward priority -300; policy accept;
		iifname "{bridge.name}" counter drop
		oifname "{bridge.name}" counter drop
	}}
}}
"""


def _cables(bridge: Bridge, places: Collection[Place]) -> str:
    """On the bridge itself: each port sends as its own sandbox and to the host alone, whatever the
    sandbox can put on its cable. A port that is not known yet may not use our addresses at all.

    Kernels without NFT_BRIDGE_META cannot match the bridge by name, so ports are known by a set,
    and others by our addresses; `veth*` keeps away from bridges with a machine's own ports.

    Sets by `typeof`: at one that nft 1.1 has made by `type`, nft 1.0.6 crashes at whatever it does.
    """
    bound = ", ".join(place.element for place in places)
    ports = ", ".join(f'"{place.port}"' for place in places)
    flush = "".join(f"flush chain bridge {bridge.name} {chain}\n" for chain in _CHAINS)
    known = (
        f"iifname . ether saddr . arp saddr ip @{BOUND} iifname . arp saddr ether . arp saddr ip"
    )
    return f"""\
table bridge {bridge.name} {{
	set {PORTS} {{
		typeof iifname
		{f"elements = {{ {ports} }}" if ports else ""}
	}}
	set {BOUND} {{
		typeof iifname . ether saddr . ip saddr
		{f"elements = {{ {bound} }}" if bound else ""}
	}}
	chain from_cable {{
		type filter hook prerouting priority -300; policy accept;
	}}
	chain of_sandbox {{
	}}
	chain between {{
		type filter hook forward priority -300; policy accept;
	}}
}}
{flush}table bridge {bridge.name} {{
	chain of_sandbox {{
		iifname . ether saddr . ip saddr @{BOUND} accept
		{known} @{BOUND} accept
		counter drop
	}}
	chain from_cable {{
		iifname @{PORTS} goto of_sandbox
		iifname "veth*" ip saddr {bridge.subnet} counter drop
		iifname "veth*" arp saddr ip {bridge.subnet} counter drop
	}}
	chain between {{
		iifname @{PORTS} counter drop
		oifname @{PORTS} counter drop
		oifname "veth*" ip daddr {bridge.subnet} counter drop
		oifname "veth*" arp daddr ip {bridge.subnet} counter drop
	}}
}}
"""


def _check(name: str) -> None:
    if not _NAME.fullmatch(name):
        raise BackendError(f"{name!r} is no name of a bridge of ours.")
