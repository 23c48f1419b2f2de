"""``hutch admin``: users and keys, with the key that the service wrote at its first start."""

from __future__ import annotations

import json as json_module
from typing import Annotated, Any

import typer

from hutch.cli import audit, exits, keys, pool
from hutch.cli.printable import echo
from hutch.cli.profile import admin_client
from hutch.cli.tables import table
from hutch.config import Settings

app = typer.Typer(no_args_is_help=True, help="Manage users and keys.")
users = typer.Typer(no_args_is_help=True, help="Manage users.")
app.add_typer(users, name="users")
app.add_typer(exits.app, name="exits")
app.add_typer(pool.app, name="pool")
app.add_typer(keys.admin, name="keys")
app.add_typer(audit.app, name="audit")
for command in (pool.health, pool.maintain, pool.assign, pool.release):
    app.command()(command)
vault = typer.Typer(no_args_is_help=True, help="Manage the vault's keys.")
app.add_typer(vault, name="vault")

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def _print(value: dict[str, Any], as_json: bool) -> None:
    if as_json:
        typer.echo(json_module.dumps(value))
    else:
        for name, text in value.items():
            echo(f"{name:<11} {text}")


@users.command("create")
def create_user(
    name: str,
    tier: Annotated[str, typer.Option(help="free, pro or team")] = "free",
    json: Json = False,
) -> None:
    """Make a user and their first API key, which is shown this once."""
    with admin_client(Settings()) as admin:
        _print(admin.call("POST", "/v1/admin/users", json={"name": name, "tier": tier}), json)


@users.command("list")
def list_users(json: Json = False) -> None:
    with admin_client(Settings()) as admin:
        answer = admin.call("GET", "/v1/admin/users")
    if json:
        typer.echo(json_module.dumps(answer["users"]))
        return
    columns = ("id", "name", "tier", "created_at")
    table(columns, [[user[column] for column in columns] for user in answer["users"]])


@users.command("key")
def create_key(user_id: str, json: Json = False) -> None:
    """Make one more API key for a user; the others stay valid."""
    with admin_client(Settings()) as admin:
        _print(admin.call("POST", f"/v1/admin/users/{user_id}/keys"), json)


@users.command("delete")
def delete_user(user_id: str, json: Json = False) -> None:
    """Destroy a user's data key, then remove all that is theirs; print what went."""
    with admin_client(Settings()) as admin:
        gone = admin.call("DELETE", f"/v1/admin/users/{user_id}")
    if json:
        typer.echo(json_module.dumps(gone))
        return
    proof = (
        "NO: what it sealed still opens. Report this."
        if gone["opens"]
        else "what it sealed no longer opens (tried)"
    )
    rows = ("credentials", "api_keys", "sessions", "runs", "events", "agreements", "allowed_hosts")
    shown = {
        "deleted": f"{gone['user_id']} ({gone['name']})",
        "data key": f"{gone['data_key']} destroyed first" if gone["data_key"] else "was gone",
        "proof": proof,
        "container": gone["container"] or "none",
        "exits": ", ".join(gone["exits"]) or "none",
        **{name.replace("_", " "): gone[name] for name in rows},
    }
    for name, text in shown.items():
        echo(f"{name:<14} {text}")


@vault.command("rotate")
def rotate_master_key(json: Json = False) -> None:
    """Wrap every data key with a new master key, while the service runs. Safe to repeat."""
    with admin_client(Settings()) as admin:
        done = admin.call("POST", "/v1/admin/vault/rotate")
    if json:
        typer.echo(json_module.dumps(done))
        return
    echo(f"re-wrapped {done['rewrapped']} data keys with {done['master_key']}")
    if done["forgotten"]:
        echo(f"destroyed {', '.join(done['forgotten'])}; back up the new master key now")
    if done["unreadable"]:
        echo(
            f"{done['unreadable']} data keys open with no master key and were left as they are: "
            "restore them from a backup, or delete their users"
        )
        raise typer.Exit(1)


@app.command("service-key")
def create_service_key(json: Json = False) -> None:
    """Make a key that acts for any user, named in the header X-Hutch-User."""
    with admin_client(Settings()) as admin:
        _print(admin.call("POST", "/v1/admin/service-keys"), json)
