"""One terminal: a program in a session of its own, and whoever looks at it.

One connection at a time: a second takes over from the first, which may be dead without having said
so. With nobody there a PTY's program goes on, and the end of its output is kept; a piped one's
output is never dropped, so it waits.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import os
import pty
import signal
import struct
import subprocess
import termios
import time
import tty
from collections.abc import Callable, Coroutine, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from hutch_runtime.frames import OUTPUT_WINDOW_BYTES, SCROLLBACK_BYTES
from hutch_runtime.identity import Identity
from hutch_runtime.protocol import KIB
from hutch_runtime.terminals.ring import Ring

READ_BYTES: Final = 32 * KIB
# Of input that no program has read. A client that counts never gets so far.
PENDING_MAX_BYTES: Final = 128 * KIB
# What a program that has ended left behind may hold its output open; its last words come by then.
LAST_WORDS_S: Final = 0.3
HANG_UP_S: Final = 2.0  # from SIGHUP to SIGKILL
WARN_BEFORE_S: Final = 60.0
_EOT: Final = b"\x04"


@dataclass(frozen=True, slots=True)
class Wanted:
    """``rows`` and ``columns`` of a PTY; without ``tty`` the program has two pipes."""

    terminal_id: str
    argv: tuple[str, ...]
    tty: bool
    rows: int
    columns: int
    directory: Path
    environment: Mapping[str, str]
    idle_s: float
    detached_s: float


@dataclass(frozen=True, slots=True)
class End:
    """``code``: the program's own, 128 and the signal's number if one ended it. ``reason``: "" if
    it ended by itself, else why it was ended, for a person to read.
    """

    code: int
    reason: str


class Attachment:
    """A connection's place in the output."""

    def __init__(self, position: int, lost: int) -> None:
        self.position = position
        self.lost = lost
        self.seen: int | None = None  # None: it does not say
        self.replaced = False
        self.warning_s: float | None = None  # a warning to be passed on: so long it has

    @property
    def behind_from(self) -> int:
        return self.position if self.seen is None else self.seen


