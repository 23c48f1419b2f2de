from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from hutch.sandboxes.models import ImageRef

# checking: tried in a sandbox of nobody's. canary: a share of the warm pool is of it.
# done: new sandboxes are of it, or were until a later one was done.
# passed_over: what HUTCH_IMAGE came to stand for while a rolled-out image was in use.
Phase: TypeAlias = Literal["checking", "canary", "done", "passed_over", "failed", "rolled_back"]
# setting: what HUTCH_IMAGE stands for. roll: somebody asked for it.
Origin: TypeAlias = Literal["setting", "roll"]

SHARE_DEFAULT: Final = 20  # percent
FOR_DEFAULT_S: Final = 600.0


@dataclass(frozen=True, slots=True)
class Rollout:
    id: int
    origin: Origin
    image: str
    image_id: str
    share: int  # percent of the warm pool, while it is a canary; at least one
    for_s: float
    phase: Phase
    reason: str
    created_at: float
    trial_id: str | None = None  # the sandbox in which it is checked
    canary_at: float | None = None
    done_at: float | None = None
    ended_at: float | None = None

    @property
    def ref(self) -> ImageRef:
        return ImageRef(self.image, self.image_id)

    @property
    def under_way(self) -> bool:
        return self.phase in {"checking", "canary"}


@dataclass(frozen=True, slots=True)
class Plan:
    """What the warm pool is to be made of."""

    current: ImageRef
    candidate: ImageRef | None = None
    share: int = 0

    def quotas(self, size: int) -> Mapping[ImageRef, int]:
        """How many of ``size`` members are of which image; the candidate's share is rounded up."""
        if self.candidate is None or size == 0:
            return {self.current: size}
        tried = min(size, max(1, -(-size * self.share // 100)))
        return {self.candidate: tried, self.current: size - tried}
