"""Files in the agents' home directory, which may hold anything by the time that we look.

They are reached with the agents' rights, and by no link: each directory on the way is opened for
itself, so that a name leads nowhere else than it says.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import stat
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Final

from hutch_runtime.identity import Identity

_ROOT: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_FILE: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC  # a pipe must not block
_NEW: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC


def enter(name: str | bytes, directory: int | None = None) -> int:
    """A directory, open, if that is what ``name`` is and no link to one. Raises ``OSError``.

    Not by O_DIRECTORY: together with O_NOFOLLOW, gVisor (20240729) follows links.
    """
    try:
        found = os.open(name, _FILE, dir_fd=directory)
    except OSError as error:
        if error.errno in {errno.ELOOP, errno.ENXIO}:  # a link; a socket
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR)) from None
        raise
    if not stat.S_ISDIR(os.fstat(found).st_mode):
        os.close(found)
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
    return found


class Home:
    """Names are relative to ``path`` and ours, never a caller's. All methods raise ``OSError``."""

    def __init__(self, path: Path, identity: Identity | None = None) -> None:
        self.path = path
        self._identity = identity or Identity()

    @property
    def identity(self) -> Identity:
        return self._identity

    def read(self, name: str, limit: int) -> bytes:
        """The first ``limit`` bytes of an ordinary file."""
        with self._beside(name) as (directory, base):
            descriptor = os.open(base, _FILE, dir_fd=directory)
        with os.fdopen(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise OSError(errno.EINVAL, "not an ordinary file")
            return file.read(limit)

    def write(self, name: str, content: bytes) -> None:
        """In one step, readable by its owner alone; its directory is made if need be."""
        with self._beside(name, make=True) as (directory, base):
            draft = f".{base}.hutch"
            with contextlib.suppress(FileNotFoundError):
                os.unlink(draft, dir_fd=directory)
            descriptor = os.open(draft, _NEW, 0o600, dir_fd=directory)
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
            os.replace(draft, base, src_dir_fd=directory, dst_dir_fd=directory)

    def remove(self, name: str) -> None:
        """Succeeds if it is not there."""
        with contextlib.suppress(FileNotFoundError), self._beside(name) as (directory, base):
            os.unlink(base, dir_fd=directory)

    def look(self, name: str) -> os.stat_result:
        """As ``lstat``."""
        with self._beside(name) as (directory, base):
            return os.lstat(base, dir_fd=directory)

    def move(self, name: str, to: str) -> None:
        """Not over anything but an empty directory."""
        with self._beside(name) as (above, base), self._beside(to, make=True) as (beside, new):
            os.rename(base, new, src_dir_fd=above, dst_dir_fd=beside)

    def make(self, name: str) -> None:
        """A directory that only its owner may enter, and those above it; it may be there."""
        with self._beside(f"{name}/x", make=True):
            pass

    def names(self, name: str, limit: int) -> list[str]:
        """What is in a directory: ``limit`` names of it at most, in no order."""
        with self._beside(f"{name}/x") as (directory, _), os.scandir(directory) as entries:
            return [entry.name for entry in itertools.islice(entries, limit)]

    @contextlib.contextmanager
    def _beside(self, name: str, *, make: bool = False) -> Iterator[tuple[int, str]]:
        """The directory that ``name`` is in, open, and its last part; with the agents' rights."""
        *above, base = PurePosixPath(name).parts
        with self._identity.acting():
            directory = os.open(self.path, _ROOT)
            try:
                for part in above:
                    if make:
                        with contextlib.suppress(FileExistsError):
                            os.mkdir(part, 0o700, dir_fd=directory)
                    below = enter(part, directory)
                    os.close(directory)
                    directory = below
                yield directory, base
            finally:
                os.close(directory)
