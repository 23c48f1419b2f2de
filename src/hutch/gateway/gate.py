"""What every kind of request needs: who is asking, by which way they leave, what they share."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Final

from hutch.config import Settings
from hutch.gateway.addresses import AddressCheck, Resolver
from hutch.gateway.clients import Clients
from hutch.gateway.headers import presented_keys
from hutch.gateway.refusals import Refusal
from hutch.gateway.seats import Seats
from hutch.gateway.table import SHARED_ADDRESS, Entry, Route, Table
from hutch.gateway.target import Target
from hutch.gateway.traffic import Traffic

SYNC_WAIT_S: Final = 2  # a gateway that was just restarted has its table in milliseconds
_RETRY_AFTER_S: Final = 2

Peer = tuple[str, int]  # address and port


class Gate:
    """``table`` is empty until ``synced`` is set."""

    def __init__(self, settings: Settings, resolver: Resolver) -> None:
        self.table = Table()
        self.synced = asyncio.Event()
        self.traffic = Traffic()
        self.seats = Seats(
            self.table,
            connections=settings.egress_connections,
            mb_per_s=settings.egress_mb_per_s,
            requests_per_s=settings.egress_requests_per_s,
        )
        self.check = AddressCheck(settings.egress_networks, resolver)
        self.clients = Clients(self.check)
        # By a kept connection's peer: whose it is, since its first request.
        self._owners: dict[Peer, str] = {}
        self.total_s = settings.run_timeout_max_s  # no tunnel is of use for longer than a run

    async def close(self) -> None:
        await self.clients.close()

    def table_changed(self) -> None:
        """To be called in the same step of the event loop as the change."""
        self.seats.table_changed()
        self.clients.keep(self.table.lanes())
        self.traffic.sandboxes.set(len(self.table))

    async def ready(self) -> bool:
        """Wait for the first table, but not for long."""
        if not self.synced.is_set():
            try:
                async with asyncio.timeout(SYNC_WAIT_S):
                    await self.synced.wait()
            except TimeoutError:
                return False
        return True

    async def entry(
        self, address: str, headers: Mapping[str, str], more_keys: tuple[str, ...] = ()
    ) -> Entry:
        """Whose request this is. Raises ``Refusal``."""
        if not await self.ready():
            raise Refusal(503, "just started, and not told yet who is who.", _RETRY_AFTER_S)
        entry = self.table.find(address, (*presented_keys(headers), *more_keys))
        if entry is None:
            raise _nobodys()
        return entry

    def stays(self, peer: Peer, entry: Entry) -> None:
        """That a connection with several requests is the same incarnation's for all of them. Its
        sandbox may have ended and its address be another's while requests wait in here. Raises
        ``Refusal``.
        """
        if peer[0] == SHARED_ADDRESS:
            return  # there each request shows whose it is
        if self._owners.setdefault(peer, entry.incarnation) != entry.incarnation:
            raise _nobodys()

    def left(self, peer: Peer) -> None:
        self._owners.pop(peer, None)


def _nobodys() -> Refusal:
    return Refusal(403, "this address is no sandbox's.")


def route_of(entry: Entry, target: Target) -> Route:
    """Raises ``Refusal`` if nothing pays for it."""
    if entry.user_id is None:
        raise Refusal(403, "this sandbox has no user yet.")
    route = entry.routes.get(target.provider)
    if route is None:
        raise Refusal(
            403,
            f"no credential for {target.provider} is stored: PUT /v1/credentials/{target.provider}",
        )
    return route
