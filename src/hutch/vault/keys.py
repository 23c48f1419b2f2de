"""Master keys: what wraps each user's data key, and the interface that a cloud KMS stands behind.

A provider never sees a credential, only 32-byte data keys. ``context`` is bound to what is wrapped:
it opens with the same one alone.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
from dataclasses import dataclass
from typing import Final, Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from hutch.errors import DoesNotOpen, HutchError, KeyUnavailable
from hutch.secrets import remember

KEY_BYTES: Final = 32
_NONCE_BYTES: Final = 12


@dataclass(frozen=True, slots=True)
class Wrapped:
    """A data key as it is stored: which master key opens it, and the bytes."""

    key_id: str  # at most 32 characters
    data: bytes


class KeyProvider(Protocol):
    """Asynchronous, since the next one is a network away. Safe to call concurrently.

    Every method raises ``KeyUnavailable`` when the provider does not answer, or holds no key of
    that id; trying again later is right.
    """

    async def active(self) -> str:
        """The id of the key that ``wrap`` uses from now on."""
        ...

    async def wrap(self, plaintext: bytes, context: bytes) -> Wrapped: ...

    async def unwrap(self, wrapped: Wrapped, context: bytes) -> bytes:
        """Raises ``DoesNotOpen`` if it was changed, or wrapped with another context."""
        ...

    async def rotate(self) -> str:
        """Take a new key into use where the provider makes its own; the id of the active one.
        It is on stable storage when this returns. Earlier keys go on unwrapping.
        """
        ...

    async def forget(self, *, needed: frozenset[str]) -> list[str]:
        """Destroy keys that are neither active nor ``needed``; the ids of those that went. One
        that cannot destroy any (a KMS, an environment) answers with none.
        """
        ...


@dataclass(frozen=True, slots=True, repr=False)
class MasterKey:
    """256 bits that wrap on this machine. The id derives from the key, so that one moved from the
    key file into the environment, or back, still opens what it wrapped.
    """

    secret: bytes

    def __post_init__(self) -> None:
        remember(base64.b64encode(self.secret).decode())  # as it is written in files and settings

    @classmethod
    def generate(cls) -> MasterKey:
        return cls(os.urandom(KEY_BYTES))

    @classmethod
    def parse(cls, text: str, where: str, error: type[HutchError]) -> MasterKey:
        """From base64. Raises ``error``, which names ``where`` and not the text."""
        try:
            secret = base64.b64decode(text.strip(), validate=True)
        except (binascii.Error, ValueError):
            secret = b""
        if len(secret) != KEY_BYTES:
            raise error(
                f"{where} is not the base64 of {KEY_BYTES} bytes.",
                hint="`openssl rand -base64 32` makes a new key; an earlier one is in your backup.",
            )
        return cls(secret)

    @property
    def id(self) -> str:
        # One-way, and of 256 random bits: it tells nothing about the key.
        return "mk-" + hashlib.sha256(b"hutch master key id v1\0" + self.secret).hexdigest()[:16]

    def text(self) -> str:
        return base64.b64encode(self.secret).decode()

    def wrap(self, plaintext: bytes, context: bytes) -> Wrapped:
        nonce = os.urandom(_NONCE_BYTES)
        return Wrapped(self.id, nonce + AESGCM(self.secret).encrypt(nonce, plaintext, context))

    def unwrap(self, wrapped: Wrapped, context: bytes) -> bytes:
        nonce, body = wrapped.data[:_NONCE_BYTES], wrapped.data[_NONCE_BYTES:]
        try:
            return AESGCM(self.secret).decrypt(nonce, body, context)
        except (InvalidTag, ValueError):  # ValueError: too short to be one
            raise DoesNotOpen(
                "A data key does not open with the master key that is said to have wrapped it.",
                hint="The database was changed from outside: restore it from a backup.",
            ) from None

    def __repr__(self) -> str:
        return f"MasterKey({self.id})"


def unknown(key_id: str, where: str) -> KeyUnavailable:
    return KeyUnavailable(
        f"The master key {key_id} is not in {where}.",
        hint="Restore it from your backup; without it the credentials that it protects are lost.",
    )
