"""Text from a service on its way to a terminal.

Names, reasons and answers come from users, and from what runs in containers. A control character in
them could move the cursor, set the window's title, answer for the user, or turn a line around so
that it reads as another one.
"""

from __future__ import annotations

from typing import Final

import typer

_CONTROL: Final = {code: None for code in (*range(32), *range(127, 160)) if code not in {9, 10}}
_DIRECTION: Final = dict.fromkeys((*range(8234, 8239), *range(8294, 8298)))
_NEUTRAL: Final = _CONTROL | _DIRECTION
_BREAKS: Final = dict.fromkeys((9, 10, 0x2028, 0x2029), " ")


def printable(text: str) -> str:
    """Without control characters; lines and tabs stay."""
    return text.encode("utf-8", "replace").decode().translate(_NEUTRAL)


def one_line(text: str) -> str:
    """The same, and in one line: a cell of a table must not look like a row of it."""
    return printable(text).translate(_BREAKS)


def echo(text: str, *, nl: bool = True, err: bool = False) -> None:
    """Print it, whoever it is from."""
    typer.echo(printable(text), nl=nl, err=err)
