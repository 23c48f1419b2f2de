"""PostgreSQL: a pool of connections, any of which may be lost at any moment.

A read is repeated. So is a transaction that certainly was not committed. For one whose connection
was lost during COMMIT the server is asked what became of it: ``pg_xact_status`` is there for that.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, Final, TypeVar

from sqlalchemy import URL, Delete, Engine, Executable, Update, event, text
from sqlalchemy.exc import DBAPIError, OperationalError

from hutch.errors import DatabaseUnavailable, NotLeading
from hutch.store.database import Database, Work, in_thread, storage_full
from hutch.store.server import LIFE, engine_of, reason
from hutch.store.tables import metadata

_T = TypeVar("_T")
_READERS: Final = 4  # threads, and connections; more wait
_WRITERS: Final = 4  # commits of several at once share a flush of the server's journal
PATIENCE_S: Final = 10.0  # for a server that is being restarted
_DISK_FULL: Final = "53100"
_PAUSE_S: Final = 0.05  # before the first repetition; then twice as long, up to
_PAUSE_MAX_S: Final = 0.5
_RETRYABLE: Final = frozenset(
    {
        "40001",  # serialization_failure
        "40P01",  # deadlock_detected
        "55P03",  # lock_not_available: lock_timeout
        "57P01",  # admin_shutdown
        "57P02",  # crash_shutdown
        "57P03",  # cannot_connect_now: starting up, or shutting down
        "53300",  # too_many_connections
    }
)
# The number of the transaction; "committed" or "aborted" or "in progress", by that.
_NAME: Final = text("SELECT pg_current_xact_id()::text")
# The same, of a leader: none while another one leads, and none leads until this has ended.
_NAME_IN_TERM: Final = text(
    "SELECT pg_current_xact_id()::text FROM leadership WHERE id = 1 AND term = :term FOR SHARE"
)
_FATE: Final = text("SELECT pg_xact_status(CAST(:name AS xid8))")
_NEVER_GIVEN: Final = "22023"  # such a number has not been given yet


class _Lost(Exception):
    """The connection is gone, or was not to be had, and nothing of the work is in the database."""


class _InDoubt(Exception):
    """The connection was lost during COMMIT of this transaction, in this life of the server."""

    def __init__(self, transaction: str, life: str, result: Any) -> None:
        super().__init__(transaction)
        self.transaction = transaction
        self.life = life
        self.result = result


class PostgresDatabase(Database):
    def __init__(
        self, url: URL, *, term: int | None = None, patience_s: float = PATIENCE_S
    ) -> None:
        """With a ``term`` it writes for the leader of that term alone (``hutch.store.seat``)."""
        self._name = _NAME if term is None else _NAME_IN_TERM.bindparams(term=term)
        self._engine = engine_of(url, connections=_READERS + _WRITERS)
        event.listen(self._engine, "before_execute", self._note_what_is_left_behind)
        # Each query is a trip, with no BEGIN before it and no ROLLBACK after.
        self._queries = self._engine.execution_options(isolation_level="AUTOCOMMIT")
        self._patience_s = patience_s
        self._readers = ThreadPoolExecutor(_READERS, "database-read")
        self._writers = ThreadPoolExecutor(_WRITERS, "database-write")
        self._closing = threading.Event()
        self._touched: set[str] = set()

    @property
    def engine(self) -> Engine:
        return self._engine

    async def checkpoint(self) -> None:
        """Vacuums the tables that had rows deleted or replaced. Their bytes may be in the server's
        files, its journal and its backups for longer (docs/operating.md): what nobody may read any
        more has to be sealed, and its key destroyed.
        """
        tables, self._touched = self._touched, set()
        try:
            await self._persistently(self._writers, lambda: self._vacuum(sorted(tables)))
        except BaseException:
            self._touched |= tables
            raise

    async def close(self) -> None:
        self._closing.set()
        for pool in (self._readers, self._writers):
            await asyncio.to_thread(pool.shutdown)
        self._engine.dispose()

    async def _read(self, work: Work[_T]) -> _T:
        def read() -> _T:
            with _losing(), self._queries.connect() as connection:
                return work(connection)

        return await self._persistently(self._readers, read)

    async def _transact(self, work: Work[_T]) -> _T:
        return await self._persistently(self._writers, lambda: self._transaction(work))

    async def _persistently(self, pool: ThreadPoolExecutor, once: Callable[[], _T]) -> _T:
        until = time.monotonic() + self._patience_s
        return await in_thread(pool, lambda: self._repeat(once, until))

    def _repeat(self, once: Callable[[], _T], until: float) -> _T:
        pause = _PAUSE_S
        while True:
            try:
                return once()
            except _Lost as lost:
                cause = lost.__cause__
            if time.monotonic() + pause > until or self._closing.wait(pause):
                raise DatabaseUnavailable(
                    f"The database does not answer: {reason(cause, self._engine.url)}",
                    hint="Look whether PostgreSQL runs; Hutch goes on by itself once it does.",
                ) from None
            pause = min(pause * 2, _PAUSE_MAX_S)

    def _transaction(self, work: Work[_T]) -> _T:
        try:
            return self._commit(work)
        except _InDoubt as doubt:
            if self._committed(doubt):
                result: _T = doubt.result
                return result
            raise _Lost from doubt.__cause__

    def _commit(self, work: Work[_T]) -> _T:
        with _losing(), self._engine.connect() as connection:
            life = connection.info[LIFE]  # not to be had any more once it is lost
            transaction = connection.begin()
            name = connection.execute(self._name).scalar()
            if name is None:
                raise NotLeading(
                    "Another process of this service leads by now.", hint="Repeat the request."
                )
            result = work(connection)
            try:
                transaction.commit()
            except DBAPIError as error:
                if not error.connection_invalidated:
                    raise
                raise _InDoubt(name, life, result) from error
            return result

    def _committed(self, doubt: _InDoubt) -> bool:
        """What became of it. A server that has recovered from a crash may have given a number that
        it lost to another transaction: then "committed" proves nothing.
        """
        until = time.monotonic() + self._patience_s
        while True:
            status = self._repeat(lambda: self._status(doubt), until)
            if status == "aborted":
                return False
            if status == "committed":
                return True
            if status != "in progress" or time.monotonic() > until or self._closing.wait(_PAUSE_S):
                raise DatabaseUnavailable(
                    "The connection to the database broke, and whether a change was stored is not "
                    "known.",
                    hint="Look at what is there before you repeat the request.",
                ) from None

    def _status(self, doubt: _InDoubt) -> str:
        with _losing(), self._queries.connect() as connection:
            same_life = connection.info[LIFE] == doubt.life
            try:
                found = connection.execute(_FATE, {"name": doubt.transaction}).scalar()
            except DBAPIError as error:
                if getattr(error.orig, "sqlstate", None) == _NEVER_GIVEN:
                    return "aborted"
                raise
        if found == "committed" and not same_life:
            return "unknown"
        return str(found)

    def _vacuum(self, tables: list[str]) -> None:
        with _losing(), self._queries.connect() as connection:
            connection.detach()  # from the pool: it has a setting of its own
            connection.exec_driver_sql("SET statement_timeout = 0")
            for table in tables:
                connection.exec_driver_sql(f"VACUUM (TRUNCATE OFF) {table}")
        with _losing(), self._engine.begin() as connection:
            # Whatever the server's default is, this commit waits until it is on stable storage,
            # and with it are all that came before.
            connection.exec_driver_sql("SET LOCAL synchronous_commit = on")
            connection.execute(_NAME)

    def _note_what_is_left_behind(
        self, _connection: object, statement: Executable, *_ignored: object
    ) -> None:
        if isinstance(statement, Update):
            self._touched.add(str(statement.table))
        elif isinstance(statement, Delete):
            self._touched |= _WITH[str(statement.table)]


def _cascades() -> dict[str, frozenset[str]]:
    """Each table, with those whose rows go with a row of it."""
    direct: dict[str, set[str]] = {name: {name} for name in metadata.tables}
    for table in reversed(metadata.sorted_tables):
        for key in table.foreign_keys:
            if key.ondelete == "CASCADE":
                direct[key.column.table.name] |= direct[table.name]
    return {name: frozenset(tables) for name, tables in direct.items()}


_WITH: Final = _cascades()


@contextmanager
def _losing() -> Iterator[None]:
    try:
        yield
    except DBAPIError as error:
        # Without a word of the server's it was not reached.
        state = getattr(error.orig, "sqlstate", None)
        if error.connection_invalidated or state is None or state in _RETRYABLE:
            raise _Lost from error
        if state == _DISK_FULL:
            raise storage_full() from error
        if isinstance(error, OperationalError):  # a time limit passed, memory is short
            raise DatabaseUnavailable(
                "The database could not do it now.", hint="Its own log says why; try again."
            ) from error
        raise
