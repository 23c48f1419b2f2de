"""Run a program of this machine: an argument list, a time limit, and an error that helps."""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from hutch.config import source_checkout
from hutch.errors import HostNotReady

_TAIL: Final = 15  # lines of a failed program's output that are shown


def find(program: str) -> str:
    """Where a program is: beside this Python, in the clone's own `.uv`, or on PATH."""
    root = source_checkout() or Path()
    places = [Path(sys.executable).parent, root / ".uv" / "bin"]
    path = os.pathsep.join([*map(str, places), os.environ.get("PATH", os.defpath)])
    found = shutil.which(program, path=path)
    if found is None:
        raise HostNotReady(
            f"`{program}` is not on this machine.", hint="`hutch doctor` says how to get it."
        )
    return found


async def run(
    argv: Sequence[str],
    *,
    cwd: Path,
    hint: str,
    environment: Mapping[str, str] | None = None,
    timeout_s: float = 900,
) -> None:
    """Wait for it. Raises ``HostNotReady`` with the end of what it said, and ``hint``."""
    process = await asyncio.create_subprocess_exec(
        find(argv[0]),
        *argv[1:],
        cwd=cwd,
        env={**os.environ, **(environment or {})},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        async with asyncio.timeout(timeout_s):
            output, _ = await process.communicate()
    except TimeoutError:
        process.kill()
        await process.wait()
        raise HostNotReady(
            f"`{argv[0]}` took longer than {timeout_s:.0f} seconds.", hint=hint
        ) from None
    if process.returncode != 0:
        tail = "\n".join(output.decode("utf-8", "replace").splitlines()[-_TAIL:])
        raise HostNotReady(f"`{' '.join(argv[:2])}` failed:\n{tail}", hint=hint)