class Terminal:
    def __init__(self, wanted: Wanted, on_end: Callable[[], None]) -> None:
        self.wanted = wanted
        self.created_at = time.time()
        self.end_of_it: End | None = None
        self.received = 0  # bytes of input, from the beginning
        self.written = 0  # of them, to the program
        self._on_end = on_end
        self._ring = Ring(SCROLLBACK_BYTES)
        self._process: asyncio.subprocess.Process | None = None
        self._output = -1
        self._input = -1
        self._pending = bytearray()
        self._eof_wanted = False
        self._attachment: Attachment | None = None
        self._held_from = 0  # of a piped one with nobody there: what the last one had seen
        self._reading = False
        self._output_ended = False
        self._exited = False
        self._reason = ""
        self._changed = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()
        now = time.monotonic()
        self._touched = self._since = now  # last byte; when somebody came or went
        self._warned = False
        self._ended_at = 0.0
        self._over = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def ended_at(self) -> float:
        """By the monotonic clock; of one that has ended."""
        return self._ended_at

    @property
    def attached(self) -> bool:
        return self._attachment is not None

    @property
    def offset(self) -> int:
        return self._ring.end

    async def start(self, identity: Identity) -> None:
        """Raises ``OSError``."""
        theirs = self._open_pty(identity) if self.wanted.tty else self._open_pipes()
        # Debian's setsid makes the terminal the program's own, by which Ctrl-C finds it.
        argv = (*(("/usr/bin/setsid", "--ctty") if self.wanted.tty else ()), *self.wanted.argv)
        given, options = identity.launch(argv, cwd=self.wanted.directory)
        try:
            self._process = await asyncio.create_subprocess_exec(
                *given,
                stdin=theirs[0],
                stdout=theirs[1],
                stderr=subprocess.STDOUT,
                env=dict(self.wanted.environment),
                start_new_session=not self.wanted.tty,
                **options,
            )
        except BaseException:
            self._close_output()
            self._close_input()
            raise
        finally:
            for descriptor in set(theirs):
                os.close(descriptor)
        for descriptor in (self._output, self._input):
            os.set_blocking(descriptor, False)
        self._regulate()
        self._spawn(self._await_exit())
        self._spawn(self._watch())

    def attach(self, after: int) -> Attachment:
        """``after``: bytes of output that have been seen."""
        if self._attachment is not None:
            self._attachment.replaced = True
        position = min(max(after, self._ring.start), self._ring.end)
        lost = max(0, self._ring.start - after)
        self._attachment = attachment = Attachment(position, lost)
        self._since = self._touched = time.monotonic()
        self._warned = False
        self._moved()
        return attachment

    def detach(self, attachment: Attachment) -> None:
        if self._attachment is attachment:
            self._held_from = attachment.behind_from
            self._attachment = None
            self._since = time.monotonic()
            self._moved()

    async def output(self, attachment: Attachment) -> bytes:
        """What comes next; b"" when there is something else to look at: a warning, ``replaced``,
        ``written``, or the end.
        """
        self._changed.clear()
        if attachment.position == self._ring.end and not (
            attachment.replaced or self._over.is_set()
        ):
            await self._changed.wait()
        if attachment.replaced:  # what it has not read may not be kept any more
            return b""
        data = self._ring.read(attachment.position, READ_BYTES)
        attachment.position += len(data)
        self._regulate()
        return data

    def saw(self, attachment: Attachment, offset: int) -> None:
        """Its client has everything before ``offset``, and will go on saying so."""
        attachment.seen = min(max(offset, attachment.seen or 0), attachment.position)
        self._regulate()

    async def enter(self, data: bytes) -> None:
        """Returns once there is room for more."""
        self.received += len(data)
        if self._input < 0:
            self.written = self.received  # nobody reads it any more
            return
        self._touched = time.monotonic()
        self._warned = False
        self._pending += data
        self._write()
        await self._room.wait()

    def end_input(self) -> None:
        """As Ctrl-D at a terminal; a pipe is closed once what was sent before is through."""
        if self.wanted.tty:
            self._pending += _EOT if self._input >= 0 else b""
        self._eof_wanted = not self.wanted.tty
        self._write()

    def resize(self, rows: int, columns: int) -> None:
        if self.wanted.tty and self._output >= 0:
            fcntl.ioctl(self._output, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
            if not self._kernel_tells():
                _signal(_groups_of(self._pid), signal.SIGWINCH)

    async def end(self, reason: str) -> None:
        """Hang up, and kill what does not go. Returns when it has ended."""
        if self.end_of_it is None:
            self._reason = self._reason or reason
            groups = {self._pid, *_groups_of(self._pid)} - {0, os.getpgrp()}
            _signal(groups, signal.SIGHUP, signal.SIGCONT)
            self._close_input()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(HANG_UP_S):
                    await self._over.wait()
            if not self._over.is_set():
                _signal(groups, signal.SIGKILL)
                self._output_ended = True  # whoever reads nothing waits for nothing
                await self._over.wait()
        for task in tuple(self._tasks):
            if task is not asyncio.current_task():
                task.cancel()

    def _open_pty(self, identity: Identity) -> tuple[int, int]:
        # By the agents' user, so that it is theirs: programs open their terminal by its name.
        with identity.acting():
            self._output, slave = pty.openpty()
        self._input = os.dup(self._output)
        size = struct.pack("HHHH", self.wanted.rows, self.wanted.columns, 0, 0)
        fcntl.ioctl(slave, termios.TIOCSWINSZ, size)
        attributes = termios.tcgetattr(slave)
        attributes[tty.IFLAG] |= termios.IUTF8 if hasattr(termios, "IUTF8") else 0x4000
        termios.tcsetattr(slave, termios.TCSANOW, attributes)
        return slave, slave

    def _open_pipes(self) -> tuple[int, int]:
        stdin, self._input = os.pipe()
        self._output, stdout = os.pipe()
        return stdin, stdout

    def _regulate(self) -> None:
        """Read the program's output, unless it is too far ahead of whoever reads it."""
        wanted = self._output >= 0 and not self._too_far()
        if wanted and not self._reading:
            asyncio.get_running_loop().add_reader(self._output, self._read)
        elif not wanted and self._reading and self._output >= 0:
            asyncio.get_running_loop().remove_reader(self._output)
        self._reading = wanted

    def _too_far(self) -> bool:
        if self._attachment is not None:
            return self._ring.end - self._attachment.behind_from >= OUTPUT_WINDOW_BYTES
        return not self.wanted.tty and self._ring.end - self._held_from >= OUTPUT_WINDOW_BYTES

    def _read(self) -> None:
        try:
            data = os.read(self._output, READ_BYTES)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            if error.errno != errno.EIO:  # nobody has the other end any more
                raise
            data = b""
        if not data:
            self._output_ended = True
            self._close_output()
            self._finish_if_over()
            return
        self._ring.append(data)
        self._touched = time.monotonic()
        self._regulate()
        self._changed.set()

    def _write(self) -> None:
        if self._input < 0:
            return
        try:
            while self._pending:
                count = os.write(self._input, self._pending[:READ_BYTES])
                del self._pending[:count]
                self.written += count
        except (BlockingIOError, InterruptedError):
            pass
        except OSError:  # its program has closed it, or is gone
            self._close_input()
            self._changed.set()
            return
        loop = asyncio.get_running_loop()
        if self._pending:
            loop.add_writer(self._input, self._write)
        else:
            loop.remove_writer(self._input)
            if self._eof_wanted:
                self._close_input()
        if len(self._pending) < PENDING_MAX_BYTES:
            self._room.set()
        else:
            self._room.clear()
        self._changed.set()

    def _close_output(self) -> None:
        if self._output >= 0:
            asyncio.get_running_loop().remove_reader(self._output)
            self._reading = False
            os.close(self._output)
            self._output = -1

    def _close_input(self) -> None:
        if self._input >= 0:
            asyncio.get_running_loop().remove_writer(self._input)
            os.close(self._input)
            self._input = -1
        self._pending.clear()
        self.written = self.received
        self._room.set()

    @property
    def _pid(self) -> int:
        return self._process.pid if self._process is not None else 0

    def _kernel_tells(self) -> bool:
        """Whether who is in front of a terminal hears of its new size. gVisor 20240729 tells
        nobody, and knows nothing of the foreground here either.
        """
        try:
            os.tcgetpgrp(self._output)
        except OSError:
            return False
        return True

    async def _await_exit(self) -> None:
        assert self._process is not None  # noqa: S101  it has been started
        await self._process.wait()
        self._exited = True
        last = -1
        # While a reader is slow its program's last words wait in the kernel.
        while not self._output_ended and (last != self._ring.end or not self._reading):
            last = self._ring.end
            await asyncio.sleep(LAST_WORDS_S)
        self._output_ended = True
        self._finish_if_over()

    def _finish_if_over(self) -> None:
        if not self._exited or not self._output_ended or self.end_of_it is not None:
            return
        code = self._process.returncode if self._process is not None else None
        self._close_output()
        self._close_input()
        code = 0 if code is None else code
        self.end_of_it = End(code if code >= 0 else 128 - code, self._reason)
        self._ended_at = time.monotonic()
        self._over.set()
        self._changed.set()
        self._on_end()

    async def _watch(self) -> None:
        """End it when nobody has come back for too long, or nothing was said for too long."""
        idle_s, detached_s = self.wanted.idle_s, self.wanted.detached_s
        while self.end_of_it is None:
            await asyncio.sleep(min(1.0, idle_s / 10, detached_s / 10))
            now = time.monotonic()
            if self._attachment is None:
                if now - self._since > detached_s:
                    await self.end(f"Nobody came back to it for {_span(detached_s)}.")
                continue
            quiet = now - self._touched
            if quiet > idle_s:
                await self.end(f"Nothing was typed or shown for {_span(idle_s)}.")
            elif quiet > idle_s - min(WARN_BEFORE_S, idle_s / 2) and not self._warned:
                self._warned = True
                self._attachment.warning_s = round(idle_s - quiet, 1)
                self._changed.set()

    def _moved(self) -> None:
        self._regulate()
        self._changed.set()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _groups_of(session: int) -> set[int]:
    """The process groups of a session: a shell's jobs, and itself."""
    groups = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with contextlib.suppress(OSError, ValueError, IndexError):
                # The name in brackets may hold anything; what is looked for stands behind it.
                fields = (entry / "stat").read_bytes().rpartition(b")")[2].split()
                if int(fields[3]) == session:
                    groups.add(int(fields[2]))
    return groups


def _signal(groups: Iterable[int], *numbers: signal.Signals) -> None:
    for group in groups:
        for number in numbers:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(group, number)


def _span(seconds: float) -> str:
    return f"{seconds / 60:.0f} minutes" if seconds >= 120 else f"{seconds:g} seconds"
