"""``hutch webhooks``: who is told when your runs end."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from hutch.cli.printable import echo
from hutch.cli.profile import user_client
from hutch.cli.tables import Json, done, print_json, table
from hutch.config import Settings

app = typer.Typer(no_args_is_help=True, help="Addresses that are told when your runs end.")

WebhookId = Annotated[str, typer.Argument(help="From `hutch webhooks list`.")]


@app.command("list")
def list_all(json: Json = False) -> None:
    with user_client(Settings()) as client:
        found: list[dict[str, Any]] = client.call("GET", "/v1/webhooks")["webhooks"]
    if json:
        print_json(found)
        return
    columns = ("webhook", "url", "state", "events", "reason")
    table(
        columns,
        [
            [w["id"], w["url"], w["state"], ", ".join(w["events"]) or "all", w["reason"]]
            for w in found
        ],
    )


@app.command()
def add(
    url: Annotated[str, typer.Argument(help="https://…")],
    event: Annotated[list[str] | None, typer.Option(help="Only these; all if left out.")] = None,
    json: Json = False,
) -> None:
    """Its secret, which is shown this once, proves that a message is from Hutch."""
    with user_client(Settings()) as client:
        made = client.call("POST", "/v1/webhooks", json={"url": url, "events": event or []})
    if json:
        print_json(made)
    else:
        echo(f"{made['id']}\nsecret {made['secret']}")


@app.command()
def test(webhook_id: WebhookId, json: Json = False) -> None:  # noqa: PT028  a command
    """Send it a message now; `hutch webhooks deliveries` says what came of it."""
    with user_client(Settings()) as client:
        sent = client.call("POST", f"/v1/webhooks/{webhook_id}/test")
    if json:
        print_json(sent)
    else:
        echo(sent["message_id"])


@app.command()
def deliveries(webhook_id: WebhookId, json: Json = False) -> None:
    """Newest first."""
    with user_client(Settings()) as client:
        found = client.call("GET", f"/v1/webhooks/{webhook_id}/deliveries")["deliveries"]
    if json:
        print_json(found)
        return
    columns = ("message", "type", "state", "attempts", "status", "error")
    table(columns, [[str(_cell(d, name)) for name in _COLUMNS] for d in found])


_COLUMNS = ("message_id", "type", "state", "attempts", "last_status", "last_error")


def _cell(delivery: dict[str, Any], name: str) -> object:
    return "" if delivery[name] is None else delivery[name]


@app.command()
def delete(webhook_id: WebhookId, json: Json = False) -> None:
    with user_client(Settings()) as client:
        client.call("DELETE", f"/v1/webhooks/{webhook_id}")
    done(as_json=json)
