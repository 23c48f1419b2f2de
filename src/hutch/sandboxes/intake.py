"""How fast the words of a run or a terminal are taken: a flood waits in its sandbox's socket."""

from __future__ import annotations

import asyncio
from typing import Final

# Models say some hundred tokens a second, and people type less. Each event costs this process,
# which is everybody's, its time, and that of a run a row in the database.
PER_S: Final = 500
_BURST: Final = 5_000  # what was said while nobody listened
_TURN: Final = 64  # events before others have theirs: what has come already is read without a wait


class Intake:
    def __init__(self) -> None:
        self._taken = 0
        self._paid_until = 0.0  # when all of them would have come at the rate

    async def took(self) -> None:
        """One more; waits until the next may be taken."""
        self._taken += 1
        now = asyncio.get_running_loop().time()
        self._paid_until = max(self._paid_until, now - _BURST / PER_S) + 1 / PER_S
        if self._paid_until > now:
            await asyncio.sleep(self._paid_until - now)
        elif self._taken % _TURN == 0:
            await asyncio.sleep(0)
