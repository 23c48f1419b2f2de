"""Say when the disk of the data directory is about to be full.

Holds when the alert `disk_low` is there exactly while there is little room. Frees nothing: what may
go is the operator's to say.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Final

from hutch.clock import Clock
from hutch.control.alerts import Alert, Alerts
from hutch.control.driver import TaskReport

LOOK_EVERY_S: Final = 10.0
LOW_MB: Final = 512  # a few hours of logs and events of a busy day
LOW_PERCENT: Final = 5.0
_RELIEF: Final = 2  # times that much is enough again
_MIB: Final = 1024 * 1024


def _room(path: Path) -> tuple[int, int]:
    usage = shutil.disk_usage(path)
    return usage.free, usage.total


class Disk:
    def __init__(
        self, path: Path, clock: Clock, *, room: Callable[[Path], tuple[int, int]] = _room
    ) -> None:
        """``room``: bytes free and in all."""
        self._path = path
        self._clock = clock
        self._room = room
        self._alerts = Alerts()

    def alerts(self) -> list[Alert]:
        return self._alerts.all()

    async def run(self) -> TaskReport:
        free, total = await asyncio.to_thread(self._room, self._path)
        low = min(LOW_MB * _MIB, total * LOW_PERCENT / 100)
        found = []
        if free < (low * _RELIEF if self.alerts() else low):
            detail = f"{free // _MIB} MB are free where the database and the logs are."
            found.append(Alert("disk_low", "disk_low", detail, self._clock.now()))
        self._alerts.now(found)
        return {"free_mb": free // _MIB, "alerts": len(found)}
