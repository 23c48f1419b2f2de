"""Files below one directory, while an agent may change every one of them at every moment.

All is done with the agents' rights, so that a race gains an agent nothing that it could not do
itself. No link is followed, neither on the way nor at its end: each directory is opened for itself,
and what is opened is what is worked on. Paths are those of ``protocol.file_path``. Methods block,
and raise ``FileRefused``.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import heapq
import os
import secrets
import stat
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final, Literal, TypeAlias

from hutch_runtime.files.refusal import FileRefused, name, told
from hutch_runtime.home import enter
from hutch_runtime.identity import Identity

DRAFT: Final = ".hutch-"  # in front of the name of what is on its way to its place
_FILE: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC  # a pipe must not block
_NEW: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_REMOVE_S: Final = 60

Kind: TypeAlias = Literal["file", "directory", "link", "other"]


@dataclass(frozen=True, slots=True)
class Entry:
    """``name`` may hold halves of surrogate pairs in place of bytes that are no UTF-8."""

    name: str
    kind: Kind
    size: int
    modified: float  # Unix time
    mode: int
    tag: str  # another one when it was changed
    target: str | None = None  # of a link, as it stands there


@dataclass(frozen=True, slots=True)
class Page:
    entries: list[Entry]
    more: bool


@dataclass(frozen=True, slots=True)
class Opened:
    file: IO[bytes]
    entry: Entry


class Tree:
    def __init__(self, root: Path, identity: Identity) -> None:
        self.root = root
        self.identity = identity

    def list(self, path: str, *, after: str, limit: int) -> Page:
        """By name, of which those behind ``after``."""
        with told(path), self.directory(_parts(path)) as directory:
            with os.scandir(directory) as found:
                names = (entry.name for entry in found if entry.name > after)
                page = heapq.nsmallest(limit + 1, names)
            entries = []
            for base in page[:limit]:
                with contextlib.suppress(FileNotFoundError):  # it went meanwhile
                    entries.append(_look(directory, base))
        return Page(entries, len(page) > limit)

    def open(self, path: str) -> Opened:
        with told(path), self._beside(path) as (directory, base):
            descriptor = os.open(base, _FILE, dir_fd=directory)
            file = os.fdopen(descriptor, "rb", buffering=0)
            try:
                entry = _entry(base, os.fstat(descriptor))
                _check_ordinary(entry)
            except BaseException:
                file.close()
                raise
        return Opened(file, entry)

    def draft(self, path: str, *, room: int | None) -> Draft:
        """A new file beside its place at ``path``, to be written and put there; directories on the
        way are made. ``room``: bytes that it will need, if that is known.
        """
        with told(path), self._beside(path, make=True) as (directory, base):
            if base in {"", "."}:
                raise IsADirectoryError(errno.EISDIR, "")
            before = _seen(directory, base)
            if before is not None:
                _check_ordinary(before)
            if room is not None and room > _free(directory):
                raise OSError(errno.ENOSPC, "")
            draft = f"{DRAFT}{secrets.token_hex(8)}"
            kept = os.dup(directory)
            try:
                file = os.fdopen(os.open(draft, _NEW, 0o600, dir_fd=kept), "wb", buffering=0)
            except OSError:
                os.close(kept)
                raise
        return Draft(self.identity, path, base, draft, kept, file, before)

    def remove(self, path: str, *, recursive: bool) -> None:
        with told(path), self._beside(path) as (directory, base):
            if base in {"", "."}:
                raise FileRefused("invalid_path", "The workspace itself cannot be removed.")
            try:
                os.unlink(base, dir_fd=directory)
                return
            except (IsADirectoryError, PermissionError):
                if not stat.S_ISDIR(os.lstat(base, dir_fd=directory).st_mode):
                    raise
            if not recursive:
                os.rmdir(base, dir_fd=directory)
                return
            # Away in one step, then by a program that knows how to remove what is hostile and deep.
            aside = f"{DRAFT}{secrets.token_hex(8)}"
            with self._at(self.root) as top:
                os.rename(base, aside, src_dir_fd=directory, dst_dir_fd=top)
        self.discard(aside)

    def discard(self, aside: str) -> None:
        """Remove what a draft's name is of, right below the root, with all that is in it."""
        argv, options = self.identity.launch(("rm", "-rf", "--", str(self.root / aside)))
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):  # it is out of the way
            subprocess.run(
                argv,
                check=False,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                timeout=_REMOVE_S,
                env={"PATH": os.environ.get("PATH", os.defpath)},
                **options,
            )

    def move(self, path: str, to: str, *, overwrite: bool) -> None:
        if not path or not to:
            raise FileRefused("invalid_path", "The workspace itself cannot be moved.")
        with told(path), self._beside(path) as (directory, base):
            os.lstat(base, dir_fd=directory)
            with told(to), self._beside(to, make=True, inside=True) as (there, new):
                if not overwrite and _seen(there, new) is not None:
                    raise FileExistsError(errno.EEXIST, "")
                os.rename(base, new, src_dir_fd=directory, dst_dir_fd=there)

    def check_directory(self, path: str) -> None:
        with told(path), self.directory(_parts(path)):
            pass

    def free(self) -> int:
        """Bytes."""
        with told(""), self.directory(()) as directory:
            return _free(directory)

    @contextlib.contextmanager
    def directory(self, parts: tuple[str, ...], *, make: bool = False) -> Iterator[int]:
        """It, open, with the agents' rights as long as it lasts. Raises ``OSError``."""
        with self.identity.acting(), self._at(self.root, parts, make=make) as directory:
            yield directory

    @contextlib.contextmanager
    def _beside(
        self, path: str, *, make: bool = False, inside: bool = False
    ) -> Iterator[tuple[int, str]]:
        """The directory that ``path`` is in, open, and its last part; ``inside`` another of it."""
        *above, base = _parts(path) or (".",)
        entered = self._at(self.root, tuple(above), make=make)
        acting = contextlib.nullcontext() if inside else self.identity.acting()
        with acting, entered as directory:
            yield directory, base

    @contextlib.contextmanager
    def _at(self, root: Path, parts: tuple[str, ...] = (), *, make: bool = False) -> Iterator[int]:
        directory = enter(str(root))
        try:
            for part in parts:
                directory = step(directory, part, make=make)
            yield directory
        finally:
            os.close(directory)


