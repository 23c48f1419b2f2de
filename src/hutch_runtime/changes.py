"""What a run changes in the workspace: looked at before its prompt and after its end.

A look is a walk over names and sizes, and small files are kept, compressed, in the runtime's
memory, where no agent can reach them. It takes time and memory: only for runs that ask for it.

What is told is the difference between two moments, whoever made it: another run at the same time
is in it as well. An agent that changes files while it is looked at gets a mixture, and no more.
"""

from __future__ import annotations

import os
import stat
import time
import zlib
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from hutch_runtime.diffs import unified
from hutch_runtime.home import Home, enter
from hutch_runtime.protocol import (
    CHANGED_FILES_MAX,
    CHANGES_DIFF_MAX_BYTES,
    KIB,
    MIB,
    Change,
)

FILES_MAX: Final = 20_000  # some 300 bytes of memory each
KEPT_MAX_BYTES: Final = 64 * KIB  # of one file; larger ones are named, without a diff
KEPT_ALL_MAX_BYTES: Final = 16 * MIB  # as they are, read; some 4 when compressed
LOOK_MAX_S: Final = 5.0
DIFFS_MAX_S: Final = 5.0
_DEPTH_MAX: Final = 64
_LEFT_OUT: Final = frozenset({".git"})  # what is in there, its commands say better
_DRAFT: Final = ".hutch-"
_FILE: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class Seen:
    """Of a file, or of a link, whose content is its target."""

    mark: tuple[int, ...]  # another one when it was changed
    size: int
    mode: int
    content: bytes | None  # compressed; None: too large, or it could not be read

    def text(self) -> str | None:
        """None: unknown, or not text."""
        if self.content is None:
            return None
        raw = zlib.decompress(self.content)
        try:
            return None if b"\0" in raw else raw.decode()
        except UnicodeDecodeError:
            return None


@dataclass(slots=True)
class Look:
    """``whole``: nothing was left out for its number, its depth or the time it took."""

    files: dict[str, Seen] = field(default_factory=dict)
    whole: bool = True
    kept: int = 0


def look(home: Home, before: Look | None = None) -> Look:
    """Blocks. ``before``: of which what is unchanged need not be read again."""
    found = Look()
    until = time.monotonic() + LOOK_MAX_S
    with home.identity.acting():
        try:
            top = enter(str(home.path))
        except OSError:
            found.whole = False
            return found
        levels = deque[tuple[str, ...]]([()])  # what is near the top comes first
        try:
            while levels:
                level = levels.popleft()
                if time.monotonic() > until or len(level) > _DEPTH_MAX:
                    found.whole = False
                    continue
                levels += _look_into(top, level, found, before)
        finally:
            os.close(top)
    return found


def _look_into(
    top: int, level: tuple[str, ...], found: Look, before: Look | None
) -> list[tuple[str, ...]]:
    """The directories in it."""
    below: list[tuple[str, ...]] = []
    try:
        directory = _open(top, level)
    except OSError:  # gone meanwhile, or closed by its permissions
        found.whole = False
        return below
    try:
        with os.scandir(directory) as entries:
            for entry in entries:
                if entry.name in _LEFT_OUT or entry.name.startswith(_DRAFT):
                    continue
                try:
                    status = entry.stat(follow_symlinks=False)
                except OSError:
                    continue
                if stat.S_ISDIR(status.st_mode):
                    below.append((*level, entry.name))
                elif stat.S_ISREG(status.st_mode) or stat.S_ISLNK(status.st_mode):
                    if len(found.files) >= FILES_MAX:
                        found.whole = False
                        return []
                    path = "/".join((*level, entry.name))
                    known = before.files.get(path) if before is not None else None
                    found.files[path] = _see(directory, entry.name, status, known, found)
    finally:
        os.close(directory)
    return below


def _open(top: int, level: tuple[str, ...]) -> int:
    directory = os.dup(top)
    try:
        for part in level:
            below = enter(part, directory)
            os.close(directory)
            directory = below
    except OSError:
        os.close(directory)
        raise
    return directory


def _see(
    directory: int, name: str, status: os.stat_result, known: Seen | None, found: Look
) -> Seen:
    mark = (
        status.st_mode,
        status.st_size,
        status.st_mtime_ns,
        status.st_ctime_ns,
        status.st_ino,
    )
    if known is not None and known.mark == mark:
        return known
    content: bytes | None = None
    if status.st_size <= KEPT_MAX_BYTES and found.kept + status.st_size <= KEPT_ALL_MAX_BYTES:
        try:
            content = _content(directory, name, link=stat.S_ISLNK(status.st_mode))
            found.kept += len(content)
            content = zlib.compress(content, 1)
        except OSError:
            content = None
    return Seen(mark, status.st_size, stat.S_IMODE(status.st_mode), content)


def _content(directory: int, name: str, *, link: bool) -> bytes:
    if link:
        return os.fsencode(os.readlink(name, dir_fd=directory))
    with os.fdopen(os.open(name, _FILE, dir_fd=directory), "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError("no ordinary file any more")
        return file.read(KEPT_MAX_BYTES)


def told(before: Look, after: Look) -> dict[str, Any]:
    """The fields of a ``files.changed`` event, with diffs of what is text and small. Blocks."""
    until = time.monotonic() + DIFFS_MAX_S
    files: list[dict[str, Any]] = []
    diffs: list[str] = []
    size = 0
    whole = before.whole and after.whole
    for path, change, old, new in _changes(before, after):
        if len(files) == CHANGED_FILES_MAX:
            whole = False
            break
        shown = path.encode("utf-8", "surrogateescape").decode(errors="replace")
        diff = _diff(shown, old, new) if time.monotonic() < until else None
        if diff is not None and size + len(diff.encode()) > CHANGES_DIFF_MAX_BYTES:
            diff = None
        if diff is not None:
            size += len(diff.encode())
            diffs.append(diff)
        files.append(
            {
                "path": shown,
                "change": change,
                "size_before": old.size if old is not None else None,
                "size_after": new.size if new is not None else None,
                "in_diff": diff is not None,
            }
        )
    return {"files": files, "diff": "".join(diffs), "complete": whole}


def _changes(before: Look, after: Look) -> Iterator[tuple[str, Change, Seen | None, Seen | None]]:
    """What one look may have left out for its limits is neither new nor gone in the other."""
    for path in sorted(before.files.keys() | after.files.keys()):
        old, new = before.files.get(path), after.files.get(path)
        if old is None:
            if before.whole:
                yield path, "added", None, new
        elif new is None:
            if after.whole:
                yield path, "deleted", old, None
        elif old.mark != new.mark and not _same(old, new):
            yield path, "modified", old, new


def _same(old: Seen, new: Seen) -> bool:
    """Written anew with the same content, where that is known."""
    return old.content is not None and (old.mode, old.content) == (new.mode, new.content)


def _diff(path: str, old: Seen | None, new: Seen | None) -> str | None:
    texts = [seen.text() if seen is not None else None for seen in (old, new)]
    if any(seen is not None and text is None for seen, text in zip((old, new), texts, strict=True)):
        return None
    return unified(path, *texts)
