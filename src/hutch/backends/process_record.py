"""What the process backend remembers of a sandbox: a JSON file beside its directories, so that a
restarted orchestrator finds what its predecessor started.
"""

from __future__ import annotations

import json
import os
import re
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Final

_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")  # it becomes a directory's
_FILE: Final = "sandbox.json"


@dataclass(frozen=True, slots=True)
class Record:
    instance: str
    sandbox_id: str
    incarnation: str
    port: int
    env: dict[str, str]
    pid: int | None = None
    started: int | None = None  # the process's start time, in the kernel's ticks
    exit_code: int | None = None

    def with_process(self, pid: int, started: int) -> Record:
        return replace(self, pid=pid, started=started)

    def with_exit(self, code: int) -> Record:
        return replace(self, exit_code=code)


class Records:
    """One directory per incarnation under ``root``, private to this user."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def directory(self, incarnation: str) -> Path:
        """Raises ``ValueError`` for a name that is no plain directory name."""
        if _NAME.fullmatch(incarnation) is None:
            raise ValueError("not an incarnation id")
        return self.root / incarnation

    def read(self, incarnation: str) -> Record | None:
        try:
            return Record(**json.loads((self.directory(incarnation) / _FILE).read_text()))
        except (OSError, ValueError, TypeError):  # gone, or half made: as if it never was
            return None

    def write(self, record: Record) -> None:
        path = self.directory(record.incarnation) / _FILE
        draft = path.with_suffix(".new")
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w") as file:
            json.dump(asdict(record), file)
        draft.replace(path)

    def forget(self, incarnation: str) -> None:
        """From now on it is gone, whatever else is still in its directory."""
        (self.directory(incarnation) / _FILE).unlink(missing_ok=True)

    def all(self) -> list[Record]:
        try:
            names = sorted(entry.name for entry in self.root.iterdir())
        except FileNotFoundError:
            return []
        return [record for name in names if (record := self.read(name)) is not None]
