"""What came of trying the walls, for each thing that they are made of; in a file of the data
directory, so that a restart has not to try them again.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from hutch.walls.models import Report

_KEPT: Final = 16  # of images, engines and settings of late
_FILE: Final = "walls.json"


@dataclass(frozen=True, slots=True)
class Outcome:
    tried_at: float  # Unix time
    attempts: int
    # Of each wall that did not hold: its name, what came of it, and what to do.
    failures: tuple[tuple[str, str, str], ...]

    @property
    def holds(self) -> bool:
        return self.attempts > 0 and not self.failures

    @classmethod
    def of(cls, report: Report, at: float) -> Outcome:
        failures = tuple((f.name, f.detail, f.remedy) for f in report.failures)
        return cls(at, len(report.findings), failures)


class Records:
    def __init__(self, data_dir: Path) -> None:
        self._path = data_dir / _FILE

    def find(self, fingerprint: str) -> Outcome | None:
        found: Any = self._read().get(fingerprint)
        try:
            return Outcome(
                float(found["tried_at"]),
                int(found["attempts"]),
                tuple((str(a), str(b), str(c)) for a, b, c in found["failures"]),
            )
        except (KeyError, TypeError, ValueError):  # not there, or of another version
            return None

    def keep(self, fingerprint: str, outcome: Outcome) -> None:
        known = {k: v for k, v in self._read().items() if k != fingerprint}
        latest = [*known.items(), (fingerprint, asdict(outcome))][-_KEPT:]
        draft = self._path.with_name(f".{self._path.name}.{os.getpid()}")
        draft.write_text(json.dumps(dict(latest), indent=1))
        draft.replace(self._path)

    def _read(self) -> dict[str, Any]:
        try:
            found = json.loads(self._path.read_text())
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}
