from __future__ import annotations

from dataclasses import dataclass, field

from hutch.backends.base import Isolation
from hutch.sandboxes.states import OVER, Desired, State


@dataclass(frozen=True, slots=True)
class Sandbox:
    """One container's row. Only the reconciler writes ``observed`` and what follows from it."""

    id: str
    user_id: str | None  # None: a warm one, or one that is to become warm; nobody's
    incarnation: str
    desired: Desired
    observed: State
    reason: str
    image: str
    created_at: float
    changed_at: float
    isolation: Isolation | None = None
    handle: str | None = None
    address: str | None = None
    port: int | None = None
    snapshot_id: str | None = None  # what it has to be given before it is ready
    cli_versions: dict[str, str] = field(default_factory=dict)

    @property
    def owner(self) -> str:
        """Whose it is, where only a user's can come."""
        if self.user_id is None:
            raise ValueError(f"{self.id} is nobody's")
        return self.user_id

    @property
    def live(self) -> bool:
        return self.observed not in OVER
