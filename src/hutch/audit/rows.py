from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Row, insert, select

from hutch.audit.chain import Head, Link
from hutch.store.database import Database
from hutch.store.tables import audit_log


class AuditRows:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def head(self) -> Head:
        row = await self._database.first(
            select(audit_log).order_by(audit_log.c.seq.desc()).limit(1)
        )
        return Head() if row is None else Head(row.seq, row.seal)

    async def seal_of(self, seq: int) -> bytes | None:
        """None: there is no such line."""
        row = await self._database.first(select(audit_log.c.seal).where(audit_log.c.seq == seq))
        return None if row is None else bytes(row.seal)

    async def append(self, links: Sequence[Link]) -> None:
        rows = [{"seq": link.seq, "line": link.line, "seal": link.seal} for link in links]
        await self._database.write((insert(audit_log), rows))

    async def after(self, seq: int, limit: int) -> list[Link]:
        query = select(audit_log).where(audit_log.c.seq > seq).order_by(audit_log.c.seq)
        return [_link(row) for row in await self._database.all(query.limit(limit))]

    async def before(self, seq: int | None, limit: int) -> list[Link]:
        """Newest first."""
        query = select(audit_log).order_by(audit_log.c.seq.desc()).limit(limit)
        if seq is not None:
            query = query.where(audit_log.c.seq < seq)
        return [_link(row) for row in await self._database.all(query)]


def _link(row: Row[Any]) -> Link:
    return Link(row.seq, row.line, bytes(row.seal))
