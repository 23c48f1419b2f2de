"""Make, find and delete users and keys; say whose a presented key is."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from typing import Any, Final

from sqlalchemy import Row, delete, insert, select, update
from sqlalchemy.exc import IntegrityError

from hutch.accounts.models import TIERS, ApiKey, NewKey, Scope, User
from hutch.clock import Clock
from hutch.errors import Conflict, InvalidRequest, NotFound, Unauthorized
from hutch.ids import is_id, new_id
from hutch.store.database import Database
from hutch.store.tables import api_keys, data_keys, exits, users

NAME_MAX: Final = 200
_KEY_BYTES: Final = 32
_PREFIX_LENGTH: Final = len("hutch_user_") + 6
# Keys seen lately, so that a request costs a hash and no query. Emptied whenever a key goes.
_CACHE_MAX: Final = 4096
_TIER_FRESH_S: Final = 30.0  # a change counts by then, also when another process made it


class Accounts:
    def __init__(self, database: Database, clock: Clock, secret: bytes) -> None:
        self._database = database
        self._clock = clock
        # HMAC, not a password hash: 256 random bits need no stretching; 0.35 µs, not 190 ms.
        self._secret = hmac.digest(secret, b"hutch api keys v1", "sha256")
        self._known: dict[bytes, ApiKey] = {}
        self._tiers: dict[str, tuple[str, float]] = {}  # and when it was read

    async def create_user(self, name: str, tier: str) -> User:
        """Raises ``InvalidRequest`` for a bad name or tier, ``Conflict`` for one that is taken."""
        name = name.strip()
        if not name or len(name) > NAME_MAX or not name.isprintable():
            raise InvalidRequest(
                "A user's name is 1 to 200 printable characters.",
                hint="An e-mail address or your own id for the user works well.",
            )
        if tier not in TIERS:
            raise InvalidRequest(f"There is no tier {tier!r}.", hint=f"One of: {', '.join(TIERS)}.")
        user = User(new_id("user"), name, tier, self._clock.now())
        try:
            await self._database.write(
                insert(users).values(id=user.id, name=name, tier=tier, created_at=user.created_at)
            )
        except IntegrityError:
            raise Conflict(
                f"There is a user named {name!r} already.",
                hint="`hutch admin users list` shows ids; choose another name or use that one.",
            ) from None
        return user

    async def user(self, user_id: str) -> User:
        """Raises ``NotFound``."""
        if is_id(user_id, "user"):
            row = await self._database.first(select(users).where(users.c.id == user_id))
            if row is not None:
                return _user(row)
        raise NotFound("There is no such user.", hint="`hutch admin users list` shows all ids.")

    async def tier(self, user_id: str) -> str:
        """As of at most 30 s ago, so that a prompt costs no query. Raises ``NotFound``."""
        now = self._clock.now()
        known = self._tiers.get(user_id)
        if known is not None and 0 <= now - known[1] < _TIER_FRESH_S:
            return known[0]
        tier = (await self.user(user_id)).tier
        if len(self._tiers) >= _CACHE_MAX:
            self._tiers.clear()
        self._tiers[user_id] = (tier, now)
        return tier

    async def list_users(self) -> list[User]:
        return [
            _user(row) for row in await self._database.all(select(users).order_by(users.c.name))
        ]

    async def delete_user(self, user_id: str) -> None:
        """Remove the user and, by cascade, all rows of theirs. Their sandbox is not ours to end:
        the caller destroys it first, and before that their data key (``control.deletion``).
        """
        await self._database.write(
            # An exit remembers whose it was, to be theirs again.
            update(exits).where(exits.c.last_user_id == user_id).values(last_user_id=None),
            delete(users).where(users.c.id == user_id),
            # One that was made again by what was still under way; nobody makes one after this, who
            # would have to find the user (``DataKeys``).
            delete(data_keys).where(data_keys.c.owner == user_id),
        )
        self._known.clear()
        self._tiers.pop(user_id, None)

    async def revoke_keys(self, user_id: str) -> None:
        """Every API key of the user's own."""
        await self._database.write(delete(api_keys).where(api_keys.c.user_id == user_id))
        self._known.clear()

    async def create_key(self, scope: Scope, user_id: str | None = None) -> NewKey:
        if (scope == "user") != (user_id is not None):
            raise InvalidRequest("A key of scope `user` belongs to a user; no other does.")
        text = f"hutch_{scope}_{secrets.token_urlsafe(_KEY_BYTES)}"
        key = ApiKey(new_id("key"), user_id, scope, text[:_PREFIX_LENGTH], self._clock.now())
        await self._database.write(
            insert(api_keys).values(
                id=key.id,
                user_id=user_id,
                scope=scope,
                prefix=key.prefix,
                hash=self._hash(text),
                created_at=key.created_at,
            )
        )
        return NewKey(key, text)

    async def authenticate(self, text: str) -> ApiKey:
        """Raises ``Unauthorized``."""
        digest = self._hash(text)
        known = self._known.get(digest)
        if known is not None:
            return known
        # The lookup is by a keyed hash: its timing tells a guesser nothing about a key.
        row = await self._database.first(select(api_keys).where(api_keys.c.hash == digest))
        if row is None:
            raise Unauthorized(
                "This API key is not known here.",
                hint="Send `Authorization: Bearer hutch_…`; `hutch admin users key` makes one.",
            )
        key = ApiKey(row.id, row.user_id, row.scope, row.prefix, row.created_at)
        if len(self._known) >= _CACHE_MAX:
            self._known.clear()
        self._known[digest] = key
        return key

    def _hash(self, text: str) -> bytes:
        return hmac.digest(self._secret, text.encode("utf-8", "replace"), hashlib.sha256)


def _user(row: Row[Any]) -> User:
    return User(row.id, row.name, row.tier, row.created_at)
