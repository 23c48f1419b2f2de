"""``hutch admin exits``: the inventory; ``hutch exit``: a user's own."""

from __future__ import annotations

import json as json_module
from pathlib import Path
from typing import Annotated, Any

import typer

from hutch.cli.printable import echo
from hutch.cli.profile import admin_client, user_client
from hutch.cli.tables import done, table
from hutch.cli.waiting import waiting
from hutch.config import Settings

app = typer.Typer(no_args_is_help=True, help="Proxies with an address each, one to a user.")

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command("import")
def import_exits(
    file: Annotated[Path, typer.Argument(exists=True, dir_okay=False, readable=True)],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check; change nothing.")] = False,
    json: Json = False,
) -> None:
    """Add the exits of FILE: Decodo's download, CSV, TXT or YAML. All of it, or nothing.

    An exit that is known already gets the file's password, address and label.
    """
    body = {"text": file.read_text("utf-8", "replace"), "dry_run": dry_run}
    with admin_client(Settings()) as admin:
        found = admin.call("POST", "/v1/admin/exits/import", json=body)
    if json:
        typer.echo(json_module.dumps(found))
        return
    would = "would be " if dry_run else ""
    echo(
        f"{would}added {found['added']}, {would}updated {found['updated']}, "
        f"unchanged {found['unchanged']}"
    )
    if found["egress"] == "direct":
        echo("Nobody uses them yet: set HUTCH_EGRESS=exits, and restart the service.")


@app.command("list")
def list_exits(json: Json = False) -> None:
    """Every exit, how it is and whose."""
    with admin_client(Settings()) as admin:
        exits = admin.call("GET", "/v1/admin/exits")["exits"]
    if json:
        typer.echo(json_module.dumps(exits))
        return
    columns = ("exit", "kind", "at", "address", "state", "health", "user", "reason")
    table(columns, [_row(one) for one in exits])


@app.command("probe")
def probe(exit_id: str, json: Json = False) -> None:
    """Look at an exit now."""
    with admin_client(Settings()) as admin, waiting("asking through it"):
        seen = admin.call("POST", f"/v1/admin/exits/{exit_id}/probe")
    _show(seen, as_json=json)


@app.command("drain")
def drain(
    exit_id: str,
    move: Annotated[bool, typer.Option("--move", help="Give its user another one now.")] = False,
    json: Json = False,
) -> None:
    """Lease an exit to nobody else; its user keeps it, unless --move."""
    with admin_client(Settings()) as admin:
        path = f"/v1/admin/exits/{exit_id}/drain"
        _show(admin.call("POST", path, params={"move": str(move).lower()}), as_json=json)


@app.command("remove")
def remove(
    exit_id: str,
    force: Annotated[bool, typer.Option("--force", help="Also while it is leased.")] = False,
    json: Json = False,
) -> None:
    """Forget an exit and its password."""
    with admin_client(Settings()) as admin:
        path = f"/v1/admin/exits/{exit_id}"
        admin.call("DELETE", path, params={"force": str(force).lower()})
    if json:
        done(as_json=True)
    else:
        echo(f"removed {exit_id}")


def own_exit(json: Json = False) -> None:
    """The exit that your traffic leaves through, its address, and what happened to it."""
    with user_client(Settings()) as client:
        said = client.call("GET", "/v1/exit")
    if json:
        typer.echo(json_module.dumps(said))
        return
    now, home = said["exit"], said["home"]
    if now is None:
        direct = said["egress"] == "direct"
        echo(
            "You leave through the server's own address."
            if direct
            else "You have no exit yet; your next run leases one."
        )
    else:
        echo(f"{now['ip'] or 'not probed yet'}  {now['kind']}  {now['health']}  {now['id']}")
        if now["id"] != home["id"]:
            echo(f"a spare, while your own {home['id']} is {home['health']}: {home['reason']}")
        elif now["reason"]:
            echo(now["reason"])
    for happening in said["history"]:
        echo(
            f"{happening['at']}  {happening['what']}  {happening['exit_id']}  {happening['detail']}"
        )


def _row(one: dict[str, Any]) -> tuple[str, ...]:
    whose = one["user_id"] or ""
    return (
        one["id"],
        one["kind"],
        f"{one['host']}:{one['port']}",
        one["seen_ip"] or one["expected_ip"] or "",
        one["state"],
        one["health"],
        f"{whose} (spare)" if one["role"] == "spare" else whose,
        one["reason"],
    )


def _show(one: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        typer.echo(json_module.dumps(one))
        return
    for name, value in one.items():
        echo(f"{name:<12} {'' if value is None else value}")
