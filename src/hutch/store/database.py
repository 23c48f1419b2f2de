"""Transactions on one database, each of them one trip to a thread.

A statement through an async driver costs five trips (cursor, execute, fetch, close, reset), and a
run's way through the tables came to fifty. Here a whole transaction is one (ADR 0004).
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeAlias, TypeVar

from sqlalchemy import Connection, Engine, Executable, Row

from hutch.errors import StorageFull

_T = TypeVar("_T")

# A statement, or one with the rows that it is executed for.
Statement: TypeAlias = Executable | tuple[Executable, list[dict[str, Any]]]
Work: TypeAlias = Callable[[Connection], _T]


class Database(ABC):
    """What the domains know of their database. ``hutch.store.open`` picks the kind.

    Each method raises ``IntegrityError`` for a rule of the tables, ``StorageFull`` when there is no
    room to write, and ``DatabaseUnavailable`` when the database cannot be used for another reason;
    both pass by themselves.
    """

    async def first(self, query: Executable, **parameters: object) -> Row[Any] | None:
        """``parameters``: what the query has a ``bindparam`` for. Building a query costs as much as
        executing it: those on a prompt's way are built once.
        """
        return await self._read(lambda connection: connection.execute(query, parameters).first())

    async def all(self, query: Executable, **parameters: object) -> Sequence[Row[Any]]:
        return await self._read(lambda connection: connection.execute(query, parameters).all())

    async def write(self, *statements: Statement) -> int:
        """All of them or none, and how many rows the last one changed. Once begun it is carried
        through, also when the caller is cancelled meanwhile.
        """
        return await self._transact(lambda connection: _execute(connection, statements))

    async def write_returning(self, statement: Executable, **parameters: object) -> Row[Any] | None:
        """A statement with RETURNING, as ``write`` does it, and the first row that it changed."""
        return await self._transact(
            lambda connection: connection.execute(statement, parameters).first()
        )

    @property
    @abstractmethod
    def engine(self) -> Engine:
        """For whoever watches its statements."""

    @abstractmethod
    async def checkpoint(self) -> None:
        """Bring every commit to stable storage, and remove what was deleted as far as the kind of
        database lets one. Raises ``Unavailable`` when it cannot now.
        """

    @abstractmethod
    async def close(self) -> None:
        """After what is under way."""

    @abstractmethod
    async def _read(self, work: Work[_T]) -> _T: ...

    @abstractmethod
    async def _transact(self, work: Work[_T]) -> _T: ...


def _execute(connection: Connection, statements: Sequence[Statement]) -> int:
    # Else an INSERT's may be -1.
    connection = connection.execution_options(preserve_rowcount=True)
    changed = 0
    for statement in statements:
        if isinstance(statement, tuple):
            changed = connection.execute(*statement).rowcount
        else:
            changed = connection.execute(statement).rowcount
    return changed


def storage_full() -> StorageFull:
    return StorageFull(
        "The database's disk is full; nothing can be stored.",
        hint="Try again later. Operators: make room on it (SQLite: in HUTCH_DATA_DIR); no restart "
        "needed.",
    )


async def in_thread(pool: ThreadPoolExecutor, work: Callable[[], _T]) -> _T:
    return await asyncio.get_running_loop().run_in_executor(pool, work)
