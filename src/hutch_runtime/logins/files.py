"""A login's file: written whole, and read only when nobody is in the middle of writing it."""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, TypeAlias

from hutch_runtime.protocol import LOGIN_FILES, LOGIN_MAX_BYTES, Provider, login_holds

# blanked: there is a file, and no CLI can go on with it.
State: TypeAlias = Literal["present", "absent", "blanked"]

ABSENT_SHA256: Final = hashlib.sha256(b"").hexdigest()


@dataclass(frozen=True, slots=True)
class Reading:
    """``content`` is empty unless the state is ``present``."""

    state: State
    content: bytes
    sha256: str  # of the file as it is; of nothing when it is absent


@dataclass(frozen=True, slots=True)
class Glance:
    """One read of the file, which may have met a CLI in the middle of a write."""

    content: bytes | None

    def reading(self, provider: Provider) -> Reading | None:
        """None: half written, or so it looks."""
        if self.content is None:
            return Reading("absent", b"", ABSENT_SHA256)
        sha256 = hashlib.sha256(self.content).hexdigest()
        try:
            holds = login_holds(provider, self.content)
        except ValueError:
            return None
        return Reading("present", self.content, sha256) if holds else self.unusable()

    def unusable(self) -> Reading:
        return Reading("blanked", b"", hashlib.sha256(self.content or b"").hexdigest())


class LoginFile:
    def __init__(self, provider: Provider, home: Path) -> None:
        self.provider = provider
        self.name = LOGIN_FILES[provider]
        self._path = home / self.name

    def changed_at(self) -> tuple[int, int, int] | None:
        """Another value after every write; None when there is no file."""
        try:
            found = self._path.lstat()
        except OSError:
            return None
        return found.st_mtime_ns, found.st_size, found.st_ino

    def glance(self) -> Glance:
        """A link, a device or a giant that the agent may have put there is read as unusable."""
        try:
            descriptor = os.open(self._path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        except FileNotFoundError:
            return Glance(None)
        except OSError:
            return Glance(b"")
        with os.fdopen(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                return Glance(b"")
            content = file.read(LOGIN_MAX_BYTES + 1)
        return Glance(content if len(content) <= LOGIN_MAX_BYTES else b"")

    def write(self, content: bytes) -> None:
        """In one step, readable by its owner alone. Raises ``OSError``."""
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        draft = self._path.with_name(f".{self._path.name}.hutch")
        with contextlib.suppress(FileNotFoundError):
            draft.unlink()
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
        draft.replace(self._path)

    def remove(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            self._path.unlink()
