"""A sign-in under way, whichever CLI does it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


class SignInFailed(Exception):
    """The CLI did not begin, or did not complete; the text says why, for a person to read."""


@dataclass(frozen=True, slots=True)
class Invitation:
    """Where the person goes, and the code that they enter there; "" where there is none."""

    url: str
    code: str


class SignIn(Protocol):
    async def start(self) -> Invitation:
        """Raises ``SignInFailed``."""
        ...

    def enter(self, code: str) -> None:
        """The code that the person was given. Raises ``SignInFailed`` where none is asked for."""
        ...

    async def completed(self) -> None:
        """Wait for the CLI to say so. Raises ``SignInFailed``."""
        ...

    async def close(self) -> None:
        """End it, completed or not. May be called twice."""
        ...
