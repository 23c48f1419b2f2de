"""Which states a sandbox passes through, and from which to which. Pure; the one place."""

from __future__ import annotations

from typing import Final, Literal, TypeAlias

Desired: TypeAlias = Literal["warm", "running", "destroyed"]
State: TypeAlias = Literal["provisioning", "warm", "running", "failed", "destroyed"]

TRANSITIONS: Final[dict[State, frozenset[State]]] = {
    "provisioning": frozenset({"warm", "running", "failed", "destroyed"}),
    # Ready, and nobody's: a claim makes it a user's, and nothing makes it nobody's again.
    "warm": frozenset({"running", "failed", "destroyed"}),
    "running": frozenset({"failed", "destroyed"}),
    # No container is left; the row stays for its reason, until the user goes.
    "failed": frozenset(),
    "destroyed": frozenset(),
}
OVER: Final[frozenset[State]] = frozenset(s for s, after in TRANSITIONS.items() if not after)


def may(before: State, after: State) -> bool:
    return after in TRANSITIONS[before]
