"""Decide how many warm sandboxes there should be, and say why.

Holds when the pool's target follows the operator's word, or else the rules: more while runs wait
for containers, fewer when more than the least have been idle for long. It decides; the pool makes
and ends. It also measures what a container takes of the memory, and watches over the host.
"""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

import structlog

from hutch.clock import Clock
from hutch.control.alerts import Alert, Alerts
from hutch.control.driver import TaskReport
from hutch.control.pool import size_for
from hutch.control.pressure import Pressure
from hutch.control.scaling_rows import ScalingRows
from hutch.errors import BackendError
from hutch.runs.queue import RunQueue
from hutch.sandboxes.census import Census
from hutch.sandboxes.places import Places
from hutch.sandboxes.service import Sandboxes

_log = structlog.get_logger()

LOOK_EVERY_S: Final = 2.0
UP_REST_S: Final = 15.0  # after a decision: what it began has to become warm before another
KEPT: Final = 100  # decisions
_MEASURE_EVERY_S: Final = 60.0
_MEASURED_MAX: Final = 8  # containers a time: each costs a call of the engine
_MIB: Final = 1024 * 1024
_LEAST_MB: Final = 100  # no container takes less, whatever a sample says

What: TypeAlias = Literal["up", "down", "by_hand", "auto"]


@dataclass(frozen=True, slots=True)
class Rules:
    least: int  # of the pool; 0 switches the rules off
    most: int
    up_above: int  # runs that wait for a container
    down_after_s: float


@dataclass(frozen=True, slots=True)
class Inputs:
    waiting_runs: int  # for a container
    warm: int
    containers: int
    cpu_percent: float | None
    memory_percent: float | None


@dataclass(frozen=True, slots=True)
class Decision:
    what: What
    why: str
    at: float
    before: int
    after: int


def rules_for(
    size: int | Literal["auto"],
    most: int | Literal["auto"],
    *,
    up_above: int,
    down_after_s: float,
) -> Rules:
    """``size`` auto: by the machine; ``most`` auto: twice the least, five to ten on 8 cores."""
    least = size_for(size)
    return Rules(least, max(least, 2 * least if most == "auto" else most), up_above, down_after_s)


class Scaling:
    def __init__(
        self,
        rows: ScalingRows,
        queue: RunQueue,
        places: Places,
        sandboxes: Sandboxes,
        clock: Clock,
        *,
        rules: Rules,
        pressure: Pressure,
        memory_hard_mb: int,
    ) -> None:
        self.rules = rules
        self.target = rules.least
        self.by_hand = False
        self.inputs = Inputs(0, 0, 0, None, None)
        self.decided: Counter[str] = Counter()  # since the start, by what
        self._decisions: deque[Decision] = deque(maxlen=KEPT)
        self._rows = rows
        self._queue = queue
        self._places = places
        self._sandboxes = sandboxes
        self._clock = clock
        self._pressure = pressure
        self._memory_hard_mb = memory_hard_mb
        self._alerts = Alerts()
        self._spare_since: float | None = None  # more than the least were warm all the time
        self._up_at = 0.0
        self._measured_at = 0.0

    def decisions(self) -> list[Decision]:
        """The last hundred, the newest first."""
        return list(reversed(self._decisions))

    def alerts(self) -> list[Alert]:
        return self._alerts.all()

    async def load(self) -> None:
        """What the operator had said before a restart, so that the pool begins with that."""
        hand = await self._rows.size()
        if hand is not None:
            self.target, self.by_hand = hand, True

    async def set_by_hand(self, size: int | None) -> None:
        """None gives the pool back to the rules. It counts from the next run on."""
        await self._rows.set(size, at=self._clock.now())

    async def run(self) -> TaskReport:
        now = self._clock.now()
        self._pressure.look(now)
        self._alerts.now(self._pressure.alerts(now))
        census = await self._places.census()
        self.inputs = self._inputs(census)
        await self._measure(now)
        hand = await self._rows.size()
        if hand is not None:
            self.by_hand = True
            if hand != self.target:
                self._decide("by_hand", "The operator said so.", hand, now)
        elif self.by_hand:
            self.by_hand = False
            self._decide("auto", "The operator gave it back to the rules.", self._bounded(), now)
        elif self.rules.least:
            self._follow_rules(now)
        return {
            "target": self.target,
            "by_hand": str(self.by_hand).lower(),
            "warm": census.warm,
            "containers": census.total,
            "waiting_runs": self.inputs.waiting_runs,
            "alerts": len(self._alerts),
            "container_mb": self._places.expected_mb,
        }

    def _inputs(self, census: Census) -> Inputs:
        return Inputs(
            waiting_runs=self._queue.for_containers(),
            warm=census.warm,
            containers=census.total,
            cpu_percent=self._pressure.cpu_percent(),
            memory_percent=self._pressure.memory_percent(),
        )

    def _bounded(self) -> int:
        return min(max(self.target, self.rules.least), self.rules.most)

    def _follow_rules(self, now: float) -> None:
        rules, depth = self.rules, self.inputs.waiting_runs
        if self.inputs.warm <= rules.least:
            self._spare_since = None
        elif self._spare_since is None:
            self._spare_since = now
        if depth > rules.up_above and now - self._up_at >= UP_REST_S and not len(self._alerts):
            after = min(self.target + max(1, depth // max(1, rules.up_above)), rules.most)
            if after > self.target:
                self._up_at = now
                why = f"{depth} runs wait for a container, more than {rules.up_above}."
                self._decide("up", why, after, now)
        elif self._spare_since is not None and now - self._spare_since >= rules.down_after_s:
            self._spare_since = None
            if self.target > rules.least:
                minutes = rules.down_after_s / 60
                why = f"More than {rules.least} have been warm and idle for {minutes:g} minutes."
                self._decide("down", why, rules.least, now)

    def _decide(self, what: What, why: str, after: int, now: float) -> None:
        decision = Decision(what, why, now, self.target, after)
        self.target = after
        self._decisions.append(decision)
        self.decided[what] += 1
        _log.info("scaling.decided", what=what, why=why, before=decision.before, after=after)

    async def _measure(self, now: float) -> None:
        """What a container is expected to take: as much as the largest of some that are used."""
        if now - self._measured_at < _MEASURE_EVERY_S:
            return
        self._measured_at = now
        sizes = []
        live = [s for s in await self._sandboxes.all() if s.observed in {"warm", "running"}]
        for sandbox in live[-_MEASURED_MAX:]:
            try:
                stats = await self._sandboxes.stats(sandbox)
            except BackendError:  # it ended meanwhile
                continue
            if stats is not None:
                sizes.append(stats.memory_bytes // _MIB)
        if sizes:
            self._places.expected_mb = min(max(*sizes, _LEAST_MB), self._memory_hard_mb)
