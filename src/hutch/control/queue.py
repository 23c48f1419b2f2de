"""A queue of keys: duplicates merge, one worker a key, failures come back later and later.

After dask-gateway's work queue and Kubernetes' controllers: a key says *look at this again*, never
what to do, so that losing or repeating one is harmless.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

import structlog

_log = structlog.get_logger()

RETRY_FIRST_S: Final = 0.2
RETRY_MAX_S: Final = 30.0


class WorkQueue:
    """Runs ``step(key)`` for each key that is woken, at most ``workers`` at once."""

    def __init__(self, step: Callable[[str], Awaitable[None]], *, workers: int) -> None:
        self._step = step
        self._slots = asyncio.Semaphore(workers)
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._again: set[str] = set()
        self._closed = False

    def wake(self, key: str) -> None:
        if self._closed:
            return
        self._again.add(key)
        if key not in self._tasks:
            self._tasks[key] = asyncio.create_task(self._work(key), name=f"reconcile {key}")

    async def close(self) -> None:
        self._closed = True
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _work(self, key: str) -> None:
        delay = RETRY_FIRST_S
        try:
            while key in self._again:
                self._again.discard(key)
                try:
                    async with self._slots:
                        await self._step(key)
                    delay = RETRY_FIRST_S
                except Exception:  # noqa: BLE001  one bad key must not stop the loop; it is logged
                    _log.exception("reconcile.failed", key=key, retry_s=delay)
                    await asyncio.sleep(delay)
                    delay = min(delay * 2, RETRY_MAX_S)
                    self._again.add(key)
        finally:
            del self._tasks[key]
