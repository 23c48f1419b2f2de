"""What is kept of a request."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(slots=True)
class Recorded:
    """One request. The key itself is not kept."""

    method: str
    path: str  # without the query, which may hold a key
    key: str  # fingerprint
    peer: str
    kind: str = "other"  # turn | side | count | other
    model: str = ""
    text_sha256: str = ""
    text_chars: int = 0
    status: int = 0  # 0 until answered
    disconnected_early: bool = False

    def public(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__slots__}
