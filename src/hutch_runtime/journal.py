"""A run's log: append-only, bounded, and read by any number of followers at their own pace.

Events are kept as the bytes that go out, encoded once. A follower holds only its position, so a
slow one costs nothing and none can fall behind for good.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable
from typing import Any, Final

from hutch_runtime.bounds import Cutter
from hutch_runtime.protocol import (
    EVENT_MAX_BYTES,
    KIB,
    RUN_MAX_BYTES,
    Event,
    EventType,
    sse,
)

# Past RUN_MAX_BYTES these are still written: how the run went, but not what it said; and what it
# waits for.
_ALWAYS: Final = frozenset(
    {"run.started", "agent.restarted", "usage", "run.finished"}
    | {"approval.requested", "approval.decided", "files.changed"}
)
# Even those are not free: room for them past the limit, which no honest run comes near.
_RESERVE_BYTES: Final = 1024 * KIB
_BATCH_BYTES: Final = 64 * KIB  # of a replay, at a time
_STUB_BYTES: Final = 1 * KIB  # what is left of each field of an event that is too large as a whole


class Journal:
    def __init__(self, run_id: str, *, clock: Callable[[], float] = time.time) -> None:
        self.run_id = run_id
        self.finished = False
        self.size = 0  # bytes of all events, as they go out
        self._clock = clock
        self._events: list[bytes] = []
        self._full = False
        self._waiting: set[asyncio.Future[None]] = set()

    def __len__(self) -> int:
        return len(self._events)

    def append(self, event_type: EventType, /, **fields: Any) -> bool:
        """Add an event, cut to the limits; False if there is no room for it, or ``run.finished``
        was before.
        """
        if self.finished:
            return False
        cutter = Cutter()
        event = self._event(event_type, cutter.fields(fields))
        encoded = sse(event)
        limit, dropped = cutter.limit, cutter.dropped
        if len(encoded) > EVENT_MAX_BYTES:
            stub = Cutter(_STUB_BYTES)
            limit, dropped = EVENT_MAX_BYTES, dropped + len(encoded)
            short = {
                name: type(value)() if isinstance(value, dict | list) else stub.value(value, 1)
                for name, value in event.data.items()
            }
            encoded = sse(self._event(event_type, short))
            dropped -= len(encoded)
        if not self._has_room(event_type, len(encoded)):
            return False
        self._add(encoded, last=event.is_last)
        if dropped and not event.is_last:
            self.append("truncated", scope="field", limit_bytes=limit, dropped_bytes=dropped)
        return True

    async def follow(self, after: int = 0) -> AsyncGenerator[bytes, None]:
        """Events with ``seq`` greater than ``after``, as they come, until the last: one or more
        whole ones at a time.
        """
        position = max(after, 0)
        while True:
            while position < len(self._events):
                batch, size = position, 0
                while position < len(self._events) and size < _BATCH_BYTES:
                    size += len(self._events[position])
                    position += 1
                yield b"".join(self._events[batch:position])
            if self.finished:
                return
            await self._wait()

    def _event(self, event_type: EventType, data: dict[str, Any]) -> Event:
        return Event(self.run_id, len(self._events) + 1, self._clock(), event_type, data)

    def _has_room(self, event_type: EventType, size: int) -> bool:
        if event_type == "run.finished":
            return True
        if event_type in _ALWAYS:
            return self.size + size <= RUN_MAX_BYTES + _RESERVE_BYTES
        if self._full:
            return False
        if self.size + size > RUN_MAX_BYTES:
            self._full = True
            fields = {"scope": "run", "limit_bytes": RUN_MAX_BYTES, "dropped_bytes": size}
            self._add(sse(self._event("truncated", fields)), last=False)
            return False
        return True

    def _add(self, encoded: bytes, *, last: bool) -> None:
        self._events.append(encoded)
        self.size += len(encoded)
        self.finished = last
        waiting, self._waiting = self._waiting, set()
        for future in waiting:
            if not future.done():
                future.set_result(None)

    async def _wait(self) -> None:
        future = asyncio.get_running_loop().create_future()
        self._waiting.add(future)
        try:
            await future
        finally:
            self._waiting.discard(future)
