"""Make rows and containers agree: look at every live sandbox, and end what no row knows.

Holds when each live row has its container and each container of this installation its row. Does
not make or end a sandbox itself: it wakes the reconciler, which re-reads the row.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import structlog

from hutch.backends.base import Backend
from hutch.control.driver import TaskReport
from hutch.sandboxes.rows import SandboxRows

_log = structlog.get_logger()

LOOK_EVERY_S: Final = 15.0  # the engine's events tell sooner; this catches what they missed
STRIKES: Final = 2  # a container may be seen in the moment before its row is


class Containers:
    def __init__(self, rows: SandboxRows, backend: Backend, wake: Callable[[str], None]) -> None:
        self._rows = rows
        self._backend = backend
        self._wake = wake
        self._strikes: dict[str, int] = {}  # by handle
        self._first = True  # nobody makes sandboxes before the first look: one strike is enough

    async def run(self) -> TaskReport:
        present = await self._backend.list()
        live = await self._rows.live()  # after the listing, so that a new container has its row
        for sandbox in live:
            self._wake(sandbox.id)
        known = {sandbox.incarnation for sandbox in live}
        orphans = [c for c in present if c.incarnation not in known]
        enough = 1 if self._first else STRIKES
        self._first = False
        self._strikes = {c.handle: self._strikes.get(c.handle, 0) + 1 for c in orphans}
        ended = 0
        for container in orphans:
            if self._strikes[container.handle] >= enough:
                _log.warning("orphan.ended", sandbox=container.sandbox_id)
                await self._backend.destroy(container.handle)
                ended += 1
        return {"containers": len(present), "live": len(live), "orphans_ended": ended}

    async def watch(self) -> None:
        """Turn the engine's events into looks, for as long as its connection holds."""
        async for event in self._backend.watch():
            if event.kind in {"exited", "oom", "destroyed"}:
                self._wake(event.sandbox_id)
