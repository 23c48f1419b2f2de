"""For requests that wait for a container on an open connection."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Final, TypeVar

from hutch.errors import Unavailable

_T = TypeVar("_T")
WAIT_S: Final = 90.0  # most proxies and clients give up about then


async def soon(waiting: Awaitable[_T]) -> _T:
    """Raises ``Unavailable`` when there is no place for a container for so long."""
    try:
        async with asyncio.timeout(WAIT_S):
            return await waiting
    except TimeoutError:
        raise Unavailable(
            f"No container could be had within {WAIT_S:.0f} s.",
            hint="All are in use; try again later. A run would wait in the queue.",
        ) from None
