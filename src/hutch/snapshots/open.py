from __future__ import annotations

from hutch.config import Settings
from hutch.snapshots.base import SnapshotStore
from hutch.snapshots.bucket import BucketStore
from hutch.snapshots.directory import DirectoryStore


def open_store(settings: Settings) -> SnapshotStore:
    """The one that the settings name. Raises ``HostNotReady``."""
    if "://" in settings.snapshots:
        return BucketStore(settings.snapshots)
    return DirectoryStore(settings.snapshots_dir)
