"""Plain tables: as wide as the terminal, and whole when piped into another program. And JSON."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Annotated, Any, Final

import typer
from pydantic_core import to_jsonable_python
from rich.console import Console
from rich.table import Table
from rich.text import Text

from hutch.cli.printable import echo, one_line, printable

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]

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


def print_json(value: Any) -> None:
    """What the client answers, in the API's own words; on one line."""
    typer.echo(json.dumps(to_jsonable_python(value)))


def done(*, as_json: bool) -> None:
    """What has no answer but that it was done."""
    if as_json:
        typer.echo(json.dumps({}))


def when(at: datetime | None) -> str:
    """In the reader's own time."""
    return at.astimezone().strftime("%Y-%m-%d %H:%M") if at else ""


def fields(named: dict[str, str]) -> None:
    width = max(len(name) for name in named)
    for name, text in named.items():
        lines = printable(text).strip().replace("\n", f"\n{'':{width}}  ")
        echo(f"{name:<{width}}  {lines}".rstrip())
