"""Follow the logins in every running sandbox.

Holds when each running sandbox has its followers. They are begun when a sandbox starts to run; this
finds those that a restart left without. Does not store anything itself.
"""

from __future__ import annotations

from typing import Final

from hutch.control.driver import TaskReport
from hutch.logins.service import Logins
from hutch.sandboxes.service import Sandboxes

LOOK_EVERY_S: Final = 15.0


class LoginSync:
    def __init__(self, logins: Logins, sandboxes: Sandboxes) -> None:
        self._logins = logins
        self._sandboxes = sandboxes

    async def run(self) -> TaskReport:
        for sandbox in await self._sandboxes.all():
            self._logins.sandbox_changed(sandbox)
        return {**self._logins.report()}
