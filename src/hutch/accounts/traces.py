"""What there is of a user, counted before it goes."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Select, Table, func, select

from hutch.store import tables
from hutch.store.database import Database


@dataclass(frozen=True, slots=True)
class Traces:
    """Rows of one user, by table, and the exits that are leased to them."""

    credentials: int
    api_keys: int
    sessions: int
    runs: int
    events: int
    agreements: int
    allowed_hosts: int
    exits: list[str]


async def traces_of(database: Database, user_id: str) -> Traces:
    async def count(query: Select[int]) -> int:
        row = await database.first(query)
        return int(row[0]) if row is not None else 0

    def of(table: Table) -> Select[int]:
        return select(func.count()).select_from(table).where(table.c.user_id == user_id)

    events = (
        select(func.count())
        .select_from(tables.run_events.join(tables.runs))
        .where(tables.runs.c.user_id == user_id)
    )
    leases = select(tables.exit_leases.c.exit_id).where(tables.exit_leases.c.user_id == user_id)
    return Traces(
        credentials=await count(of(tables.credentials)),
        api_keys=await count(of(tables.api_keys)),
        sessions=await count(of(tables.sessions)),
        runs=await count(of(tables.runs)),
        events=await count(events),
        agreements=await count(of(tables.agreements)),
        allowed_hosts=await count(of(tables.allowed_hosts)),
        exits=[exit_id for (exit_id,) in await database.all(leases)],
    )
