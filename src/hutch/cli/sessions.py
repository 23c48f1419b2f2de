"""``hutch sessions``: conversations, and what was said in them."""

from __future__ import annotations

from typing import Annotated

import typer

from hutch.cli.completion import SessionId
from hutch.cli.markdown import rendered
from hutch.cli.printable import echo, printable
from hutch.cli.profile import user_client
from hutch.cli.tables import Json, console, done, print_json, table, when
from hutch.cli.waiting import waiting
from hutch.config import Settings

app = typer.Typer(no_args_is_help=True, help="Your conversations.")


@app.command("list")
def list_all(
    limit: Annotated[int, typer.Option(min=1, max=100, help="At most so many.")] = 20,
    json: Json = False,
) -> None:
    """Last used first."""
    with user_client(Settings()) as client:
        page = client.sessions(limit=limit)
    if json:
        print_json(page)
        return
    columns = ("session", "provider", "last used", "name")
    table(columns, [[s.id, s.provider, when(s.last_used_at), s.name or ""] for s in page])


@app.command()
def show(session_id: SessionId, json: Json = False) -> None:
    """The transcript: what was asked, said and done."""
    with user_client(Settings()) as client:
        if json:
            print_json(client.transcript_items(session_id))
            return
        page = client.transcript(session_id)
    out = console()
    if out.is_terminal:
        out.print(rendered(printable(page)))
    else:
        echo(page)


@app.command()
def name(
    session_id: SessionId,
    text: Annotated[str, typer.Argument(metavar="NAME", help='"" takes it away.')],
    json: Json = False,
) -> None:
    """Give it a name."""
    with user_client(Settings()) as client:
        named = client.name_session(session_id, text or None)
    if json:
        print_json(named)


@app.command()
def fork(
    session_id: SessionId,
    name: Annotated[str | None, typer.Option(help="Of the new session.")] = None,
    json: Json = False,
) -> None:
    """Another session with all that has been said in this one; claude and codex can."""
    with user_client(Settings()) as client, waiting("copying"):
        forked = client.fork_session(session_id, name=name)
    if json:
        print_json(forked)
    else:
        echo(forked.id)


@app.command()
def delete(session_id: SessionId, json: Json = False) -> None:
    """Forget it, its runs and their events."""
    with user_client(Settings()) as client:
        client.delete_session(session_id)
    done(as_json=json)
