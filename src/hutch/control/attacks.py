"""Attack the walls of a sandbox whenever they are made of something else than before.

Holds when the alert `wall_failed` is there exactly while a wall of new sandboxes does not hold, or
cannot be tried. Mends nothing: what to do is said by `hutch doctor --deep`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final, Protocol

from hutch.clock import Clock
from hutch.control.alerts import Alert, Alerts
from hutch.control.driver import TaskReport
from hutch.errors import HutchError
from hutch.walls.record import Outcome
from hutch.walls.service import names

LOOK_EVERY_S: Final = 60.0  # an image may have been rolled out; a look is two calls of the engine
# Who starts has better things to do at first: warm sandboxes, and runs that waited.
FIRST_AFTER_S: Final = 60.0
AGAIN_AFTER_S: Final = 3600.0  # walls that did not hold


class Tries(Protocol):
    async def known(self, image: str) -> Outcome | None: ...

    async def tried(self, image: str) -> Outcome: ...


class Attacks:
    def __init__(self, walls: Tries, clock: Clock, *, image: Callable[[], Awaitable[str]]) -> None:
        self._walls = walls
        self._clock = clock
        self._image = image
        self._began = clock.now()
        self._alerts = Alerts()

    def alerts(self) -> list[Alert]:
        return self._alerts.all()

    async def run(self) -> TaskReport:
        image = await self._image()
        now = self._clock.now()
        outcome = await self._walls.known(image)
        why = ""
        if now < self._began + FIRST_AFTER_S and outcome is None:
            return {"waits": "for the start to be over"}
        if outcome is None or (not outcome.holds and now > outcome.tried_at + AGAIN_AFTER_S):
            try:
                outcome = await self._walls.tried(image)
            except HutchError as error:
                why = f"They could not be tried: {error.message}"
        if outcome is not None and not outcome.holds:
            why = f"{names(outcome)}: see `hutch doctor --deep`."
        self._alerts.now([Alert("wall_failed", "wall_failed", why, now)] if why else [])
        attempts = outcome.attempts if outcome is not None else 0
        failed = len(outcome.failures) if outcome is not None else 0
        return {"attempts": attempts, "failed": failed, "alerts": len(self._alerts)}
