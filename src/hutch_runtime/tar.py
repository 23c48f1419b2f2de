"""GNU tar as the agents' user, fed and read piece by piece.

Under gVisor what costs is each hand-over between two processes, so records and pipes are large, and
a thread waits for tar rather than the event loop.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from pathlib import Path
from typing import IO, Final

from hutch_runtime.identity import Identity
from hutch_runtime.protocol import KIB, MIB

_PIPE: Final = 1 * MIB
_RECORD: Final = 128 * KIB
_ENOUGH: Final = 512 * KIB  # handed over at once
_WORDS_MAX: Final = 500
_CHANGED: Final = 1  # tar's exit code when a file grew while it was read; the archive is whole


class TarFailed(Exception):
    """The archive could not be made or unpacked; the text says why, in tar's words."""


class Tar:
    def __init__(self, identity: Identity) -> None:
        self._identity = identity

    async def create(
        self, directory: Path, options: Sequence[str], names: Sequence[str]
    ) -> AsyncGenerator[bytes]:
        """The archive, piece by piece. Raises ``TarFailed``, at the latest after the last piece."""
        with _words() as words:
            tar = await asyncio.to_thread(
                self._start, words, directory, ("--create", *options), names
            )
            try:
                while piece := await asyncio.to_thread(_read, tar):
                    yield piece
                await _ended(tar, words, _CHANGED)
            finally:
                await asyncio.to_thread(_kill, tar)

    async def extract(
        self, directory: Path, options: Sequence[str], pieces: AsyncIterator[bytes]
    ) -> None:
        """Raises ``TarFailed``."""
        with _words() as words:
            tar = await asyncio.to_thread(
                self._start, words, directory, ("--extract", *options), ()
            )
            try:
                await _feed(tar, pieces)
                await _ended(tar, words, 0)
            finally:
                await asyncio.to_thread(_kill, tar)

    def _start(
        self, words: IO[bytes], directory: Path, options: Sequence[str], names: Sequence[str]
    ) -> subprocess.Popen[bytes]:
        extracts = "--extract" in options
        given, started_as = self._identity.launch(
            (
                "tar",
                f"--directory={directory}",
                "--file=-",
                f"--record-size={_RECORD}",
                *options,
                *(("--", *names) if names else ()),
            ),
        )
        return subprocess.Popen(
            given,
            stdin=subprocess.PIPE if extracts else subprocess.DEVNULL,
            stdout=subprocess.DEVNULL if extracts else subprocess.PIPE,
            stderr=words,
            env={"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C.UTF-8"},
            bufsize=0,
            pipesize=_PIPE,
            **started_as,
        )


def _words() -> IO[bytes]:
    """For what tar complains of; in memory, for /tmp may be full."""
    words = os.memfd_create("tar")
    os.fchmod(words, 0o600)  # ours; tar has it open
    return os.fdopen(words, "w+b")


async def _feed(tar: subprocess.Popen[bytes], pieces: AsyncIterator[bytes]) -> None:
    waiting = bytearray()
    async for piece in pieces:
        waiting += piece
        if len(waiting) >= _ENOUGH:
            if not await asyncio.to_thread(_write, tar, bytes(waiting)):
                return
            waiting.clear()
    await asyncio.to_thread(_write, tar, bytes(waiting))


def _read(tar: subprocess.Popen[bytes]) -> bytes:
    return tar.stdout.read(_ENOUGH) if tar.stdout is not None else b""


def _write(tar: subprocess.Popen[bytes], content: bytes) -> bool:
    """False: it has ended, and its exit code says why."""
    try:
        left = memoryview(content)
        while left and tar.stdin is not None:
            left = left[tar.stdin.write(left) :]
    except BrokenPipeError:
        return False
    return True


async def _ended(tar: subprocess.Popen[bytes], words: IO[bytes], worst: int) -> None:
    if tar.stdin is not None:
        tar.stdin.close()
    if not 0 <= await asyncio.to_thread(tar.wait) <= worst:
        words.seek(0)
        said = words.read(64 * KIB).decode(errors="replace").strip()[-_WORDS_MAX:]
        raise TarFailed(said or f"tar ended with {tar.returncode}")


def _kill(tar: subprocess.Popen[bytes]) -> None:
    if tar.poll() is None:
        tar.kill()
    tar.wait()
    for end in (tar.stdin, tar.stdout):
        if end is not None:
            end.close()
