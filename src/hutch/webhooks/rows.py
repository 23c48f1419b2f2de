"""The tables of webhooks: endpoints, messages, and the way of each message to each endpoint."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from sqlalchemy import Row, Select, delete, func, insert, select, update

from hutch.store.database import Database, Statement
from hutch.store.tables import (
    webhook_deliveries as deliveries,
)
from hutch.store.tables import (
    webhook_endpoints as endpoints,
)
from hutch.store.tables import (
    webhook_messages as messages,
)
from hutch.webhooks.models import Delivery, Endpoint

_DELIVERY: Final = select(
    deliveries, messages.c.type, messages.c.run_id, messages.c.created_at
).join_from(deliveries, messages)


class WebhookRows:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def write(self, *statements: Statement) -> int:
        return await self._database.write(*statements)

    async def add(self, endpoint: Endpoint) -> None:
        row = {name: getattr(endpoint, name) for name in endpoint.__slots__}
        row["events"] = _written(endpoint.events)
        await self._database.write(insert(endpoints).values(row))

    async def change(self, endpoint_id: str, **values: Any) -> None:
        if "events" in values:
            values["events"] = _written(values["events"])
        await self._database.write(
            update(endpoints).where(endpoints.c.id == endpoint_id).values(values)
        )

    async def delete(self, endpoint_id: str) -> None:
        """And, by cascade, its deliveries."""
        await self._database.write(delete(endpoints).where(endpoints.c.id == endpoint_id))

    async def get(self, endpoint_id: str) -> Endpoint | None:
        row = await self._database.first(select(endpoints).where(endpoints.c.id == endpoint_id))
        return _endpoint(row) if row else None

    async def of(self, user_id: str | None) -> list[Endpoint]:
        query = select(endpoints).where(endpoints.c.user_id.is_not_distinct_from(user_id))
        query = query.order_by(endpoints.c.created_at, endpoints.c.id)
        return [_endpoint(row) for row in await self._database.all(query)]

    async def listening(self) -> set[str | None]:
        """Owners with an endpoint that is not disabled."""
        query = select(endpoints.c.user_id).where(endpoints.c.disabled_at.is_(None)).distinct()
        return {user_id for (user_id,) in await self._database.all(query)}

    async def deliveries(
        self, endpoint_id: str, *, before: Delivery | None, limit: int
    ) -> list[Delivery]:
        """Newest first; ``before`` is the last one of the page before."""
        query = _DELIVERY.where(deliveries.c.endpoint_id == endpoint_id)
        if before is not None:
            older = messages.c.created_at < before.created_at
            same = messages.c.created_at == before.created_at
            query = query.where(older | (same & (messages.c.id < before.message_id)))
        query = query.order_by(messages.c.created_at.desc(), messages.c.id.desc()).limit(limit)
        return [_delivery(row) for row in await self._database.all(query)]

    async def delivery(self, endpoint_id: str, message_id: str) -> Delivery | None:
        query = _DELIVERY.where(
            deliveries.c.endpoint_id == endpoint_id, deliveries.c.message_id == message_id
        )
        row = await self._database.first(query)
        return _delivery(row) if row else None

    async def payload(self, message_id: str) -> str | None:
        query = select(messages.c.payload).where(messages.c.id == message_id)
        row = await self._database.first(query)
        return row.payload if row else None

    async def due(self, now: float, *, each: int, most: int) -> list[Delivery]:
        """What is to be sent now, the longest due first; of an endpoint at most ``each``, so that
        one that is slow keeps none from another.
        """
        place = func.row_number().over(
            partition_by=deliveries.c.endpoint_id, order_by=deliveries.c.next_at
        )
        ranked = (
            select(deliveries.c.message_id, deliveries.c.endpoint_id, place.label("place"))
            .join_from(deliveries, endpoints)
            .where(
                deliveries.c.state == "pending",
                deliveries.c.next_at <= now,
                endpoints.c.disabled_at.is_(None),
            )
            .subquery()
        )
        query: Select[Any] = (
            _DELIVERY.join(
                ranked,
                (ranked.c.message_id == deliveries.c.message_id)
                & (ranked.c.endpoint_id == deliveries.c.endpoint_id),
            )
            .where(ranked.c.place <= each)
            .order_by(deliveries.c.next_at)
            .limit(most)
        )
        return [_delivery(row) for row in await self._database.all(query)]

    async def record(self, delivery: Delivery, *endpoint: Statement) -> None:
        """How an attempt went, with what it means for the endpoint."""
        await self._database.write(
            update(deliveries)
            .where(
                deliveries.c.message_id == delivery.message_id,
                deliveries.c.endpoint_id == delivery.endpoint_id,
            )
            .values(
                state=delivery.state,
                attempts=delivery.attempts,
                next_at=delivery.next_at,
                first_at=delivery.first_at,
                last_at=delivery.last_at,
                last_status=delivery.last_status,
                last_error=delivery.last_error,
                last_ms=delivery.last_ms,
            ),
            *endpoint,
        )

    async def sweep(self, before: float) -> int:
        """Forget messages from before, and by cascade their deliveries; returns how many."""
        return await self._database.write(delete(messages).where(messages.c.created_at < before))

    async def counts(self) -> dict[str, int]:
        """Deliveries by state."""
        query = select(deliveries.c.state, func.count().label("deliveries")).group_by(
            deliveries.c.state
        )
        return {row.state: row.deliveries for row in await self._database.all(query)}


def succeeded(endpoint_id: str) -> Statement:
    return update(endpoints).where(endpoints.c.id == endpoint_id).values(failing_since=None)


def failed(endpoint_id: str, *, at: float) -> Statement:
    return (
        update(endpoints)
        .where(endpoints.c.id == endpoint_id, endpoints.c.failing_since.is_(None))
        .values(failing_since=at)
    )


def disable(endpoint_id: str, reason: str, *, at: float) -> Statement:
    return (
        update(endpoints)
        .where(endpoints.c.id == endpoint_id, endpoints.c.disabled_at.is_(None))
        .values(disabled_at=at, reason=reason)
    )


def _written(events: Sequence[str]) -> str:
    """So that one of them is found by looking for it between commas."""
    return f",{','.join(events)}," if events else ""


def _endpoint(row: Row[Any]) -> Endpoint:
    values = {**row._mapping}  # noqa: SLF001  (SQLAlchemy's public name for it)
    values["events"] = tuple(name for name in row.events.split(",") if name)
    return Endpoint(**values)


def _delivery(row: Row[Any]) -> Delivery:
    return Delivery(**row._mapping)  # noqa: SLF001  (SQLAlchemy's public name for it)
