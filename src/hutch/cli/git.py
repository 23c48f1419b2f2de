"""``hutch git``: repositories into your container. A token is never an argument."""

from __future__ import annotations

from typing import Annotated

import typer

from hutch.cli.printable import echo
from hutch.cli.profile import user_client
from hutch.cli.secret_input import read_secret
from hutch.cli.tables import Json, done, print_json, table, when
from hutch.config import Settings

app = typer.Typer(no_args_is_help=True, help="Repositories into your container.")

Host = Annotated[str, typer.Argument(help="Such as github.com.")]


@app.command()
def clone(
    url: Annotated[str, typer.Argument(help="https://…")],
    directory: Annotated[str | None, typer.Argument(help="Below the workspace.")] = None,
    branch: Annotated[str | None, typer.Option("--branch", "-b", help="Or a tag.")] = None,
    depth: Annotated[int | None, typer.Option(help="Of its history, in commits.")] = None,
    submodules: Annotated[bool, typer.Option("--submodules", help="Theirs too.")] = False,
    token: Annotated[
        bool, typer.Option("--token", help="Ask for one, for this clone alone.")
    ] = False,
    json: Json = False,
) -> None:
    """Into your workspace. Tokens stay outside of the container."""
    secret = read_secret("token") if token else None
    with user_client(Settings()) as client:
        cloned = client.git_clone(
            url,
            directory=directory,
            branch=branch,
            depth=depth,
            submodules=submodules,
            token=secret,
        )
    if json:
        print_json(cloned)
        return
    commit = (cloned.commit or "no commit")[:12]
    echo(f"/workspace/{cloned.directory}: {cloned.branch or ''} {commit}, {cloned.bytes} bytes")


@app.command()
def login(
    host: Host,
    username: Annotated[str | None, typer.Option(help="Beside the token.")] = None,
    json: Json = False,
) -> None:
    """Keep a token for a git host; your agents' git uses it too, without knowing it."""
    secret = read_secret("token")
    with user_client(Settings()) as client:
        kept = client.put_git_token(host, secret, username=username)
    if json:
        print_json(kept)
    else:
        echo(kept.host)


@app.command("list")
def list_all(json: Json = False) -> None:
    """Hosts that a token is kept for."""
    with user_client(Settings()) as client:
        found = client.git_tokens()
    if json:
        print_json(found)
        return
    table(("host", "username", "since"), [[t.host, t.username, when(t.created_at)] for t in found])


@app.command()
def logout(host: Host, json: Json = False) -> None:
    """Forget the token for a host."""
    with user_client(Settings()) as client:
        client.delete_git_token(host)
    done(as_json=json)
