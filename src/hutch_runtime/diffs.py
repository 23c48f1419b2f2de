"""Unified diffs of what an agent wants to change in a file."""

from __future__ import annotations

import difflib
import re
from typing import Final

from hutch_runtime.protocol import KIB

# Finding what two texts have in common takes the square of their lines at worst.
SIDE_MAX_CHARS: Final = 128 * KIB
_LINES_MAX: Final = 4_000
_LINE: Final = re.compile(r"[^\n]*\n|[^\n]+")  # splitlines would end one at U+2028 too


def unified(path: str, before: str | None, after: str | None) -> str | None:
    """None is a file that is not there. None also for what is too large to compare."""
    if max(len(before or ""), len(after or "")) > SIDE_MAX_CHARS:
        return None
    old, new = _LINE.findall(before or ""), _LINE.findall(after or "")
    if len(old) + len(new) > _LINES_MAX:
        return None
    names = (
        "/dev/null" if before is None else f"a/{_name(path)}",
        "/dev/null" if after is None else f"b/{_name(path)}",
    )
    return "".join(map(_whole, difflib.unified_diff(old, new, *names)))


def headed(path: str, hunks: str, *, before: str | None = None) -> str:
    """Hunks that lack the two lines with the file's name; ``before`` if it was another."""
    return f"--- a/{_name(before or path)}\n+++ b/{_name(path)}\n{hunks}"


def _name(path: str) -> str:
    """One that cannot look like more than a name."""
    return "".join(char if char.isprintable() else "?" for char in path.lstrip("/"))


def _whole(line: str) -> str:
    return line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n"
