"""The tables of sessions, runs and events."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any, Protocol

from sqlalchemy import Row, and_, delete, func, insert, or_, select, update
from sqlalchemy.exc import IntegrityError

from hutch.runs.announcement import announcement, message_id
from hutch.runs.models import FINISHED, LogEntry, Run, Session
from hutch.store.database import Database, Statement
from hutch.store.tables import run_attachments, run_events, runs, sessions
from hutch_runtime.protocol import Attachment


class Announcer(Protocol):
    """Tells of a run that has ended, in the transaction in which it ends."""

    def announce(
        self, message_id: str, kind: str, data: Mapping[str, Any], *, user_id: str, run_id: str
    ) -> list[Statement]: ...

    def wake(self) -> None:
        """After it."""


class RunRows:
    def __init__(self, database: Database, announcer: Announcer) -> None:
        self._database = database
        self._announcer = announcer

    async def get(self, run_id: str) -> Run | None:
        row = await self._database.first(select(runs).where(runs.c.id == run_id))
        return _run(row) if row else None

    async def by_idempotency_key(self, user_id: str, key: str) -> Run | None:
        query = select(runs).where(runs.c.user_id == user_id, runs.c.idempotency_key == key)
        row = await self._database.first(query)
        return _run(row) if row else None

    async def unfinished(self) -> list[Run]:
        query = select(runs).where(runs.c.state.not_in(FINISHED)).order_by(runs.c.created_at)
        return [_run(row) for row in await self._database.all(query)]

    async def page(
        self, user_id: str, *, session_id: str | None, before: Run | None, limit: int
    ) -> list[Run]:
        """Newest first; ``before`` is the last one of the page before."""
        query = select(runs).where(runs.c.user_id == user_id)
        if session_id is not None:
            query = query.where(runs.c.session_id == session_id)
        if before is not None:
            query = query.where(
                or_(
                    runs.c.created_at < before.created_at,
                    and_(runs.c.created_at == before.created_at, runs.c.id < before.id),
                )
            )
        query = query.order_by(runs.c.created_at.desc(), runs.c.id.desc()).limit(limit)
        return [_run(row) for row in await self._database.all(query)]

    async def add(
        self, run: Run, new_session: Session | None, attachments: Sequence[Attachment] = ()
    ) -> None:
        """All or nothing. Raises ``IntegrityError`` if the idempotency key is taken."""
        stored: list[Statement] = []
        if new_session is not None:
            row = {
                "id": new_session.id,
                "user_id": new_session.user_id,
                "provider": new_session.provider,
                "created_at": new_session.created_at,
                "last_used_at": new_session.last_used_at,
            }
            stored.append((insert(sessions), [row]))
        contents = [
            {
                "run_id": run.id,
                "number": number,
                "name": attachment.name,
                "media_type": attachment.media_type,
                "content": attachment.content,
            }
            for number, attachment in enumerate(attachments)
        ]
        row = {
            "id": run.id,
            "user_id": run.user_id,
            "session_id": run.session_id,
            "provider": run.provider,
            "model": run.model,
            "prompt": run.prompt,
            "timeout_s": run.timeout_s,
            "idempotency_key": run.idempotency_key,
            "request_hash": run.request_hash,
            "state": run.state,
            "cancel_requested": False,
            "text": "",
            "timings": {},
            "created_at": run.created_at,
            "options": run.options,
            "attachments": run.attachments,
        }
        stored.append((insert(runs), [row]))
        if contents:
            stored.append((insert(run_attachments), contents))
        await self._database.write(*stored)

    async def attachments(self, run_id: str) -> list[Attachment]:
        """In their order; gone when the run has ended."""
        query = select(run_attachments).where(run_attachments.c.run_id == run_id)
        rows = await self._database.all(query.order_by(run_attachments.c.number))
        return [Attachment(row.name, row.media_type, row.content) for row in rows]

    async def request_cancel(self, run_id: str) -> None:
        await self._database.write(
            update(runs).where(runs.c.id == run_id).values(cancel_requested=True)
        )

    async def save(self, run: Run, entries: list[LogEntry]) -> None:
        """New entries and what the run has become, in one transaction. A finished run stays as it
        is. May be repeated when it is not known whether it was stored.
        """
        told = self._announcement(run) if run.finished else []
        try:
            await self._database.write(*_changes(run, entries), *told)
        except IntegrityError:
            missing = await self._missing(run.id, entries)
            if len(missing) == len(entries):
                raise
            await self._database.write(*_changes(run, missing), *told)
        if told:
            self._announcer.wake()

    def _announcement(self, run: Run) -> list[Statement]:
        return self._announcer.announce(
            message_id(run),
            f"run.{run.state}",
            announcement(run),
            user_id=run.user_id,
            run_id=run.id,
        )

    async def _missing(self, run_id: str, entries: list[LogEntry]) -> list[LogEntry]:
        """Those of them that are not stored."""
        last = select(func.max(run_events.c.seq)).where(run_events.c.run_id == run_id)
        row = await self._database.first(last)
        stored = (row[0] or 0) if row is not None else 0
        return [entry for entry in entries if entry.seq > stored]

    async def runs_of(self, session_id: str, *, after: Run | None, limit: int) -> list[Run]:
        """Oldest first; ``after`` is the last one of the page before."""
        query = select(runs).where(runs.c.session_id == session_id)
        if after is not None:
            later = runs.c.created_at > after.created_at
            same = and_(runs.c.created_at == after.created_at, runs.c.id > after.id)
            query = query.where(or_(later, same))
        query = query.order_by(runs.c.created_at, runs.c.id).limit(limit)
        return [_run(row) for row in await self._database.all(query)]

    async def events(
        self,
        run_id: str,
        *,
        after: int = 0,
        limit: int | None = None,
        types: AbstractSet[str] | None = None,
    ) -> list[LogEntry]:
        query = (
            select(run_events)
            .where(run_events.c.run_id == run_id, run_events.c.seq > after)
            .order_by(run_events.c.seq)
            .limit(limit)
        )
        if types is not None:
            query = query.where(run_events.c.type.in_(types))
        return [LogEntry(**row._mapping) for row in await self._database.all(query)]  # noqa: SLF001  (SQLAlchemy's public name for it)

    async def session(self, user_id: str, session_id: str) -> Session | None:
        query = select(sessions).where(sessions.c.id == session_id, sessions.c.user_id == user_id)
        row = await self._database.first(query)
        return _session(row) if row else None

    async def sessions(self, user_id: str, *, limit: int) -> list[Session]:
        query = (
            select(sessions)
            .where(sessions.c.user_id == user_id)
            .order_by(sessions.c.last_used_at.desc())
            .limit(limit)
        )
        return [_session(row) for row in await self._database.all(query)]

    async def add_session(self, session: Session) -> None:
        row = {name: getattr(session, name) for name in session.__slots__}
        await self._database.write(insert(sessions).values(row))

    async def rename_session(self, session_id: str, name: str | None) -> None:
        await self._database.write(
            update(sessions).where(sessions.c.id == session_id).values(name=name)
        )

    async def move_sessions(self, before: str, after: str, as_of: float) -> None:
        """Sessions of an incarnation go on in another one, which has its files as of then; those
        that went on since are not whole there.
        """
        await self._database.write(
            update(sessions)
            .where(sessions.c.incarnation == before, sessions.c.last_used_at <= as_of)
            .values(incarnation=after)
        )

    async def delete_session(self, session_id: str) -> None:
        """And, by cascade, its runs and their events."""
        await self._database.write(delete(sessions).where(sessions.c.id == session_id))


def _changes(run: Run, entries: list[LogEntry]) -> list[Statement]:
    changes: list[Statement] = [
        update(runs)
        .where(runs.c.id == run.id, runs.c.state.not_in(FINISHED))
        .values(
            state=run.state,
            incarnation=run.incarnation,
            stop_reason=run.stop_reason,
            error_code=run.error_code,
            error_message=run.error_message,
            text=run.text,
            usage=run.usage,
            timings=run.timings,
            provider_session=run.provider_session,
            cli_version=run.cli_version,
            exit_id=run.exit_id,
            exit_ip=run.exit_ip,
            started_at=run.started_at,
            finished_at=run.finished_at,
        )
    ]
    if run.provider_session is not None:  # where the session lives from now on
        changes.append(
            update(sessions)
            .where(sessions.c.id == run.session_id)
            .values(
                provider_session=run.provider_session,
                incarnation=run.incarnation,
                last_used_at=run.finished_at or run.started_at,
            )
        )
    if run.finished and run.attachments:
        changes.append(delete(run_attachments).where(run_attachments.c.run_id == run.id))
    if entries:
        rows = [
            {
                "run_id": e.run_id,
                "seq": e.seq,
                "runtime_seq": e.runtime_seq,
                "time": e.time,
                "type": e.type,
                "data": e.data,
            }
            for e in entries
        ]
        changes.append((insert(run_events), rows))
    return changes


def _run(row: Row[Any]) -> Run:
    return Run(**{**row._mapping, "cancel_requested": bool(row.cancel_requested)})  # noqa: SLF001  (SQLAlchemy's public name for it)


def _session(row: Row[Any]) -> Session:
    return Session(**row._mapping)  # noqa: SLF001  (SQLAlchemy's public name for it)
