"""Take a sandbox's home and workspace out of it, keep them sealed, put them into another one.

The archive is opaque here: what a container has packed, only a container unpacks. A snapshot counts
once it was read back, whole; what it replaces goes after that.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Final

import structlog

from hutch.clock import Clock
from hutch.errors import (
    DoesNotOpen,
    SandboxFailed,
    SnapshotFailed,
    SnapshotStoreUnavailable,
)
from hutch.ids import new_id
from hutch.sandboxes.models import Sandbox
from hutch.sandboxes.runtime_client import RuntimeClient, RuntimeRefused, RuntimeUnreachable
from hutch.snapshots.base import SnapshotMissing, SnapshotStore
from hutch.snapshots.models import Snapshot
from hutch.snapshots.rows import SnapshotRows
from hutch.snapshots.sealing import DoesNotUnseal, seal, unseal
from hutch.vault.data_keys import DataKeys

_log = structlog.get_logger()

_KEY_BYTES: Final = 32
# Of one that no row knows: it may be about to get its row.
_STRAY_AFTER_S: Final = 3600.0


class Snapshots:
    def __init__(
        self,
        rows: SnapshotRows,
        store: SnapshotStore,
        data_keys: DataKeys,
        runtime: RuntimeClient,
        clock: Clock,
        *,
        max_bytes: int,
        moved: Callable[[str, str, float], Awaitable[None]],
    ) -> None:
        """``moved`` is told of an incarnation, of the one that holds its files now, and since when
        (Unix time) these may lack what was written to them; it may be told twice.
        """
        self._rows = rows
        self._store = store
        self._data_keys = data_keys
        self._runtime = runtime
        self._clock = clock
        self._max_bytes = max_bytes
        self._moved = moved
        self._saving = 0  # snapshots that are being written

    async def save(self, sandbox: Sandbox) -> None:
        """Raises ``SnapshotFailed``, ``SnapshotStoreUnavailable``, ``KeyUnavailable``, and
        ``NotFound`` for a user who was deleted.
        """
        self._saving += 1
        try:
            await self._save(sandbox)
        finally:
            self._saving -= 1

    async def _save(self, sandbox: Sandbox) -> None:
        snapshot_id, key = new_id("snap"), os.urandom(_KEY_BYTES)
        sealed_key = await self._data_keys.seal(sandbox.owner, _context(snapshot_id), key)
        reading = _Reading(self._max_bytes)
        try:
            async with self._runtime.pack(sandbox) as pieces:
                sealed = seal(reading.through(pieces), key, snapshot_id)
                stored = await self._store.put(snapshot_id, sealed)
        except (RuntimeUnreachable, RuntimeRefused) as error:
            raise SnapshotFailed(f"Its files could not be read: {_why(error)}") from error
        snapshot = Snapshot(
            snapshot_id,
            sandbox.owner,
            sandbox.incarnation,
            sealed_key,
            reading.digest.digest(),
            reading.size,
            stored,
            self._clock.now(),
        )
        await self._verify(snapshot, key)
        former = await self._rows.of(sandbox.owner)
        await self._rows.add(snapshot)
        for old in former:
            await self._drop(old)

    async def restore(self, sandbox: Sandbox) -> None:
        """Put the sandbox's snapshot into it, and its sessions with it. May be repeated. Raises
        ``SandboxFailed``, ``SnapshotStoreUnavailable``, ``KeyUnavailable``.
        """
        if sandbox.snapshot_id is None:
            return
        snapshot = await self._rows.get(sandbox.snapshot_id)
        if snapshot is None or snapshot.user_id != sandbox.owner:
            raise SandboxFailed("What was stored of the container before is gone.")
        try:
            key = await self._key(snapshot)
            await self._unpack(sandbox, unseal(self._store.get(snapshot.id), key, snapshot.id))
        except (DoesNotOpen, DoesNotUnseal, SnapshotMissing) as error:
            _log.error("snapshot.damaged", snapshot=snapshot.id, error=type(error).__name__)
            raise SandboxFailed(
                "What was stored of the container before cannot be opened: it was changed or "
                "is missing.",
                hint="DELETE /v1/container gives it up; the next run then starts with nothing.",
            ) from error
        except (RuntimeUnreachable, RuntimeRefused) as error:
            raise SandboxFailed(f"Its files could not be put back: {_why(error)}") from error
        await self._moved(snapshot.incarnation, sandbox.incarnation, snapshot.created_at)

    async def latest(self, user_id: str) -> Snapshot | None:
        return await self._rows.latest(user_id)

    async def all(self) -> list[Snapshot]:
        return await self._rows.all()

    async def discard(self, user_id: str) -> int:
        """Everything that is kept of this user; returns how many snapshots."""
        found = await self._rows.of(user_id)
        for snapshot in found:
            await self._drop(snapshot)
        return len(found)

    async def sweep(self) -> int:
        """Remove what no row knows, and no snapshot that is being written; returns how many. None
        while one is: the store's clock may be another than ours, and ours may have been set.
        """
        kept = await self._store.kept()
        if self._saving:
            return 0
        known = {snapshot.id for snapshot in await self._rows.all()}
        before = self._clock.now() - _STRAY_AFTER_S
        strays = [one for one in kept if one.name not in known and one.changed_at < before]
        for stray in strays:
            await self._store.delete(stray.name)
        return len(strays)

    async def close(self) -> None:
        await self._store.close()

    async def _unpack(self, sandbox: Sandbox, pieces: AsyncIterator[bytes]) -> None:
        """The HTTP client reports a source that fails as a broken connection; here it is itself."""
        failures: list[Exception] = []

        async def watched() -> AsyncIterator[bytes]:
            try:
                async for piece in pieces:
                    yield piece
            except (DoesNotUnseal, SnapshotMissing, SnapshotStoreUnavailable) as error:
                failures.append(error)
                raise

        try:
            await self._runtime.unpack(sandbox, watched())
        except RuntimeUnreachable:
            if failures:
                raise failures[0] from None
            raise

    async def _drop(self, snapshot: Snapshot) -> None:
        """The row first: a row that leads nowhere would fail a start, a stray is swept up."""
        await self._rows.remove(snapshot.id)
        await self._store.delete(snapshot.id)

    async def _key(self, snapshot: Snapshot) -> bytes:
        context = _context(snapshot.id)
        return await self._data_keys.open(snapshot.user_id, context, snapshot.sealed_key)

    async def _verify(self, snapshot: Snapshot, key: bytes) -> None:
        """Read it back as a restore would."""
        digest = hashlib.sha256()
        try:
            async for piece in unseal(self._store.get(snapshot.id), key, snapshot.id):
                digest.update(piece)
            whole = digest.digest() == snapshot.sha256
        except (DoesNotUnseal, SnapshotMissing):
            whole = False
        if not whole:
            await self._store.delete(snapshot.id)
            raise SnapshotFailed("The store gave back something else than it was given.")


class _Reading:
    """Counts and hashes an archive as it goes by."""

    def __init__(self, max_bytes: int) -> None:
        self.size = 0
        self.digest = hashlib.sha256()
        self._max_bytes = max_bytes

    async def through(self, pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        async for piece in pieces:
            self.size += len(piece)
            if self.size > self._max_bytes:
                raise SnapshotFailed(
                    f"Home and workspace are more than {self._max_bytes >> 20} MB as an archive.",
                    hint="Delete what is not needed there; very many small files count, too.",
                )
            self.digest.update(piece)
            yield piece


def _context(snapshot_id: str) -> str:
    return f"snapshot {snapshot_id}"


def _why(error: RuntimeUnreachable | RuntimeRefused) -> str:
    if isinstance(error, RuntimeRefused):
        return error.message or error.code
    return f"the sandbox does not answer ({error})."
