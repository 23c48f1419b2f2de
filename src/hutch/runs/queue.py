"""The queue: runs from their acceptance until they have a sandbox; bounded, and told where it is.

What goes next is decided by ``runs.turns`` within a user, by ``sandboxes.places`` between users. It
lives in memory; after a restart the rows make it anew, in the order in which they came.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Final, Protocol, Self

from hutch.accounts.tiers import Limits
from hutch.clock import Clock
from hutch.errors import QueueFull
from hutch.runs.models import Run, Standing
from hutch.runs.pace import Pace, Waits
from hutch.runs.turns import Turns
from hutch.sandboxes.places import Places

_TELL_S: Final = 1.0
_NEAR: Final = 10  # from so far in front on each step is told; further back, each tenth


class Queued(Protocol):
    @property
    def run(self) -> Run: ...

    def tell_queued(self, standing: Standing) -> None:
        """Put it into the run's log."""
        ...


@dataclass(slots=True)
class _Entry:
    queued: Queued
    granted: asyncio.Event = field(default_factory=asyncio.Event)
    told: Standing | None = None
    joined: bool = False


class RunQueue:
    """Also what ``Places`` asks about users (``sandboxes.places.Claimants``)."""

    def __init__(self, clock: Clock, *, most: int, places: Callable[[], Places]) -> None:
        self.waits_s = Waits()
        self._clock = clock
        self._most = most
        self._places = places
        self._turns = Turns()
        self._entries: dict[str, _Entry] = {}
        self._count: Counter[str] = Counter()  # by user
        self._pace = Pace()
        self._paces: dict[str, Pace] = {}  # of users who have something queued
        self._moved = asyncio.Event()
        self._telling: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._telling = asyncio.create_task(self._tell_all(), name="queue")
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._telling is not None:
            self._telling.cancel()
            await asyncio.gather(self._telling, return_exceptions=True)

    def enter(self, queued: Queued, limits: Limits, *, has_container: bool) -> None:
        """Count it in. Raises ``QueueFull`` if it would have to wait and too many do."""
        run = queued.run
        goes = has_container and self._turns.free(
            run.user_id, run.session_id, at_once=limits.runs_at_once
        )
        if not goes:
            self._check(run.user_id, limits)
        self._count_in(queued)

    def take_up(self, queued: Queued, limits: Limits) -> asyncio.Event:
        """One from before a restart, which is bound by no limit any more."""
        self._count_in(queued)
        return self.join(queued, limits)

    def join(self, queued: Queued, limits: Limits) -> asyncio.Event:
        """Have it wait for its turn, which is set then."""
        run = queued.run
        entry = self._entries[run.id]
        entry.joined = True
        self._grant(
            self._turns.join(
                run.id,
                run.user_id,
                run.session_id,
                at_once=limits.runs_at_once,
                begun=run.state == "running",
            )
        )
        if not entry.granted.is_set():
            self._tell(entry, self._turns.standing(run.id))
        return entry.granted

    def begun(self, run_id: str) -> None:
        """It has its sandbox, and waits no longer."""
        entry = self._entries.get(run_id)
        if entry is not None:
            now = self._clock.now()
            run = entry.queued.run
            self.waits_s.add(now - run.created_at)
            self._pace.left(now)
            if run.user_id in self._paces:
                self._paces[run.user_id].left(now)
            self._count_out(run_id)

    def left(self, run_id: str, *, joined: bool = True) -> None:
        """It has ended, or was not accepted after all (not ``joined``)."""
        self._count_out(run_id)
        if joined:
            self._grant(self._turns.leave(run_id))

    def session_busy(self, session_id: str) -> bool:
        return self._turns.busy(session_id)

    def standing(self, run_id: str) -> Standing | None:
        """None if it is not queued, or waits for nothing."""
        entry = self._entries.get(run_id)
        if entry is None or not entry.joined:
            return None
        return self._turns.standing(run_id) or self._place(entry.queued.run.user_id)

    def depth(self) -> int:
        return len(self._entries)

    def for_containers(self) -> int:
        """Runs that only wait for a container."""
        waiting = self._places().standings()
        return sum(len(self._turns.going(user_id)) for user_id in waiting)

    def oldest_wait_s(self) -> float:
        oldest = min((e.queued.run.created_at for e in self._entries.values()), default=None)
        return 0.0 if oldest is None else max(0.0, self._clock.now() - oldest)

    def reasons(self) -> Counter[str]:
        """How many wait for what."""
        return Counter(s.reason for _, s in self._standings() if s is not None)

    def waits(self, user_id: str) -> None:
        for run_id in self._turns.going(user_id):
            if (entry := self._entries.get(run_id)) is not None:
                self._tell(entry, self._place(user_id))
        self._moved.set()

    def under_way(self, user_id: str) -> bool:
        return bool(self._turns.going(user_id))

    def hold_back(self, user_id: str) -> None:
        self._turns.hold(user_id)
        self._moved.set()

    def go_on(self, user_id: str) -> None:
        self._grant(self._turns.release(user_id))

    async def _tell_all(self) -> None:
        while True:
            await self._moved.wait()
            await asyncio.sleep(_TELL_S)
            self._moved.clear()
            for entry, standing in list(self._standings()):
                self._tell(entry, standing)

    def _check(self, user_id: str, limits: Limits) -> None:
        now = self._clock.now()
        if self._count[user_id] >= limits.queued:
            raise QueueFull(
                f"{limits.queued} of your runs are waiting, which are the most.",
                hint="Wait for some to end, or cancel them. Retry-After says when to try again.",
                retry_after_s=self._paces.get(user_id, self._pace).retry_after_s(now),
            )
        # Nobody takes more than is left for others (dynamic thresholds, Choudhury and Hahne 1998):
        # one user fills half of the queue, two of them two thirds, and a newcomer finds a place.
        if self._count[user_id] >= self._most - len(self._entries):
            raise QueueFull(
                "Too many runs are waiting on this service.",
                hint="Try again later; Retry-After says when.",
                retry_after_s=self._pace.retry_after_s(now),
            )

    def _count_in(self, queued: Queued) -> None:
        run = queued.run
        self._entries[run.id] = _Entry(queued)
        self._count[run.user_id] += 1
        if self._count[run.user_id] > 1:
            self._paces.setdefault(run.user_id, Pace())

    def _count_out(self, run_id: str) -> None:
        entry = self._entries.pop(run_id, None)
        if entry is None:
            return
        user_id = entry.queued.run.user_id
        self._count[user_id] -= 1
        if not self._count[user_id]:
            del self._count[user_id]
            self._paces.pop(user_id, None)
        if self._entries:
            self._moved.set()

    def _grant(self, granted: Iterable[str]) -> None:
        for run_id in granted:
            self._entries[run_id].granted.set()

    def _place(self, user_id: str) -> Standing | None:
        place = self._places().standing(user_id)
        return Standing(*place) if place is not None else None

    def _standings(self) -> Iterable[tuple[_Entry, Standing | None]]:
        places = self._places().standings()
        for run_id, standing in self._turns.standings():
            entry = self._entries.get(run_id)
            if entry is None:
                continue
            if standing is None and (place := places.get(entry.queued.run.user_id)) is not None:
                standing = Standing(*place)  # noqa: PLW2901  it has its turn, and wants a place
            yield entry, standing

    def _tell(self, entry: _Entry, standing: Standing | None) -> None:
        if standing is not None and _is_news(entry.told, standing):
            entry.told = standing
            entry.queued.tell_queued(standing)


def _is_news(told: Standing | None, now: Standing) -> bool:
    if told is None or told.reason != now.reason:
        return True
    return abs(now.position - told.position) >= max(1, told.position // _NEAR)
