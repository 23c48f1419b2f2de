"""``hutch profile``: several servers, each with a name."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from hutch.cli import servers
from hutch.cli.completion import profile_names
from hutch.cli.printable import echo
from hutch.cli.secret_input import read_secret
from hutch.cli.servers import Server, Servers
from hutch.cli.tables import Json, done, print_json, table
from hutch.errors import InvalidRequest, NotFound

app = typer.Typer(no_args_is_help=True, help="The servers that you work with.")

Name = Annotated[str, typer.Argument(help="As you like to call it.")]


@app.command()
def add(
    name: Name,
    url: Annotated[str, typer.Option(help="Such as https://hutch.example.org.")],
    user: Annotated[str, typer.Option(help="With a service key: whom to act for.")] = "",
    ca: Annotated[Path | None, typer.Option(help="PEM file of a private authority.")] = None,
    admin: Annotated[
        bool, typer.Option("--admin", help="It is a key for `hutch admin`; the other one stays.")
    ] = False,
    json: Json = False,
) -> None:
    """Add or change a server, and use it. Asks for the key, or reads it from standard input."""
    if not url.startswith(("http://", "https://")):
        raise InvalidRequest(f"{url} is no address of a server.", hint="Begin with https://.")
    key = read_secret("API key")
    known = servers.load()
    before = known.named.get(name, Server(url))
    kept = replace(before, url=url, user=user, ca=str(ca.resolve()) if ca else "")
    server = replace(kept, admin_key=key) if admin else replace(kept, key=key)
    servers.save(Servers({**known.named, name: server}, name))
    if json:
        print_json({"name": name, "url": url, "user": user, "current": True})
    else:
        echo(f"{name} is in use; its key is in {servers.path()}, which only you can read")


@app.command("list")
def list_all(json: Json = False) -> None:
    known = servers.load()
    rows = [
        {"name": name, "url": server.url, "user": server.user, "current": name == known.current}
        for name, server in sorted(known.named.items())
    ]
    if json:
        print_json(rows)
        return
    columns = ("", "name", "url", "user")
    table(
        columns,
        [
            ["*" if r["current"] else "", str(r["name"]), str(r["url"]), str(r["user"])]
            for r in rows
        ],
    )


@app.command()
def use(
    name: Annotated[
        str,
        typer.Argument(
            help="- is what `make up` started on this machine.", autocompletion=profile_names
        ),
    ],
    json: Json = False,
) -> None:
    """Use this server from now on. `HUTCH_PROFILE`, or `hutch --profile`, for once."""
    known = servers.load()
    if name != "-" and name not in known.named:
        raise NotFound(f"There is no profile {name}.", hint="`hutch profile add` makes one.")
    servers.save(replace(known, current="" if name == "-" else name))
    done(as_json=json)


@app.command()
def remove(
    name: Annotated[str, typer.Argument(autocompletion=profile_names)], json: Json = False
) -> None:
    """Forget a server and its keys."""
    known = servers.load()
    if name not in known.named:
        raise NotFound(f"There is no profile {name}.")
    rest = {other: server for other, server in known.named.items() if other != name}
    servers.save(Servers(rest, "" if known.current == name else known.current))
    done(as_json=json)
