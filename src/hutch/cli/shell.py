"""``hutch shell``: a shell in your container, as if it was here."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import termios
import tty
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from hutch.cli.printable import printable
from hutch.client import AsyncClient, AsyncTerminal
from hutch.client.terminals import Notice

_READ_BYTES: Final = 32 * 1024
# What a program that is left alone has switched on here: another screen, mouse, pasting in
# brackets, reports of focus, another keyboard, colours, no cursor.
_PLAIN_AGAIN: Final = (
    b"\x1b[?1049l\x1b[?1000l\x1b[?1002l\x1b[?1003l\x1b[?1006l\x1b[?1004l\x1b[?2004l\x1b[<u\x1b[?1l"
    b"\x1b>\x1b[0m\x1b[?25h\r"
)
_ESCAPE: Final = ord("~")
_DETACH: Final = ord(".")
ROWS_MAX = COLUMNS_MAX = 1000  # that a terminal of the service has
_REDRAW_S: Final = 0.1  # two changes of size that a program does not take for none
_TERMINATED: Final = 128 + signal.SIGTERM


@dataclass(slots=True)
class Escapes:
    """As ssh has them: at the beginning of a line ``~.`` leaves, and ``~~`` is one ``~``."""

    _at_start: bool = True
    _held: bool = False
    detach: bool = field(default=False, init=False)

    def feed(self, typed: bytes) -> bytes:
        """What is to be sent of it."""
        out = bytearray()
        for byte in typed:
            if self._held:
                self._held = False
                if byte == _DETACH:
                    self.detach = True
                    return bytes(out)
                out.append(_ESCAPE)
                if byte == _ESCAPE:
                    self._at_start = False
                    continue
            elif self._at_start and byte == _ESCAPE:
                self._held = True
                continue
            out.append(byte)
            self._at_start = byte in b"\r\n"
        return bytes(out)


class Shell:
    def __init__(
        self, client: AsyncClient, command: Sequence[str] | None, attach: str | None
    ) -> None:
        self._input = sys.stdin.fileno()
        self._output = sys.stdout.fileno()
        self.raw = os.isatty(self._input) and os.isatty(self._output)
        rows, columns = _size(self._output) if self.raw else (24, 80)
        self._terminal = client.terminal(
            command,
            terminal_id=attach,
            tty=self.raw,
            rows=rows,
            columns=columns,
            term=os.environ.get("TERM", "xterm-256color")[:64],
            on_notice=self._notice,
        )
        self._attached = attach is not None
        self._escapes = Escapes()
        self._redrawing: set[asyncio.Task[None]] = set()
        self._loop = asyncio.get_running_loop()

    async def run(self) -> int:
        """The exit code. Raises ``ClientError``."""
        async with self._terminal as terminal:
            with self._raw():
                typing = asyncio.create_task(self._type(terminal))
                showing = asyncio.create_task(self._show(terminal))
                resizing = asyncio.create_task(self._follow_size(terminal))
                tasks = (typing, showing, resizing)
                try:
                    if self._attached:
                        await self._redraw(terminal)
                    await asyncio.wait((typing, showing), return_when=asyncio.FIRST_COMPLETED)
                    if not self._escapes.detach:
                        await showing
                finally:
                    for task in tasks:
                        task.cancel()
                    await asyncio.gather(*tasks, return_exceptions=True)
            if self._escapes.detach:
                terminal.detach()
                self._say(f"It goes on. `hutch shell --attach {terminal.id}` comes back to it.")
                return 0
        if terminal.exit is None:
            return 1
        if terminal.exit.reason:
            self._say(terminal.exit.reason)
        return terminal.exit.code

    async def _type(self, terminal: AsyncTerminal) -> None:
        """Until it is detached, or for ever: the end of the input is not that of its program."""
        while True:
            data = await self._read()
            if not data:
                await terminal.end_input()
                await asyncio.Event().wait()
            if self.raw:
                data = self._escapes.feed(data)
            if data:
                await terminal.send(data)
            if self._escapes.detach:
                return

    async def _read(self) -> bytes:
        """A thread would wait for a key for ever; a file and ``/dev/null`` are always ready."""
        ready: asyncio.Future[None] = self._loop.create_future()
        try:
            self._loop.add_reader(self._input, _settle, ready)
        except PermissionError:  # epoll takes no ordinary files
            return os.read(self._input, _READ_BYTES)
        try:
            await ready
        finally:
            self._loop.remove_reader(self._input)
        try:
            return os.read(self._input, _READ_BYTES)
        except OSError:  # the terminal is gone
            return b""

    async def _show(self, terminal: AsyncTerminal) -> None:
        async for data in terminal:
            await asyncio.to_thread(_write, self._output, data)

    async def _follow_size(self, terminal: AsyncTerminal) -> None:
        changed = asyncio.Event()
        self._loop.add_signal_handler(signal.SIGWINCH, changed.set)
        try:
            while self.raw:
                await changed.wait()
                changed.clear()
                await terminal.resize(*_size(self._output))
        finally:
            self._loop.remove_signal_handler(signal.SIGWINCH)

    async def _redraw(self, terminal: AsyncTerminal) -> None:
        """A full-screen program draws its screen anew when its size changes."""
        if self.raw:
            rows, columns = _size(self._output)
            await terminal.resize(max(1, rows - 1), columns)
            await asyncio.sleep(_REDRAW_S)
            await terminal.resize(*_size(self._output))

    @contextlib.contextmanager
    def _raw(self) -> Iterator[None]:
        """What is typed goes to the other side, Ctrl-C too. However this ends, also by a signal,
        the terminal is as it was before.
        """
        if not self.raw:
            yield
            return
        before = termios.tcgetattr(self._input)

        def restore() -> None:
            termios.tcsetattr(self._input, termios.TCSADRAIN, before)

        def leave() -> None:
            # Something may hang in a write to this very terminal; nothing waits for it.
            restore()
            os._exit(_TERMINATED)

        for number in (signal.SIGTERM, signal.SIGHUP):
            self._loop.add_signal_handler(number, leave)
        try:
            tty.setraw(self._input, termios.TCSADRAIN)  # what was typed ahead counts
            yield
        finally:
            if self._terminal.exit is None or self._terminal.exit.reason:
                with contextlib.suppress(OSError):
                    _write(self._output, _PLAIN_AGAIN)
            restore()
            for number in (signal.SIGTERM, signal.SIGHUP):
                self._loop.remove_signal_handler(number)

    def _notice(self, notice: Notice) -> None:
        match notice.kind:
            case "broken":
                self._say("The connection broke; trying again. ~. leaves.")
            case "back":
                self._say("Connected again.")
                if self.raw:
                    task = self._loop.create_task(self._redraw(self._terminal))
                    self._redrawing.add(task)
                    task.add_done_callback(self._redrawing.discard)
            case "lost":
                self._say(f"{notice.value:.0f} bytes of output were lost meanwhile.")
            case "warning":
                self._say(f"Nothing happens here: it ends in {notice.value:.0f} seconds.")

    def _say(self, text: str) -> None:
        sys.stderr.write(f"\r\nhutch: {printable(text)}\r\n" if self.raw else f"hutch: {text}\n")
        sys.stderr.flush()


async def shell(client: AsyncClient, command: Sequence[str] | None, attach: str | None) -> int:
    async with client:
        return await Shell(client, command, attach).run()


def _size(descriptor: int) -> tuple[int, int]:
    """Rows and columns; of one that does not know, as serial lines do not, the usual."""
    size = os.get_terminal_size(descriptor)
    return min(size.lines or 24, ROWS_MAX), min(size.columns or 80, COLUMNS_MAX)


def _settle(ready: asyncio.Future[None]) -> None:
    if not ready.done():
        ready.set_result(None)


def _write(descriptor: int, data: bytes) -> None:
    left = memoryview(data)
    while left:
        left = left[os.write(descriptor, left) :]
