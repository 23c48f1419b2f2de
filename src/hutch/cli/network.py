"""``hutch network``: which hosts your sandbox may reach besides the model APIs."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from hutch.cli.printable import echo
from hutch.cli.profile import user_client
from hutch.cli.tables import Json, print_json
from hutch.client import Client
from hutch.config import Settings

app = typer.Typer(help="Show and change the hosts that your sandbox may reach.")

Rules = Annotated[list[str], typer.Argument(help="host, *.host or host:port; 443 without a port.")]


@app.callback(invoke_without_command=True)
def show(context: typer.Context, json: Json = False) -> None:
    """The operator's list and yours."""
    if context.invoked_subcommand is None:
        with user_client(Settings()) as client:
            _show(client.call("GET", "/v1/network"), as_json=json)


@app.command()
def allow(rules: Rules, json: Json = False) -> None:
    """Add hosts to your list."""
    with user_client(Settings()) as client:
        _put(client, [*client.call("GET", "/v1/network")["allow"], *rules], as_json=json)


@app.command()
def forget(rules: Rules, json: Json = False) -> None:
    """Take hosts from your list, written as `hutch network` shows them."""
    with user_client(Settings()) as client:
        kept = [r for r in client.call("GET", "/v1/network")["allow"] if r not in rules]
        _put(client, kept, as_json=json)


def _put(client: Client, rules: list[str], *, as_json: bool) -> None:
    _show(client.call("PUT", "/v1/network", json={"allow": rules}), as_json=as_json)


def _show(network: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print_json(network)
        return
    for title, rules in (("everyone's", network["always"]), ("yours", network["allow"])):
        echo(f"{title}: {', '.join(rules) or 'none'}")
