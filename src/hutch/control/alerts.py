"""What an operator should look at, from whichever task found it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import structlog

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Alert:
    """It is gone when its cause is."""

    id: str
    # exit_down | exit_drifted | exit_errors | cpu_high | memory_high | disk_low |
    # wall_failed | firewall_down
    what: str
    detail: str
    since: float
    exit_id: str | None = None


class Alerts:
    """Those of one task. What begins and ends is logged, what goes on keeps when it began."""

    def __init__(self) -> None:
        self._raised: dict[str, Alert] = {}

    def __contains__(self, alert_id: str) -> bool:
        return alert_id in self._raised

    def __len__(self) -> int:
        return len(self._raised)

    def all(self) -> list[Alert]:
        return sorted(self._raised.values(), key=lambda alert: (alert.since, alert.id))

    def now(self, found: Iterable[Alert]) -> None:
        """These, and no others."""
        current: dict[str, Alert] = {}
        for alert in found:
            known = self._raised.get(alert.id)
            since = known.since if known is not None else alert.since
            current[alert.id] = Alert(alert.id, alert.what, alert.detail, since, alert.exit_id)
            if known is None:
                _log.warning(
                    "alert.raised", alert=alert.what, exit=alert.exit_id, detail=alert.detail
                )
        for alert_id, ended in self._raised.items():
            if alert_id not in current:
                _log.info("alert.ended", alert=ended.what, exit=ended.exit_id)
        self._raised = current
