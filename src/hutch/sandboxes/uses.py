"""Uses of a user's container that are no runs: files on their way, a terminal.

To begin one wakes the container, or makes it. While it lasts, the container is neither frozen nor
put away, and after it its idle time begins anew.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from typing import Final, TypeVar

from hutch.errors import SandboxFailed, TooManyUses, Unavailable
from hutch.sandboxes.models import Sandbox
from hutch.sandboxes.service import Sandboxes

_T = TypeVar("_T")
WAIT_S: Final = 90.0  # for a container; most proxies and clients give up about then


class Use:
    """``sandbox`` is what it is in for as long as it lasts: never another incarnation."""

    def __init__(self, sandbox: Sandbox, sandboxes: Sandboxes) -> None:
        self.sandbox = sandbox
        self._sandboxes = sandboxes
        self._over = asyncio.create_task(sandboxes.over(sandbox), name=f"use {sandbox.id}")

    async def unless_over(self, waiting: Awaitable[_T]) -> _T:
        """The result of ``waiting``, which is cancelled when the container ends before: a dead one
        sends no end of its connections. Raises ``SandboxFailed`` then.
        """
        work = asyncio.ensure_future(waiting)
        try:
            await asyncio.wait({self._over, work}, return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                return work.result()
        finally:
            work.cancel()
            await asyncio.gather(work, return_exceptions=True)
        raise await self._lost()

    async def _lost(self) -> SandboxFailed:
        why = await self._sandboxes.why_over(self.sandbox)
        return SandboxFailed(
            f"The container ended meanwhile. {why}".rstrip(), hint="The next request makes one."
        )

    async def end(self) -> None:
        self._over.cancel()
        await asyncio.gather(self._over, return_exceptions=True)


class Uses:
    def __init__(self, sandboxes: Sandboxes) -> None:
        self._sandboxes = sandboxes
        self._going: Counter[tuple[str, str]] = Counter()  # by user and what it is for

    @asynccontextmanager
    async def of(self, user_id: str, what: str, *, most: int) -> AsyncIterator[Use]:
        """Entered once the container is ready; may be left by another task than entered it.
        ``what`` is a plural for people; of it a user has ``most`` at once.

        Raises ``TooManyUses``; ``Unavailable`` where there is no container for so long;
        ``SandboxFailed``.
        """
        going = user_id, what
        if self._going[going] >= most:
            raise TooManyUses(
                f"You have {most} {what} at once, which are the most.",
                hint="Try again when one of them has ended.",
            )
        self._going[going] += 1
        try:
            with self._sandboxes.hold(user_id):
                use = Use(await self._ready(user_id), self._sandboxes)
                try:
                    yield use
                finally:
                    await use.end()
        finally:
            self._going[going] -= 1
            if not self._going[going]:
                del self._going[going]

    def count(self, user_id: str, what: str) -> int:
        return self._going[user_id, what]

    async def _ready(self, user_id: str) -> Sandbox:
        try:
            async with asyncio.timeout(WAIT_S):
                return await self._sandboxes.ensure(user_id)
        except TimeoutError:
            raise no_place() from None


def no_place() -> Unavailable:
    """For requests that waited for a container on an open connection."""
    return Unavailable(
        f"No container could be had within {WAIT_S:.0f} s.",
        hint="All are in use; try again later. A run would wait in the queue.",
    )
