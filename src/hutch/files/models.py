from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias, get_args

from hutch.errors import Unavailable
from hutch_runtime.protocol import FILE_NAME_MAX_BYTES

Kind: TypeAlias = Literal["file", "directory", "link", "other"]
_KINDS: Final[tuple[Kind, ...]] = get_args(Kind)
_SIZE_MAX: Final = 1 << 53  # what JSON carries to every language
_TIME_MAX: Final = 253402300799  # the end of the year 9999
_TARGET_MAX: Final = 1000


@dataclass(frozen=True, slots=True)
class Entry:
    """``tag`` is another one once the file was changed. ``reachable`` is false for a name that is
    no UTF-8, which no path can say.
    """

    name: str
    type: Kind
    size: int
    modified: float  # Unix time
    mode: int
    tag: str
    target: str | None  # of a link, as it stands there
    reachable: bool


@dataclass(frozen=True, slots=True)
class Listing:
    path: str
    entries: tuple[Entry, ...]
    next: str | None


@dataclass(frozen=True, slots=True)
class Part:
    """Of a file, as HTTP's ranges are: from ``first`` to ``last``, or the last ``suffix`` bytes."""

    first: int | None = None
    last: int | None = None
    suffix: int | None = None


@dataclass(frozen=True, slots=True)
class Written:
    entry: Entry
    made: bool  # nothing was there before


@dataclass(frozen=True, slots=True)
class Unpacked:
    entries: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Download:
    """To be closed. ``pieces`` raise a ``HutchError`` where they break off."""

    pieces: AsyncIterator[bytes]
    close: Callable[[], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Reading(Download):
    """``length`` bytes of the file from ``first`` on. ``partial``: as it was asked for."""

    entry: Entry
    first: int
    length: int
    partial: bool


def read_entry(given: Any) -> Entry:
    """What a runtime says of a file. Raises ``Unavailable`` for what cannot be true."""
    given = given if isinstance(given, dict) else {}
    name, kind, tag, target = (given.get(key) for key in ("name", "type", "tag", "target"))
    size, mode = (given.get(key) for key in ("size", "mode"))
    modified = given.get("modified")
    if (
        isinstance(name, str)
        and 0 < len(name) <= FILE_NAME_MAX_BYTES
        and kind in _KINDS
        and isinstance(size, int)
        and 0 <= size <= _SIZE_MAX
        and isinstance(modified, int | float)
        and isinstance(mode, int)
        and 0 <= mode <= 0o777
        and isinstance(tag, str)
        and tag.isascii()
        and tag.isalnum()
        and len(tag) <= 64
        and (target is None or (isinstance(target, str) and len(target) <= _TARGET_MAX))
    ):
        at = min(max(float(modified), 0.0), _TIME_MAX)  # whatever an agent has set it to
        reachable = given.get("reachable") is True
        return Entry(name, kind, size, at, mode, tag, target, reachable)
    raise nonsense()


def nonsense() -> Unavailable:
    return Unavailable("The container gave no proper answer.", hint="Try again.")
