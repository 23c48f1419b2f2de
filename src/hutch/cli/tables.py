"""Plain tables: as wide as the terminal, and whole when piped into another program."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from typing import Final

from rich.console import Console
from rich.table import Table
from rich.text import Text

from hutch.cli.printable import one_line

_PIPED_WIDTH: Final = 1000  # columns; nothing is cut for a program to read


def console() -> Console:
    return Console(highlight=False, width=None if sys.stdout.isatty() else _PIPED_WIDTH)


def table(columns: Sequence[str], rows: Iterable[Sequence[str | Text]]) -> None:
    shown = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        shown.add_column(column, no_wrap=True)
    for row in rows:
        shown.add_row(*(Text(one_line(cell)) if isinstance(cell, str) else cell for cell in row))
    console().print(shown)
