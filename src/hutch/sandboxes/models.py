from __future__ import annotations

from dataclasses import dataclass, field

from hutch.backends.base import Isolation
from hutch.ids import new_id
from hutch.sandboxes.states import OVER, Desired, State


@dataclass(frozen=True, slots=True)
class ImageRef:
    """What new sandboxes are made of."""

    name: str
    id: str | None  # the engine's own, which never means another; None: it has not told yet


@dataclass(frozen=True, slots=True)
class Sandbox:
    """One container's row. Only the reconciler writes ``observed`` and what follows from it."""

    id: str
    user_id: str | None  # None: nobody's: a warm one, one that is to become warm, or a trial
    incarnation: str
    desired: Desired
    observed: State
    reason: str
    image: str  # the name under which it was asked for
    created_at: float
    changed_at: float
    image_id: str | None = None
    isolation: Isolation | None = None
    handle: str | None = None
    address: str | None = None
    port: int | None = None
    snapshot_id: str | None = None  # what it has to be given before it is ready
    cli_versions: dict[str, str] = field(default_factory=dict)

    @classmethod
    def begin(
        cls,
        image: ImageRef,
        *,
        user_id: str | None,
        desired: Desired,
        at: float,
        sandbox_id: str | None = None,
    ) -> Sandbox:
        """One that is to be made."""
        return cls(
            id=sandbox_id or new_id("sbx"),
            user_id=user_id,
            incarnation=new_id("inc"),
            desired=desired,
            observed="provisioning",
            reason="",
            image=image.name,
            image_id=image.id,
            created_at=at,
            changed_at=at,
        )

    @property
    def owner(self) -> str:
        """Whose it is, where only a user's can come."""
        if self.user_id is None:
            raise ValueError(f"{self.id} is nobody's")
        return self.user_id

    @property
    def trial(self) -> bool:
        """Whether it is there to try its image: nobody's, and never to be anybody's, since only
        what is wanted warm is claimed.
        """
        return self.user_id is None and self.desired == "running"

    def is_of(self, image: ImageRef) -> bool:
        return self.image == image.name if image.id is None else self.image_id == image.id

    @property
    def live(self) -> bool:
        return self.observed not in OVER
