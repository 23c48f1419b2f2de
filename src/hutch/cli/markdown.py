"""An answer as Markdown while it comes: what is whole is printed, the rest is shown live."""

from __future__ import annotations

import re
from typing import Final

from rich.console import Console
from rich.live import Live
from rich.markdown import Markdown
from rich.text import Text

from hutch.cli.printable import printable
from hutch.cli.run import Notes
from hutch.client import events as ev
from hutch.client.events import Event

_FENCE: Final = re.compile(r" {0,3}(`{3,}|~{3,})")
_REFRESH_PER_S: Final = 8
_TAIL_SPARE: Final = 4  # lines of the screen that the live part leaves free


def split(text: str) -> tuple[str, str]:
    """The blocks that are whole, and what may still change: a block ends with an empty line outside
    a fence, unless what follows is indented, or of a list, and so may be its own.
    """
    fence = ""
    end = position = 0
    lines = text.splitlines(keepends=True)
    for number, line in enumerate(lines):
        position += len(line)
        found = _FENCE.match(line)
        if found and not fence:
            fence = found[1]
        elif found and found[1].startswith(fence) and not line.strip().strip(fence[0]):
            fence = ""
        elif not fence and not line.strip() and number + 1 < len(lines):
            following = lines[number + 1]
            if following.strip() and not following[0].isspace() and not _listed(following):
                end = position
    return text[:end], text[end:]


def _listed(line: str) -> bool:
    return re.match(r"([-*+]|\d+[.)])\s", line) is not None


class MarkdownView:
    """Shows a run's events on a terminal."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live: Live | None = None
        self._text = ""
        self._streamed = False
        self._notes = Notes(before=self._settle)

    def event(self, event: Event) -> None:
        match event:
            case ev.TextDelta(text=text):
                self._streamed = True
                self._write(text)
            case ev.Text(text=text):
                if not self._streamed:
                    self._write(text)
                self._streamed = False
                self._settle()
            case ev.ReasoningDelta():
                if self._live is None:
                    self._notes.event(event)
            case _:
                self._notes.event(event)

    def close(self) -> None:
        self._notes.close()
        self._settle()

    def _write(self, text: str) -> None:
        self._notes.quiet()
        self._text += printable(text)
        whole, rest = split(self._text)
        if self._live is None:
            self._live = Live(
                console=self._console, refresh_per_second=_REFRESH_PER_S, transient=True
            )
            self._live.start()
        if whole.strip():
            self._live.console.print(rendered(whole))
        self._text = rest
        lines = rest.splitlines()[-max(1, self._console.height - _TAIL_SPARE) :]
        self._live.update(Text("\n".join(lines)))

    def _settle(self) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None
        if self._text.strip():
            self._console.print(rendered(self._text))
        self._text = ""


def rendered(text: str) -> Markdown:
    # Without hyperlinks: an address is shown as it is, not behind words that an agent chose.
    return Markdown(text, hyperlinks=False)
