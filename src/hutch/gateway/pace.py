"""How fast one sandbox may go: its connections' bytes, and their number."""

from __future__ import annotations

import asyncio
import time
from typing import Final

BYTES_BURST_S: Final = 0.2  # of the rate, saved up while idle: an answer's head is not held up
ARRIVALS_BURST_S: Final = 5.0  # a build tool asks for hundreds of things at once, and then for none


class Pace:
    """``per_s`` of whatever is counted; 0 is no limit. ``burst_s``: of that rate, saved up while
    idle.
    """

    def __init__(self, per_s: float, *, burst_s: float = BYTES_BURST_S) -> None:
        self._rate = per_s
        self._burst_s = burst_s
        self._paid_until = 0.0  # when everything that passed would have passed at the rate

    def spend(self, count: int) -> float:
        """So many have passed: for how many seconds the next ones have to wait."""
        if not self._rate:
            return 0.0
        now = time.monotonic()
        self._paid_until = max(self._paid_until, now - self._burst_s) + count / self._rate
        return max(0.0, self._paid_until - now)

    async def passed(self, count: int) -> None:
        if wait := self.spend(count):
            await asyncio.sleep(wait)
