"""Who leads, of several processes on one PostgreSQL: whoever holds an advisory lock, on a
connection of its own, and has written a new term down.

The lock alone is not enough: who has lost its connection does not know so at once. Every write of a
leader is bound to its term (``PostgresDatabase``), so that none of an earlier leader's is carried
out after a later one has begun.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, Final

import psycopg
import structlog
from sqlalchemy import URL

from hutch.clock import Clock
from hutch.errors import HostNotReady
from hutch.store.migrate import LOCKS

_log = structlog.get_logger()

_LEADING: Final = 2  # the second number of the lock
_CHANNEL: Final = "hutch_leadership"
POLL_S: Final = 0.5  # when no notification comes: the death of a leader sends none
_ANSWER_S: Final = 3.0  # a server that says nothing for so long is gone
_RETAKE_S: Final = 10.0  # for a server that is being restarted: meanwhile nobody can lead
_PAUSE_S: Final = 0.1

_READ: Final = "SELECT term, url, since, installation FROM leadership WHERE id = 1"
_BEGIN: Final = """
    INSERT INTO leadership (id, term, url, since, installation) VALUES (1, 1, '', %s, %s)
    ON CONFLICT (id) DO UPDATE SET term = leadership.term + 1, url = '', since = excluded.since
    RETURNING term
"""


@dataclass(frozen=True, slots=True)
class Leader:
    term: int
    url: str  # "" until it serves
    since: float  # Unix seconds


class Seat:
    """One process's view of it, and its own try. Only one task may ``take`` and what follows."""

    def __init__(self, url: URL, clock: Clock, *, installation: str) -> None:
        self._url = url
        self._clock = clock
        self._installation = installation
        self._connection: psycopg.AsyncConnection[Any] | None = None
        self._leader: Leader | None = None
        self._changed = asyncio.Event()

    async def check(self) -> None:
        """Raises ``HostNotReady`` if the database belongs to another installation."""
        async with _answering(), await self._connect() as connection:
            row = await (await connection.execute(_READ)).fetchone()
        if row is not None and row[3] != self._installation:
            raise HostNotReady(
                "The database belongs to another installation: its secret is not this one's.",
                hint="Processes on one database share HUTCH_DATA_DIR.",
            )

    @property
    def leader(self) -> Leader | None:
        """Who serves, as last seen. It may be dead by now."""
        return self._leader if self._leader is not None and self._leader.url else None

    async def changed(self, within_s: float) -> None:
        """Wait until somebody else may lead, or so long."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                await self._changed.wait()

    async def take(self) -> int:
        """Wait for the lead; the term. Meanwhile ``leader`` is kept up to date."""
        while True:
            try:
                connection = await self._connected()
                if await self._locked(connection):
                    return await self._begin(connection)
                await self._look(connection)
                await _notified(connection)
            except (psycopg.Error, TimeoutError):
                await self._drop()
                await asyncio.sleep(_PAUSE_S)

    def own(self, term: int, url: str) -> Leader:
        return Leader(term, url, self._clock.now())

    async def announce(self, term: int, url: str) -> None:
        """It serves from now on, at ``url``."""
        connection = await self._connected()
        async with _answering():
            await connection.execute(
                "UPDATE leadership SET url = %s WHERE id = 1 AND term = %s", (url, term)
            )
            await self._look(connection)
            await connection.execute(f"NOTIFY {_CHANNEL}")

    async def until_lost(self, term: int) -> None:
        """Returns when another process leads, or may. A connection that was lost is made again
        first: if the lock is free still and the term the same, nobody led meanwhile.
        """
        while True:
            try:
                connection = await self._connected()
                await _notified(connection)
                async with _answering():
                    await connection.execute("SELECT 1")
            except (psycopg.Error, TimeoutError):
                await self._drop()
                if not await self._retaken(term):
                    return
                _log.info("leadership.kept", term=term)

    async def resign(self) -> None:
        """Let others have it at once."""
        with contextlib.suppress(psycopg.Error, TimeoutError):
            if self._connection is not None:
                async with _answering():
                    await self._connection.execute(
                        f"SELECT pg_advisory_unlock({LOCKS}, {_LEADING})"
                    )
                    await self._connection.execute(f"NOTIFY {_CHANNEL}")
        await self._drop()

    async def _retaken(self, term: int) -> bool:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_RETAKE_S):
                while True:
                    try:
                        connection = await self._connected()
                        if not await self._locked(connection):
                            return False
                        await self._look(connection)
                        return self._leader is not None and self._leader.term == term
                    except psycopg.Error:
                        await self._drop()
                        await asyncio.sleep(_PAUSE_S)
        return False

    async def _begin(self, connection: psycopg.AsyncConnection[Any]) -> int:
        """Waits for what an earlier leader is writing; what it would write later is refused."""
        now = self._clock.now()
        done = await connection.execute(_BEGIN, (now, self._installation))
        row = await done.fetchone()
        assert row is not None  # noqa: S101  it either inserts or updates
        term = int(row[0])
        self._see(Leader(term, "", now))
        return term

    async def _locked(self, connection: psycopg.AsyncConnection[Any]) -> bool:
        async with _answering():
            done = await connection.execute(f"SELECT pg_try_advisory_lock({LOCKS}, {_LEADING})")
            row = await done.fetchone()
        return bool(row and row[0])

    async def _look(self, connection: psycopg.AsyncConnection[Any]) -> None:
        async with _answering():
            row = await (await connection.execute(_READ)).fetchone()
        if row is not None:
            self._see(Leader(row[0], row[1], row[2]))

    def _see(self, leader: Leader) -> None:
        if leader != self._leader:
            self._leader = leader
            self._changed.set()
            self._changed = asyncio.Event()

    async def _connected(self) -> psycopg.AsyncConnection[Any]:
        if self._connection is None or self._connection.closed:
            async with _answering():
                self._connection = await self._connect()
                await self._connection.execute(f"LISTEN {_CHANNEL}")
        return self._connection

    async def _connect(self) -> psycopg.AsyncConnection[Any]:
        return await psycopg.AsyncConnection.connect(
            autocommit=True,
            connect_timeout=3,
            application_name="hutch leadership",
            # A leader whose machine is gone must not keep the lock for the kernel's two hours.
            options="-c tcp_keepalives_idle=2 -c tcp_keepalives_interval=1 "
            "-c tcp_keepalives_count=2 -c tcp_user_timeout=4000",
            **_parameters(self._url),
        )

    async def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(psycopg.Error):
                await connection.close()


@contextlib.asynccontextmanager
async def _answering() -> AsyncIterator[None]:
    async with asyncio.timeout(_ANSWER_S):
        yield


async def _notified(connection: psycopg.AsyncConnection[Any]) -> None:
    async for _ in connection.notifies(timeout=POLL_S, stop_after=1):
        pass


def _parameters(url: URL) -> dict[str, Any]:
    """As libpq has them."""
    return {**url.translate_connect_args(username="user", database="dbname"), **url.query}
