"""One CLI process: lines in, lines out, and its end noticed at once.

It runs in a session of its own, so that what its tools started can be ended with it, and sees only
the environment that it is given.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final, cast

from hutch_runtime.identity import Identity
from hutch_runtime.lines import LineSplitter
from hutch_runtime.memory import oom_kills
from hutch_runtime.protocol import LINE_MAX_BYTES

_log = logging.getLogger(__name__)

STDERR_KEPT_BYTES: Final = 4096  # enough for the last words; a prompt would not fit a reason anyway
# What the process had written before its end may still be on the way; a child of its own that holds
# the pipe open must not hold back the news.
LAST_WORDS_S: Final = 0.3
_ATTEMPTS: Final = 10
_REAPED_S: Final = 0.1  # what was ended counts until its parent, or tini, has heard of it
CLOSE_GRACE_S: Final = 2.0  # claude exits 30 ms after its stdin is closed


class ProcessGone(Exception):
    """There is no process to write to."""


class Process:
    """A running CLI.

    ``on_line`` gets each line of its standard output as it comes; ``on_long_line`` the size in
    bytes of a line past ``LINE_MAX_BYTES``, which is dropped; ``on_exit`` is called once, after the
    last line, with a reason such as "exit code 1" or "killed by SIGKILL".
    """

    def __init__(
        self,
        *,
        on_line: Callable[[bytes], None],
        on_long_line: Callable[[int], None],
        on_exit: Callable[[str], None],
    ) -> None:
        self._splitter = LineSplitter(on_line, on_long_line, max_bytes=LINE_MAX_BYTES)
        self._on_exit = on_exit
        self._transport: asyncio.SubprocessTransport | None = None
        self._stderr = b""
        self._exited = asyncio.Event()
        self._oom_kills = oom_kills()
        self._output_ended = False
        self._reason: str | None = None
        self._writable = asyncio.Event()
        self._writable.set()
        self.pid = 0

    @classmethod
    async def start(
        cls,
        argv: Sequence[str],
        *,
        cwd: Path,
        environment: Mapping[str, str],
        identity: Identity,
        on_line: Callable[[bytes], None],
        on_long_line: Callable[[int], None],
        on_exit: Callable[[str], None],
    ) -> Process:
        """Start ``argv`` as the agents' user. Raises ``OSError`` when that is not possible."""
        process = cls(on_line=on_line, on_long_line=on_long_line, on_exit=on_exit)
        given, options = identity.launch(argv, cwd=cwd)
        for attempt in range(_ATTEMPTS):
            try:
                await asyncio.get_running_loop().subprocess_exec(
                    lambda: _Protocol(process),
                    *given,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    env=dict(environment),
                    start_new_session=True,
                    **options,
                )
                break
            except BlockingIOError:
                # What the agents have started took the last of the processes that there may be. No
                # session could go on; by this all can, from their files.
                if attempt == _ATTEMPTS - 1 or not identity.end_all():
                    raise
                _log.warning("no process could be started: all of the agents' were ended")
                await asyncio.sleep(_REAPED_S)
        return process

    @property
    def alive(self) -> bool:
        return self._transport is not None and not self._exited.is_set()

    @property
    def reason(self) -> str | None:
        """How it ended; None while it runs."""
        return self._reason

    @property
    def stderr_tail(self) -> str:
        """The last words on standard error, for the reason of a failed start."""
        return self._stderr.decode(errors="replace").strip()

    @property
    def long_line_end(self) -> bytes:
        """The last bytes of the line that ``on_long_line`` is being told of."""
        return self._splitter.long_line_end

    async def write(self, data: bytes) -> None:
        """Returns when the pipe has taken it. Raises ``ProcessGone``."""
        stdin = self._stdin()
        if stdin is not None:
            stdin.write(data)
            await self._writable.wait()
        if self._stdin() is None:
            # Its input breaks a moment before its end is known; the end is what explains it.
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._exited.wait(), 2 * LAST_WORDS_S)
            raise ProcessGone(self._reason or "its input is closed")

    async def wait(self) -> str:
        """Wait for its end; returns the reason."""
        await self._exited.wait()
        return self._reason or "ended"

    async def close(self, *, grace_s: float = CLOSE_GRACE_S) -> None:
        """Close its input and wait; after ``grace_s`` seconds SIGTERM, after as many again SIGKILL,
        both to everything that it started as well. May be called twice.
        """
        stdin = self._stdin()
        if stdin is not None:
            stdin.close()
        for number in (signal.SIGTERM, signal.SIGKILL):
            try:
                await asyncio.wait_for(self._exited.wait(), grace_s)
                break
            except TimeoutError:
                self._signal(number)
        else:
            await self._exited.wait()

    def kill(self) -> None:
        """SIGKILL to it and to everything in its session that did not leave its group."""
        self._signal(signal.SIGKILL)

    def _stdin(self) -> asyncio.WriteTransport | None:
        if self._transport is None or self._exited.is_set():
            return None
        pipe = cast("asyncio.WriteTransport | None", self._transport.get_pipe_transport(0))
        return None if pipe is None or pipe.is_closing() else pipe

    def _signal(self, number: signal.Signals) -> None:
        # Once it was waited for, its number may be another's; and 0 or 1 would be everybody.
        if self._reason is not None or self.pid <= 1:
            return
        try:
            os.killpg(self.pid, number)
        except ProcessLookupError:
            pass
        except PermissionError:  # a member changed its user; the others got the signal
            _log.warning("a process in the group of %d may not be signalled", self.pid)

    def connected(self, transport: asyncio.SubprocessTransport) -> None:
        self._transport = transport
        self.pid = transport.get_pid()

    def received(self, descriptor: int, data: bytes) -> None:
        if descriptor == 1:
            self._splitter.feed(data)
        else:
            self._stderr = (self._stderr + data)[-STDERR_KEPT_BYTES:]

    def pipe_lost(self, descriptor: int) -> None:
        if descriptor == 0:
            self._writable.set()
        elif descriptor == 1:
            self._output_ended = True
            self._splitter.close()
            if self._reason is not None:
                self._finish()

    def writing(self, *, possible: bool) -> None:
        if possible:
            self._writable.set()
        else:
            self._writable.clear()

    def process_exited(self) -> None:
        code = self._transport.get_returncode() if self._transport else None
        self.kill()  # what it left behind
        self._reason = _reason(code)
        if code == -signal.SIGKILL and oom_kills() > self._oom_kills:
            self._reason += "; the sandbox had run out of memory"
        if self._output_ended:
            self._finish()
        else:
            asyncio.get_running_loop().call_later(LAST_WORDS_S, self._finish)

    def _finish(self) -> None:
        if self._exited.is_set():
            return
        self._exited.set()
        self._writable.set()
        if self._transport is not None:
            self._transport.close()
        self._on_exit(self._reason or "ended")


class _Protocol(asyncio.SubprocessProtocol):
    def __init__(self, process: Process) -> None:
        self._process = process

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._process.connected(cast("asyncio.SubprocessTransport", transport))

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        self._process.received(fd, data)

    def pipe_connection_lost(self, fd: int, exc: Exception | None) -> None:
        del exc
        self._process.pipe_lost(fd)

    def process_exited(self) -> None:
        self._process.process_exited()

    # Called by the standard input's transport when its buffer is full, and when it is not any more.
    def pause_writing(self) -> None:
        self._process.writing(possible=False)

    def resume_writing(self) -> None:
        self._process.writing(possible=True)


def _reason(code: int | None) -> str:
    if code is None:
        return "ended"
    if code < 0:
        try:
            return f"killed by {signal.Signals(-code).name}"
        except ValueError:
            return f"killed by signal {-code}"
    return f"exit code {code}"
