"""API keys: made, presented, listed, replaced, revoked.

A key gives no more than it has: one that expires makes none that lives longer, and a read-only one
makes none at all.
"""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
import hmac
import secrets
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

from sqlalchemy import ColumnElement, Row, bindparam, delete, func, insert, select, update

from hutch.accounts.models import ApiKey, NewKey, Scope
from hutch.clock import Clock
from hutch.errors import Conflict, Forbidden, InvalidRequest, KeyExpired, NotFound, Unauthorized
from hutch.ids import is_id, new_id
from hutch.store.database import Database
from hutch.store.tables import api_keys

_DAY_S: Final = 24 * 3600.0
LABEL_MAX: Final = 100  # characters of a key's name
GRACE_MAX_S: Final = 30 * _DAY_S
LIFE_MAX_S: Final = 3650 * _DAY_S
USER_KEYS_MAX: Final = 100  # of one user: enough for a key per device, few enough to read
_EXPIRED_KEPT_S: Final = 30 * _DAY_S  # so that its holder is told why, and the list shows it
_KEY_BYTES: Final = 32
_SHOWN: Final = 5  # random characters of a prefix: enough to tell keys apart
# Keys seen lately, so that a request costs a hash and no query. Emptied whenever a key goes.
_CACHE_MAX: Final = 4096
_NOBODY: Final[Mapping[str, float]] = MappingProxyType({})


