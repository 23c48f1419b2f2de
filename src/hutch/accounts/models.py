from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal, TypeAlias, get_args

Tier: TypeAlias = Literal["free", "pro", "team"]
TIERS: Final[tuple[Tier, ...]] = get_args(Tier)

# user: acts for one user. service: acts for any user, named in each request. admin: makes users
# and keys as well, and sees every sandbox.
Scope: TypeAlias = Literal["user", "service", "admin"]


@dataclass(frozen=True, slots=True)
class User:
    id: str
    name: str
    tier: str
    created_at: float


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key as it may be shown: the prefix tells keys apart and opens nothing."""

    id: str
    user_id: str | None
    scope: Scope
    prefix: str
    created_at: float
    name: str = ""
    read_only: bool = False  # only what changes nothing
    expires_at: float | None = None
    successor_id: str | None = None  # the key that was made in its place
    last_used_at: float | None = None

    def expired(self, now: float) -> bool:
        return self.expires_at is not None and now >= self.expires_at


@dataclass(frozen=True, slots=True)
class NewKey:
    """A key just made, the only moment that its text exists outside the holder's hands."""

    key: ApiKey
    text: str
