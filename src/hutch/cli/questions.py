"""What an agent asks for, for somebody to read before a decision: whole, and as it is."""

from __future__ import annotations

import json

from hutch.cli.printable import one_line, printable
from hutch.client.events import Json

Line = tuple[str, str]  # and its style


def lines(kind: str, name: str, given: Json, diff: str | None, *, truncated: bool) -> list[Line]:
    """Behind the first, each is indented, so that none can look like a word of ours."""
    shown = [(f"? {kind} {one_line(name)}", "bold yellow")]
    for line in (diff or _spelt(given)).splitlines():
        style = {"+": "green", "-": "red"}.get(line[:1], "") if diff else ""
        shown.append((f"  {printable(line)}", style))
    if truncated:
        shown.append(("  … and more, which was left out", "red"))
    return shown


def _spelt(given: Json) -> str:
    """A command as it is typed, unless there is in it what a terminal would not show: JSON writes
    such characters out.
    """
    command = given.get("command")
    if not isinstance(command, str) or not command.replace("\n", "").isprintable():
        return _json(given)
    rest = {name: value for name, value in given.items() if name != "command"}
    return f"{command}\n{_json(rest)}" if rest else command


def _json(given: Json) -> str:
    return json.dumps(given, ensure_ascii=False, indent=2)
