"""Directories as tar archives, out and in."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import secrets
import stat
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import aclosing
from typing import IO, Final

from hutch_runtime.files.reader import Path, TarReader
from hutch_runtime.files.refusal import FileRefused, told
from hutch_runtime.files.tree import DRAFT, Tree, step
from hutch_runtime.home import enter
from hutch_runtime.protocol import KIB
from hutch_runtime.tar import Tar

_ENOUGH: Final = 256 * KIB  # looked at in one go
_NEW: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
# The same files give the same bytes: whoever packs them, and in whatever order they were made.
_ALIKE: Final = ("--format=gnu", "--sort=name", "--owner=0", "--group=0", "--numeric-owner")


class Archives:
    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        self._tar = Tar(tree.identity)

    async def pack(self, path: str) -> AsyncGenerator[bytes]:
        """What is below a directory, by names relative to it. Links are packed as links. Raises
        ``FileRefused`` before the first piece, ``TarFailed`` at the latest after the last.
        """
        await asyncio.to_thread(self._tree.check_directory, path)
        return self._pieces(path)

    async def _pieces(self, path: str) -> AsyncGenerator[bytes]:
        left_out = ("--anchored", f"--exclude=./{DRAFT}*")
        directory = self._tree.root / path
        async with aclosing(self._tar.create(directory, (*_ALIKE, *left_out), (".",))) as pieces:
            async for piece in pieces:
                yield piece

    async def unpack(self, path: str, pieces: AsyncIterator[bytes]) -> tuple[int, int]:
        """Over what is below ``path``, or not at all; how many entries it had, and bytes in files.

        It is unpacked aside first, and what is refused has changed nothing. Then each thing goes to
        its place in one step. Raises ``FileRefused``.
        """
        staging = await asyncio.to_thread(_Staging, self._tree)
        try:
            reader = TarReader(staging, bytes_max=await asyncio.to_thread(self._tree.free))
            waiting = bytearray()
            async for piece in pieces:
                waiting += piece
                if len(waiting) >= _ENOUGH:
                    await asyncio.to_thread(staging.take, reader, bytes(waiting))
                    waiting.clear()
            await asyncio.to_thread(staging.take, reader, bytes(waiting))
            reader.close()
            await asyncio.to_thread(staging.put, path)
            return reader.entries, reader.size
        finally:
            await asyncio.shield(asyncio.to_thread(staging.discard))


class _Staging:
    """A directory of its own, right below the root. It is the sink of a reader."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        self._name = f"{DRAFT}{secrets.token_hex(8)}"
        self._at: tuple[Path, int] | None = None  # the directory that was written to last
        self._file: IO[bytes] | None = None
        self._mtime = 0
        with told(""), tree.directory(()) as root:
            os.mkdir(self._name, 0o700, dir_fd=root)

    def take(self, reader: TarReader, piece: bytes) -> None:
        with told("The archive"), self._tree.identity.acting():
            reader.feed(piece)

    def directory(self, path: Path, mode: int) -> None:
        directory = self._enter(path)
        os.fchmod(directory, mode)

    def file(self, path: Path, mode: int, mtime: int, size: int) -> None:
        del size
        directory = self._enter(path[:-1])
        _clear(directory, path[-1])
        self._mtime = mtime
        self._file = os.fdopen(os.open(path[-1], _NEW, mode, dir_fd=directory), "wb", buffering=0)
        os.fchmod(self._file.fileno(), mode)

    def data(self, piece: memoryview) -> None:
        assert self._file is not None  # noqa: S101  a file comes before its content
        while piece:
            piece = piece[self._file.write(piece) :]

    def file_end(self) -> None:
        assert self._file is not None  # noqa: S101  the same
        os.utime(self._file.fileno(), (self._mtime, self._mtime))
        self._file.close()
        self._file = None

    def link(self, path: Path, target: bytes) -> None:
        directory = self._enter(path[:-1])
        _clear(directory, path[-1])
        os.symlink(target, path[-1], dir_fd=directory)

    def hard_link(self, path: Path, target: Path) -> None:
        origin = os.dup(self._enter(target[:-1]))
        try:
            directory = self._enter(path[:-1])
            try:
                found = os.lstat(target[-1], dir_fd=origin)
            except FileNotFoundError:
                raise _nothing(path) from None
            if not stat.S_ISREG(found.st_mode):
                raise _nothing(path)
            if path != target:
                _clear(directory, path[-1])
                os.link(
                    target[-1],
                    path[-1],
                    src_dir_fd=origin,
                    dst_dir_fd=directory,
                    follow_symlinks=False,
                )
        finally:
            os.close(origin)

    def put(self, path: str) -> None:
        """All of it to its place below ``path``, which is made if need be. What would stand in its
        way is looked for first.
        """
        self._leave()
        parts = tuple(path.split("/")) if path else ()
        with told(path), self._tree.directory(parts, make=True) as there:
            here = self._enter(())
            _merge(here, there, path, really=False)
            _merge(here, there, path, really=True)
            self._leave()

    def discard(self) -> None:
        self._leave()
        if self._file is not None:
            self._file.close()
        self._tree.discard(self._name)

    def _enter(self, path: Path) -> int:
        """The directory, open and made if need be, until another one is entered."""
        if self._at is not None and self._at[0] == path:
            return self._at[1]
        self._leave()
        directory = enter(str(self._tree.root / self._name))
        try:
            for part in path:
                directory = step(directory, part, make=True)
        except NotADirectoryError:
            os.close(directory)
            where = b"/".join(path)[:200].decode(errors="replace")
            raise FileRefused(
                "invalid_archive",
                f"The archive is not unpacked: {where!r} is a directory in it, and something else.",
            ) from None
        except BaseException:
            os.close(directory)
            raise
        self._at = (path, directory)
        return directory

    def _leave(self) -> None:
        if self._at is not None:
            os.close(self._at[1])
            self._at = None


