"""Programs that `hutch up` leaves running, and `hutch down` ends.

Each has a file in the data directory that says which process it is: the start time beside the
number, so that a number that was given to another program is never mistaken for ours.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_STOP_S: Final = 10.0
_POLL_S: Final = 0.05


@dataclass(frozen=True, slots=True)
class Program:
    name: str
    argv: tuple[str, ...]
    environment: Mapping[str, str]
    version: str  # of the code: another one means another program

    def fingerprint(self) -> str:
        settings = sorted(i for i in self.environment.items() if i[0].startswith("HUTCH_"))
        what = json.dumps([self.argv, settings, self.version])
        return hashlib.sha256(what.encode()).hexdigest()


class Background:
    def __init__(self, data_dir: Path, logs_dir: Path) -> None:
        self._records = data_dir / "running"
        self._logs = logs_dir

    def start(self, program: Program) -> bool:
        """Start it unless this very program runs already; an older version is ended first.

        True if it was started now.
        """
        record = self._read(program.name)
        if record and record["fingerprint"] == program.fingerprint() and _alive(record):
            return False
        self.stop(program.name)
        self._records.mkdir(parents=True, exist_ok=True)
        self._logs.mkdir(parents=True, exist_ok=True)
        with (
            self.log(program.name).open("ab") as log,
            Path(os.devnull).open("rb") as nothing,
        ):
            process = subprocess.Popen(
                program.argv,
                env=dict(program.environment),
                stdin=nothing,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._path(program.name).write_text(
            json.dumps(
                {
                    "pid": process.pid,
                    "started": _start_ticks(process.pid),
                    "fingerprint": program.fingerprint(),
                }
            )
        )
        return True

    def stop(self, name: str) -> bool:
        """SIGTERM, then SIGKILL; True if it ran."""
        record = self._read(name)
        pid = record.get("pid")
        ran = isinstance(pid, int) and _alive(record)
        if isinstance(pid, int) and ran:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
                until = time.monotonic() + _STOP_S
                while _alive(record) and time.monotonic() < until:
                    time.sleep(_POLL_S)
                if _alive(record):
                    os.kill(pid, signal.SIGKILL)
        self._path(name).unlink(missing_ok=True)
        return ran

    def names(self) -> list[str]:
        return sorted(path.stem for path in self._records.glob("*.json"))

    def alive(self, name: str) -> bool:
        return _alive(self._read(name))

    def log(self, name: str) -> Path:
        return self._logs / f"{name}.log"

    def _path(self, name: str) -> Path:
        return self._records / f"{name}.json"

    def _read(self, name: str) -> dict[str, object]:
        try:
            record = json.loads(self._path(name).read_text())
        except (FileNotFoundError, ValueError):
            return {}
        return record if isinstance(record, dict) else {}


def _alive(record: Mapping[str, object]) -> bool:
    pid = record.get("pid")
    return isinstance(pid, int) and _start_ticks(pid) == record.get("started") is not None


def _start_ticks(pid: int) -> int | None:
    """When the process started, in clock ticks since boot; None for a dead one or a zombie."""
    try:
        # The name in parentheses may hold anything; the fields are counted behind it.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] == "Z" else int(fields[19])
