"""``hutch credentials``: what pays for your runs. A secret is never an argument."""

from __future__ import annotations

from typing import Annotated

import typer

from hutch.cli.exit_codes import FAILED
from hutch.cli.printable import echo
from hutch.cli.profile import user_client
from hutch.cli.providers import ProviderArgument
from hutch.cli.secret_input import read_secret
from hutch.cli.tables import Json, done, print_json, table, when
from hutch.cli.waiting import waiting
from hutch.config import Settings

app = typer.Typer(no_args_is_help=True, help="The credentials that pay for your runs.")

_WHAT = {
    "api_key": "API key",
    "session_token": "session token",
    "chatgpt": "content of ~/.codex/auth.json",
}


@app.command("list")
def list_all(json: Json = False) -> None:
    """What is stored: never the secrets themselves."""
    with user_client(Settings()) as client:
        found = client.credentials()
    if json:
        print_json(found)
        return
    columns = ("provider", "kind", "ends with", "state", "last used", "and then")
    table(
        columns,
        [
            [
                c.provider,
                c.kind,
                c.last_four,
                c.reason or c.state,
                when(c.used_at),
                c.last_result or "",
            ]
            for c in found
        ],
    )


@app.command("set")
def put(
    provider: ProviderArgument,
    kind: Annotated[str, typer.Option(help="api_key, session_token or chatgpt.")] = "api_key",
    verify: Annotated[bool, typer.Option("--verify", help="Ask the provider first.")] = False,
    json: Json = False,
) -> None:
    """Store or replace one. It is asked for, or read from standard input."""
    if kind not in _WHAT:
        raise typer.BadParameter(f"one of {', '.join(_WHAT)}", param_hint="--kind")
    secret = read_secret(_WHAT[kind])
    with user_client(Settings()) as client, waiting("storing"):
        stored = client.put_credential(provider, kind, secret, verify=verify)
    if json:
        print_json(stored)
        return
    tried = f"; tried: {stored.verified.result}" if stored.verified else ""
    echo(f"stored for {provider}, ending with {stored.last_four or 'nothing to show'}{tried}")


@app.command("test")
def try_one(provider: ProviderArgument, json: Json = False) -> None:
    """One request with what is stored; it costs no tokens. Exit code 1 if it was rejected."""
    with user_client(Settings()) as client, waiting("asking the provider"):
        tried = client.test_credential(provider)
    if json:
        print_json(tried)
    else:
        echo(f"{tried.result}: {tried.detail}" if tried.detail else tried.result)
    if tried.result == "rejected":
        raise typer.Exit(FAILED)


@app.command()
def delete(provider: ProviderArgument, json: Json = False) -> None:
    """From the store, and from every place that uses it."""
    with user_client(Settings()) as client:
        client.delete_credential(provider)
    done(as_json=json)
