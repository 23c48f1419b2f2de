"""How fast the queue moves, and how long runs have waited in it."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import deque
from typing import Final

_WINDOW_S: Final = 60.0
_SAMPLES: Final = 256
_GUESS_S: Final = 10  # when nothing has moved lately
RETRY_MAX_S: Final = 120

# Seconds; the first are waits for a turn, the middle for a container, the last for capacity.
BOUNDS_S: Final = (0.01, 0.05, 0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)


class Pace:
    """Departures of the last minute, the latest 256 of them."""

    def __init__(self) -> None:
        self._left: deque[float] = deque(maxlen=_SAMPLES)

    def left(self, now: float) -> None:
        self._left.append(now)

    def retry_after_s(self, now: float) -> int:
        """Until one more will have left, at the pace of late: whole seconds, 1 to 120."""
        while self._left and now - self._left[0] > _WINDOW_S:
            self._left.popleft()
        if not self._left:
            return _GUESS_S
        between_s = max(now - self._left[0], 1.0) / len(self._left)
        return min(max(math.ceil(between_s), 1), RETRY_MAX_S)


class Waits:
    """A histogram: how many waited for up to each bound, and the rest."""

    def __init__(self) -> None:
        self.counts = [0] * (len(BOUNDS_S) + 1)
        self.total_s = 0.0

    def add(self, seconds: float) -> None:
        self.counts[bisect_left(BOUNDS_S, seconds)] += 1
        self.total_s += seconds
