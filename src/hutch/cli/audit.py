"""``hutch admin audit``: what was changed through the API, by whom."""

from __future__ import annotations

import json as json_module
from collections.abc import Iterator
from typing import Annotated, Any, Final

import typer

from hutch.cli.printable import echo
from hutch.cli.profile import admin_client
from hutch.cli.tables import table
from hutch.cli.waiting import waiting
from hutch.client import Client
from hutch.config import Settings

app = typer.Typer(no_args_is_help=True, help="Who did what; and whether the log of it is whole.")

_PAGE: Final = 1000


@app.command("list")
def list_lines(
    limit: Annotated[int, typer.Option(min=1, max=1000)] = 50,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """The last lines, newest first."""
    with admin_client(Settings()) as client:
        lines = client.call("GET", "/v1/admin/audit", params={"limit": limit})["lines"]
    if json:
        typer.echo(json_module.dumps(lines))
        return
    columns = ("line", "time", "actor", "user", "action", "target", "source", "result")
    table(columns, [_row(line) for line in lines])


@app.command("export")
def export(
    after: Annotated[int, typer.Option(help="Go on after this line.")] = 0,
) -> None:
    """Every line as JSON, oldest first."""
    with admin_client(Settings()) as client:
        for line in _lines(client, after):
            typer.echo(json_module.dumps(line))


@app.command("verify")
def verify(
    first: Annotated[int, typer.Option(help="Take what stands before this line as given.")] = 1,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Look for lines that were removed, changed, put elsewhere, or cut off; exit code 1 if any."""
    with admin_client(Settings()) as client, waiting("reading the log"):
        verdict = client.call("GET", "/v1/admin/audit/verify", params={"first": first})
    if json:
        typer.echo(json_module.dumps(verdict))
    else:
        for fault in verdict["faults"]:
            echo(f"line {fault['seq']}: {fault['what']}")
        state = "intact" if verdict["intact"] else "NOT INTACT"
        echo(f"{state}: {verdict['lines']} lines; the last one's seal is {verdict['seal']}")
    raise typer.Exit(0 if verdict["intact"] else 1)


def _lines(client: Client, after: int) -> Iterator[dict[str, Any]]:
    while True:
        params = {"after": after, "limit": _PAGE}
        lines = client.call("GET", "/v1/admin/audit", params=params)["lines"]
        yield from lines
        if len(lines) < _PAGE:
            return
        after = lines[-1]["seq"]


def _row(line: dict[str, Any]) -> tuple[str, ...]:
    told = line["line"]
    times = f" ({told['times']} times)" if "times" in told else ""
    target = " ".join(f"{name}={text}" for name, text in told["target"].items())
    return (
        str(line["seq"]),
        told["time"],
        told["actor"],
        told["user"] or "",
        told["action"] + times,
        target,
        told["source"],
        told["result"],
    )
