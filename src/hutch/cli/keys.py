"""``hutch keys`` and ``hutch admin keys``: API keys of one's own, and everybody's."""

from __future__ import annotations

import json as json_module
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from hutch.cli.printable import echo
from hutch.cli.profile import admin_client, renew_user_key, user_client
from hutch.cli.servers import write_private
from hutch.cli.tables import done, table
from hutch.config import Settings

app = typer.Typer(no_args_is_help=True, help="Your own API keys.")
admin = typer.Typer(no_args_is_help=True, help="Everybody's API keys, and those of the service.")

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Name = Annotated[str, typer.Option(help="To tell it from others.")]
ReadOnly = Annotated[bool, typer.Option("--read-only", help="It may only read.")]
Days = Annotated[float | None, typer.Option(help="It expires after so many; never without this.")]
Grace = Annotated[float, typer.Option(help="For which the key that is replaced goes on.")]
_HOUR_S: Final = 3600.0
_DAY_S: Final = 24 * _HOUR_S
_COLUMNS: Final = (
    *("id", "name", "scope", "user_id", "read_only", "prefix"),
    *("created_at", "expires_at", "last_used_at"),
)


@app.command("list")
def list_own(json: Json = False) -> None:
    with user_client(Settings()) as client:
        _show(client.call("GET", "/v1/keys")["keys"], as_json=json)


@app.command("create")
def create_own(
    name: Name = "", read_only: ReadOnly = False, days: Days = None, json: Json = False
) -> None:
    """Make one more key of your own, which is shown this once."""
    with user_client(Settings()) as client:
        _print(client.call("POST", "/v1/keys", json=_asked(name, read_only, days)), json)


@app.command("rotate")
def rotate_own(key_id: str, grace_hours: Grace = 24, days: Days = None, json: Json = False) -> None:
    """Make a successor, which is shown this once; the key itself ends after the grace."""
    settings = Settings()
    with user_client(settings) as client:
        before = _prefix(client.call("GET", "/v1/keys")["keys"], key_id)
        new = client.call("POST", f"/v1/keys/{key_id}/rotate", json=_rotation(grace_hours, days))
    if before:
        renew_user_key(settings, before, new["key"])
    _print(new, json)


@app.command("revoke")
def revoke_own(key_id: str, json: Json = False) -> None:
    """From the next request on."""
    with user_client(Settings()) as client:
        client.call("DELETE", f"/v1/keys/{key_id}")
    done(as_json=json)


@admin.command("list")
def list_all(
    user: Annotated[str | None, typer.Option(help="Only this user's (user_…).")] = None,
    json: Json = False,
) -> None:
    with admin_client(Settings()) as client:
        params = {"user_id": user} if user else {}
        _show(client.call("GET", "/v1/admin/keys", params=params)["keys"], as_json=json)


@admin.command("create")
def create_any(
    scope: Annotated[str, typer.Option(help="service or admin; for a user: --user.")] = "service",
    user: Annotated[str | None, typer.Option(help="A key of this user (user_…).")] = None,
    name: Name = "",
    read_only: ReadOnly = False,
    days: Days = None,
    json: Json = False,
) -> None:
    """Make a key, which is shown this once."""
    asked = _asked(name, read_only, days)
    path = "/v1/admin/keys"
    if user is not None:
        path = f"/v1/admin/users/{user}/keys"
    else:
        asked["scope"] = scope
    with admin_client(Settings()) as client:
        _print(client.call("POST", path, json=asked), json)


@admin.command("rotate")
def rotate_any(key_id: str, grace_hours: Grace = 24, days: Days = None, json: Json = False) -> None:
    """Make a successor, which is shown this once; the key itself ends after the grace. If it is the
    one in the file `admin-key`, the successor is written there.
    """
    settings = Settings()
    with admin_client(settings) as client:
        before = _prefix(client.call("GET", "/v1/admin/keys")["keys"], key_id)
        path = f"/v1/admin/keys/{key_id}/rotate"
        new = client.call("POST", path, json=_rotation(grace_hours, days))
    if before and _begins(settings.admin_key_file, before):
        write_private(settings.admin_key_file, new["key"] + "\n")
    _print(new, json)


@admin.command("revoke")
def revoke_any(key_id: str, json: Json = False) -> None:
    """From the next request on."""
    with admin_client(Settings()) as client:
        client.call("DELETE", f"/v1/admin/keys/{key_id}")
    done(as_json=json)


def _asked(name: str, read_only: bool, days: float | None) -> dict[str, Any]:
    expires_in_s = None if days is None else days * _DAY_S
    return {"name": name, "read_only": read_only, "expires_in_s": expires_in_s}


def _rotation(grace_hours: float, days: float | None) -> dict[str, Any]:
    expires_in_s = None if days is None else days * _DAY_S
    return {"grace_s": grace_hours * _HOUR_S, "expires_in_s": expires_in_s}


def _prefix(keys: list[dict[str, Any]], key_id: str) -> str:
    return next((str(key["prefix"]) for key in keys if key["id"] == key_id), "")


def _begins(path: Path, prefix: str) -> bool:
    try:
        return path.read_text().startswith(prefix)
    except OSError:  # it is kept elsewhere
        return False


def _print(value: dict[str, Any], as_json: bool) -> None:
    if as_json:
        typer.echo(json_module.dumps(value))
    else:
        for name, text in value.items():
            echo(f"{name:<12} {'' if text is None else text}")


def _show(keys: list[dict[str, Any]], *, as_json: bool) -> None:
    if as_json:
        typer.echo(json_module.dumps(keys))
        return
    table(_COLUMNS, [[_cell(key[column]) for column in _COLUMNS] for key in keys])


def _cell(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else ""
    return "" if value is None else str(value)
