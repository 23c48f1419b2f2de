"""``hutch image``: build, list, roll out and remove sandbox images."""

from __future__ import annotations

import asyncio
import json as json_module
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Annotated, Any

import typer
from rich.console import Console

from hutch.cli.printable import echo
from hutch.cli.profile import admin_client
from hutch.cli.tables import table
from hutch.config import Settings
from hutch.images import service
from hutch.images.base import Choice
from hutch.images.build import build
from hutch.images.listing import list_images
from hutch.rollouts.models import FOR_DEFAULT_S, SHARE_DEFAULT

app = typer.Typer(no_args_is_help=True, help="Build, list, roll out and remove sandbox images.")

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command("build")
def build_image(
    base: Annotated[Choice, typer.Option(help="auto: public where it can be pulled")] = "auto",
    force: Annotated[bool, typer.Option(help="Build even if nothing has changed.")] = False,
) -> None:
    """Build the image, unless the one that is there was made from the same inputs."""
    console = Console(highlight=False)

    def say(text: str) -> None:
        console.print(text, markup=False)

    with console.status("building …"):
        built = asyncio.run(build(Settings(), base=base, force=force, say=say))
    if not built.fresh:
        say(f"{built.tag} is up to date ({built.content[:12]})")


@app.command("service")
def build_service_image(
    base: Annotated[Choice, typer.Option(help="auto: public where it can be pulled")] = "auto",
    tag: Annotated[str, typer.Option(help="The name it gets.")] = service.TAG,
) -> None:
    """Build the image of the service itself, for deploy/compose.yaml."""
    console = Console(highlight=False)

    def say(text: str) -> None:
        console.print(text, markup=False)

    with console.status("building …"):
        asyncio.run(service.build_service(Settings(), base=base, tag=tag, say=say))


@app.command("list")
def list_all(json: Json = False) -> None:
    """Tags, size and versions of every sandbox image on this machine."""
    images = asyncio.run(list_images(Settings()))
    if json:
        typer.echo(json_module.dumps([asdict(image) for image in images]))
        return
    columns = ("tag", "id", "MB", "made", "base", "claude", "codex", "gemini", "runtime")
    table(
        columns,
        [
            (
                " ".join(image.tags) or "-",
                image.id,
                f"{image.size_bytes / 1e6:.0f}",
                datetime.fromtimestamp(image.created_at, UTC).strftime("%Y-%m-%d %H:%M"),
                image.base,
                *(image.versions[name] for name in ("claude", "codex", "gemini", "runtime")),
            )
            for image in images
        ],
    )


@app.command()
def roll(
    image: Annotated[str, typer.Argument(help="A name or id that `hutch image list` shows.")],
    share: Annotated[
        int, typer.Option(min=1, max=100, help="Percent of the warm pool that tries it first.")
    ] = SHARE_DEFAULT,
    for_s: Annotated[
        float, typer.Option("--for", min=0, help="Seconds for which it is tried, at most.")
    ] = FOR_DEFAULT_S,
    json: Json = False,
) -> None:
    """Check an image, try it on a share of the warm pool, then make every new container of it."""
    asked = {"image": image, "share": share, "for_s": for_s}
    with admin_client(Settings()) as admin:
        rollout = admin.call("POST", "/v1/admin/image/roll", json=asked)
    if json:
        typer.echo(json_module.dumps(rollout))
        return
    echo(f"{image} ({_short(rollout['image_id'])}) is being checked")
    echo("`hutch image status` tells how far it is, `hutch image rollback` stops it")


@app.command()
def rollback(json: Json = False) -> None:
    """Stop the roll-out that is under way, or go back to the image before."""
    with admin_client(Settings()) as admin:
        given_up = admin.call("POST", "/v1/admin/image/rollback")
        now = admin.call("GET", "/v1/admin/image")["current"]
    if json:
        typer.echo(json_module.dumps(given_up))
        return
    echo(f"gave up {given_up['image']} ({_short(given_up['image_id'])})")
    echo(f"new containers are made of {now['name']} ({_short(now['id'])})")


@app.command()
def status(json: Json = False) -> None:
    """What new containers are made of, how far a roll-out is, and what there was before."""
    with admin_client(Settings()) as admin:
        found = admin.call("GET", "/v1/admin/image")
    if json:
        typer.echo(json_module.dumps(found))
        return
    current = found["current"]
    echo(f"new containers are made of {current['name']} ({_short(current['id'])})")
    if rollout := found["under_way"]:
        echo(f"being rolled out: {rollout['image']}, {rollout['phase']}")
    table(
        ("image", "id", "containers", "by", "asked", "phase", "reason"),
        [_row(rollout, found["sandboxes"]) for rollout in found["history"]],
    )


@app.command()
def prune(json: Json = False) -> None:
    """Remove sandbox images of this installation that nothing uses; the last two stay."""
    with admin_client(Settings()) as admin:
        removed = admin.call("POST", "/v1/admin/image/prune")["removed"]
    if json:
        typer.echo(json_module.dumps(removed))
        return
    for image in removed:
        echo(f"removed {' '.join(image['names'])} ({_short(image['id'])})")
    if not removed:
        echo("nothing to remove")


def _row(rollout: dict[str, Any], containers: dict[str, int]) -> tuple[str, ...]:
    return (
        rollout["image"],
        _short(rollout["image_id"]),
        str(containers.get(rollout["image_id"], 0)),
        "HUTCH_IMAGE" if rollout["origin"] == "setting" else "roll",
        rollout["created_at"][:16].replace("T", " "),
        rollout["phase"].replace("_", " "),
        rollout["reason"],
    )


def _short(image_id: str | None) -> str:
    """As `hutch image list` shows it."""
    return (image_id or "not there").removeprefix("sha256:")[:12]
