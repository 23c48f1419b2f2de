from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from hutch.errors import InvalidRequest
from hutch_runtime.frames import COLUMNS_MAX, ROWS_MAX

COMMAND_MAX: Final = 256  # a program and its arguments
COMMAND_MAX_BYTES: Final = 64 * 1024
TERM_MAX: Final = 64


@dataclass(frozen=True, slots=True)
class NewTerminal:
    """What a caller asks for. ``command`` None is the shell; without ``tty`` the program has two
    pipes, in which its two outputs are one.
    """

    command: tuple[str, ...] | None = None
    tty: bool = True
    rows: int = 24
    columns: int = 80
    term: str = "xterm-256color"

    def check(self) -> None:
        """Raises ``InvalidRequest``."""
        if not 1 <= self.rows <= ROWS_MAX or not 1 <= self.columns <= COLUMNS_MAX:
            raise InvalidRequest(
                f"A terminal has 1 to {ROWS_MAX} rows and 1 to {COLUMNS_MAX} columns."
            )
        if not self.term.isascii() or not self.term.isprintable() or len(self.term) > TERM_MAX:
            raise InvalidRequest("term is no name of a terminal.", hint="Such as xterm-256color.")
        if self.command is not None:
            _check_command(self.command)


@dataclass(frozen=True, slots=True)
class Terminal:
    id: str
    user_id: str
    command: tuple[str, ...] | None
    tty: bool
    attached: bool  # somebody is there
    created_at: float


@dataclass(frozen=True, slots=True)
class Output:
    """Bytes of a terminal's output, or what is told of it (``said``, with a ``type``)."""

    data: bytes = b""
    said: dict[str, Any] | None = None


def _check_command(command: tuple[str, ...]) -> None:
    if not 1 <= len(command) <= COMMAND_MAX or not command[0]:
        raise InvalidRequest(f"command is a program and up to {COMMAND_MAX - 1} arguments.")
    try:
        size = sum(len(part.encode()) for part in command)
    except UnicodeEncodeError:
        raise InvalidRequest("command holds half of a surrogate pair.") from None
    if size > COMMAND_MAX_BYTES or any("\0" in part for part in command):
        raise InvalidRequest(
            f"command has at most {COMMAND_MAX_BYTES} bytes, and none of them is 0.",
            hint="Put what is long into a file.",
        )
