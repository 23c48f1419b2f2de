"""Make rows and containers agree: look at every live sandbox, and end what no row knows.

Holds when each live row has its container, each container of this installation its row, and each
process of a sandbox of ours its container. Does not make or end a sandbox itself: it wakes the
reconciler, which re-reads the row.
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
        # In this order, so that a new sandbox is in whatever it is compared with.
        running = await self._backend.processes()
        present = await self._backend.list()
        live = await self._rows.live()
        for sandbox in live:
            self._wake(sandbox.id)
        known = {sandbox.incarnation for sandbox in live}
        orphans = {c.handle for c in present if c.incarnation not in known}
        strays = await self._rows.known_handles(running - {c.handle for c in present})
        enough = 1 if self._first else STRIKES
        self._first = False
        strikes = {h: self._strikes.get(h, 0) + 1 for h in orphans | strays}
        due = {handle for handle, count in strikes.items() if count >= enough}
        self._strikes = {h: count for h, count in strikes.items() if h not in due}
        for handle in due:
            if handle in orphans:
                _log.warning("orphan.ended", container=handle[:12])
            await self._backend.destroy(handle)
        return {
            "containers": len(present),
            "live": len(live),
            "orphans_ended": len(due & orphans),
            "strays_ended": len(due & strays),
        }

    async def watch(self) -> None:
        """Turn the engine's events into looks, for as long as its connection holds. It tells only
        of what happens from now on, and an engine that was restarted has ended what it ran.
        """
        async for event in self._backend.watch():
            if event.kind in {"exited", "oom", "destroyed"}:
                self._wake(event.sandbox_id)
