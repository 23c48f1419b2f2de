"""When a credential was last used and how that went: written down off the path of a prompt."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Final

import structlog
from sqlalchemy import update
from sqlalchemy.exc import SQLAlchemyError

from hutch.clock import Clock
from hutch.errors import DatabaseUnavailable
from hutch.store.database import Database
from hutch.store.tables import credentials
from hutch.vault.models import Result
from hutch_runtime.protocol import Provider

_log = structlog.get_logger()

WRITE_EVERY_S: Final = 60.0  # for one credential; a busy one would write thousands of times


@dataclass(frozen=True, slots=True)
class _Use:
    at: float
    result: Result
    began_at: float


class Uses:
    def __init__(
        self, database: Database, clock: Clock, *, write_every_s: float = WRITE_EVERY_S
    ) -> None:
        self._database = database
        self._clock = clock
        self._write_every_s = write_every_s
        self._latest: dict[tuple[str, Provider], _Use] = {}
        self._writing: dict[tuple[str, Provider], asyncio.Task[None]] = {}

    def note(
        self, user_id: str, provider: Provider, result: Result, *, began_at: float | None = None
    ) -> None:
        """The first at once, in the background; then the latest of each minute. What began before
        the credential was stored was the work of an earlier one, and is not noted.
        """
        which = (user_id, provider)
        now = self._clock.now()
        self._latest[which] = _Use(now, result, now if began_at is None else began_at)
        if which not in self._writing:
            self._writing[which] = asyncio.create_task(self._write_while_used(which))

    async def write(self, user_id: str, provider: Provider, result: Result) -> None:
        now = self._clock.now()
        self._latest[user_id, provider] = _Use(now, result, now)
        await self._write((user_id, provider))

    async def close(self) -> None:
        """Write down what has not been yet."""
        for task in self._writing.values():
            task.cancel()
        await asyncio.gather(*self._writing.values(), return_exceptions=True)
        for which in list(self._latest):
            await self._write(which)

    async def _write_while_used(self, which: tuple[str, Provider]) -> None:
        try:
            while which in self._latest:
                await self._write(which)
                await asyncio.sleep(self._write_every_s)
        finally:
            del self._writing[which]

    async def _write(self, which: tuple[str, Provider]) -> None:
        use = self._latest.pop(which, None)
        if use is None:
            return  # written by another meanwhile
        user_id, provider = which
        try:
            await self._database.write(
                update(credentials)
                .where(
                    credentials.c.user_id == user_id,
                    credentials.c.provider == provider,
                    credentials.c.created_at <= use.began_at,
                )
                .values(used_at=use.at, last_result=use.result)
            )
        except (SQLAlchemyError, DatabaseUnavailable) as error:
            # A note is not worth a failure; the next one has another chance.
            _log.warning("credential.note_failed", error=type(error).__name__)
