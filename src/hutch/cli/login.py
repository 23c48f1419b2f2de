"""``hutch login``: the CLI's own sign-in, in the user's container, finished in their browser."""

from __future__ import annotations

import sys
import time
from typing import Annotated, Any, Final

import typer

from hutch.cli.printable import echo, printable
from hutch.cli.profile import user_client
from hutch.client import Client
from hutch.config import Settings

_POLL_S: Final = 1.0


def login(provider: Annotated[str, typer.Argument(help="codex or claude")]) -> None:
    """Sign in with a subscription, in your browser. Nothing is pasted but a one-time code."""
    with user_client(Settings()) as client:
        raise typer.Exit(_sign_in(client, provider))


def _sign_in(client: Client, provider: str) -> int:
    path = f"/v1/credentials/{provider}/login"
    started = client.call("POST", path)
    echo(f"Open this page, and sign in there:\n\n  {started['url']}\n")
    try:
        if started["code"]:
            echo(f"Enter this code there:  {started['code']}\n")
        else:
            code = typer.prompt("Paste the code that the page shows", hide_input=True)
            client.call("POST", f"{path}/code", json={"code": code.strip()})
        return _wait(client, path, provider)
    except (KeyboardInterrupt, typer.Abort):
        client.call("DELETE", path)
        sys.stderr.write("The sign-in was ended.\n")
        return 130


def _wait(client: Client, path: str, provider: str) -> int:
    echo("Waiting for the sign-in …")
    found: dict[str, Any] = {"state": "pending"}
    while found["state"] == "pending":
        time.sleep(_POLL_S)
        found = client.call("GET", path)
    if found["state"] == "done":
        echo(f"Signed in: runs with {provider} are paid by this login from now on.")
        return 0
    reason = printable(found["reason"]) or "it is gone; the container was ended"
    sys.stderr.write(f"The sign-in failed: {reason}\n")
    return 1
