"""The table of attacks at the end of the tests: what was tried, under what, and what came of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import pytest

_TRIES, _CAME = 72, 60  # columns


@dataclass(frozen=True, slots=True)
class _Row:
    tries: str
    under: str
    verdict: str
    came: str


def show(reporter: pytest.TerminalReporter) -> None:
    """Nothing when no attack was made."""
    rows = sorted(_rows(reporter), key=lambda row: (row.tries, row.under))
    if not rows:
        return
    reporter.section("attacks")
    for row in rows:
        tries = row.tries[:_TRIES]
        reporter.write_line(f"{row.verdict:8} {row.under:7} {tries:{_TRIES}} {row.came[:_CAME]}")
    held = sum(row.verdict == "held" for row in rows)
    reporter.write_line(f"{held} of {len(rows)} attempts were held off")


def _rows(reporter: pytest.TerminalReporter) -> Iterator[_Row]:
    for verdict, category in (("held", "passed"), ("FAILED", "failed"), ("known", "xfailed")):
        reports: Iterable[pytest.TestReport] = reporter.stats.get(category, ())
        for report in reports:
            told = {name: str(value) for name, value in report.user_properties}
            if "attempt" in told:
                yield _Row(told["attempt"], told["under"], verdict, told["came"])
