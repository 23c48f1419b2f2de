"""Where log lines go: standard error, or nowhere while it cannot take them.

The log is a file on a disk, and a full disk is what the log should tell of: it must not become the
reason why a task, a request or a run fails.
"""

from __future__ import annotations

import io
import json
import os
from typing import Final, TextIO, cast

import structlog

_STDERR: Final = 2


class LogOutput(io.TextIOBase):
    """One ``write`` is one line."""

    def __init__(self, descriptor: int = _STDERR) -> None:
        self._descriptor = descriptor
        self._lost = 0

    def write(self, line: str) -> int:
        try:
            if self._lost:
                told = {"event": "log.lost", "level": "warning", "lines": self._lost}
                self._put(json.dumps(told) + "\n")
                self._lost = 0
            self._put(line)
        except OSError:
            self._lost += 1
        return len(line)

    def flush(self) -> None:
        """Nothing is held back."""

    def _put(self, line: str) -> None:
        os.write(self._descriptor, line.encode(errors="replace"))


def to_log_output() -> structlog.WriteLoggerFactory:
    return structlog.WriteLoggerFactory(cast("TextIO", LogOutput()))
