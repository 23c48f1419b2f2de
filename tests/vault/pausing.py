"""A key provider that answers when a test says so: for what may happen in between."""

from __future__ import annotations

import asyncio

from hutch.vault.keys import KeyProvider, Wrapped


class KeysThatPause:
    """The next wrap or unwrap with ``context`` waits: the work of a wrap is done by then, that of
    an unwrap is not.
    """

    def __init__(self, keys: KeyProvider, context: bytes) -> None:
        self._keys = keys
        self._context: bytes | None = context
        self.reached = asyncio.Event()
        self.go_on = asyncio.Event()

    async def active(self) -> str:
        return await self._keys.active()

    async def wrap(self, plaintext: bytes, context: bytes) -> Wrapped:
        wrapped = await self._keys.wrap(plaintext, context)
        await self._pause(context)
        return wrapped

    async def unwrap(self, wrapped: Wrapped, context: bytes) -> bytes:
        await self._pause(context)
        return await self._keys.unwrap(wrapped, context)

    async def rotate(self) -> str:
        return await self._keys.rotate()

    async def forget(self, *, needed: frozenset[str]) -> list[str]:
        return await self._keys.forget(needed=needed)

    async def _pause(self, context: bytes) -> None:
        if context == self._context:
            self._context = None
            self.reached.set()
            await self.go_on.wait()
