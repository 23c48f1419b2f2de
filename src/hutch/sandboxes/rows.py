"""The sandboxes table."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Final

from sqlalchemy import (
    BindParameter,
    Row,
    ScalarSelect,
    String,
    bindparam,
    case,
    delete,
    insert,
    select,
    update,
)
from sqlalchemy.exc import IntegrityError
from sqlalchemy.sql.dml import ReturningUpdate

from hutch.sandboxes.models import Sandbox
from hutch.sandboxes.states import OVER, RESTING, TRANSITIONS, Desired, Rest, State
from hutch.store.database import Database
from hutch.store.tables import sandboxes as table
from hutch.store.tables import snapshots


def _latest_snapshot(user_id: str | BindParameter[str]) -> ScalarSelect[str]:
    query = select(snapshots.c.id).where(snapshots.c.user_id == user_id)
    return query.order_by(snapshots.c.created_at.desc()).limit(1).scalar_subquery()


_GET: Final = select(table).where(table.c.id == bindparam("sandbox"))
_LIVE: Final = select(table).where(table.c.observed.not_in(OVER)).order_by(table.c.created_at)
_LIVE_OF: Final = select(table).where(
    table.c.user_id == bindparam("owner"), table.c.observed.not_in(OVER)
)


def _claim() -> ReturningUpdate[Any]:
    claimant: BindParameter[str] = bindparam("claimant", type_=String)
    snapshot_id = _latest_snapshot(claimant)
    ready = (
        select(table.c.id)
        .where(table.c.user_id.is_(None), table.c.observed == "warm", table.c.desired == "warm")
        .order_by(table.c.changed_at, table.c.id)
        .limit(1)
        .with_for_update(skip_locked=True)  # SQLite has one writer, and no word for it
        .scalar_subquery()
    )
    return (
        update(table)
        .where(table.c.id == ready)
        .values(
            user_id=claimant,
            desired="running",
            snapshot_id=snapshot_id,
            observed=case((snapshot_id.is_(None), "running"), else_="provisioning"),
            changed_at=bindparam("at"),
        )
        .returning(table)
    )


_CLAIM: Final = _claim()


class SandboxRows:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def get(self, sandbox_id: str) -> Sandbox | None:
        row = await self._database.first(_GET, sandbox=sandbox_id)
        return _sandbox(row) if row else None

    async def live_of(self, user_id: str) -> Sandbox | None:
        row = await self._database.first(_LIVE_OF, owner=user_id)
        return _sandbox(row) if row else None

    async def live(self) -> list[Sandbox]:
        return [_sandbox(row) for row in await self._database.all(_LIVE)]

    async def known_handles(self, handles: Collection[str]) -> set[str]:
        """Those of them that any row has, of an ended sandbox too."""
        query = select(table.c.handle).where(table.c.handle.in_(handles))
        return {row.handle for row in await self._database.all(query)}

    async def add(self, sandbox: Sandbox) -> bool:
        """With the user's snapshot, if there is one. False if they have a live one already:
        another request was first.
        """
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
                    image_id=sandbox.image_id,
                    cli_versions=sandbox.cli_versions,
                    created_at=sandbox.created_at,
                    changed_at=sandbox.changed_at,
                    snapshot_id=_latest_snapshot(sandbox.user_id) if sandbox.user_id else None,
                )
            )
        except IntegrityError:
            return False
        return True

    async def claim(self, user_id: str, *, at: float) -> Sandbox | None:
        """Give the user the warm one that has been ready longest, in one statement. None if there
        is none, or if the user has a sandbox already or is gone. It is running, or, if there is a
        snapshot of the user's, provisioning.
        """
        try:
            row = await self._database.write_returning(_CLAIM, claimant=user_id, at=at)
        except IntegrityError:
            return None
        return _sandbox(row) if row else None

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

    async def rest(self, sandbox_id: str, how: Rest) -> bool:
        """Want one that runs, or is frozen, to rest; false if it does neither any more."""
        changed = await self._database.write(
            update(table)
            .where(
                table.c.id == sandbox_id,
                table.c.observed.in_(("running", "frozen")),
                table.c.desired.in_(("running", "frozen", "hibernated")),
            )
            .values(desired=how)
        )
        return bool(changed)

    async def rouse(self, sandbox_id: str) -> None:
        """Want one that rests, or is about to, to run."""
        await self._database.write(
            update(table)
            .where(
                table.c.id == sandbox_id,
                table.c.observed.not_in(OVER),
                table.c.desired.in_(RESTING),
            )
            .values(desired="running")
        )

    async def hibernated(self, sandbox_id: str, *, at: float) -> bool:
        """It may go, its snapshot being there; false if somebody wants it to run meanwhile."""
        changed = await self._database.write(
            update(table)
            .where(
                table.c.id == sandbox_id,
                table.c.desired == "hibernated",
                table.c.observed.in_(("running", "frozen")),
            )
            .values(observed="hibernated", changed_at=at, reason="")
        )
        return bool(changed)

    async def keep_frozen(self, sandbox_id: str, *, reason: str) -> None:
        """It could not be hibernated, which nobody has taken back yet."""
        await self._database.write(
            update(table)
            .where(table.c.id == sandbox_id, table.c.desired == "hibernated")
            .values(desired="frozen", reason=reason)
        )

    async def hibernated_of(self, user_id: str) -> Sandbox | None:
        """The user's last, if that is how it ended."""
        query = select(table).where(table.c.user_id == user_id, table.c.observed == "hibernated")
        row = await self._database.first(query.order_by(table.c.changed_at.desc()).limit(1))
        return _sandbox(row) if row else None

    async def end_hibernated(self, user_id: str, *, at: float, reason: str) -> None:
        """What was stored of them is in another container now, or is gone."""
        await self._database.write(
            update(table)
            .where(table.c.user_id == user_id, table.c.observed == "hibernated")
            .values(observed="destroyed", desired="destroyed", changed_at=at, reason=reason)
        )

    async def last_words(self, user_id: str) -> str:
        """Why the user's last one ended, "" if there is nothing to say."""
        query = select(table.c.reason).where(table.c.user_id == user_id)
        row = await self._database.first(query.order_by(table.c.changed_at.desc()).limit(1))
        return row.reason if row else ""

    async def want(self, sandbox_id: str, desired: Desired) -> None:
        await self._database.write(
            update(table).where(table.c.id == sandbox_id).values(desired=desired)
        )

    async def observe(self, sandbox_id: str, state: State, *, at: float, **values: object) -> bool:
        """Move to ``state`` if the transition table allows it from what the row says now; to
        ``warm`` only what never had a user.
        """
        sources = [before for before, after in TRANSITIONS.items() if state in after]
        change = update(table).where(table.c.id == sandbox_id, table.c.observed.in_(sources))
        if state == "warm":
            change = change.where(table.c.user_id.is_(None))
        changed = await self._database.write(change.values(observed=state, changed_at=at, **values))
        return bool(changed)

    async def note(self, sandbox_id: str, **values: object) -> None:
        """Checkpoint a side effect (a handle, an address) before the next one."""
        await self._database.write(update(table).where(table.c.id == sandbox_id).values(**values))


def _sandbox(row: Row[Any]) -> Sandbox:
    return Sandbox(**row._mapping)  # noqa: SLF001  (SQLAlchemy's public name for it)
