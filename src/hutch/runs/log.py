"""The log of one live run in memory: appended by its dispatcher, read by any number of followers.

Followers see an entry once it is stored, so that nothing which somebody has seen can be taken back
by a crash. They read by position and wait for more, so a slow one holds nothing up and no queue can
grow.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from hutch.runs.models import LogEntry


class RunLog:
    def __init__(self, run_id: str, stored: list[LogEntry]) -> None:
        """``stored``: what an earlier process has written already."""
        self.run_id = run_id
        self.entries = stored
        self._stored = len(stored)
        self._storing = asyncio.Lock()
        self.closed = False
        self.fresh = asyncio.Event()  # there are entries that are not stored
        self._more = asyncio.Event()

    @property
    def runtime_seq(self) -> int:
        """The last number that the runtime gave, to read on after it; 0 if none."""
        return next((e.runtime_seq for e in reversed(self.entries) if e.runtime_seq), 0)

    def next(
        self, type_: str, data: dict[str, Any], *, time: float, runtime_seq: int | None = None
    ) -> LogEntry:
        """The entry that would follow, not yet in the log."""
        return LogEntry(self.run_id, len(self.entries) + 1, runtime_seq, time, type_, data)

    def append(self, entry: LogEntry) -> None:
        self.entries.append(entry)
        self.fresh.set()

    @asynccontextmanager
    async def storing(self) -> AsyncIterator[list[LogEntry]]:
        """The entries that the database has not got yet; one caller at a time writes them. They are
        shown when it left without an exception.
        """
        async with self._storing:
            self.fresh.clear()
            entries = self.entries[self._stored :]
            try:
                yield entries
            except BaseException:
                self.fresh.set()
                raise
            self._stored += len(entries)
        self._wake()

    def close(self) -> None:
        """No more will come: the last is stored, or this process is going down."""
        self.closed = True
        self._wake()

    async def wait_closed(self) -> None:
        while not self.closed:
            await self._more.wait()

    async def wait_for_more(self, after: int, *, within_s: float) -> None:
        """Until there is a stored entry above ``after``, none will come, or so long."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                while self._stored <= after and not (self.closed or self.ended):
                    await self._more.wait()

    def stored_after(self, after: int) -> list[LogEntry]:
        return self.entries[after : self._stored]

    @property
    def ended(self) -> bool:
        """The last entry of the run is stored."""
        return self._stored > 0 and self.entries[self._stored - 1].type == "run.finished"

    async def follow(self, after: int) -> AsyncIterator[LogEntry]:
        """Stored entries with a ``seq`` above ``after``, until the log is closed."""
        position = after
        while True:
            more = self._more
            while position < self._stored:
                yield self.entries[position]
                position += 1
            if self.closed:
                return
            await more.wait()

    def _wake(self) -> None:
        self._more.set()
        self._more = asyncio.Event()
