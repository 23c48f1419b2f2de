"""``hutch doctor``: look at the machine, and say what to do."""

from __future__ import annotations

import asyncio
import json as json_module
from dataclasses import asdict
from typing import Annotated

import typer
from rich.text import Text

from hutch.cli.tables import table
from hutch.config import Settings
from hutch.host.checks import check


def doctor(json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """Look at the machine and say what to do. Exit code 1 if something needed is missing."""
    findings = asyncio.run(check(Settings()))
    if json:
        typer.echo(json_module.dumps([asdict(finding) for finding in findings]))
    else:
        rows: list[tuple[str | Text, ...]] = []
        for finding in findings:
            word, style = ("ok", "green") if finding.ok else ("WARNING", "bold yellow")
            if not finding.ok and finding.needed:
                word, style = "MISSING", "bold red"
            rows.append((finding.name, Text(word, style=style), finding.detail))
            rows += [("", "", Text(f"→ {line}", style="cyan")) for line in finding.remedy]
        table(("check", "", "detail"), rows)
    if any(finding.needed and not finding.ok for finding in findings):
        raise typer.Exit(1)
