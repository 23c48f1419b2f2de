"""Sessions: found, named, forked, deleted, and read from the first word to the last."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Final

from hutch.clock import Clock
from hutch.errors import Conflict, InvalidRequest, NotFound, NotSupported, SessionBusy, Unavailable
from hutch.ids import is_id, new_id
from hutch.runs.models import LogEntry, Run, Session
from hutch.runs.rows import RunRows
from hutch.sandboxes.runtime_client import RuntimeClient, RuntimeRefused, RuntimeUnreachable
from hutch.sandboxes.service import Sandboxes
from hutch_runtime.protocol import CAN_FORK

PAGE_MAX: Final = 100
NAME_MAX: Final = 200
_FORK_WITHIN_S: Final = 30.0
_SESSION: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")
# Read at a time, so that a long session is never in memory as a whole: a run's prompt has up to
# 1 MB, an event 2.
_RUNS_AT_ONCE: Final = 4
_EVENTS_AT_ONCE: Final = 200

Told = tuple[Run, AsyncIterator[LogEntry]]


class Sessions:
    def __init__(
        self,
        rows: RunRows,
        sandboxes: Sandboxes,
        runtime: RuntimeClient,
        clock: Clock,
        *,
        busy: Callable[[str], bool],
    ) -> None:
        """``busy``: whether a run of that session is unfinished."""
        self._rows = rows
        self._sandboxes = sandboxes
        self._runtime = runtime
        self._clock = clock
        self._busy = busy

    async def get(self, user_id: str, session_id: str) -> Session:
        session = (
            await self._rows.session(user_id, session_id) if is_id(session_id, "ses") else None
        )
        if session is None:
            raise no_session()
        return session

    async def page(self, user_id: str, *, limit: int) -> list[Session]:
        return await self._rows.sessions(user_id, limit=min(limit, PAGE_MAX))

    async def rename(self, user_id: str, session_id: str, name: str | None) -> Session:
        """None: no name. Raises ``InvalidRequest``, ``NotFound``."""
        session = await self.get(user_id, session_id)
        await self._rows.rename_session(session.id, _checked(name))
        return replace(session, name=_checked(name))

    async def delete(self, user_id: str, session_id: str) -> None:
        """And its runs and events. Raises ``SessionBusy`` while one of them is unfinished."""
        session = await self.get(user_id, session_id)
        if self._busy(session.id):
            raise SessionBusy(
                "A run of this session has not finished.", hint="Cancel it, or wait for it."
            )
        await self._rows.delete_session(session.id)

    async def fork(self, user_id: str, session_id: str, name: str | None) -> Session:
        """Another session with what has been said in this one until now. Its container is woken
        for it. Raises ``NotSupported``, ``SessionBusy``, ``Conflict``, ``Unavailable``.
        """
        origin = await self.get(user_id, session_id)
        if origin.provider not in CAN_FORK:
            raise NotSupported(
                f"{origin.provider} cannot fork a session.",
                hint=f"These can: {', '.join(sorted(CAN_FORK))}.",
            )
        if self._busy(origin.id):
            raise SessionBusy(
                "A run of this session has not finished.", hint="Cancel it, or wait for it."
            )
        name = _checked(name)
        with self._sandboxes.hold(user_id):
            sandbox = await self._sandboxes.ensure(user_id)
            origin = await self.get(user_id, session_id)  # it moves with its container's files
            if origin.provider_session is None or origin.incarnation != sandbox.incarnation:
                raise Conflict(
                    "There is nothing to fork: no run of this session has begun, or the container "
                    "that held it is gone.",
                    hint="Start a new session.",
                )
            try:
                answer = await self._runtime.call(
                    sandbox,
                    "POST",
                    f"/{origin.provider}/fork",
                    body={"session": origin.provider_session},
                    within_s=_FORK_WITHIN_S,
                )
            except RuntimeUnreachable:
                raise Unavailable("The container does not answer.", hint="Try again.") from None
            except RuntimeRefused as refused:
                raise _refusal(refused) from None
        forked = answer.get("session")
        if not isinstance(forked, str) or not _SESSION.fullmatch(forked):
            raise Unavailable("The container gave no proper answer.", hint="Try again.")
        now = self._clock.now()
        session = Session(
            id=new_id("ses"),
            user_id=user_id,
            provider=origin.provider,
            provider_session=forked,
            incarnation=sandbox.incarnation,
            created_at=now,
            last_used_at=now,
            name=name,
            forked_from=origin.id,
        )
        await self._rows.add_session(session)
        return session

    async def transcript(
        self, user_id: str, session_id: str
    ) -> tuple[Session, AsyncIterator[Told]]:
        """Its runs, the first first, each with its events so far; read as they are asked for."""
        session = await self.get(user_id, session_id)
        return session, self._told(session.id)

    async def _told(self, session_id: str) -> AsyncIterator[Told]:
        last: Run | None = None
        while True:
            runs = await self._rows.runs_of(session_id, after=last, limit=_RUNS_AT_ONCE)
            for run in runs:
                yield run, self._events(run.id)
            if len(runs) < _RUNS_AT_ONCE:
                return
            last = runs[-1]

    async def _events(self, run_id: str) -> AsyncIterator[LogEntry]:
        after = 0
        while True:
            entries = await self._rows.events(run_id, after=after, limit=_EVENTS_AT_ONCE)
            for entry in entries:
                yield entry
            if len(entries) < _EVENTS_AT_ONCE:
                return
            after = entries[-1].seq


def _refusal(refused: RuntimeRefused) -> Exception:
    if refused.code == "session_busy":
        return SessionBusy("A run of this session has not finished.", hint="Wait for it.")
    if refused.code == "session_not_found":
        return NotFound("The CLI does not know this session any more.", hint="Start a new one.")
    if refused.status == 404:
        return NotSupported(
            "This container is of an older image, which cannot fork.",
            hint="DELETE /v1/container, or wait until it is replaced.",
        )
    return Unavailable(f"The container refused: {refused.message}", hint="Try again.")


def _checked(name: str | None) -> str | None:
    if name is None or (name.strip() and name.isprintable() and len(name) <= NAME_MAX):
        return name.strip() if name is not None else None
    raise InvalidRequest(f"A session's name has 1 to {NAME_MAX} printable characters.")


def no_session() -> NotFound:
    return NotFound(
        "There is no such session.", hint="Leave out session_id to start one; GET /v1/sessions."
    )
