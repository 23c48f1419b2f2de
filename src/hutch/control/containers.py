"""Make rows and containers agree: look at every live sandbox, and end what no row knows.

Holds when each live row has its container, each container of this installation its row, and each
process of a sandbox of ours its container. Does not make or end a sandbox itself: it wakes the
reconciler, which re-reads the row.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import structlog

from hutch.backends.base import WALL_SANDBOX, Backend, Observed
from hutch.control.driver import TaskReport
from hutch.sandboxes.models import Sandbox
from hutch.sandboxes.rows import SandboxRows

_log = structlog.get_logger()

LOOK_EVERY_S: Final = 15.0  # the engine's events tell sooner; this catches what they missed
STRIKES: Final = 2  # a container may be seen in the moment before its row is
# Whose walls are being tried has no row; whoever tries them ends it, and this what that one left.
WALL_STRIKES: Final = 20  # five minutes


class Containers:
    def __init__(
        self,
        rows: SandboxRows,
        backend: Backend,
        wake: Callable[[str], None],
        adopt: Callable[[Sandbox], None],
    ) -> None:
        """``adopt``: told at the first look of each sandbox that is as its row says, so that a
        start with a hundred of them takes one call of the engine, not a hundred.
        """
        self._rows = rows
        self._backend = backend
        self._wake = wake
        self._adopt = adopt
        self._strikes: dict[str, int] = {}  # by handle
        self._first = True  # nobody makes sandboxes before the first look: one strike is enough

    async def run(self) -> TaskReport:
        present = {c.incarnation: c for c in await self._backend.list()}
        live = await self._rows.live()  # after the listing, so that a new container has its row
        for sandbox in live:
            if not _as_its_row_says(sandbox, present.get(sandbox.incarnation)):
                self._wake(sandbox.id)
            elif self._first:
                self._adopt(sandbox)
        known = {sandbox.incarnation for sandbox in live}
        orphans = {c.handle for c in present.values() if c.incarnation not in known}
        tried = {c.handle for c in present.values() if c.sandbox_id.startswith(WALL_SANDBOX)}
        strays = await self._strays({c.handle for c in present.values()})
        enough = 1 if self._first else STRIKES
        self._first = False
        strikes = {h: self._strikes.get(h, 0) + 1 for h in orphans | strays}
        due = {
            handle
            for handle, count in strikes.items()
            if count >= (WALL_STRIKES if handle in tried else enough)
        }
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

    async def _strays(self, present: set[str]) -> set[str]:
        """Containers of ours that are gone, and whose processes are not."""
        suspects = await self._rows.known_handles(await self._backend.processes() - present)
        # One may have been made since the listing.
        return {h for h in suspects if await self._backend.inspect(h) is None}

    async def watch(self) -> None:
        """Turn the engine's events into looks, for as long as its connection holds. It tells only
        of what happens from now on, and an engine that was restarted has ended what it ran.
        """
        async for event in self._backend.watch():
            if event.kind in {"exited", "oom", "destroyed"}:
                self._wake(event.sandbox_id)


def _as_its_row_says(sandbox: Sandbox, container: Observed | None) -> bool:
    if container is None or container.handle != sandbox.handle:
        return False
    state = "frozen" if sandbox.observed == "frozen" else "running"
    return sandbox.observed == sandbox.desired and container.state == state
