"""The HTTP clients that requests go out with: one for each lane, since connections are kept and
one that leads through a user's exit must serve nobody else, not even the exit's next user.
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
from hutch.gateway.dial import connect_checked
from hutch.gateway.table import Lane

SILENCE_S: Final = 600.0  # a model may think that long without a byte
_TOTAL_S: Final = 3600  # the longest run
_POOL_IDLE_S: Final = 30  # shorter than the providers' own, or a request meets a closed connection


@dataclass(slots=True)
class _Client:
    session: aiohttp.ClientSession
    requests: int = 0


class Clients:
    """``kept`` lanes have sandboxes. A client of any other makes no connection any more, and is
    closed after its last request.
    """

    def __init__(self, check: AddressCheck) -> None:
        self._dial_checked = partial(connect_checked, check)
        self._clients: dict[Lane, _Client] = {}
        self._kept: frozenset[Lane] = frozenset()
        self._closing: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def to_provider(self, lane: Lane) -> AsyncIterator[aiohttp.ClientSession]:
        """For base URLs, which are the operator's: names are taken as they are."""
        client = self._clients.get(lane)
        if client is None:
            connector = WayConnector(
                lane.way, keepalive_s=_POOL_IDLE_S, still=lambda: lane in self._kept
            )
            client = self._clients[lane] = _Client(session(connector, _timeout()))
        client.requests += 1
        try:
            yield client.session
        finally:
            client.requests -= 1
            self._close_unused(lane)

    @asynccontextmanager
    async def to_host(self, lane: Lane) -> AsyncIterator[aiohttp.ClientSession]:
        """For hosts that the sandbox names: checked, and a connection for one request alone, for
        some ways of signing in hold for all that follows on a connection.
        """
        connector = WayConnector(
            lane.way, dial=self._dial_checked, reuse=False, still=lambda: lane in self._kept
        )
        async with session(connector, _timeout()) as client:
            yield client

    def keep(self, lanes: frozenset[Lane]) -> None:
        self._kept = lanes
        for lane in list(self._clients):
            self._close_unused(lane)

    async def close(self) -> None:
        for client in self._clients.values():
            await client.session.close()
        self._clients.clear()
        await asyncio.gather(*self._closing)

    def _close_unused(self, lane: Lane) -> None:
        client = self._clients.get(lane)
        if client is None or client.requests or lane in self._kept:
            return
        del self._clients[lane]
        task = asyncio.ensure_future(client.session.close())
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)


def _timeout() -> aiohttp.ClientTimeout:
    return aiohttp.ClientTimeout(total=_TOTAL_S, sock_read=SILENCE_S)
