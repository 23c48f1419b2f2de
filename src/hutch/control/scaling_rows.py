"""What the operator has said about the pool's size: one row, or none."""

from __future__ import annotations

from sqlalchemy import delete, insert, select

from hutch.store.database import Database
from hutch.store.tables import pool_sizes


class ScalingRows:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def size(self) -> int | None:
        row = await self._database.first(select(pool_sizes.c.size))
        return row.size if row is not None else None

    async def set(self, size: int | None, *, at: float) -> None:
        if size is None:
            await self._database.write(delete(pool_sizes))
        else:
            row = {"id": 1, "size": size, "set_at": at}
            await self._database.write(delete(pool_sizes), insert(pool_sizes).values(**row))
