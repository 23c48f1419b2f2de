"""Which states a sandbox passes through, and from which to which. Pure; the one place."""

from __future__ import annotations

from typing import Final, Literal, TypeAlias

Rest: TypeAlias = Literal["frozen", "hibernated"]
Desired: TypeAlias = Literal["warm", "running", "frozen", "hibernated", "destroyed"]
State: TypeAlias = Literal[
    "provisioning", "warm", "running", "frozen", "hibernated", "failed", "destroyed"
]

TRANSITIONS: Final[dict[State, frozenset[State]]] = {
    "provisioning": frozenset({"warm", "running", "failed", "destroyed"}),
    # Ready, and nobody's. A claim makes it a user's, and nothing makes it nobody's again; one whose
    # user has a snapshot is provisioned once more, with that.
    "warm": frozenset({"running", "provisioning", "failed", "destroyed"}),
    "running": frozenset({"frozen", "hibernated", "failed", "destroyed"}),
    # In memory, and standing still.
    "frozen": frozenset({"running", "hibernated", "failed", "destroyed"}),
    # No container is left, but a snapshot. Its user's next container starts with that, and is
    # another row.
    "hibernated": frozenset({"destroyed"}),
    # No container is left; the row stays for its reason, until the user goes.
    "failed": frozenset(),
    "destroyed": frozenset(),
}
# No container is left.
OVER: Final[frozenset[State]] = frozenset({"hibernated", "failed", "destroyed"})
RESTING: Final[frozenset[Desired]] = frozenset({"frozen", "hibernated"})


def may(before: State, after: State) -> bool:
    return after in TRANSITIONS[before]
