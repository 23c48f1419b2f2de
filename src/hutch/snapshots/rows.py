"""The snapshots table."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from sqlalchemy import Row, delete, insert, select

from hutch.snapshots.models import Snapshot
from hutch.store.database import Database
from hutch.store.tables import snapshots as table


class SnapshotRows:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def get(self, snapshot_id: str) -> Snapshot | None:
        row = await self._database.first(select(table).where(table.c.id == snapshot_id))
        return _snapshot(row) if row else None

    async def latest(self, user_id: str) -> Snapshot | None:
        query = select(table).where(table.c.user_id == user_id)
        row = await self._database.first(query.order_by(table.c.created_at.desc()).limit(1))
        return _snapshot(row) if row else None

    async def of(self, user_id: str) -> list[Snapshot]:
        query = select(table).where(table.c.user_id == user_id)
        return [_snapshot(row) for row in await self._database.all(query)]

    async def all(self) -> list[Snapshot]:
        return [_snapshot(row) for row in await self._database.all(select(table))]

    async def add(self, snapshot: Snapshot) -> None:
        await self._database.write((insert(table), [asdict(snapshot)]))

    async def remove(self, snapshot_id: str) -> None:
        await self._database.write(delete(table).where(table.c.id == snapshot_id))


def _snapshot(row: Row[Any]) -> Snapshot:
    return Snapshot(**row._mapping)  # noqa: SLF001  (SQLAlchemy's public name for it)
