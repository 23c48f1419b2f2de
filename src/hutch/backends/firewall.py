"""The wall between a bridge of sandboxes and the host, and between its sandboxes: in the host's
packet filter, put up with the network and taken down with it.

Rests on the kernel's nf_tables alone: on no other firewall's rules, on no setting of the bridge
that somebody may change for other reasons, and on nothing inside a sandbox.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Collection, Iterable
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any, Final

import structlog

from hutch.backends import nft, ruleset
from hutch.backends.ruleset import Bridge, Place
from hutch.errors import BackendError

_log = structlog.get_logger()

_INTERFACES: Final = Path("/sys/class/net")
_TRIES: Final = 3  # another process of ours may change the same set between a look and a change


class Firewall:
    """Of one bridge. Without the right to it, ``warning`` says so."""

    def __init__(self) -> None:
        self._lock = asyncio.Lock()
        self._bridge: Bridge | None = None
        self._places: dict[IPv4Address, Place] = {}  # as last seen in the kernel
        self._tables: list[Any] = []  # without the places, as last loaded
        self.warning = ""

    @property
    def prepared(self) -> bool:
        return self._bridge is not None

    @property
    def up(self) -> bool:
        return self._bridge is not None and not self.warning

    @property
    def addresses(self) -> Collection[IPv4Address]:
        """Of the sandboxes that may speak."""
        return self._places.keys()

    async def put_up(self, bridge: Bridge) -> None:
        """Sandboxes that were there before go on."""
        async with self._lock:
            self._bridge = bridge
            await self._try_to_load(bridge)

    async def let_in(self, pid: int, mac: str, address: str) -> None:
        """``pid``: of any process on the sandbox's side of its cable. Until then it reaches nobody,
        and afterwards the gateway, as itself.
        """
        async with self._lock:
            if (bridge := self._bridge) is None:
                return
            if not self.up:  # what was in the way may be gone
                await self._try_to_load(bridge)
            if not self.up:
                return
            self._places = await plug_in(bridge, pid, mac, address)

    async def hold(self) -> bool:
        """Put back what somebody took away or changed; whether that was necessary. Raises
        ``BackendError``. Places of sandboxes that are gone are forgotten.
        """
        async with self._lock:
            if (bridge := self._bridge) is None:
                return False
            try:
                tables = await _both(bridge.name)
                ports = await asyncio.to_thread(_ports, bridge.name)
                present = set(_places(tables))
                wanted = {place for place in self._places.values() if place.port in ports}
                whole = (
                    self.up
                    and wanted <= present
                    and _without_places(tables) == self._tables
                    and await asyncio.to_thread(_learns_from_filtered_alone, bridge.name)
                )
                if whole:
                    await self._keep(bridge, present, ports)
                else:
                    await self._load(bridge)
            except BackendError as error:
                self._told(error)
                raise
            self.warning = ""
            return not whole

    async def take_down(self, name: str) -> None:
        async with self._lock:
            self._bridge, self._places, self._tables = None, {}, []
            try:
                if await _both(name):
                    await nft.load(ruleset.remove(name))
            except BackendError as error:
                # Its rules speak of an interface that is gone, and stand in nobody's way.
                _log.warning("firewall.left_behind", table=name, reason=error.message)

    async def _try_to_load(self, bridge: Bridge) -> None:
        try:
            await self._load(bridge)
        except BackendError as error:
            self._told(error)
        else:
            self.warning = ""

    async def _load(self, bridge: Bridge) -> None:
        for left in reversed(range(_TRIES)):
            try:
                await self._load_once(bridge)
                break
            except BackendError:
                if not left:
                    raise

    async def _load_once(self, bridge: Bridge) -> None:
        ports = await asyncio.to_thread(_ports, bridge.name)
        present = _places(await _both(bridge.name))
        self._places = {
            place.address: place
            for place in (*self._places.values(), *present)
            if place.port in ports
        }
        # Frames of the bridge's own protocols pass no filter, but would teach it whose a port is.
        await asyncio.to_thread(_learn_from_filtered_alone, bridge.name)
        await nft.load(ruleset.load(bridge, self._places.values()))
        self._tables = _without_places(await _both(bridge.name))

    async def _keep(self, bridge: Bridge, present: Collection[Place], ports: set[str]) -> None:
        gone = [place for place in present if place.port not in ports]
        if gone:
            with contextlib.suppress(BackendError):  # somebody else was first; or at the next look
                await nft.load(ruleset.forget(bridge, gone))
        self._places = {place.address: place for place in present if place.port in ports}

    def _told(self, error: BackendError) -> None:
        self.warning = (
            "Sandboxes are not kept from this host's open ports, and who gets through a sandbox's "
            f"other walls could pass for a neighbour. {error.message} {error.hint}"
        ).rstrip()


async def plug_in(bridge: Bridge, pid: int, mac: str, address: str) -> dict[IPv4Address, Place]:
    """Everybody's place after that. Raises ``BackendError``."""
    port = await asyncio.to_thread(_port, bridge.name, pid)
    place = Place(port, mac, IPv4Address(address))
    left = _TRIES
    while True:
        places = _places(await nft.table("bridge", bridge.name) or [])
        stale = [p for p in places if p.address == place.address or p.port == port]
        left -= 1
        try:
            await nft.load(ruleset.move(bridge, place, stale))
        except BackendError:
            if not left:
                raise
        else:
            others = {p.address: p for p in places if p not in stale}
            return {**others, place.address: place}


