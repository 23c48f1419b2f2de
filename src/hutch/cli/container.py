"""``hutch container``: one's own."""

from __future__ import annotations

from typing import Annotated

import typer

from hutch.cli.printable import echo
from hutch.cli.profile import user_client
from hutch.cli.tables import print_json
from hutch.cli.waiting import waiting
from hutch.client.models import Container
from hutch.config import Settings

app = typer.Typer(no_args_is_help=True, help="Your own container.")

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command()
def get(json: Json = False) -> None:
    """Have it ready: woken, or made if there is none."""
    with user_client(Settings()) as client, waiting("getting it ready"):
        container = client.get_or_create_container()
    _show(container, as_json=json)


@app.command()
def hibernate(json: Json = False) -> None:
    """Put it away now. The next run finds everything as it was."""
    with user_client(Settings()) as client, waiting("putting it away"):
        container = client.hibernate()
    _show(container, as_json=json)


@app.command()
def destroy(json: Json = False) -> None:
    """End it with everything in it, and delete what is stored of it."""
    with user_client(Settings()) as client, waiting("ending it"):
        container = client.destroy_container()
    _show(container, as_json=json)


def _show(container: Container, *, as_json: bool) -> None:
    if as_json:
        print_json(container)
    else:
        echo(f"{container.id} {container.observed}")
