"""A program under a terminal of its own, for a CLI that signs in by asking a person."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import pty
import re
import signal
import struct
import termios
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from hutch_runtime.identity import Identity
from hutch_runtime.protocol import KIB

_COLUMNS: Final = 4096  # so that no link is broken over two lines
_KEPT: Final = 64 * KIB
_END_S: Final = 2.0
# What steers a terminal: colours, links, window titles.
_ESCAPES: Final = re.compile(rb"\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)|\x1b\[[0-?]*[ -/]*[@-~]|\x1b.")


class Terminal:
    def __init__(self, identity: Identity) -> None:
        self._identity = identity
        self._output = b""
        self._changed = asyncio.Event()
        self._process: asyncio.subprocess.Process | None = None
        self._master = -1

    async def start(
        self, argv: Sequence[str], *, cwd: Path, environment: Mapping[str, str]
    ) -> None:
        """Raises ``OSError``."""
        given, options = self._identity.launch(argv, cwd=cwd)
        self._master, slave = pty.openpty()
        try:
            fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 50, _COLUMNS, 0, 0))
            if self._identity.separate:  # ours to open, but not ours to give away
                os.fchmod(slave, 0o666)
            self._process = await asyncio.create_subprocess_exec(
                *given,
                stdin=slave,
                stdout=slave,
                stderr=slave,
                env={**environment, "TERM": "xterm"},
                start_new_session=True,
                **options,
            )
        except BaseException:
            os.close(self._master)
            self._master = -1
            raise
        finally:
            os.close(slave)
        os.set_blocking(self._master, False)
        asyncio.get_running_loop().add_reader(self._master, self._read)

    @property
    def said(self) -> str:
        """Its output so far, as a person would see it."""
        return _ESCAPES.sub(b"", self._output).decode(errors="replace")

    async def search(self, pattern: re.Pattern[str]) -> re.Match[str] | None:
        """Wait for output that has it; None if the program ends without."""
        while True:
            self._changed.clear()
            found = pattern.search(self.said)
            if found is not None or self._master < 0:
                return found
            await self._changed.wait()

    def enter(self, line: str) -> None:
        if self._master >= 0:
            os.write(self._master, line.encode() + b"\r")

    async def wait(self) -> int:
        """Its exit code."""
        return -1 if self._process is None else await self._process.wait()

    async def close(self) -> None:
        """End it and everything that it started."""
        process = self._process
        if process is not None:
            for number in (signal.SIGHUP, signal.SIGKILL):
                if process.returncode is not None:
                    break
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, number)
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(process.wait(), _END_S)
        self._hang_up()

    def _read(self) -> None:
        try:
            data = os.read(self._master, 4 * KIB)
        except BlockingIOError:
            return
        except OSError:  # EIO: nobody has the other end any more
            data = b""
        if not data:
            self._hang_up()
        self._output = (self._output + data)[-_KEPT:]
        self._changed.set()

    def _hang_up(self) -> None:
        if self._master >= 0:
            asyncio.get_running_loop().remove_reader(self._master)
            os.close(self._master)
            self._master = -1
        self._changed.set()
