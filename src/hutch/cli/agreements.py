"""``hutch agreements``: read and accept what has to be accepted."""

from __future__ import annotations

import json as json_module
from typing import Annotated, Any

import typer

from hutch.cli.printable import echo
from hutch.cli.profile import user_client
from hutch.config import Settings

app = typer.Typer(help="Show and accept the texts that this service asks for.")


@app.callback(invoke_without_command=True)
def show(
    context: typer.Context,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Every text with its version, and whether you have accepted it."""
    if context.invoked_subcommand is not None:
        return
    with user_client(Settings()) as client:
        agreements = client.call("GET", "/v1/agreements")["agreements"]
    if json:
        typer.echo(json_module.dumps(agreements))
        return
    if not agreements:
        echo("There is nothing to accept here.")
    for agreement in agreements:
        _show(agreement)


@app.command()
def accept(
    document: Annotated[str, typer.Argument(help="Its name, from `hutch agreements`.")],
    version: Annotated[str, typer.Argument(help="The version that you have read.")],
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Accept a text in the version that you have read."""
    with user_client(Settings()) as client:
        body = {"document": document, "version": version}
        accepted = client.call("POST", "/v1/agreements", json=body)
    if json:
        typer.echo(json_module.dumps(accepted))
    else:
        echo(f"accepted {document} {version} at {accepted['accepted_at']}")


def _show(agreement: dict[str, Any]) -> None:
    name, version = agreement["document"], agreement["version"]
    echo(f"== {name}, version {version} ==\n")
    echo(agreement["text"])
    if agreement["accepted_at"]:
        echo(f"\nAccepted at {agreement['accepted_at']}.\n")
    else:
        needed = "needed before your first run" if agreement["required"] else "not accepted"
        echo(f"\n{needed}: hutch agreements accept {name} {version}\n")
