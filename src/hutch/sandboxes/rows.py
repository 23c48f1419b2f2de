"""The sandboxes table."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Row, delete, insert, select, update
from sqlalchemy.exc import IntegrityError

from hutch.sandboxes.models import Sandbox
from hutch.sandboxes.states import OVER, TRANSITIONS, Desired, State
from hutch.store.database import Database
from hutch.store.tables import sandboxes as table


class SandboxRows:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def get(self, sandbox_id: str) -> Sandbox | None:
        row = await self._database.first(select(table).where(table.c.id == sandbox_id))
        return _sandbox(row) if row else None

    async def live_of(self, user_id: str) -> Sandbox | None:
        query = select(table).where(table.c.user_id == user_id, table.c.observed.not_in(OVER))
        row = await self._database.first(query)
        return _sandbox(row) if row else None

    async def live(self) -> list[Sandbox]:
        query = select(table).where(table.c.observed.not_in(OVER)).order_by(table.c.created_at)
        return [_sandbox(row) for row in await self._database.all(query)]

    async def add(self, sandbox: Sandbox) -> bool:
        """False if the user has a live one already: another request was first."""
        try:
            await self._database.write(
                insert(table).values(
                    id=sandbox.id,
                    user_id=sandbox.user_id,
                    incarnation=sandbox.incarnation,
                    desired=sandbox.desired,
                    observed=sandbox.observed,
                    reason=sandbox.reason,
                    image=sandbox.image,
                    cli_versions=sandbox.cli_versions,
                    created_at=sandbox.created_at,
                    changed_at=sandbox.changed_at,
                )
            )
        except IntegrityError:
            return False
        return True

    async def claim(self, user_id: str, *, at: float) -> Sandbox | None:
        """Give the user the warm one that has been ready longest, in one conditional update. None
        if there is none, or if the user has a sandbox already or is gone.
        """
        ready = (
            select(table.c.id)
            .where(table.c.user_id.is_(None), table.c.observed == "warm", table.c.desired == "warm")
            .order_by(table.c.changed_at, table.c.id)
        )
        while row := await self._database.first(ready.limit(1)):
            claim = update(table).where(
                table.c.id == row.id,
                table.c.user_id.is_(None),
                table.c.observed == "warm",
                table.c.desired == "warm",
            )
            values = {"user_id": user_id, "observed": "running", "desired": "running"}
            try:
                won = await self._database.write(claim.values(**values, changed_at=at))
            except IntegrityError:
                return None
            if won:
                return await self.get(row.id)
        return None

    async def retire(self, sandbox_id: str) -> bool:
        """Want a warm one's end; false if a claim was first."""
        changed = await self._database.write(
            update(table)
            .where(table.c.id == sandbox_id, table.c.user_id.is_(None), table.c.desired == "warm")
            .values(desired="destroyed")
        )
        return bool(changed)

    async def forget_nobodys(self, *, before: float) -> None:
        """Rows of ended members that never had a user, with whom they would go."""
        await self._database.write(
            delete(table).where(
                table.c.user_id.is_(None),
                table.c.observed.in_(OVER),
                table.c.changed_at < before,
            )
        )

    async def want(self, sandbox_id: str, desired: Desired) -> None:
        await self._database.write(
            update(table).where(table.c.id == sandbox_id).values(desired=desired)
        )

    async def observe(self, sandbox_id: str, state: State, *, at: float, **values: object) -> bool:
        """Move to ``state`` if the transition table allows it from what the row says now."""
        sources = [before for before, after in TRANSITIONS.items() if state in after]
        changed = await self._database.write(
            update(table)
            .where(table.c.id == sandbox_id, table.c.observed.in_(sources))
            .values(observed=state, changed_at=at, **values)
        )
        return bool(changed)

    async def note(self, sandbox_id: str, **values: object) -> None:
        """Checkpoint a side effect (a handle, an address) before the next one."""
        await self._database.write(update(table).where(table.c.id == sandbox_id).values(**values))


def _sandbox(row: Row[Any]) -> Sandbox:
    return Sandbox(**row._mapping)  # noqa: SLF001  (SQLAlchemy's public name for it)
