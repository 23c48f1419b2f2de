"""``hutch doctor``: look at the machine, and say what to do."""

from __future__ import annotations

import asyncio
import json as json_module
from dataclasses import asdict
from typing import Annotated

import typer
from rich.text import Text

from hutch.cli.tables import console
from hutch.config import Settings
from hutch.host.checks import check
from hutch.host.findings import Finding


def doctor(
    deep: Annotated[
        bool, typer.Option("--deep", help="Attack the walls of a sandbox, from inside one.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Look at the machine and say what to do. Exit code 1 if something needed is missing, or a wall
    does not hold.
    """
    if deep:
        from hutch.cli.walls import walls  # noqa: PLC0415  opens the engine

        raise typer.Exit(0 if walls(Settings(), as_json=json) else 1)
    findings = asyncio.run(check(Settings()))
    if json:
        typer.echo(json_module.dumps([asdict(finding) for finding in findings]))
    else:
        width = max(len(finding.name) for finding in findings)
        for finding in findings:
            _show(finding, width)
    if any(finding.needed and not finding.ok for finding in findings):
        raise typer.Exit(1)


def _show(finding: Finding, width: int) -> None:
    word, style = ("ok", "green") if finding.ok else ("WARNING", "bold yellow")
    if not finding.ok and finding.needed:
        word, style = "MISSING", "bold red"
    line = Text.assemble(f"{finding.name:{width}}  ", (f"{word:7}", style), f"  {finding.detail}")
    out = console()
    out.print(line, soft_wrap=True)  # whole, to be copied, however narrow the terminal
    for remedy in finding.remedy:
        out.print(Text(f"{'':{width}}  → {remedy}", style="cyan"), soft_wrap=True)
