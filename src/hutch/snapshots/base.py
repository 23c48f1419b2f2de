"""The boundary between Hutch and the place where snapshots are kept.

What is kept is sealed already: a store sees random bytes under random names. One contract suite,
``tests/contract/test_snapshot_store.py``, runs on each.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Protocol


class SnapshotMissing(Exception):
    """Nothing is kept under this name."""


@dataclass(frozen=True, slots=True)
class Kept:
    name: str
    changed_at: float  # Unix seconds


class SnapshotStore(Protocol):
    """Every method raises ``SnapshotStoreUnavailable``, and may be cancelled at any point."""

    async def put(self, name: str, pieces: AsyncIterator[bytes]) -> int:
        """Keep all the pieces under ``name``, or, if they break off, nothing; on return they are
        on stable storage. Returns how many bytes.
        """
        ...

    def get(self, name: str) -> AsyncIterator[bytes]:
        """The bytes, in pieces of any size. Raises ``SnapshotMissing``."""
        ...

    async def delete(self, name: str) -> None:
        """Succeeds when it is gone already."""
        ...

    async def kept(self) -> list[Kept]: ...

    async def close(self) -> None: ...
