"""Unpack an archive that a container has made, on the machine of whoever asked for it.

What made it may be hostile. So it is unpacked into a new directory, in which nobody else makes
links: files and directories alone, and links that stay inside by the rule of ``_stays_inside``. The
filters of ``tarfile`` are not enough: by 3.11.12 and others links could lead out of them together
(CVE-2025-4517).
"""

from __future__ import annotations

import os
import shutil
import tarfile
import tempfile
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import IO

from hutch.errors import InvalidRequest

_COPY = 256 * 1024


@dataclass(slots=True)
class Unpacked:
    files: int = 0
    left_out: list[str] = field(default_factory=list)  # links that lead out, pipes and such


def unpack(archive: IO[bytes], target: Path) -> Unpacked:
    """``target`` becomes a directory with what is in it, or has that added. Raises
    ``InvalidRequest`` where the archive is not one to unpack.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(prefix=".hutch-", dir=target.parent))
    try:
        done = _unpack(archive, fresh)
        fresh.chmod(0o755)
        if target.exists() or target.is_symlink():
            _merge(fresh, target)
        else:
            fresh.rename(target)
        return done
    except tarfile.TarError as error:
        raise InvalidRequest(f"What came is no whole archive: {error}.") from None
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def _unpack(archive: IO[bytes], fresh: Path) -> Unpacked:
    done = Unpacked()
    directories = {PurePosixPath()}
    files: dict[PurePosixPath, Path] = {}
    with tarfile.open(fileobj=archive, mode="r:") as tar:
        for member in tar:
            path = PurePosixPath(member.name)
            if path.is_absolute() or ".." in path.parts or "\0" in member.name:
                raise InvalidRequest(f"What came is not unpacked: {member.name[:200]!r} leads out.")
            for above in reversed(path.parents):
                _directory(fresh, above, directories)
            place = fresh / path
            if member.isdir():
                _directory(fresh, path, directories)
                continue
            if path in directories or place.is_symlink() or place.exists():
                raise _twice(path)
            if member.issym() and _stays_inside(path, member.linkname):
                place.symlink_to(member.linkname)
            elif member.islnk() and (origin := files.get(PurePosixPath(member.linkname))):
                shutil.copy2(origin, place)
                files[path] = place
            elif member.isreg() and not member.issparse():
                _file(tar, member, place)
                files[path] = place
            else:
                done.left_out.append(member.name)
                continue
            done.files += 1
    return done


def _directory(fresh: Path, path: PurePosixPath, directories: set[PurePosixPath]) -> None:
    """Made by us, or nothing: so that no link is ever on the way."""
    if path not in directories:
        try:
            (fresh / path).mkdir()
        except FileExistsError:
            raise _twice(path) from None
        directories.add(path)


def _file(tar: tarfile.TarFile, member: tarfile.TarInfo, place: Path) -> None:
    content = tar.extractfile(member)
    assert content is not None  # noqa: S101  it is a file's
    with content, place.open("xb") as file:
        shutil.copyfileobj(content, file, _COPY)
    place.chmod(member.mode & 0o777 | 0o600)
    os.utime(place, (max(0, member.mtime), max(0, member.mtime)))


def _stays_inside(path: PurePosixPath, target: str) -> bool:
    """It goes up at its beginning alone, and no further than the archive: since it is in a real
    directory, not even several of them lead out together.
    """
    to = PurePosixPath(target)
    ups = next((at for at, part in enumerate(to.parts) if part != ".."), len(to.parts))
    return (
        bool(target)
        and "\0" not in target
        and not to.is_absolute()
        and ups <= len(path.parts) - 1
        and ".." not in to.parts[ups:]
    )


def _merge(fresh: Path, target: Path) -> None:
    if target.is_symlink() or not target.is_dir():
        raise InvalidRequest(f"{target} is there, and is no directory.")
    for entry in fresh.iterdir():
        place = target / entry.name
        if entry.is_dir() and not entry.is_symlink():
            if place.is_symlink() or place.exists():
                _merge(entry, place)
            else:
                entry.rename(place)
        elif place.is_dir() and not place.is_symlink():
            raise InvalidRequest(f"{place} is a directory, and what came is none.")
        else:
            entry.replace(place)


def _twice(path: PurePosixPath) -> InvalidRequest:
    return InvalidRequest(f"What came is not unpacked: {str(path)!r} is in it twice.")