async def _both(name: str) -> list[Any]:
    """All that is in both tables; empty if neither is there."""
    host = await nft.table("inet", name) or []
    return host + (await nft.table("bridge", name) or [])


def _places(tables: Iterable[Any]) -> list[Place]:
    return [
        Place(port, mac, IPv4Address(address))
        for item in tables
        if item.get("set", {}).get("name") == ruleset.BOUND
        for port, mac, address in (element["concat"] for element in item["set"].get("elem", []))
    ]


def _without_places(tables: Iterable[Any]) -> list[Any]:
    return [{"set": {**item["set"], "elem": []}} if "set" in item else item for item in tables]


def _ports(bridge: str) -> set[str]:
    try:
        return {path.name for path in (_INTERFACES / bridge / "brif").iterdir()}
    except OSError as error:
        raise BackendError(
            f"The bridge {bridge} is not on this machine.",
            hint="Hutch has to run where the engine makes its networks.",
        ) from error


def _port(bridge: str, pid: int) -> str:
    """The bridge's port whose other end is the one interface of the process's network.

    ``/proc/PID/net/igmp`` has the number of every interface on a line of its own, whatever the
    sandbox runs under; the end on the host names the number of the other one.
    """
    try:
        lines = Path(f"/proc/{pid}/net/igmp").read_text().splitlines()
        numbers = [
            int(f[0]) for line in lines if (f := line.split()) and f[0].isdigit() and f[1] != "lo"
        ]
        ports = [
            p for p in _ports(bridge) if int((_INTERFACES / p / "iflink").read_text()) in numbers
        ]
    except OSError as error:
        raise BackendError("A sandbox ended while it was given its place.") from error
    if len(ports) != 1:
        raise BackendError(f"A sandbox has {len(ports)} cables to the bridge {bridge}, not one.")
    return ports[0]


def _learns_from_filtered_alone(bridge: str) -> bool:
    """Read from the bridge; the engine may have made it anew."""
    try:
        return _option(bridge).read_text().strip() == "1"
    except OSError:
        return False


def _learn_from_filtered_alone(bridge: str) -> None:
    if _learns_from_filtered_alone(bridge):
        return
    try:
        _option(bridge).write_text("1")
    except OSError as error:
        raise BackendError(
            f"This process may not set up the bridge {bridge} ({error.strerror}).",
            hint="It takes root; or have root write 1 to that bridge's `no_linklocal_learn`.",
        ) from error


def _option(bridge: str) -> Path:
    return _INTERFACES / bridge / "bridge" / "no_linklocal_learn"
