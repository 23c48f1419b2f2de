"""A master key given in the environment: ``HUTCH_MASTER_KEY``, base64 of 32 bytes.

While keys are changed, ``HUTCH_MASTER_KEY_PREVIOUS`` holds the one before.
"""

from __future__ import annotations

from typing import Final

from hutch.errors import HostNotReady
from hutch.vault.keys import MasterKey, Wrapped, unknown

MASTER_KEY: Final = "HUTCH_MASTER_KEY"
PREVIOUS: Final = "HUTCH_MASTER_KEY_PREVIOUS"


class EnvironmentKeys:
    def __init__(self, active: str, previous: str = "") -> None:
        """Raises ``HostNotReady`` for a text that is no key."""
        self._active = MasterKey.parse(active, MASTER_KEY, HostNotReady)
        keys = [self._active]
        if previous:
            keys.append(MasterKey.parse(previous, PREVIOUS, HostNotReady))
        self._keys = {key.id: key for key in keys}

    async def active(self) -> str:
        return self._active.id

    async def wrap(self, plaintext: bytes, context: bytes) -> Wrapped:
        return self._active.wrap(plaintext, context)

    async def unwrap(self, wrapped: Wrapped, context: bytes) -> bytes:
        key = self._keys.get(wrapped.key_id)
        if key is None:
            raise unknown(wrapped.key_id, f"{MASTER_KEY} or {PREVIOUS}")
        return key.unwrap(wrapped, context)

    async def rotate(self) -> str:
        """The operator has already put the new key in place."""
        return self._active.id

    async def forget(self, *, needed: frozenset[str]) -> list[str]:
        """None: the operator takes the previous key out of the environment."""
        del needed
        return []
