"""A value that must not be seen: it does not print, pickle or serialise, only ``reveal()``s."""

from __future__ import annotations

import hmac
from typing import Any, Final, NoReturn

# Of every Secret that there is, by its id, and what was told once and for all: the log's redaction
# looks for them. Single operations of a dict, which need no lock.
_alive: Final[dict[int, str]] = {}
_told: Final[dict[str, None]] = {}


def remember(*values: str) -> None:
    """Values that are no ``Secret``, for as long as this process lives."""
    _told.update(dict.fromkeys(value for value in values if value))


def known_values() -> set[str]:
    """What must not be in a log."""
    return {*_told.copy(), *_alive.copy().values()}


class Secret:
    """Text such as an API key. ``str()``, ``repr()`` and f-strings show ``Secret(***)``."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value
        _alive[id(self)] = value

    def __del__(self) -> None:
        _alive.pop(id(self), None)

    def reveal(self) -> str:
        return self._value

    def matches(self, presented: str) -> bool:
        """Compare in a time that does not tell how much of it was right."""
        return hmac.compare_digest(
            self._value.encode("utf-8", "surrogateescape"),
            presented.encode("utf-8", "surrogateescape"),
        )

    def __repr__(self) -> str:
        return "Secret(***)"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and self.matches(other._value)

    def __hash__(self) -> int:
        return hash((Secret, self._value))

    def __copy__(self) -> Secret:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Secret:
        return self

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Secret is not serialised; call reveal() where it is meant to leave")
