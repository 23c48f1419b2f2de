"""What outlives this container: the home directory and the workspace, as a tar stream.

GNU tar does the work: it knows sparse files and hard links, and a file of its own format never
meets a parser outside of a sandbox. Logins stay out: the orchestrator keeps them itself.
"""

from __future__ import annotations

import asyncio
import os
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final, TypeVar

from hutch_runtime.agents import Pool
from hutch_runtime.protocol import KIB, LOGIN_FILES

_End = TypeVar("_End", asyncio.StreamReader, asyncio.StreamWriter)

_PIECE: Final = 256 * KIB
_WORDS_MAX: Final = 500
_CHANGED: Final = 1  # tar's exit code when a file grew while it was read; the archive is whole


class StateFailed(Exception):
    """The archive could not be made or unpacked; the text says why, in tar's words."""


class State:
    def __init__(self, home: Path, workspace: Path, pool: Pool) -> None:
        self._root = Path(os.path.commonpath((home, workspace)))
        self._parts = tuple(str(part.relative_to(self._root)) for part in (home, workspace))
        self._logins = tuple(f"{self._parts[0]}/{name}" for name in LOGIN_FILES.values())
        self._pool = pool

    async def pack(self) -> AsyncIterator[bytes]:
        """The archive, piece by piece, once idle agents have ended and written what they hold.
        Raises ``StateFailed``, at the latest after the last piece.
        """
        await self._pool.rest()
        options = ("--create", "--format=posix", "--sparse", "--warning=no-file-ignored")
        left_out = (f"--exclude={name}" for name in self._logins)
        tar = await self._tar(*options, "--anchored", "--no-wildcards", *left_out, *self._parts)
        try:
            while piece := await _pipe(tar.stdout).read(_PIECE):
                yield piece
            await _ended(tar, _CHANGED)
        finally:
            await _kill(tar)

    async def unpack(self, pieces: AsyncIterator[bytes]) -> None:
        """Over what is there; agents that were started ahead begin anew afterwards. Raises
        ``StateFailed``.
        """
        await self._pool.rest()
        tar = await self._tar("--extract", "--no-same-owner", "--preserve-permissions")
        stdin = _pipe(tar.stdin)
        try:
            async for piece in pieces:
                stdin.write(piece)
                await stdin.drain()
            stdin.close()
            await _ended(tar, 0)
        except ConnectionError:  # it has ended, and says why
            await _ended(tar, 0)
        finally:
            await _kill(tar)
            self._pool.refill()

    async def _tar(self, *arguments: str) -> Process:
        return await asyncio.create_subprocess_exec(
            "tar",
            f"--directory={self._root}",
            "--file=-",
            *arguments,
            stdin=PIPE if "--extract" in arguments else DEVNULL,
            stdout=DEVNULL if "--extract" in arguments else PIPE,
            stderr=PIPE,
            env={"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C.UTF-8"},
        )


async def _ended(tar: Process, worst: int) -> None:
    words = await _pipe(tar.stderr).read(64 * KIB)
    if not 0 <= await tar.wait() <= worst:
        said = words.decode(errors="replace").strip()[-_WORDS_MAX:]
        raise StateFailed(said or f"tar ended with {tar.returncode}")


def _pipe(end: _End | None) -> _End:
    if end is None:
        raise AssertionError("tar is started with pipes")
    return end


async def _kill(tar: Process) -> None:
    if tar.returncode is None:
        tar.kill()
        await tar.wait()
