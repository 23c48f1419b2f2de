"""What goes with a run: the prompt from argument, standard input and files; what is attached."""

from __future__ import annotations

import json
import os
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hutch.client import Attachment
from hutch.errors import InvalidRequest


def assemble(prompt: str | None, files: list[Path]) -> str:
    """``-`` is standard input alone. What is piped in follows the prompt, as in
    ``git diff | hutch run codex "review"``.
    """
    parts: list[str] = []
    if prompt is not None and prompt != "-":
        parts.append(prompt)
    if prompt in {None, "-"} or _piped():
        if prompt is None and sys.stdin.isatty():
            raise InvalidRequest(
                "There is no prompt.", hint='hutch run codex "…", or pipe it in, or `-` to type it.'
            )
        parts.append(sys.stdin.buffer.read().decode("utf-8", "replace"))
    for file in files:
        with _readable(file):
            parts.append(f"{file}:\n\n{file.read_text(errors='replace')}")
    return "\n\n".join(part for part in parts if part.strip())


def attachments(files: list[Path]) -> list[Attachment]:
    found = []
    for file in files:
        with _readable(file):
            found.append(Attachment.of(file))
    return found


def schema(file: Path | None) -> dict[str, Any] | None:
    if file is None:
        return None
    with _readable(file):
        try:
            found = json.loads(file.read_text())
        except ValueError:
            found = None
    if not isinstance(found, dict):
        raise InvalidRequest(f"{file} is no JSON schema: it holds no object.")
    return found


@contextmanager
def _readable(file: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InvalidRequest(f"{file} cannot be read: {error.strerror}.") from None


def _piped() -> bool:
    """Only a pipe or a file has an end that one may wait for."""
    try:
        mode = os.fstat(sys.stdin.fileno()).st_mode
    except (OSError, ValueError):  # closed, or none at all
        return False
    return stat.S_ISFIFO(mode) or stat.S_ISREG(mode)
