"""Keep the firewall between sandboxes and the host as it was put up.

Holds when it is there, whole, and lets each sandbox speak as itself; or when the alert
`firewall_down` says why it is not. Does not put up the sandboxes' network: that is `prepare`'s.
"""

from __future__ import annotations

from typing import Final

import structlog

from hutch.backends.base import Backend
from hutch.clock import Clock
from hutch.control.alerts import Alert, Alerts
from hutch.control.driver import TaskReport

_log = structlog.get_logger()

LOOK_EVERY_S: Final = 10.0  # so long it may be open when somebody flushes it; a look takes 10 ms


class FirewallWatch:
    def __init__(self, backend: Backend, clock: Clock) -> None:
        self._backend = backend
        self._clock = clock
        self._alerts = Alerts()

    def alerts(self) -> list[Alert]:
        return self._alerts.all()

    async def run(self) -> TaskReport:
        found = await self._backend.keep_firewall()
        if found.restored:
            _log.warning("firewall.restored")
        down = Alert("firewall_down", "firewall_down", found.warning, self._clock.now())
        self._alerts.now([down] if found.warning else [])
        return {"restored": int(found.restored), "alerts": len(self._alerts)}
