"""SQLite: one file, WAL, one writer, one process."""

from __future__ import annotations

import asyncio
import fcntl
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, TypeVar

from sqlalchemy import URL, Engine, create_engine, event
from sqlalchemy.exc import OperationalError

from hutch.errors import DatabaseUnavailable, HostNotReady, Unavailable
from hutch.store.database import Database, Work, storage_full
from hutch.store.trips import Trips

_T = TypeVar("_T")
_READERS: Final = 4  # trips of queries at once; more wait
# A reader outside (a backup) may be in the way of a checkpoint. Each try keeps writers waiting for
# so long at most, and they have their turn in between.
_CHECKPOINT_TRIES: Final = 60
_CHECKPOINT_TRY_MS: Final = 200
_BUSY_MS: Final = 5000
# The second when a database is opened that nobody had open: its shared memory is a file as well.
_NO_ROOM: Final = frozenset({sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_SHMSIZE})


class SqliteDatabase(Database):
    """Writers queue in this process rather than in SQLite: waiting there polls, and costs two
    thirds of the throughput (1,377 against 465 one-row transactions a second).
    """

    def __init__(self, url: URL, *, lock: int | None = None) -> None:
        """``lock``: what ``take`` gave, to be let go of at the end."""
        self._lock = lock
        # An error may be logged; a prompt may not.
        self._engine = create_engine(url, hide_parameters=True, pool_size=_READERS + 1)
        event.listen(self._engine, "connect", _configure)
        self._reads = Trips("database-read", threads=_READERS)
        self._writes = Trips("database-write", threads=1)

    @property
    def engine(self) -> Engine:
        return self._engine

    async def checkpoint(self) -> None:
        """The journal is emptied. What was deleted before is then in no file of the database,
        ``secure_delete`` having overwritten it in its page.
        """
        for _ in range(_CHECKPOINT_TRIES):
            if await self._writes.take(self._checkpoint):
                return
            await asyncio.sleep(_CHECKPOINT_TRY_MS / 1000)
        raise Unavailable(
            "The database's journal could not be emptied: somebody reads it without a pause.",
            hint="Look for another program that has the database open (a backup?); repeat this.",
        )

    async def close(self) -> None:
        for trips in (self._reads, self._writes):
            await trips.close()
        self._engine.dispose()
        if self._lock is not None:
            os.close(self._lock)

    async def _read(self, work: Work[_T]) -> _T:
        def read() -> _T:
            with _failing_as_ours(), self._engine.connect() as connection:
                return work(connection)

        return await self._reads.take(read)

    async def _transact(self, work: Work[_T]) -> _T:
        def transact() -> _T:
            with _failing_as_ours(), self._engine.begin() as connection:
                return work(connection)

        return await self._writes.take(transact)

    def _checkpoint(self) -> bool:
        with self._engine.connect() as connection:
            connection.exec_driver_sql(f"PRAGMA busy_timeout={_CHECKPOINT_TRY_MS}")
            busy, _, _ = connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)").one()
            connection.exec_driver_sql(f"PRAGMA busy_timeout={_BUSY_MS}")
        return not busy


@contextmanager
def _failing_as_ours() -> Iterator[None]:
    """Raises ``StorageFull`` when there is no room to write, ``DatabaseUnavailable`` when the
    database cannot be used for another reason; both pass by themselves.
    """
    try:
        yield
    except OperationalError as error:
        if getattr(error.orig, "sqlite_errorcode", None) in _NO_ROOM:
            raise storage_full() from error
        raise DatabaseUnavailable(
            "The database does not answer.", hint="Try again in a moment."
        ) from error


def take(url: URL) -> int:
    """A lock on the file that no other process gets until this one closes it or ends, in whatever
    way. Raises ``HostNotReady`` while another process has it.
    """
    database = Path(url.database or "")
    path = database.with_name(database.name + ".lock")
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise HostNotReady(
            f"Another process has {database} open, and SQLite is for one at a time.",
            hint="Is `hutch serve` running already? For several processes use PostgreSQL: "
            "HUTCH_DATABASE_URL.",
        ) from None
    return descriptor


def _configure(connection: Any, _record: object) -> None:
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode=WAL")
    # In WAL mode a commit survives the death of the process; only a power cut may lose the last.
    cursor.execute("PRAGMA synchronous=NORMAL")
    cursor.execute("PRAGMA foreign_keys=ON")
    cursor.execute(f"PRAGMA busy_timeout={_BUSY_MS}")
    cursor.execute("PRAGMA secure_delete=ON")  # what is deleted is overwritten with zeros
    cursor.close()
