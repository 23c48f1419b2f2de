"""Which images may go. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Set as AbstractSet
from typing import Final

from hutch.backends.base import Image

KEPT: Final = 2  # of the latest, used or not: to go back to


def unused(
    images: Iterable[Image], in_use: AbstractSet[str | None], *, repository: str
) -> list[Image]:
    """Those of our repository whose id nobody uses, the oldest first. An image that has another
    name besides, or none, may be somebody else's.
    """
    ours = [
        image
        for image in images
        if image.holds_runtime
        and image.names
        and all(name.startswith(f"{repository}:") for name in image.names)
    ]
    ours.sort(key=lambda image: image.made_at)
    return [image for image in ours[:-KEPT] if image.id not in in_use]
