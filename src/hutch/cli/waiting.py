"""What a person sees while the service works: a spinner, on a terminal and on standard error."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.text import Text


@contextmanager
def waiting(what: str) -> Iterator[None]:
    console = Console(stderr=True, highlight=False)
    if not console.is_terminal:
        yield
        return
    with console.status(Text(f"{what} …", style="dim")):
        yield
