"""The tables of exits. Its primary key makes a lease; whoever inserts it first has the exit."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

from sqlalchemy import Row, delete, insert, select, update
from sqlalchemy.exc import IntegrityError

from hutch.exits.models import Exit, Happening, Role
from hutch.store.database import Database, Statement
from hutch.store.tables import exit_history, exit_leases, exits

_ALL: Final = select(
    exits, exit_leases.c.user_id, exit_leases.c.role, exit_leases.c.since
).outerjoin_from(exits, exit_leases, exits.c.id == exit_leases.c.exit_id)


class ExitRows:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def all(self) -> list[Exit]:
        rows = await self._database.all(_ALL.order_by(exits.c.created_at, exits.c.id))
        return [_exit(row) for row in rows]

    async def write(self, *statements: Statement) -> None:
        if statements:
            await self._database.write(*statements)

    async def lease(self, exit_: Exit, user_id: str, role: Role, *, at: float) -> bool:
        """False when the exit, or the user's place for one, was taken meanwhile."""
        try:
            await self._database.write(
                insert(exit_leases).values(exit_id=exit_.id, user_id=user_id, role=role, since=at),
                update(exits).where(exits.c.id == exit_.id).values(last_user_id=user_id),
                happened(exit_.id, user_id, "spare" if role == "spare" else "leased", "", at),
            )
        except IntegrityError:
            return False
        return True

    async def release(
        self, lease: Exit, what: str, detail: str, *, at: float, also: Iterable[Statement] = ()
    ) -> None:
        """End this very lease, not a later one of the same exit."""
        gone = delete(exit_leases).where(
            exit_leases.c.exit_id == lease.id, exit_leases.c.user_id == lease.user_id
        )
        await self._database.write(gone, happened(lease.id, lease.user_id, what, detail, at), *also)

    async def history(self, *, user_id: str | None, limit: int) -> list[Happening]:
        query = select(exit_history).order_by(exit_history.c.id.desc()).limit(limit)
        if user_id is not None:
            query = query.where(exit_history.c.user_id == user_id)
        return [
            Happening(row.exit_id, row.user_id, row.what, row.detail, row.at)
            for row in await self._database.all(query)
        ]


def changed(exit_id: str, **values: Any) -> Statement:
    return update(exits).where(exits.c.id == exit_id).values(**values)


def added(rows: Sequence[dict[str, Any]]) -> Statement:
    return insert(exits), list(rows)


def removed(exit_id: str) -> Statement:
    return delete(exits).where(exits.c.id == exit_id)


def happened(exit_id: str, user_id: str | None, what: str, detail: str, at: float) -> Statement:
    return insert(exit_history).values(
        exit_id=exit_id, user_id=user_id, what=what, detail=detail, at=at
    )


def _exit(row: Row[Any]) -> Exit:
    return Exit(**{name: getattr(row, name) for name in Exit.__slots__})
