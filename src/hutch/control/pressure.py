"""How busy the host is, over a minute: not a moment's peak, and no alarm that flickers."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Final

from hutch.control.alerts import Alert
from hutch.load import CpuTime, Load

WINDOW_S: Final = 60.0
RELIEF: Final = 10.0  # percent below the limit at which an alert ends


@dataclass(frozen=True, slots=True)
class _Sample:
    at: float
    cpu: CpuTime | None
    memory_percent: float | None


class Pressure:
    def __init__(self, load: Load, *, cpu_limit: float, memory_limit: float) -> None:
        """Limits in percent."""
        self._load = load
        self._limits = {"cpu_high": cpu_limit, "memory_high": memory_limit}
        self._samples: deque[_Sample] = deque()
        self._high: set[str] = set()

    def look(self, now: float) -> None:
        memory = self._load.memory()
        used = memory.used_percent if memory is not None else None
        self._samples.append(_Sample(now, self._load.cpu(), used))
        while len(self._samples) > 1 and now - self._samples[1].at >= WINDOW_S:
            self._samples.popleft()

    def cpu_percent(self) -> float | None:
        """Of all cores, over the window; None until there are two looks, or where nothing tells."""
        first, last = self._samples[0].cpu, self._samples[-1].cpu
        if first is None or last is None or len(self._samples) < 2:
            return None
        return last.percent_since(first)

    def memory_percent(self) -> float | None:
        known = [s.memory_percent for s in self._samples if s.memory_percent is not None]
        return sum(known) / len(known) if known else None

    def alerts(self, now: float) -> list[Alert]:
        whole = now - self._samples[0].at >= WINDOW_S
        found = []
        for what, word, percent in (
            ("cpu_high", "CPU", self.cpu_percent()),
            ("memory_high", "memory", self.memory_percent()),
        ):
            limit = self._limits[what]
            if percent is None or percent < (limit - RELIEF if what in self._high else limit):
                self._high.discard(what)
            elif whole or what in self._high:
                self._high.add(what)
                detail = (
                    f"{percent:.0f} % of the host's {word} over a minute; the limit is {limit:g}."
                )
                found.append(Alert(what, what, detail, now))
        return found
