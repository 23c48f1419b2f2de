"""Delete what is stored of users who have not come back, and what no row knows.

Holds when no snapshot without a container is older than its user's tier allows. Its user is told:
``GET /v1/container`` names the day before, and the reason after it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import structlog

from hutch.accounts.service import Accounts
from hutch.clock import Clock
from hutch.control.driver import TaskReport
from hutch.errors import NotFound
from hutch.sandboxes.rows import SandboxRows
from hutch.snapshots.models import Snapshot
from hutch.snapshots.service import Snapshots

_log = structlog.get_logger()

LOOK_EVERY_S: Final = 3600.0
_DAY_S: Final = 24 * 3600.0


class Retention:
    def __init__(
        self,
        snapshots: Snapshots,
        rows: SandboxRows,
        accounts: Accounts,
        clock: Clock,
        *,
        days: Mapping[str, float],
    ) -> None:
        """``days``: by tier."""
        self._snapshots = snapshots
        self._rows = rows
        self._accounts = accounts
        self._clock = clock
        self._days = days

    async def kept_until(self, snapshot: Snapshot) -> float:
        """Unix time, by the tier that the user has now. Raises ``NotFound`` (the user)."""
        tier = (await self._accounts.user(snapshot.user_id)).tier
        return snapshot.created_at + self._days[tier] * _DAY_S

    async def run(self) -> TaskReport:
        snapshots = await self._snapshots.all()
        deleted = 0
        for snapshot in snapshots:
            try:
                over = await self.kept_until(snapshot) < self._clock.now()
            except NotFound:
                continue  # deleted meanwhile, and the snapshot with them
            if over and await self._rows.live_of(snapshot.user_id) is None:
                await self._delete(snapshot)
                deleted += 1
        swept = await self._snapshots.sweep()
        return {"snapshots": len(snapshots), "deleted": deleted, "swept": swept}

    async def _delete(self, snapshot: Snapshot) -> None:
        await self._snapshots.discard(snapshot.user_id)
        days = round((self._clock.now() - snapshot.created_at) / _DAY_S)
        reason = f"It was put away and not used for {days} days, and was deleted then."
        await self._rows.end_hibernated(snapshot.user_id, at=self._clock.now(), reason=reason)
        _log.info("snapshot.expired", user=snapshot.user_id, days=days)
