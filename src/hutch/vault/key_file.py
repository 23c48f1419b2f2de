"""Master keys in a file beside the database, made at the first start.

One line a key, the active one first: id, a space, base64. Nobody but its owner may read it.
"""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Self

from hutch.errors import HostNotReady
from hutch.vault.keys import MasterKey, Wrapped, unknown

_HEADER: Final = (
    "# Hutch's master keys, the active one first. Keep a copy away from the database.\n"
)
_SIZE_MAX: Final = 1 << 20


class KeyFile:
    """Open it with ``KeyFile.open``."""

    def __init__(self, path: Path, keys: Sequence[MasterKey]) -> None:
        self._path = path
        self._keys = list(keys)
        self._changing = asyncio.Lock()

    @classmethod
    async def open(cls, path: Path) -> Self:
        """Made with one new key if there is none. Raises ``HostNotReady`` if others may read it,
        or if it is not what this module wrote.
        """
        return cls(path, await asyncio.to_thread(_read_or_make, path))

    async def active(self) -> str:
        return self._keys[0].id

    async def wrap(self, plaintext: bytes, context: bytes) -> Wrapped:
        return self._keys[0].wrap(plaintext, context)

    async def unwrap(self, wrapped: Wrapped, context: bytes) -> bytes:
        for key in self._keys:
            if key.id == wrapped.key_id:
                return key.unwrap(wrapped, context)
        raise unknown(wrapped.key_id, str(self._path))

    async def rotate(self) -> str:
        async with self._changing:
            keys = [MasterKey.generate(), *self._keys]
            # Stored before it is used: what it wraps must not outlive it.
            await asyncio.to_thread(_replace, self._path, keys)
            self._keys = keys
            return keys[0].id

    async def forget(self, *, needed: frozenset[str]) -> list[str]:
        async with self._changing:
            active, *others = self._keys
            kept = [active, *(key for key in others if key.id in needed)]
            gone = [key.id for key in others if key.id not in needed]
            if gone:
                await asyncio.to_thread(_replace, self._path, kept)
                self._keys = kept
            return gone


def _read_or_make(path: Path) -> list[MasterKey]:
    try:
        return _read(path)
    except FileNotFoundError:
        pass
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    draft = _write_draft(path, [MasterKey.generate()])
    try:
        os.link(draft, path)  # unlike a rename it never takes the place of another's keys
    except FileExistsError:
        pass
    finally:
        draft.unlink()
    _sync(path.parent)
    return _read(path)


def _read(path: Path) -> list[MasterKey]:
    with path.open() as file:
        mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
        if mode & 0o077:
            raise HostNotReady(
                f"Others than its owner may use {path} (mode {mode:04o}), which opens every "
                "credential.",
                hint=f"chmod 600 {path}   and, if somebody may have read it: "
                "hutch admin vault rotate",
            )
        text = file.read(_SIZE_MAX)
    keys = []
    for line in text.splitlines():
        if line.strip() and not line.startswith("#"):
            key_id, _, encoded = line.partition(" ")
            key = MasterKey.parse(encoded, f"A key in {path}", HostNotReady)
            if key.id != key_id:
                raise HostNotReady(
                    f"A key in {path} does not belong to the id beside it.",
                    hint="The file was damaged: restore it from your backup.",
                )
            keys.append(key)
    if not keys:
        raise HostNotReady(
            f"{path} holds no key.", hint="The file was damaged: restore it from your backup."
        )
    return keys


def _replace(path: Path, keys: Sequence[MasterKey]) -> None:
    _write_draft(path, keys).replace(path)
    _sync(path.parent)


def _write_draft(path: Path, keys: Sequence[MasterKey]) -> Path:
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.unlink(missing_ok=True)  # of an earlier process of this number, with whatever mode
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(_HEADER + "".join(f"{key.id} {key.text()}\n" for key in keys))
        file.flush()
        os.fsync(file.fileno())
    return draft


def _sync(directory: Path) -> None:
    """A new name is on disk only once its directory is."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
