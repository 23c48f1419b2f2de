"""Count containers, those that are promised and not there yet included. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from hutch.sandboxes.models import Sandbox


@dataclass(frozen=True, slots=True)
class Census:
    total: int  # that there are, or will be once every promise is kept
    warm: int  # that nobody has been promised
    coming: int  # that will be warm
    cold: int  # that are being made for users
    starting: int  # that have yet to take their memory
    leaving: int  # that are on their way out
    owners: frozenset[str]  # users who have one
    leaving_owners: frozenset[str]


def take_census(live: Iterable[Sandbox], promised: AbstractSet[str]) -> Census:
    """``live``: every row with a container; ``promised``: users who were given a place and may not
    have a row yet. Such a one claims a warm one if there is one.
    """
    rows = list(live)
    owners = frozenset(s.user_id for s in rows if s.user_id is not None)
    leaving = [s for s in rows if s.desired in {"hibernated", "destroyed"}]
    warm = sum(s.user_id is None and s.observed == s.desired == "warm" for s in rows)
    rowless = len(promised - owners)
    claiming = min(warm, rowless)
    made = rowless - claiming
    return Census(
        total=len(rows) + made,
        warm=warm - claiming,
        coming=sum(
            s.user_id is None and s.observed == "provisioning" and not s.trial for s in rows
        ),
        cold=made + sum(s.user_id is not None and s.observed == "provisioning" for s in rows),
        starting=made + sum(s.observed == "provisioning" for s in rows),
        leaving=len(leaving),
        owners=owners,
        leaving_owners=frozenset(s.user_id for s in leaving if s.user_id is not None),
    )
