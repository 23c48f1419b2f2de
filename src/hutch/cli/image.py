"""``hutch image``: build and list sandbox images."""

from __future__ import annotations

import asyncio
import json as json_module
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Annotated

import typer
from rich.console import Console

from hutch.cli.tables import table
from hutch.config import Settings
from hutch.images.base import Choice
from hutch.images.build import build
from hutch.images.listing import list_images

app = typer.Typer(no_args_is_help=True, help="Build and list sandbox images.")


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


@app.command("list")
def list_all(json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
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
