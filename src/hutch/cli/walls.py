"""``hutch doctor --deep``: every attack on a sandbox's walls, and what came of it."""

from __future__ import annotations

import asyncio
import json
from dataclasses import asdict

import typer
from rich.text import Text

from hutch.backends.open import open_backend
from hutch.cli.tables import console, table
from hutch.clock import SystemClock
from hutch.config import Settings
from hutch.walls.models import Finding, Report, Verdict
from hutch.walls.service import Walls
from hutch.walls.trial import try_walls

_WORDS: dict[Verdict, tuple[str, str]] = {
    "held": ("holds", "green"),
    "failed": ("FAILED", "bold red"),
    "unclear": ("UNCLEAR", "bold yellow"),
}


def walls(settings: Settings, *, as_json: bool) -> bool:
    """True if every wall holds. Raises ``HutchError`` when nothing could be tried."""
    report = asyncio.run(_try(settings))
    if as_json:
        typer.echo(json.dumps({**asdict(report), "holds": report.holds}))
    else:
        _show(report)
    return report.holds


async def _try(settings: Settings) -> Report:
    # Whoever asks holds the engine, and may do so before the door is there.
    backend = open_backend(settings.model_copy(update={"engine_door": ""}))
    try:
        report = await try_walls(settings, backend, settings.image)
        await Walls(settings, backend, SystemClock()).note(report, settings.image)
        return report
    finally:
        await backend.close()


def _show(report: Report) -> None:
    table(("wall", "verdict", "an agent tried to", "came of it"), map(_row, report.findings))
    out = console()
    for finding in report.failures:
        line = Text.assemble((finding.name, "bold"), f" {finding.must}. {finding.remedy}")
        out.print(line, soft_wrap=True)
    held = len(report.findings) - len(report.failures)
    out.print(
        f"{held} of {len(report.findings)} attempts were held off, under {report.isolation}, "
        f"in {report.seconds:.0f} s"
    )


def _row(finding: Finding) -> tuple[str | Text, ...]:
    word, style = _WORDS[finding.verdict]
    return (finding.name, Text(word, style=style), finding.tries, finding.detail)
