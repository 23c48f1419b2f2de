"""``hutch mcp-servers``: MCP servers whose tools your agents have. Not ``hutch mcp``, which is one
itself, for other agents.
"""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from hutch.cli.printable import echo
from hutch.cli.profile import user_client
from hutch.cli.tables import Json, done, print_json, table
from hutch.client.models import McpServer
from hutch.config import Settings
from hutch.errors import InvalidRequest

app = typer.Typer(no_args_is_help=True, help="MCP servers whose tools your agents have.")

Name = Annotated[str, typer.Argument(help="Lower case letters, digits and dashes.")]
_VALUE = "NAME asks for the value, or takes a line of standard input; NAME=VALUE shows it to all."


@app.command("list")
def list_all(json: Json = False) -> None:
    """Secrets by their names alone."""
    with user_client(Settings()) as client:
        found = client.mcp_servers()
    if json:
        print_json(found)
        return
    rows = [[s.name, s.type, _what(s), ", ".join((*s.env, *s.headers))] for s in found]
    table(("name", "type", "what", "secrets"), rows)


@app.command(context_settings={"ignore_unknown_options": True})
def add(
    name: Name,
    what: Annotated[list[str], typer.Argument(help="https://…, or a command and its arguments.")],
    env: Annotated[list[str] | None, typer.Option(help=f"Of the command. {_VALUE}")] = None,
    header: Annotated[list[str] | None, typer.Option(help=f"Of the URL. {_VALUE}")] = None,
    json: Json = False,
) -> None:
    """Store or replace one; the next run has it. Options go before the name."""
    first, *rest = what
    remote = first.startswith(("https://", "http://"))
    if remote and (rest or env):
        raise typer.BadParameter("a URL takes neither arguments nor --env")
    if not remote and header:
        raise typer.BadParameter("a command takes no --header")
    secrets = _values((header if remote else env) or [])
    with user_client(Settings()) as client:
        stored = (
            client.put_mcp_url(name, first, headers=secrets)
            if remote
            else client.put_mcp_command(name, first, *rest, env=secrets)
        )
    if json:
        print_json(stored)
    else:
        echo(f"{stored.name}: {_what(stored)}")


@app.command()
def delete(name: Name, json: Json = False) -> None:
    with user_client(Settings()) as client:
        client.delete_mcp_server(name)
    done(as_json=json)


def _what(server: McpServer) -> str:
    return server.url or " ".join((server.command or "", *server.args))


def _values(named: list[str]) -> dict[str, str]:
    values = {}
    for text in named:
        name, given, value = text.partition("=")
        if not given and sys.stdin.isatty():
            value = str(typer.prompt(name, hide_input=True, err=True))
        elif not given:
            value = sys.stdin.readline().rstrip("\r\n")
        if not value:
            raise InvalidRequest(
                f"No value of {name} was given.", hint="Pipe it in, a line each, or type it."
            )
        values[name] = value
    return values
