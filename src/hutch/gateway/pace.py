"""How fast the connections of one sandbox may move bytes together."""

from __future__ import annotations

import asyncio
import time
from typing import Final

from hutch_runtime.protocol import MIB

_BURST_S: Final = 0.2  # of the rate, saved up while idle: an answer's head is not held up


class Pace:
    """``mb_per_s`` in one direction; 0 is no limit."""

    def __init__(self, mb_per_s: float) -> None:
        self._rate = mb_per_s * MIB
        self._paid_until = 0.0  # when everything that passed would have passed at the rate

    def spend(self, count: int) -> float:
        """So many bytes have passed: for how many seconds the next ones have to wait."""
        if not self._rate:
            return 0.0
        now = time.monotonic()
        self._paid_until = max(self._paid_until, now - _BURST_S) + count / self._rate
        return max(0.0, self._paid_until - now)

    async def passed(self, count: int) -> None:
        if wait := self.spend(count):
            await asyncio.sleep(wait)
