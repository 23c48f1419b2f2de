"""Events handed to everyone who watches; for backends that see for themselves what happens."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from hutch.backends.base import BackendEvent


class EventFeed:
    def __init__(self) -> None:
        self._watchers: set[asyncio.Queue[BackendEvent | None]] = set()

    def publish(self, event: BackendEvent) -> None:
        for queue in self._watchers:
            queue.put_nowait(event)

    def end(self) -> None:
        """Let every watcher's iteration come to its end."""
        for queue in self._watchers:
            queue.put_nowait(None)

    def watch(self) -> AsyncIterator[BackendEvent]:
        """Events from this call on, not from the first iteration."""
        queue: asyncio.Queue[BackendEvent | None] = asyncio.Queue()
        self._watchers.add(queue)
        return self._follow(queue)

    async def _follow(
        self, queue: asyncio.Queue[BackendEvent | None]
    ) -> AsyncIterator[BackendEvent]:
        try:
            while (event := await queue.get()) is not None:
                yield event
        finally:
            self._watchers.discard(queue)
