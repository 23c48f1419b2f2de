"""A cloud KMS in memory: a network away, keys that never leave it, versions of its own."""

from __future__ import annotations

import asyncio

from hutch.errors import KeyUnavailable
from hutch.vault.keys import MasterKey, Wrapped, unknown


class FakeKms:
    def __init__(self) -> None:
        first = MasterKey.generate()
        self._keys = {first.id: first}
        self._active = first.id
        self.down = False
        self.calls = 0

    async def active(self) -> str:
        await self._travel()
        return self._active

    async def wrap(self, plaintext: bytes, context: bytes) -> Wrapped:
        await self._travel()
        return self._keys[self._active].wrap(plaintext, context)

    async def unwrap(self, wrapped: Wrapped, context: bytes) -> bytes:
        await self._travel()
        if wrapped.key_id not in self._keys:
            raise unknown(wrapped.key_id, "the KMS")
        return self._keys[wrapped.key_id].unwrap(wrapped, context)

    async def rotate(self) -> str:
        await self._travel()
        fresh = MasterKey.generate()
        self._keys[fresh.id] = fresh
        self._active = fresh.id
        return fresh.id

    async def forget(self, *, needed: frozenset[str]) -> list[str]:
        """It keeps its old versions; their end is its operator's to order."""
        del needed
        await self._travel()
        return []

    async def _travel(self) -> None:
        self.calls += 1
        await asyncio.sleep(0.001)
        if self.down:
            raise KeyUnavailable("The KMS does not answer.", hint="Try again later.")