def _clear(directory: int, base: bytes) -> None:
    """Of two members of one name the later one counts."""
    try:
        os.unlink(base, dir_fd=directory)
    except FileNotFoundError:
        pass
    except (IsADirectoryError, PermissionError):
        raise FileRefused(
            "invalid_archive",
            f"The archive is not unpacked: {base.decode(errors='replace')!r} is a directory in it, "
            "and something else.",
        ) from None


def _nothing(path: Path) -> FileRefused:
    shown = b"/".join(path)[:200].decode(errors="replace")
    return FileRefused(
        "invalid_archive",
        f"The archive is not unpacked: {shown!r} is a hard link to what is no file in it.",
    )


def _merge(here: int, there: int, path: str, *, really: bool) -> None:
    """Move what is in one directory into another, or (not ``really``) see whether that can be."""
    levels: list[Path] = [()]
    while levels:
        level = levels.pop()
        with _below(here, level) as ours, _below(there, level) as theirs, os.scandir(ours) as found:
            names = [os.fsencode(entry.name) for entry in found]
            for base in names:
                where = f"{path}/{b'/'.join((*level, base)).decode(errors='replace')}".lstrip("/")
                ours_is = _is_directory(ours, base)
                theirs_is = _is_directory(theirs, base)
                if ours_is and theirs_is:
                    levels.append((*level, base))
                elif theirs_is is not None and ours_is != theirs_is:
                    code = errno.EISDIR if theirs_is else errno.EEXIST
                    with told(where):
                        raise OSError(code, "")
                elif really:
                    with told(where):
                        os.rename(base, base, src_dir_fd=ours, dst_dir_fd=theirs)


@contextlib.contextmanager
def _below(directory: int, level: Path) -> Iterator[int]:
    entered = os.dup(directory)
    try:
        for part in level:
            entered = step(entered, part)
        yield entered
    finally:
        os.close(entered)


def _is_directory(directory: int, base: bytes) -> bool | None:
    """None: there is nothing."""
    try:
        return stat.S_ISDIR(os.lstat(base, dir_fd=directory).st_mode)
    except FileNotFoundError:
        return None
