"""Fetch the locked parts of the image on the host, so that the build itself needs no network.

Each part is kept in ``image/build`` with the hash of the lock that it came from, and fetched into a
draft that takes its place in one step: an interrupted fetch leaves nothing half done.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import hashlib
import platform
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import Final, Literal, TypeAlias

from hutch.images.inputs import Inputs
from hutch.images.recipe import PYTHON, UNUSED
from hutch.programs import run

Part: TypeAlias = Literal["runtime", "service"]

_POLL_S: Final = 0.2
_NO_REGISTRY: Final = "Is the package registry reachable from this machine? Then try again."


@contextlib.asynccontextmanager
async def one_at_a_time(lock: Path, say: Callable[[str], None]) -> AsyncIterator[None]:
    """Two programs of one clone would take each other's half-fetched files away."""
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("w") as file:
        waiting = False
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if not waiting:
                    say("another program does the same for this clone; waiting for it …")
                waiting = True
                await asyncio.sleep(_POLL_S)
        yield


async def fetch_clis(inputs: Inputs) -> Path:
    """A folder with ``node_modules`` of the three CLIs for this machine's architecture."""

    async def fetch(draft: Path) -> None:
        for name in ("package.json", "package-lock.json"):
            shutil.copy(inputs.folder / name, draft)
        argv = ("npm", "ci", "--ignore-scripts", "--omit=dev", "--no-audit", "--no-fund")
        await run(argv, cwd=draft, hint=_NO_REGISTRY)
        drop_unused(draft)

    return await _kept(inputs.build / "clis", [inputs.folder / "package.json", inputs.lock], fetch)


def drop_unused(folder: Path) -> None:
    """``UNUSED`` of what npm put there."""
    for pattern in UNUSED:
        for path in folder.glob(pattern):
            shutil.rmtree(path)


async def fetch_dependencies(inputs: Inputs, part: Part = "runtime") -> Path:
    """A folder with the Python packages of the runtime in each sandbox, or of the service itself,
    of the versions and hashes in ``uv.lock``.
    """
    groups = ("--only-group", "runtime") if part == "runtime" else ("--no-default-groups",)

    async def fetch(draft: Path) -> None:
        wanted = draft / "requirements.txt"
        await run(
            (
                *("uv", "export", "--locked", *groups, "--no-emit-project"),
                *("--quiet", "--output-file", str(wanted)),
            ),
            cwd=inputs.root,
            hint="Is uv.lock up to date? `uv lock` makes it so.",
        )
        await run(
            (
                *("uv", "pip", "install", "--target", str(draft), "--requirements", str(wanted)),
                *("--require-hashes", "--no-deps", "--only-binary", ":all:"),
                *("--python-version", PYTHON, "--quiet"),
            ),
            cwd=inputs.root,
            hint=_NO_REGISTRY,
        )
        wanted.unlink()
        (draft / ".lock").unlink(missing_ok=True)
        # Commands, for the interpreter at this machine's path.
        shutil.rmtree(draft / "bin", ignore_errors=True)

    name = "deps" if part == "runtime" else "service-deps"
    return await _kept(inputs.build / name, [inputs.root / "uv.lock"], fetch)


async def _kept(
    folder: Path, locks: Sequence[Path], fetch: Callable[[Path], Awaitable[None]]
) -> Path:
    mark = folder.with_suffix(".lock-hash")
    asked = repr((PYTHON, UNUSED, platform.machine())).encode()
    wanted = hashlib.sha256(asked + b"".join(lock.read_bytes() for lock in locks)).hexdigest()
    async with one_at_a_time(folder.with_suffix(".lock"), lambda _: None):
        if folder.is_dir() and mark.is_file() and mark.read_text() == wanted:
            return folder
        draft = folder.with_suffix(".draft")
        for old in (draft, folder):
            shutil.rmtree(old, ignore_errors=True)
        mark.unlink(missing_ok=True)
        draft.mkdir(parents=True)
        await fetch(draft)
        draft.rename(folder)
        mark.write_text(wanted)
        return folder
