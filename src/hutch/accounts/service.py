"""Make, find and delete users; their keys are in ``keys.py``."""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy import Row, bindparam, delete, insert, select, update
from sqlalchemy.exc import IntegrityError

from hutch.accounts.keys import ApiKeys
from hutch.accounts.models import TIERS, User
from hutch.clock import Clock
from hutch.errors import Conflict, InvalidRequest, NotFound
from hutch.ids import is_id, new_id
from hutch.store.database import Database
from hutch.store.tables import data_keys, exits, users

NAME_MAX: Final = 200
_CACHE_MAX: Final = 4096  # users whose tier is kept in memory
_TIER_FRESH_S: Final = 30.0  # a change counts by then, also when another process made it
_USER: Final = select(users).where(users.c.id == bindparam("named"))


class Accounts(ApiKeys):
    def __init__(self, database: Database, clock: Clock, secret: bytes) -> None:
        super().__init__(database, clock, secret)
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
        self._note_tier(user.id, tier)  # most users run something at once
        return user

    async def user(self, user_id: str) -> User:
        """Raises ``NotFound``."""
        if is_id(user_id, "user"):
            row = await self._database.first(_USER, named=user_id)
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
        self._note_tier(user_id, tier)
        return tier

    def _note_tier(self, user_id: str, tier: str) -> None:
        if len(self._tiers) >= _CACHE_MAX:
            self._tiers.clear()
        self._tiers[user_id] = (tier, self._clock.now())

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


def _user(row: Row[Any]) -> User:
    return User(row.id, row.name, row.tier, row.created_at)