class ApiKeys:
    def __init__(self, database: Database, clock: Clock, secret: bytes) -> None:
        self._database = database
        self._clock = clock
        # HMAC, not a password hash: 256 random bits need no stretching; 0.35 µs, not 190 ms.
        self._secret = hmac.digest(secret, b"hutch api keys v1", "sha256")
        self._known: dict[bytes, ApiKey] = {}
        # Of every key that there may be: a wrong one costs no query, however many come.
        self._hashes: set[bytes] = set()
        self._used: dict[str, float] = {}  # key id → when, until it is written down
        self._changing = asyncio.Lock()

    async def load_keys(self) -> None:
        """Before the first is presented."""
        rows = await self._database.all(select(api_keys.c.hash))
        self._hashes.update(row.hash for row in rows)

    async def create_key(
        self,
        scope: Scope,
        user_id: str | None = None,
        *,
        name: str = "",
        read_only: bool = False,
        expires_in_s: float | None = None,
        by: ApiKey | None = None,
    ) -> NewKey:
        """``by``: the key with which it is asked for. Raises ``InvalidRequest``, ``Forbidden`` for
        more than that key has, ``Conflict`` when the user has too many.
        """
        if (scope == "user") != (user_id is not None):
            raise InvalidRequest("A key of scope `user` belongs to a user; no other does.")
        name = name.strip()
        if len(name) > LABEL_MAX or not name.isprintable():
            raise InvalidRequest(f"A key's name is at most {LABEL_MAX} printable characters.")
        async with self._changing:
            if user_id is not None:
                await self._make_room(user_id)
            new = self._new(scope, user_id, name, read_only=read_only)
            new = _until(new, _end(new.key.created_at, expires_in_s, by))
            await self._database.write(self._row_of(new))
        return self._made(new)

    async def keys_of(self, user_id: str) -> list[ApiKey]:
        """Oldest first, expired ones included."""
        return await self._select(api_keys.c.user_id == user_id)

    async def all_keys(self) -> list[ApiKey]:
        return await self._select()

    async def rotate_key(
        self,
        key_id: str,
        *,
        grace_s: float,
        expires_in_s: float | None = None,
        by: ApiKey,
        user_id: str | None = None,
    ) -> NewKey:
        """A successor that may do the same; the key itself ends after ``grace_s``. ``user_id``:
        whose it has to be. Raises ``NotFound``, ``Conflict`` if it has a successor already.
        """
        if not 0 <= grace_s <= GRACE_MAX_S:
            raise InvalidRequest(f"The grace is 0 to {GRACE_MAX_S:.0f} seconds.")
        async with self._changing:
            old = await self._find(key_id, user_id)
            now = self._clock.now()
            if old.expired(now):
                raise Conflict("This key has expired already.", hint="Make a new one.")
            if old.successor_id is not None and await self._select(
                api_keys.c.id == old.successor_id
            ):
                raise Conflict(
                    "This key has a successor already.", hint=f"Rotate {old.successor_id} instead."
                )
            if expires_in_s is None and old.expires_at is not None and old.successor_id is None:
                expires_in_s = old.expires_at - old.created_at  # it lives as long as this one did
                if by.expires_at is not None:
                    expires_in_s = min(expires_in_s, by.expires_at - now)
            new = self._new(old.scope, old.user_id, old.name, read_only=old.read_only)
            new = _until(new, _end(now, expires_in_s, by))
            ends = min(now + grace_s, old.expires_at or now + grace_s)
            await self._database.write(
                self._row_of(new),
                update(api_keys)
                .where(api_keys.c.id == old.id)
                .values(expires_at=ends, successor_id=new.key.id),
            )
            self._known.clear()
        return self._made(new)

    async def revoke_key(self, key_id: str, *, user_id: str | None = None) -> ApiKey:
        """From the next request on. Raises ``NotFound``, ``Conflict`` for the last key with which
        the service can be managed.
        """
        async with self._changing:
            key = await self._find(key_id, user_id)
            if _manages(key) and not [
                one for one in await self.all_keys() if _manages(one) and one.id != key.id
            ]:
                raise Conflict(
                    "This is the last admin key that does not expire.",
                    hint="Make another one first: `hutch admin keys create --scope admin`.",
                )
            await self._database.write(delete(api_keys).where(api_keys.c.id == key.id))
            self._known.clear()
        return key

    async def revoke_keys(self, user_id: str) -> None:
        """Every API key of the user's own."""
        await self._database.write(delete(api_keys).where(api_keys.c.user_id == user_id))
        self._known.clear()

    async def authenticate(self, text: str) -> ApiKey:
        """Raises ``Unauthorized``, of which ``KeyExpired`` is one."""
        digest = self._hash(text)
        key = self._known.get(digest)
        if key is None:
            key = await self._look_up(digest)
        now = self._clock.now()
        if key.expired(now):
            raise KeyExpired(
                "This API key has expired.",
                hint="Use its successor, or ask for a new one: `hutch admin keys create`.",
            )
        self._used[key.id] = now
        return key

    async def note_uses(self) -> dict[str, int | str]:
        """Write down when keys were last used: a task of the control loop, and at the end."""
        used, self._used = self._used, {}
        if used:
            statement = (
                update(api_keys)
                .where(api_keys.c.id == bindparam("key_id"))
                .values(last_used_at=bindparam("at"))
            )
            rows = [{"key_id": key_id, "at": at} for key_id, at in used.items()]
            await self._database.write((statement, rows))
        return {"noted": len(used)}

    async def _look_up(self, digest: bytes) -> ApiKey:
        # By a keyed hash: how long it takes tells a guesser nothing about a key.
        row = None
        if digest in self._hashes:
            row = await self._database.first(select(api_keys).where(api_keys.c.hash == digest))
        if row is None or not hmac.compare_digest(row.hash, digest):
            raise Unauthorized(
                "This API key is not known here.",
                hint="Send `Authorization: Bearer hutch_…`; `hutch admin keys create` makes one.",
            )
        if len(self._known) >= _CACHE_MAX:
            self._known.clear()
        key = self._known[digest] = _key(row)
        return key

    async def _find(self, key_id: str, user_id: str | None) -> ApiKey:
        if is_id(key_id, "key"):
            found = await self._select(api_keys.c.id == key_id)
            if found and (user_id is None or found[0].user_id == user_id):
                return found[0]
        raise NotFound("There is no such key.", hint="`hutch keys list` shows the ids of yours.")

    async def _select(self, *conditions: ColumnElement[bool]) -> list[ApiKey]:
        query = select(api_keys).where(*conditions).order_by(api_keys.c.created_at, api_keys.c.id)
        # What was used a moment ago is not in the table yet.
        return [_key(row, self._used) for row in await self._database.all(query)]

    async def _make_room(self, user_id: str) -> None:
        long_ago = self._clock.now() - _EXPIRED_KEPT_S
        theirs = api_keys.c.user_id == user_id
        await self._database.write(delete(api_keys).where(theirs, api_keys.c.expires_at < long_ago))
        row = await self._database.first(select(func.count()).select_from(api_keys).where(theirs))
        if row is not None and row[0] >= USER_KEYS_MAX:
            raise Conflict(
                f"A user has at most {USER_KEYS_MAX} keys.",
                hint="`hutch keys list` shows them; revoke those that nobody uses.",
            )

    def _new(self, scope: Scope, user_id: str | None, name: str, *, read_only: bool) -> NewKey:
        kind = f"hutch_{scope}_read_" if read_only else f"hutch_{scope}_"
        text = kind + secrets.token_urlsafe(_KEY_BYTES)
        key = ApiKey(
            new_id("key"),
            user_id,
            scope,
            text[: len(kind) + _SHOWN],
            self._clock.now(),
            name=name,
            read_only=read_only,
        )
        return NewKey(key, text)

    def _row_of(self, new: NewKey) -> Any:
        return insert(api_keys).values(
            id=new.key.id,
            user_id=new.key.user_id,
            scope=new.key.scope,
            prefix=new.key.prefix,
            hash=self._hash(new.text),
            created_at=new.key.created_at,
            name=new.key.name,
            read_only=int(new.key.read_only),
            expires_at=new.key.expires_at,
        )

    def _made(self, new: NewKey) -> NewKey:
        self._hashes.add(self._hash(new.text))
        return new

    def _hash(self, text: str) -> bytes:
        return hmac.digest(self._secret, text.encode("utf-8", "replace"), hashlib.sha256)


def _end(now: float, expires_in_s: float | None, by: ApiKey | None) -> float | None:
    if expires_in_s is not None and not 0 < expires_in_s <= LIFE_MAX_S:
        raise InvalidRequest(f"A key lives for more than 0 and at most {LIFE_MAX_S:.0f} seconds.")
    end = None if expires_in_s is None else now + expires_in_s
    if by is None or by.expires_at is None:
        return end
    if end is not None and end > by.expires_at:
        raise Forbidden(
            "A key that expires makes no key that lives longer.",
            hint="Leave the time out for one that ends with this key, or use a key without end.",
        )
    return end if end is not None else by.expires_at


def _until(new: NewKey, expires_at: float | None) -> NewKey:
    return NewKey(dataclasses.replace(new.key, expires_at=expires_at), new.text)


def _manages(key: ApiKey) -> bool:
    return key.scope == "admin" and not key.read_only and key.expires_at is None


def _key(row: Row[Any], used: Mapping[str, float] = _NOBODY) -> ApiKey:
    return ApiKey(
        row.id,
        row.user_id,
        row.scope,
        row.prefix,
        row.created_at,
        name=row.name,
        read_only=bool(row.read_only),
        expires_at=row.expires_at,
        successor_id=row.successor_id,
        last_used_at=used.get(row.id, row.last_used_at),
    )
