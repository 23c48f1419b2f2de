"""The HTTP clients that requests go out with: one for each way out, since connections are kept
and one that leads through an exit must not serve whoever has another.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Final

import aiohttp

from hutch.gateway.addresses import AddressCheck
from hutch.gateway.connector import WayConnector, session
from hutch.gateway.dial import Way, connect_checked
from hutch.gateway.table import ExitProxy

SILENCE_S: Final = 600.0  # a model may think that long without a byte
_TOTAL_S: Final = 3600  # the longest run
_POOL_IDLE_S: Final = 30  # shorter than the providers' own, or a request meets a closed connection


@dataclass(slots=True)
class _Client:
    session: aiohttp.ClientSession
    requests: int = 0


class Clients:
    """``kept`` exits have sandboxes; a client of any other is closed after its last request."""

    def __init__(self, check: AddressCheck) -> None:
        self._dial_checked = partial(connect_checked, check)
        self._clients: dict[Way, _Client] = {}
        self._kept: frozenset[ExitProxy] = frozenset()
        self._closing: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def to_provider(self, way: Way) -> AsyncIterator[aiohttp.ClientSession]:
        """For base URLs, which are the operator's: names are taken as they are."""
        client = self._clients.get(way)
        if client is None:
            connector = WayConnector(way, keepalive_s=_POOL_IDLE_S)
            client = self._clients[way] = _Client(session(connector, _timeout()))
        client.requests += 1
        try:
            yield client.session
        finally:
            client.requests -= 1
            self._close_unused(way)

    @asynccontextmanager
    async def to_host(self, way: Way) -> AsyncIterator[aiohttp.ClientSession]:
        """For hosts that the sandbox names: checked, and a connection for one request alone, for
        some ways of signing in hold for all that follows on a connection.
        """
        connector = WayConnector(way, dial=self._dial_checked, reuse=False)
        async with session(connector, _timeout()) as client:
            yield client

    def keep(self, exits: frozenset[ExitProxy]) -> None:
        self._kept = exits
        for way in list(self._clients):
            self._close_unused(way)

    async def close(self) -> None:
        for client in self._clients.values():
            await client.session.close()
        self._clients.clear()
        await asyncio.gather(*self._closing)

    def _close_unused(self, way: Way) -> None:
        client = self._clients.get(way)
        if client is None or client.requests or way == "direct" or way in self._kept:
            return
        del self._clients[way]
        task = asyncio.ensure_future(client.session.close())
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)


def _timeout() -> aiohttp.ClientTimeout:
    return aiohttp.ClientTimeout(total=_TOTAL_S, sock_read=SILENCE_S)
