"""A login's file: written whole, and read only when nobody is in the middle of writing it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from hutch_runtime.home import Home
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
    def __init__(self, provider: Provider, home: Home) -> None:
        self.provider = provider
        self.name = LOGIN_FILES[provider]
        self._home = home

    def changed_at(self) -> tuple[int, int, int] | None:
        """Another value after every write; None when there is no file."""
        try:
            found = self._home.look(self.name)
        except OSError:
            return None
        return found.st_mtime_ns, found.st_size, found.st_ino

    def glance(self) -> Glance:
        """A link, a device or a giant that the agent may have put there is read as unusable."""
        try:
            content = self._home.read(self.name, LOGIN_MAX_BYTES + 1)
        except FileNotFoundError:
            return Glance(None)
        except OSError:
            return Glance(b"")
        return Glance(content if len(content) <= LOGIN_MAX_BYTES else b"")

    def write(self, content: bytes) -> None:
        """In one step, readable by its owner alone. Raises ``OSError``."""
        self._home.write(self.name, content)

    def remove(self) -> None:
        self._home.remove(self.name)
