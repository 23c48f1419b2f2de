from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What a sandbox left when it was hibernated. Times are Unix seconds."""

    id: str
    user_id: str
    incarnation: str  # the container that it was taken from, and its sessions lived in
    sealed_key: bytes  # the content's own key, under the user's data key
    sha256: bytes  # of the archive before compression
    size: int  # bytes of the archive
    stored: int  # bytes that its sealed form takes
    created_at: float
