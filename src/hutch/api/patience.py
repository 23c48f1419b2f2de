"""For requests that wait for a container on an open connection."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

from hutch.sandboxes.uses import WAIT_S, no_place

_T = TypeVar("_T")


async def soon(waiting: Awaitable[_T]) -> _T:
    """Raises ``Unavailable`` when there is no place for a container for so long."""
    try:
        async with asyncio.timeout(WAIT_S):
            return await waiting
    except TimeoutError:
        raise no_place() from None
