"""Snapshots as files of a directory on this machine."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Final

from hutch.errors import SnapshotStoreUnavailable
from hutch.snapshots.base import Kept, SnapshotMissing

_PIECE: Final = 1024 * 1024
_DRAFT: Final = ".draft-"


class DirectoryStore:
    def __init__(self, directory: Path) -> None:
        self._directory = directory

    async def put(self, name: str, pieces: AsyncIterator[bytes]) -> int:
        with _told("written"):
            draft = await asyncio.to_thread(self._draft)
        size = 0
        try:
            with draft.open("wb") as file:
                async for piece in pieces:
                    with _told("written"):
                        await asyncio.to_thread(file.write, piece)
                    size += len(piece)
                with _told("written"):
                    await asyncio.to_thread(_to_disk, file.fileno())
            with _told("written"):
                await asyncio.to_thread(self._publish, draft, name)
        finally:
            with contextlib.suppress(OSError):
                draft.unlink(missing_ok=True)
        return size

    async def get(self, name: str) -> AsyncIterator[bytes]:
        with _told("read"):
            try:
                file = await asyncio.to_thread(self._path(name).open, "rb")
            except FileNotFoundError:
                raise SnapshotMissing(name) from None
        with file:
            while True:
                with _told("read"):
                    piece = await asyncio.to_thread(file.read, _PIECE)
                if not piece:
                    return
                yield piece

    async def delete(self, name: str) -> None:
        with _told("written"):
            await asyncio.to_thread(self._path(name).unlink, missing_ok=True)

    async def kept(self) -> list[Kept]:
        with _told("read"):
            return await asyncio.to_thread(self._list)

    async def close(self) -> None:
        """Nothing is held open."""

    def _path(self, name: str) -> Path:
        return self._directory / name

    def _draft(self) -> Path:
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        draft = self._directory / f"{_DRAFT}{secrets.token_hex(8)}"
        os.close(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        return draft

    def _publish(self, draft: Path, name: str) -> None:
        draft.replace(self._path(name))
        descriptor = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def _list(self) -> list[Kept]:
        """Drafts that a crash left, too."""
        if not self._directory.is_dir():
            return []
        found = []
        for entry in os.scandir(self._directory):
            with contextlib.suppress(FileNotFoundError):
                found.append(Kept(entry.name, entry.stat().st_mtime))
        return found


def _to_disk(descriptor: int) -> None:
    os.fsync(descriptor)


@contextlib.contextmanager
def _told(what: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise SnapshotStoreUnavailable(
            f"The directory of snapshots cannot be {what}: {error.strerror}.",
            hint="Is its disk full or gone? HUTCH_SNAPSHOTS says where it is.",
        ) from error
