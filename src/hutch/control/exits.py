"""Probe the exits, move users to spares and back, and say what is wrong with which.

Holds when each leased exit was probed within its period, and each user whose own exit has failed
often enough has a spare, if the operator wants that. Does not lease: ``hutch.exits`` does.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

import structlog

from hutch.clock import Clock
from hutch.control.alerts import Alert, Alerts
from hutch.control.driver import TaskReport
from hutch.errors import HutchError, Unavailable
from hutch.exits.models import Exit, Health
from hutch.exits.probe import Probe, probe
from hutch.exits.service import Exits
from hutch.gateway.base import ExitTraffic, GatewayControl
from hutch.gateway.table import ExitProxy

_log = structlog.get_logger()

LOOK_EVERY_S: Final = 5.0
SICK_EVERY_S: Final = 15.0  # so that a healed exit is back soon
FREE_FACTOR: Final = 6  # those that nobody has are probed so much less often
_AT_ONCE: Final = 16
_JITTER: Final = 0.2  # of a period, so that probes do not come in waves
_WINDOW_S: Final = 300.0
_REQUESTS_MIN: Final = 20
_ERROR_RATE: Final = 0.05


class ExitWatch:
    def __init__(
        self,
        exits: Exits,
        gateway: GatewayControl,
        clock: Clock,
        *,
        url: str,
        every_s: float,
        spare_after: int,
        look: Callable[[ExitProxy, str], Awaitable[Probe]] = probe,
    ) -> None:
        """``spare_after``: failed probes in a row until a user gets a spare; 0 is never."""
        self._exits = exits
        self._gateway = gateway
        self._clock = clock
        self._url = url
        self._every_s = every_s
        self._spare_after = spare_after
        self._look = look
        self._alerts = Alerts()
        # Counters of the gateway, by time; a restart of it sets them back to nothing.
        self._counted: deque[tuple[float, Mapping[str, ExitTraffic]]] = deque()

    def alerts(self) -> list[Alert]:
        return self._alerts.all()

    async def run(self) -> TaskReport:
        due = [exit_ for exit_ in self._exits.all() if self._due(exit_)]
        places = asyncio.Semaphore(_AT_ONCE)

        async def one(exit_: Exit) -> None:
            async with places:
                await self.probe(exit_)

        await asyncio.gather(*(one(exit_) for exit_ in due))
        rates = await self._error_rates()
        await self._move()
        self._raise_alerts(rates)
        every = self._exits.all()
        return {
            "exits": len(every),
            "leased": sum(exit_.user_id is not None for exit_ in every),
            "down": sum(not exit_.works for exit_ in every),
            "probed": len(due),
            "alerts": len(self._alerts),
        }

    async def probe(self, exit_: Exit) -> Exit | None:
        """Now; the exit as it is then. None if it was removed meanwhile."""
        try:
            proxy = await self._exits.proxy(exit_)
        except HutchError as error:
            return await self._exits.note_probe(exit_.id, "down", reason=error.message)
        seen = await self._look(proxy, self._url)
        health, reason = judge(exit_, seen)
        return await self._exits.note_probe(
            exit_.id, health, reason=reason, seen_ip=seen.seen_ip, probed=proxy
        )

    def _due(self, exit_: Exit) -> bool:
        if exit_.probed_at is None:
            return True
        period = self._every_s if exit_.user_id is not None else self._every_s * FREE_FACTOR
        if not exit_.works:
            period = min(SICK_EVERY_S, period)
        # The same for one exit until it was probed, so that asking often does not hasten it.
        luck = random.Random(f"{exit_.id} {exit_.probed_at}").random()  # noqa: S311  no secret
        return self._clock.now() - exit_.probed_at >= period * (1 - _JITTER * luck)

    async def _error_rates(self) -> dict[str, float]:
        """Of those exits with enough requests in the last minutes."""
        try:
            counted = await self._gateway.exits()
        except Unavailable:
            return {}
        now = self._clock.now()
        if self._counted and any(
            counted.get(exit_id, ExitTraffic(0, 0)).requests < traffic.requests
            for exit_id, traffic in self._counted[-1][1].items()
        ):
            self._counted.clear()
            self._counted.append((now, {}))  # another gateway process, which counts from nothing
        self._counted.append((now, counted))
        while len(self._counted) > 1 and now - self._counted[1][0] >= _WINDOW_S:
            self._counted.popleft()
        before = self._counted[0][1]
        rates = {}
        for exit_id, traffic in counted.items():
            then = before.get(exit_id, ExitTraffic(0, 0))
            requests = traffic.requests - then.requests
            if requests >= _REQUESTS_MIN:
                rates[exit_id] = (traffic.failures - then.failures) / requests
        return rates

    async def _move(self) -> None:
        for home in [exit_ for exit_ in self._exits.all() if exit_.role == "home"]:
            if home.user_id is None:
                continue
            lease = self._exits.of(home.user_id)
            if lease is None:
                continue
            if home.health == "up" and lease.spare:
                await self._exits.end_spare(home.user_id, healed=True)
            elif not self._spare_after:
                continue
            elif home.failures >= self._spare_after and not lease.spare:
                await self._exits.give_spare(home.user_id)
            elif lease.spare and not lease.exit.works:
                # The spare fails too: look for another.
                await self._exits.end_spare(home.user_id, healed=False)
                await self._exits.give_spare(home.user_id)

    def _raise_alerts(self, rates: Mapping[str, float]) -> None:
        now = self._clock.now()
        current: list[Alert] = []

        def alert(exit_: Exit, what: str, detail: str) -> None:
            current.append(Alert(f"{what}:{exit_.id}", what, detail, now, exit_.id))

        for exit_ in self._exits.all():
            if exit_.user_id is not None and exit_.health == "down":
                alert(exit_, "exit_down", exit_.reason)
            if exit_.health == "drifted":
                alert(exit_, "exit_drifted", exit_.reason)
            rate = rates.get(exit_.id, 0.0)
            if rate > _ERROR_RATE:
                alert(exit_, "exit_errors", f"{rate:.0%} of its requests failed.")
        self._alerts.now(current)


def judge(exit_: Exit, seen: Probe) -> tuple[Health, str]:
    """What a probe says of an exit. One that nothing is known of stays what it was."""
    if seen.works is None:
        return exit_.health, seen.reason if exit_.health != "up" else ""
    if not seen.works:
        return "down", seen.reason
    # A sticky one changes its address by its nature.
    expected = exit_.expected_ip or (exit_.seen_ip if exit_.kind == "static" else None)
    if expected is not None and seen.seen_ip != expected:
        return "drifted", f"It is seen from {seen.seen_ip}, not from {expected}."
    return "up", ""
