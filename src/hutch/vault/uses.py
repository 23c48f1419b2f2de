"""When a credential was last used and how that went: written down off the path of a prompt."""

from __future__ import annotations

import asyncio
from typing import Final

import structlog
from sqlalchemy import update
from sqlalchemy.exc import SQLAlchemyError

from hutch.clock import Clock
from hutch.store.database import Database
from hutch.store.tables import credentials
from hutch.vault.models import Result
from hutch_runtime.protocol import Provider

_log = structlog.get_logger()

WRITE_EVERY_S: Final = 60.0  # for one credential; a busy one would write thousands of times


class Uses:
    def __init__(
        self, database: Database, clock: Clock, *, write_every_s: float = WRITE_EVERY_S
    ) -> None:
        self._database = database
        self._clock = clock
        self._write_every_s = write_every_s
        self._latest: dict[tuple[str, Provider], tuple[float, Result]] = {}
        self._writing: dict[tuple[str, Provider], asyncio.Task[None]] = {}

    def note(self, user_id: str, provider: Provider, result: Result) -> None:
        """The first at once, in the background; then the latest of each minute."""
        which = (user_id, provider)
        self._latest[which] = (self._clock.now(), result)
        if which not in self._writing:
            self._writing[which] = asyncio.create_task(self._write_while_used(which))

    async def write(self, user_id: str, provider: Provider, result: Result) -> None:
        self._latest[user_id, provider] = (self._clock.now(), result)
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
        noted = self._latest.pop(which, None)
        if noted is None:
            return  # written by another meanwhile
        used_at, result = noted
        user_id, provider = which
        try:
            await self._database.write(
                update(credentials)
                .where(credentials.c.user_id == user_id, credentials.c.provider == provider)
                .values(used_at=used_at, last_result=result)
            )
        except SQLAlchemyError as error:
            # A note is not worth a failure; the next one has another chance.
            _log.warning("credential.note_failed", error=type(error).__name__)
