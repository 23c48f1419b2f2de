"""A value that must not be seen: it does not print, pickle or serialise, only ``reveal()``s."""

from __future__ import annotations

import hmac
from typing import Any, NoReturn


class Secret:
    """Text such as an API key. ``str()``, ``repr()`` and f-strings show ``Secret(***)``."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

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
