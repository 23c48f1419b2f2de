"""One random key per owner (a user, or the installation), and sealing with it.

A data key is made at its owner's first ``seal`` and stored wrapped by the key provider. Without its
row nothing that was sealed for that owner opens again, in no copy of the database made later.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from sqlalchemy import (
    Exists,
    Row,
    bindparam,
    delete,
    exists,
    insert,
    literal,
    or_,
    select,
    update,
)
from sqlalchemy.exc import IntegrityError

from hutch.clock import Clock
from hutch.errors import DoesNotOpen, HostNotReady, HutchError, KeyUnavailable, NotFound
from hutch.store.database import Database
from hutch.store.tables import data_keys as table
from hutch.store.tables import users
from hutch.vault.keys import KEY_BYTES, KeyProvider, Wrapped

INSTALLATION: Final = "installation"  # owner of what belongs to no user: the exits' passwords
_FORMAT: Final = b"\x01"  # first byte of everything sealed
_NONCE_BYTES: Final = 12
_TAG_BYTES: Final = 16
_CACHE_MAX: Final = 10_000  # data keys in memory, a few hundred bytes each
_BATCH: Final = 100  # rows a transaction while the master key changes: others get their turn


@dataclass(frozen=True, slots=True)
class Rotation:
    """What a change of the master key did."""

    master_key: str  # id of the one that now wraps all
    rewrapped: int
    unreadable: int  # rows that opened with no key; left as they are
    forgotten: list[str]  # ids of master keys that are gone for good


class DataKeys:
    def __init__(self, database: Database, clock: Clock, key_provider: KeyProvider) -> None:
        self._database = database
        self._clock = clock
        self._provider = key_provider
        self._ciphers: dict[str, AESGCM] = {}
        self._destructions = 0  # a key read before one is not kept after it
        # Between wrapping a new data key and storing it, no master key may be forgotten.
        self._making = asyncio.Lock()
        self._rotating = asyncio.Lock()

    async def check(self) -> None:
        """That each master key in use is there, before anything depends on it. Raises
        ``HostNotReady``.
        """
        for (key_id,) in await self._database.all(select(table.c.master_key).distinct()):
            row = await self._database.first(select(table).where(table.c.master_key == key_id))
            try:
                if row is not None:
                    await self._unwrap(row)
            except HutchError as error:
                raise HostNotReady(
                    f"Stored credentials cannot be opened. {error.message}", hint=error.hint
                ) from error

    async def seal(self, owner: str, context: str, plaintext: bytes) -> bytes:
        """Encrypt for ``owner``; it opens for the same owner and context alone. Raises
        ``NotFound`` for a user who does not exist, ``KeyUnavailable``.
        """
        cipher = await self._cipher(owner) or await self._make(owner)
        nonce = os.urandom(_NONCE_BYTES)
        return _FORMAT + nonce + cipher.encrypt(nonce, plaintext, _binding(owner, context))

    async def open(self, owner: str, context: str, sealed: bytes) -> bytes:
        """Raises ``DoesNotOpen`` for what was changed, sealed for another owner or context, or
        whose key was destroyed; ``KeyUnavailable``.
        """
        cipher = await self._cipher(owner)
        if cipher is None or not sealed.startswith(_FORMAT):
            raise _does_not_open()
        nonce, body = sealed[1 : 1 + _NONCE_BYTES], sealed[1 + _NONCE_BYTES :]
        if len(body) < _TAG_BYTES:
            raise _does_not_open()
        try:
            return cipher.decrypt(nonce, body, _binding(owner, context))
        except InvalidTag:
            raise _does_not_open() from None

    async def exists(self, owner: str) -> bool:
        return await self._row(owner) is not None

    async def destroy(self, owner: str) -> str | None:
        """Once it returns, nothing sealed for ``owner`` opens any more, and the wrapped key is in
        no file of the database. The first 16 hex digits of its SHA-256; None if there was none.
        """
        self._forget_cipher(owner)
        async with self._making:
            row = await self._row(owner)
            await self._database.write(delete(table).where(table.c.owner == owner))
        self._forget_cipher(owner)  # one that was read meanwhile
        await self._database.checkpoint()
        return hashlib.sha256(row.wrapped).hexdigest()[:16] if row is not None else None

    async def rotate(self) -> Rotation:
        """Wrap every data key with a new master key, while others go on sealing and opening.

        May end at any point, and be repeated: a master key is forgotten only when the database,
        on stable storage, has no row that needs it.
        """
        async with self._rotating:
            active = await self._provider.rotate()
            rewrapped, _ = await self._rewrap(active)
            async with self._making:
                # Those that were made with the old key while the first pass went by.
                late, unreadable = await self._rewrap(active)
                await self._database.checkpoint()
                in_use = await self._database.all(select(table.c.master_key).distinct())
                forgotten = await self._provider.forget(
                    needed=frozenset(key_id for (key_id,) in in_use)
                )
            return Rotation(active, rewrapped + late, unreadable, forgotten)

    async def _rewrap(self, active: str) -> tuple[int, int]:
        """How many rows got the active master key, and how many cannot be opened."""
        rewrapped = unreadable = 0
        last = ""
        while rows := await self._stale(active, after=last):
            last = rows[-1].owner
            fresh: list[dict[str, Any]] = []
            for row in rows:
                context = _wrapping(row.owner)
                try:
                    wrapped = await self._provider.wrap(await self._unwrap(row), context)
                except DoesNotOpen:
                    unreadable += 1
                    continue
                fresh.append(
                    {
                        "its_owner": row.owner,
                        "its_wrapped": row.wrapped,
                        "wrapped": wrapped.data,
                        "master_key": wrapped.key_id,
                    }
                )
            if fresh:
                rewrapped += await self._database.write((_REWRAP, fresh))
        return rewrapped, unreadable

    async def _stale(self, active: str, *, after: str) -> Sequence[Row[Any]]:
        query = select(table).where(table.c.master_key != active, table.c.owner > after)
        return await self._database.all(query.order_by(table.c.owner).limit(_BATCH))

    async def _cipher(self, owner: str) -> AESGCM | None:
        known = self._ciphers.get(owner)
        if known is not None:
            return known
        before = self._destructions
        row = await self._row(owner)
        while row is not None:
            try:
                return self._remember(owner, await self._unwrap(row), before)
            except KeyUnavailable:
                # The master key may have been changed, and the old one forgotten, since the row
                # was read.
                read, row = row, await self._row(owner)
                if row is not None and row.wrapped == read.wrapped:
                    raise
        return None

    async def _make(self, owner: str) -> AESGCM:
        before = self._destructions
        async with self._making:
            key = os.urandom(KEY_BYTES)
            wrapped = await self._provider.wrap(key, _wrapping(owner))
            row = select(
                literal(owner),
                literal(wrapped.data),
                literal(wrapped.key_id),
                literal(self._clock.now()),
            ).where(or_(literal(owner == INSTALLATION), _user_stays(owner)))
            columns = ["owner", "wrapped", "master_key", "created_at"]
            try:
                # In one statement: a deleted user must not get a key again.
                made = await self._database.write(insert(table).from_select(columns, row))
            except IntegrityError:
                pass  # another was first, so theirs is the key
            else:
                if not made:
                    raise NotFound("There is no such user.", hint="They were deleted meanwhile.")
                return self._remember(owner, key, before)
        cipher = await self._cipher(owner)
        return cipher if cipher is not None else await self._make(owner)

    async def _row(self, owner: str) -> Row[Any] | None:
        return await self._database.first(select(table).where(table.c.owner == owner))

    async def _unwrap(self, row: Row[Any]) -> bytes:
        wrapped = Wrapped(row.master_key, row.wrapped)
        return await self._provider.unwrap(wrapped, _wrapping(row.owner))

    def _remember(self, owner: str, key: bytes, destructions: int) -> AESGCM:
        cipher = AESGCM(key)
        if destructions == self._destructions:
            if len(self._ciphers) >= _CACHE_MAX:
                self._ciphers.clear()
            self._ciphers[owner] = cipher
        return cipher

    def _forget_cipher(self, owner: str) -> None:
        self._destructions += 1
        self._ciphers.pop(owner, None)


def _user_stays(owner: str) -> Exists:
    """That the user is there, and will be until the transaction ends."""
    user = select(users.c.id).where(users.c.id == owner)
    return exists(user.with_for_update(read=True, key_share=True))


# Not of a row that went or changed since it was read.
_REWRAP: Final = update(table).where(
    table.c.owner == bindparam("its_owner"), table.c.wrapped == bindparam("its_wrapped")
)


def _binding(owner: str, context: str) -> bytes:
    """No owner holds a NUL, so no two pairs give the same bytes."""
    if "\0" in owner:
        raise ValueError("an owner is an id")
    return f"hutch sealed v1\0{owner}\0{context}".encode()


def _wrapping(owner: str) -> bytes:
    return f"hutch data key v1\0{owner}".encode()


def _does_not_open() -> DoesNotOpen:
    return DoesNotOpen(
        "A stored secret does not open: it was changed or moved, or its key was destroyed.",
        hint="Store it once more; if it happens again, look who writes to the database.",
    )
