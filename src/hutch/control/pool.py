"""Keep sandboxes ready for users who have none yet.

Holds when as many members as wanted are warm, of the images that they should be of and younger than
a day. A member is a row without a user; the reconciler makes and ends its container, a claim takes
it away at any moment. What this remembers is only when to try again: a restart adopts the pool as
the rows say.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final, Literal

import structlog

from hutch.clock import Clock
from hutch.control.driver import TaskReport
from hutch.rollouts.models import Plan
from hutch.sandboxes.models import ImageRef, Sandbox
from hutch.sandboxes.places import Places
from hutch.sandboxes.rows import SandboxRows

_log = structlog.get_logger()

LOOK_EVERY_S: Final = 1.0
MEMBER_MAX_AGE_S: Final = 24 * 3600.0
# A start takes a core for seconds, so users go first, but not for ever.
QUIET_S: Final = 3.0  # after somebody waited for a sandbox
PATIENCE_S: Final = 30.0
AT_ONCE_MAX: Final = 2  # starts; the rest of the reconciler's places are for users
BACKOFF_FIRST_S: Final = 2.0
BACKOFF_MAX_S: Final = 300.0
_PROVEN_S: Final = 60.0  # a member that was warm for so long says that members are well
_KEEP_ROWS_S: Final = 24 * 3600.0

MEMBER_MB: Final = 450  # a warm container with three agents, rounded up (docs/operating.md)
_SHARE: Final = 4  # of the machine's memory, a quarter at most is the pool's
_AUTO_MAX: Final = 5


def size_for(setting: int | Literal["auto"]) -> int:
    """``auto``: one on 2 cores, five on 8, fewer where memory is short."""
    if setting != "auto":
        return setting
    memory_mb = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") >> 20
    return auto_size(os.cpu_count() or 1, memory_mb)


def auto_size(cores: int, memory_mb: int) -> int:
    return min(_AUTO_MAX, max(1, cores * 5 // 8), memory_mb // _SHARE // MEMBER_MB)


class Pool:
    def __init__(
        self,
        rows: SandboxRows,
        clock: Clock,
        *,
        size: Callable[[], int],
        plan: Callable[[], Awaitable[Plan]],
        wake: Callable[[str], None],
        demand: Callable[[], tuple[int, float]],
        places: Places,
    ) -> None:
        """``size``: how many members there should be now (``control.scaling``). ``demand``: how
        many wait for a sandbox now, and when (Unix time) somebody last did.
        """
        self._rows = rows
        self._clock = clock
        self._wanted = size
        self._size = 0  # as of the last look
        self._plan = plan
        self._wake = wake
        self._demand = demand
        self._places = places
        self._known: set[str] = set()  # members of the last look, whose fate is of interest
        self._at_once = 1  # slow start: doubles with each member that became warm
        self._failures = 0  # in a row
        self._reason = ""  # of the last one
        self._not_before = 0.0
        self._short_since: float | None = None
        self._swept_at = 0.0

    async def run(self) -> TaskReport:
        now = self._clock.now()
        self._size, plan = self._wanted(), await self._plan()
        members = [s for s in await self._rows.live() if s.user_id is None and not s.trial]
        await self._learn(members, now)
        warm = [s for s in members if s.observed == "warm" and s.desired == "warm"]
        coming = [s for s in members if s.observed == "provisioning" and s.desired == "warm"]
        held = await self._fill(plan, len(members), [*warm, *coming], len(coming), now)
        await self._thin(plan, warm, coming, now)
        if now - self._swept_at > _KEEP_ROWS_S / 24:
            await self._rows.forget_nobodys(before=now - _KEEP_ROWS_S)
            self._swept_at = now
        return {
            "size": self._size,
            "warm": len(warm),
            "provisioning": len(coming),
            "ending": len(members) - len(warm) - len(coming),
            "failures": self._failures,
            "held": held,
        }

    async def _learn(self, members: list[Sandbox], now: float) -> None:
        """What became of the members of the last look."""
        present = {sandbox.id: sandbox for sandbox in members}
        for sandbox_id in self._known - present.keys():
            row = await self._rows.get(sandbox_id)
            if row is not None and row.user_id is None and row.observed == "failed":
                self._failures += 1
                self._at_once = 1
                self._reason = row.reason
                delay = min(BACKOFF_FIRST_S * 2 ** (self._failures - 1), BACKOFF_MAX_S)
                self._not_before = now + delay
                _log.warning("pool.member_failed", sandbox=row.id, reason=row.reason, retry_s=delay)
        fresh = [s for s in members if s.observed == "warm" and s.changed_at > now - _PROVEN_S]
        if any(s.observed == "warm" and s not in fresh for s in members):
            self._failures, self._reason = 0, ""
        if fresh and not self._failures:
            self._at_once = min(self._at_once * 2, AT_ONCE_MAX)
        self._known = set(present)

    async def _fill(
        self, plan: Plan, population: int, staying: list[Sandbox], coming: int, now: float
    ) -> str:
        """Begin what is missing; why nothing is begun, "" if nothing is in the way."""
        missing = self._size - population
        if missing <= 0:
            self._short_since = None
            return ""
        if self._short_since is None:
            self._short_since = now
        if now < self._not_before:
            return f"after a failure: {self._reason}"
        if plan.current.id is None:
            return f"there is no image {plan.current.name}"
        waiting, last = self._demand()
        users_first = waiting > 0 or now - last < QUIET_S
        if users_first and now - self._short_since < PATIENCE_S:
            return "users go first"
        lacking = [
            image
            for image, quota in plan.quotas(self._size).items()
            for _ in range(quota - sum(s.is_of(image) for s in staying))
        ]
        for image in lacking[: max(0, min(missing, self._at_once - coming))]:
            if refused := await self._places.begin_member(partial(self._begin, image, now)):
                return refused
            if users_first:  # one at a time, and another rest
                self._short_since = now
                break
        return ""

    async def _begin(self, image: ImageRef, now: float) -> None:
        sandbox = Sandbox.begin(image, user_id=None, desired="warm", at=now)
        await self._rows.add(sandbox)
        self._known.add(sandbox.id)
        self._wake(sandbox.id)

    async def _thin(
        self, plan: Plan, warm: list[Sandbox], coming: list[Sandbox], now: float
    ) -> None:
        """End what is too much; of what is too old or of another image than it should be, one, and
        only while no other is replaced.
        """
        left = {
            image: quota - sum(s.is_of(image) for s in coming)
            for image, quota in plan.quotas(self._size).items()
        }
        misplaced = []
        for sandbox in sorted(warm, key=lambda s: -s.created_at):  # the youngest stay
            image = next((image for image in left if sandbox.is_of(image)), None)
            if image is None or left[image] <= 0:
                misplaced.append(sandbox)
            else:
                left[image] -= 1
        oldest_first = sorted(warm, key=lambda s: (s not in misplaced, s.created_at))
        surplus = len(warm) + len(coming) - self._size
        for sandbox in oldest_first[: max(0, surplus)]:
            await self._retire(sandbox, "surplus")
        if surplus != 0 or coming:
            return
        for sandbox in oldest_first:
            if sandbox in misplaced or now - sandbox.created_at > MEMBER_MAX_AGE_S:
                await self._retire(sandbox, "image" if sandbox in misplaced else "old")
                return

    async def _retire(self, sandbox: Sandbox, why: str) -> None:
        if await self._rows.retire(sandbox.id):
            _log.info("pool.member_retired", sandbox=sandbox.id, why=why)
            self._wake(sandbox.id)
