"""Where log lines go: standard error, or nowhere while it cannot take them.

The log is a file on a disk, and a full disk is what the log should tell of: it must not become the
reason why a task, a request or a run fails. Nothing gets there but through the redaction.
"""

from __future__ import annotations

import atexit
import io
import json
import logging
import os
import sys
from collections.abc import MutableMapping
from typing import Any, Final, TextIO, cast

import structlog

from hutch.redaction import Redactor
from hutch.secrets import known_values, remember

_STDERR: Final = 2
_KEY_BEGINS: Final = "-----BEGIN "
_KEY_ENDS: Final = "-----END "
_BEGUN_MAX: Final = 64 * 1024  # characters of a key whose end does not come


class LogOutput(io.TextIOBase):
    """One ``write`` is one line, that of a log whose values were redacted one by one."""

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


class PlainOutput(LogOutput):
    """In the place of ``sys.stderr``: what libraries and the interpreter have to say, tracebacks
    above all. It comes in pieces, and is redacted when its last line is whole.
    """

    def __init__(self, redactor: Redactor, descriptor: int = _STDERR) -> None:
        super().__init__(descriptor)
        self._redactor = redactor
        self._begun = ""

    def write(self, text: str) -> int:
        self._begun += text
        whole, newline, rest = self._begun.rpartition("\n")
        key_begun = whole.rfind(_KEY_BEGINS) > whole.rfind(_KEY_ENDS)
        if newline and (not key_begun or len(self._begun) > _BEGUN_MAX):
            self._begun = rest
            super().write(self._redactor.text(whole) + newline)
        return len(text)

    def flush(self) -> None:
        """Half a line waits: its other half may belong to a secret."""

    def end(self) -> None:
        begun, self._begun = self._begun, ""
        if begun:
            super().write(self._redactor.text(begun))

    def fileno(self) -> int:
        return self._descriptor


def configure_logging(*secrets: str) -> None:
    """Of this process, in JSON lines; ``secrets`` are values that it holds and that are not
    ``Secret``s. Nothing of a known secret's value or shape is written from now on, by whomever.
    """
    remember(*secrets)
    redactor = Redactor(known_values)

    def redact(
        _logger: Any, _method: str, event: MutableMapping[str, Any]
    ) -> MutableMapping[str, Any]:
        redacted: MutableMapping[str, Any] = redactor.value(dict(event))
        return redacted

    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            redact,
            structlog.processors.JSONRenderer(),
        ],
        logger_factory=to_log_output(),
        cache_logger_on_first_use=True,
    )
    plain = PlainOutput(redactor)
    sys.stderr = cast("TextIO", plain)
    atexit.register(plain.end)
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="%(message)s", force=True)
    logging.captureWarnings(capture=True)


def to_log_output() -> structlog.WriteLoggerFactory:
    return structlog.WriteLoggerFactory(cast("TextIO", LogOutput()))