@dataclass(frozen=True, slots=True)
class Draft:
    """To be ended by ``put`` or ``drop``; ``before`` is what it will stand in the place of."""

    _identity: Identity
    _path: str
    _base: str
    _draft: str
    _directory: int
    _file: IO[bytes]
    before: Entry | None

    def write(self, piece: bytes) -> None:
        left = memoryview(piece)
        with told(self._path):
            while left:
                left = left[self._file.write(left) :]

    def put(self, *, as_seen: bool) -> Entry:
        """In one step; ``as_seen``: only where what is there is still what was there before."""
        try:
            with told(self._path), self._identity.acting():
                if as_seen:
                    self._check_as_seen()
                mode = self.before.mode if self.before is not None else 0o644
                os.fchmod(self._file.fileno(), mode)
                beside = self._directory
                os.rename(self._draft, self._base, src_dir_fd=beside, dst_dir_fd=beside)
                entry = _entry(self._base, os.fstat(self._file.fileno()))
        except BaseException:
            self.drop()
            raise
        self._close()
        return entry

    def drop(self) -> None:
        with contextlib.suppress(OSError), self._identity.acting():
            os.unlink(self._draft, dir_fd=self._directory)
        self._close()

    def _check_as_seen(self) -> None:
        if _tag_of(_seen(self._directory, self._base)) != _tag_of(self.before):
            raise changed(self._path)

    def _close(self) -> None:
        self._file.close()
        os.close(self._directory)


def step(directory: int, part: Any, *, make: bool = False) -> int:
    """The directory below, in place of the one above, which is closed if that succeeds."""
    if make:
        with contextlib.suppress(FileExistsError):
            os.mkdir(part, 0o755, dir_fd=directory)
    below = enter(part, directory)
    os.close(directory)
    return below


def changed(path: str) -> FileRefused:
    return FileRefused("precondition_failed", f"{name(path)} is not what the request expects.")


def _check_ordinary(entry: Entry) -> None:
    codes = {"directory": errno.EISDIR, "link": errno.ELOOP, "other": errno.ENXIO}
    if entry.kind in codes:
        raise OSError(codes[entry.kind], "")


def _parts(path: str) -> tuple[str, ...]:
    return tuple(path.split("/")) if path else ()


def _free(directory: int) -> int:
    found = os.fstatvfs(directory)
    return found.f_bavail * found.f_frsize


def _seen(directory: int, base: str) -> Entry | None:
    try:
        return _look(directory, base)
    except FileNotFoundError:
        return None


def _tag_of(entry: Entry | None) -> str | None:
    return entry.tag if entry is not None else None


def _look(directory: int, base: str) -> Entry:
    found = os.lstat(base, dir_fd=directory)
    target = os.readlink(base, dir_fd=directory) if stat.S_ISLNK(found.st_mode) else None
    return _entry(base, found, target)


def _entry(base: str, found: os.stat_result, target: str | None = None) -> Entry:
    kinds: dict[int, Kind] = {
        stat.S_IFREG: "file",
        stat.S_IFDIR: "directory",
        stat.S_IFLNK: "link",
    }
    changes = (found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino)
    return Entry(
        name=base,
        kind=kinds.get(stat.S_IFMT(found.st_mode), "other"),
        size=found.st_size,
        modified=found.st_mtime,
        mode=stat.S_IMODE(found.st_mode) & 0o777,
        tag=hashlib.sha256(repr(changes).encode()).hexdigest()[:32],
        target=target,
    )
