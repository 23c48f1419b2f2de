"""``hutch files``: what is in your workspace."""

from __future__ import annotations

import contextlib
import stat
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import IO, Annotated, Any, Final

import typer
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from hutch.cli.printable import echo, one_line
from hutch.cli.profile import user_client
from hutch.cli.tables import Json, done, print_json, table, when
from hutch.cli.unpacking import unpack
from hutch.client import ApiError, Client
from hutch.client.models import File
from hutch.config import Settings
from hutch.errors import InvalidRequest

app = typer.Typer(no_args_is_help=True, help="The files in your workspace.")

PathArgument = Annotated[str, typer.Argument(help="Relative to /workspace.")]
_TYPES: Final = {"directory": "d", "link": "l", "other": "?"}


@app.command("ls")
def list_files(
    path: Annotated[str, typer.Argument(help="Relative to /workspace.")] = "", json: Json = False
) -> None:
    """What is in a directory."""
    with user_client(Settings()) as client:
        found = client.files(_theirs(path))
    if json:
        print_json(found)
        return
    rows = [
        (
            _TYPES.get(one.type, "-") + stat.filemode(one.mode)[1:],
            f"{one.size}",
            when(one.modified_at),
            _name(one),
        )
        for one in found
    ]
    table(("mode", "bytes", "changed", "name"), rows)


def _name(one: File) -> str:
    name = one_line(one.name)
    if one.type == "directory":
        return f"{name}/"
    return f"{name} -> {one_line(one.target)}" if one.target is not None else name


@app.command()
def cat(path: PathArgument) -> None:
    """A file, on standard output, as it is."""
    with user_client(Settings()) as client:
        client.download(_theirs(path), sys.stdout.buffer)
        sys.stdout.buffer.flush()


@app.command()
def rm(
    path: PathArgument,
    recursive: Annotated[
        bool, typer.Option("--recursive", "-r", help="A directory with all that is in it.")
    ] = False,
    json: Json = False,
) -> None:
    """Remove a file, a link or a directory."""
    with user_client(Settings()) as client:
        client.delete_file(_theirs(path), recursive=recursive)
    done(as_json=json)


@app.command()
def mv(
    path: PathArgument,
    to: Annotated[str, typer.Argument(help="The new path; with a / at its end: into that.")],
    force: Annotated[bool, typer.Option("--force", "-f", help="Replace what is there.")] = False,
    json: Json = False,
) -> None:
    """Move or rename."""
    path = _theirs(path)
    with user_client(Settings()) as client:
        client.move_file(path, _into(_theirs(to), PurePosixPath(path).name), overwrite=force)
    done(as_json=json)


@app.command()
def cp(
    source: Annotated[str, typer.Argument(help=":PATH is in your workspace; - is standard input.")],
    target: Annotated[str, typer.Argument(help="With a / at its end: into that directory.")],
    json: Json = False,
) -> None:
    """Copy a file or a directory into your workspace or out of it; one of the two begins with a
    colon.

    hutch files cp notes.md :docs/        hutch files cp :build ./build
    """
    if source.startswith(":") == target.startswith(":"):
        raise InvalidRequest(
            "One of the two is in your workspace, and begins with a colon.",
            hint="hutch files cp notes.md :docs/    hutch files cp :build ./build",
        )
    with user_client(Settings()) as client:
        done = (
            _fetch(client, _theirs(source), target)
            if source.startswith(":")
            else _send(client, source, _theirs(target))
        )
    if json:
        print_json(done)
    else:
        echo(f"{done['files']} files, {done['bytes']} bytes", err=True)


@app.command()
def diff(
    run_id: Annotated[str, typer.Argument(help="run_…, of `hutch run --diff`.")],
    json: Json = False,
) -> None:
    """What a run changed, as a unified diff; what is not in it is named on standard error."""
    with user_client(Settings()) as client:
        changes = client.changes(run_id)
    if json:
        print_json(changes)
        return
    echo(changes.diff, nl=False)
    for one in changes.files:
        if not one.in_diff:
            echo(f"{one.change}, not shown: {one_line(one.path)}", err=True)
    if not changes.complete:
        echo("There is more than was looked at.", err=True)


def _send(client: Client, source: str, target: str) -> dict[str, Any]:
    if source == "-":
        with _progress("sending", None) as went:
            sent = client.upload(target, sys.stdin.buffer, on_bytes=went)
        return {"path": target, "files": 1, "bytes": sent.size}
    path = Path(source)
    if not path.exists():
        raise InvalidRequest(f"{source} is not there.")
    target = _into(target, path.resolve().name)
    if path.is_dir():
        with tempfile.TemporaryFile() as archive:
            _pack(path, archive)
            with _progress("sending", archive.seek(0, 2)) as went:
                archive.seek(0)
                done = client.upload_archive(target, archive, on_bytes=went)
        return {"path": target, "files": done.entries, "bytes": done.bytes}
    try:
        return _send_file(client, path, target)
    except ApiError as error:
        if error.code != "is_a_directory":
            raise
        return _send_file(client, path, _into(f"{target}/", path.name))


def _send_file(client: Client, path: Path, target: str) -> dict[str, Any]:
    with path.open("rb") as file, _progress("sending", path.stat().st_size) as went:
        sent = client.upload(target, file, on_bytes=went)
    return {"path": target, "files": 1, "bytes": sent.size}


def _pack(path: Path, archive: IO[bytes]) -> None:
    """Nothing that tells of this machine: no names of users."""

    def plain(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
        member.uid = member.gid = 0
        member.uname = member.gname = ""
        taken = member.isreg() or member.isdir() or member.issym() or member.islnk()
        return member if taken else None

    with tarfile.open(fileobj=archive, mode="w", format=tarfile.GNU_FORMAT) as tar:
        tar.add(path, arcname=".", filter=plain)


def _fetch(client: Client, source: str, target: str) -> dict[str, Any]:
    place = Path(target)
    if target.endswith("/") or place.is_dir():
        place /= PurePosixPath(source).name or "workspace"
    place.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".hutch-", dir=place.parent) as aside:
        draft = Path(aside) / "draft"
        with draft.open("w+b") as file, _progress("fetching", None) as went:
            try:
                client.download(source, file, on_bytes=went)
                whole = True
            except ApiError as error:
                if error.code != "is_a_directory":
                    raise
                client.download(source, file, archive=True, on_bytes=went)
                whole = False
            size = file.tell()
            if not whole:
                file.seek(0)
                done = unpack(file, place)
                for name in done.left_out:
                    echo(f"left out: {one_line(name)}", err=True)
                return {"path": str(place), "files": done.files, "bytes": size}
        draft.replace(place)
    return {"path": str(place), "files": 1, "bytes": size}


@contextlib.contextmanager
def _progress(what: str, total: int | None) -> Iterator[Callable[[int], None]]:
    """On a terminal alone, and gone at the end."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda _: None
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
    )
    with Progress(*columns, console=console, transient=True) as shown:
        task = shown.add_task(what, total=total)
        yield lambda size: shown.advance(task, size)


def _theirs(path: str) -> str:
    return path.removeprefix(":")


def _into(target: str, name: str) -> str:
    return f"{target}{name}" if target.endswith("/") or not target else target
