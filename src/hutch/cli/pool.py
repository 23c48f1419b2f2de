"""``hutch admin pool``, ``health``, ``maintain``, ``assign``, ``release``: capacity by hand."""

from __future__ import annotations

import json as json_module
from typing import Annotated, Any

import typer

from hutch.cli.printable import echo
from hutch.cli.profile import admin_client
from hutch.cli.tables import print_json, table
from hutch.cli.waiting import waiting
from hutch.config import Settings

app = typer.Typer(no_args_is_help=True, help="Containers that wait for users.")

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command("scale")
def scale(
    size: Annotated[str, typer.Argument(help="How many, or auto: by the rules.")],
    json: Json = False,
) -> None:
    """Keep SIZE containers warm, also after a restart."""
    if size != "auto" and not size.isdigit():
        raise typer.BadParameter("a number, or auto")
    with admin_client(Settings()) as admin:
        _show(admin.scale_pool("auto" if size == "auto" else int(size)), as_json=json)


@app.command("show")
def show(json: Json = False) -> None:
    """How large the pool should be, why, and what was decided lately."""
    with admin_client(Settings()) as admin:
        _show(admin.call("GET", "/v1/admin/scaling"), as_json=json)


def health(json: Json = False) -> None:
    """Containers by state, the host's CPU and memory, the queue."""
    with admin_client(Settings()) as admin:
        found = admin.health()
    if json:
        typer.echo(json_module.dumps(found))
        return
    queue = found["queue"]
    rows = {
        "containers": _counts(found["containers"]) or "none",
        "pool": _pool(found["pool"]),
        "queue": f"{queue['depth']} runs, the oldest for {queue['oldest_wait_s']:.1f} s",
        "waiting for": _counts(queue["reasons"]) or "nothing",
        "CPU": _percent(found["cpu_percent"]),
        "memory": _percent(found["memory_percent"]),
        "alerts": found["alerts"],
    }
    for name, text in rows.items():
        echo(f"{name:<11} {text}")


def maintain(json: Json = False) -> None:
    """Run the tasks of scaling and pool now."""
    with admin_client(Settings()) as admin, waiting("at work"):
        tasks = admin.maintain()["tasks"]
    if json:
        typer.echo(json_module.dumps(tasks))
        return
    for task in tasks:
        echo(f"{task['name']:<11} {task['error'] or _counts(task['report'])}")


def assign(user_id: str, json: Json = False) -> None:
    """Give a user a container now: theirs, a warm one, or a new one."""
    with admin_client(Settings()) as admin, waiting("getting a container"):
        given = admin.assign(user_id)
    if json:
        print_json(given)
    else:
        echo(f"{given.id} {given.observed}")


def release(container_id: str, json: Json = False) -> None:
    """End a container and all in it. One that nobody has used stays in the pool."""
    with admin_client(Settings()) as admin, waiting("ending it"):
        done = admin.release(container_id)
    if json:
        typer.echo(json_module.dumps(done))
    else:
        echo("kept: nobody has used it" if done["kept"] else "destroyed")


def _show(scaling: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        typer.echo(json_module.dumps(scaling))
        return
    echo(f"pool: {_pool(scaling['pool'])}; {_counts(scaling['inputs'])}")
    columns = ("at", "what", "from", "to", "why")
    table(
        columns,
        [
            [one["at"], one["what"], str(one["before"]), str(one["after"]), one["why"]]
            for one in scaling["decisions"][:20]
        ],
    )


def _pool(pool: dict[str, Any]) -> str:
    if pool["by_hand"]:
        return f"{pool['target']} by hand"
    return f"{pool['target']} by the rules ({pool['least']} to {pool['most']})"


def _counts(counts: dict[str, Any]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items())


def _percent(value: float | None) -> str:
    return "not known" if value is None else f"{value:.0f} %"
