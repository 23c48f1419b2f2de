"""Put sandboxes to rest that nobody uses: freeze them first, hibernate them later.

Holds when nobody's sandbox has been idle for longer than the settings say without being frozen or
put away. Does not do either itself: it writes what is wanted and the reconciler does it, unless
somebody begins to use the sandbox meanwhile.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Final

import structlog

from hutch.backends.base import Backend
from hutch.clock import Clock
from hutch.control.driver import TaskReport
from hutch.errors import BackendError, HutchError
from hutch.sandboxes.models import Sandbox
from hutch.sandboxes.service import Sandboxes

_log = structlog.get_logger()

LOOK_EVERY_S: Final = 2.0
HIBERNATIONS_AT_ONCE: Final = 2  # each takes a core for a second; prompts want them, too
RETRY_S: Final = 600.0  # after one that could not be put away


@dataclass(frozen=True, slots=True)
class Departure:
    """How many were put away, could not be, and were not tried for want of time."""

    hibernated: int
    stayed: int
    left: int


class Idle:
    def __init__(
        self,
        sandboxes: Sandboxes,
        backend: Backend,
        clock: Clock,
        *,
        freeze_after_s: float,
        hibernate_after_s: float,
    ) -> None:
        """Seconds without use; 0: never."""
        self._sandboxes = sandboxes
        self._backend = backend
        self._clock = clock
        self._freeze_after_s = freeze_after_s
        self._hibernate_after_s = hibernate_after_s
        self._tried: dict[str, float] = {}  # by sandbox: when it was last to be put away
        self._reclaimed: set[str] = set()  # frozen ones that have given their memory back

    async def run(self) -> TaskReport:
        now = self._clock.now()
        users = [s for s in await self._sandboxes.all() if s.user_id is not None]
        await self._reclaim(users)
        leaving = sum(s.desired == "hibernated" for s in users)
        for sandbox in sorted(users, key=lambda s: self._sandboxes.idle_since(s) or now):
            idle_s = self._idle_s(sandbox, now)
            if self._due(self._hibernate_after_s, idle_s) and self._may_try(sandbox, now):
                if leaving < HIBERNATIONS_AT_ONCE:
                    leaving += await self._hibernate(sandbox, now)
            elif self._due(self._freeze_after_s, idle_s) and sandbox.desired == "running":
                await self._sandboxes.rest(sandbox, "frozen")
        self._tried = {s.id: self._tried[s.id] for s in users if s.id in self._tried}
        return {
            "running": sum(s.observed == "running" for s in users),
            "frozen": sum(s.observed == "frozen" for s in users),
            "leaving": leaving,
        }

    async def put_all_away(self, *, within_s: float) -> Departure:
        """Before the service goes down: everybody's that is not in use. Begins no more after
        ``within_s``.
        """
        until = self._clock.now() + within_s
        waiting = [s for s in await self._sandboxes.all() if s.user_id is not None]
        gone = stayed = 0

        async def one_after_the_other() -> None:
            nonlocal gone, stayed
            while waiting and self._clock.now() < until:
                sandbox = waiting.pop()
                try:
                    await self._sandboxes.hibernate(sandbox.owner)
                    gone += 1
                except HutchError as error:
                    stayed += 1
                    _log.warning("sandbox.not_hibernated", sandbox=sandbox.id, reason=error.message)

        async with asyncio.TaskGroup() as group:
            for _ in range(HIBERNATIONS_AT_ONCE):
                group.create_task(one_after_the_other())
        return Departure(gone, stayed, len(waiting))

    async def make_room(self) -> bool:
        """Put away the one that has been idle longest, for somebody who waits for a place; false
        if all are in use or on their way out.
        """
        now = self._clock.now()
        users = [s for s in await self._sandboxes.all() if s.user_id is not None]
        idle = [(self._idle_s(s, now), s) for s in users if self._may_try(s, now)]
        for idle_s, sandbox in sorted(idle, key=lambda pair: -pair[0]):
            if idle_s > 0 and await self._hibernate(sandbox, now):
                return True
        return False

    def _idle_s(self, sandbox: Sandbox, now: float) -> float:
        """0 for one that is in use, or neither runs nor is frozen."""
        since = self._sandboxes.idle_since(sandbox)
        if since is None or sandbox.observed not in {"running", "frozen"}:
            return 0.0
        return now - since

    def _due(self, after_s: float, idle_s: float) -> bool:
        return 0 < after_s <= idle_s

    def _may_try(self, sandbox: Sandbox, now: float) -> bool:
        return (
            sandbox.desired in {"running", "frozen"}
            and now - self._tried.get(sandbox.id, -RETRY_S) >= RETRY_S
        )

    async def _hibernate(self, sandbox: Sandbox, now: float) -> bool:
        self._tried[sandbox.id] = now
        return await self._sandboxes.rest(sandbox, "hibernated")

    async def _reclaim(self, users: list[Sandbox]) -> None:
        """The memory of those that have been frozen since the last look."""
        frozen = {s.incarnation: s for s in users if s.observed == "frozen"}
        self._reclaimed &= frozen.keys()
        for incarnation, sandbox in frozen.items():
            if incarnation not in self._reclaimed and sandbox.handle is not None:
                self._reclaimed.add(incarnation)
                try:
                    freed = await self._backend.reclaim(sandbox.handle)
                except BackendError as error:  # it ended meanwhile, or the engine hangs
                    _log.info("sandbox.not_reclaimed", sandbox=sandbox.id, reason=error.message)
                else:
                    if freed:
                        _log.info("sandbox.reclaimed", sandbox=sandbox.id, mb=freed >> 20)
