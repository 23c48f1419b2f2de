"""Transactions on one database, each of them one trip to a thread.

A statement through an async driver costs five trips (cursor, execute, fetch, close, reset), and a
run's way through the tables came to fifty. Here a whole transaction is one (ADR 0004).
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, Final, TypeAlias, TypeVar

from sqlalchemy import Executable, Row, create_engine, event
from sqlalchemy.exc import OperationalError

from hutch.errors import StorageFull, Unavailable

_T = TypeVar("_T")
_READERS: Final = 4  # queries at once; more wait
# A reader outside (a backup) may be in the way of a checkpoint. Each try keeps writers waiting for
# so long at most, and they have their turn in between.
_CHECKPOINT_TRIES: Final = 60
_CHECKPOINT_TRY_MS: Final = 200
_BUSY_MS: Final = 5000
# The second when a database is opened that nobody had open: its shared memory is a file as well.
_NO_ROOM: Final = frozenset({sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_SHMSIZE})

# A statement, or one with the rows that it is executed for.
Statement: TypeAlias = Executable | tuple[Executable, list[dict[str, Any]]]


class Database:
    """Writers queue in this process rather than in SQLite: waiting there polls, and costs two
    thirds of the throughput (1,377 against 465 one-row transactions a second).
    """

    def __init__(self, url: str) -> None:
        # An error may be logged; a prompt may not.
        self._engine = create_engine(url, hide_parameters=True, pool_size=_READERS + 1)
        event.listen(self._engine, "connect", _configure_sqlite)
        self._readers = ThreadPoolExecutor(_READERS, "database-read")
        self._writer = ThreadPoolExecutor(1, "database-write")

    async def first(self, query: Executable) -> Row[Any] | None:
        return await _in(self._readers, lambda: self._fetch(query, only_first=True)[0])

    async def all(self, query: Executable) -> Sequence[Row[Any]]:
        return await _in(self._readers, lambda: self._fetch(query, only_first=False)[1])

    async def write(self, *statements: Statement) -> int:
        """All of them or none, and how many rows the last one changed. Once begun it is carried
        through, also when the caller is cancelled meanwhile.
        """
        return await _in(self._writer, lambda: self._execute(statements))

    async def checkpoint(self) -> None:
        """Bring every commit to stable storage and empty the journal. What was deleted before is
        then in no file of the database, ``secure_delete`` having overwritten it in its page.
        """
        for _ in range(_CHECKPOINT_TRIES):
            if await _in(self._writer, self._checkpoint):
                return
            await asyncio.sleep(_CHECKPOINT_TRY_MS / 1000)
        raise Unavailable(
            "The database's journal could not be emptied: somebody reads it without a pause.",
            hint="Look for another program that has the database open (a backup?); repeat this.",
        )

    async def close(self) -> None:
        for pool in (self._readers, self._writer):
            await asyncio.to_thread(pool.shutdown)
        self._engine.dispose()

    def _fetch(
        self, query: Executable, *, only_first: bool
    ) -> tuple[Row[Any] | None, Sequence[Row[Any]]]:
        with _failing_as_ours(), self._engine.connect() as connection:
            result = connection.execute(query)
            return (result.first(), ()) if only_first else (None, result.all())

    def _checkpoint(self) -> bool:
        with self._engine.connect() as connection:
            connection.exec_driver_sql(f"PRAGMA busy_timeout={_CHECKPOINT_TRY_MS}")
            busy, _, _ = connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)").one()
            connection.exec_driver_sql(f"PRAGMA busy_timeout={_BUSY_MS}")
        return not busy

    def _execute(self, statements: Sequence[Statement]) -> int:
        changed = 0
        with _failing_as_ours(), self._engine.begin() as connection:
            for statement in statements:
                if isinstance(statement, tuple):
                    changed = connection.execute(*statement).rowcount
                else:
                    changed = connection.execute(statement).rowcount
        return changed


@contextmanager
def _failing_as_ours() -> Iterator[None]:
    """Raises ``StorageFull`` when there is no room to write, ``Unavailable`` when the database
    cannot be used for another reason; both pass by themselves.
    """
    try:
        yield
    except OperationalError as error:
        if getattr(error.orig, "sqlite_errorcode", None) in _NO_ROOM:
            raise StorageFull(
                "The server's disk is full; nothing can be stored.",
                hint="Try again later. Operators: make room in HUTCH_DATA_DIR; no restart needed.",
            ) from error
        raise Unavailable("The database does not answer.", hint="Try again in a moment.") from error


async def _in(pool: ThreadPoolExecutor, work: Callable[[], _T]) -> _T:
    return await asyncio.get_running_loop().run_in_executor(pool, work)


def _configure_sqlite(connection: Any, _record: object) -> None:
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode=WAL")
    # In WAL mode a commit survives the death of the process; only a power cut may lose the last.
    cursor.execute("PRAGMA synchronous=NORMAL")
    cursor.execute("PRAGMA foreign_keys=ON")
    cursor.execute(f"PRAGMA busy_timeout={_BUSY_MS}")
    cursor.execute("PRAGMA secure_delete=ON")  # what is deleted is overwritten with zeros
    cursor.close()
