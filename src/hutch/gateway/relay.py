"""Two sockets joined: what one sends, the other gets, by the kernel alone (``splice``).

Bytes go socket → pipe → socket without being copied into this process. Nothing is read before
what came earlier was taken (backpressure), an end of one direction is passed on as such
(half-close), and a connection that broke is broken off on the other side too, so that half an
answer never looks like a whole one.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from hutch.gateway.pace import Pace
from hutch_runtime.protocol import KIB

IDLE_S: Final = 600.0
_PIPE: Final = 256 * KIB
_TURNS: Final = 8  # pipes full before other connections have theirs
_FLAGS: Final = os.SPLICE_F_NONBLOCK | os.SPLICE_F_MOVE
_RESET: Final = struct.pack("ii", 1, 0)  # SO_LINGER: on, zero seconds: close() resets


@dataclass(slots=True)
class Relayed:
    up: int = 0
    down: int = 0
    broken: str = ""  # why it ended, if not in order: "sandbox", "destination", "idle", "gateway"


class _Half:
    """One direction. ``ended`` is called once, with what broke: "" | "source" | "sink"."""

    def __init__(
        self,
        source: socket.socket,
        sink: socket.socket,
        pace: Pace,
        ended: Callable[[str], None],
        moved: Callable[[int], None],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._source, self._sink, self._pace = source, sink, pace
        self._ended, self._moved = ended, moved
        self._out, self._in = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        with contextlib.suppress(OSError):  # beyond the user's share of pipe memory: 64 KB then
            fcntl.fcntl(self._in, fcntl.F_SETPIPE_SZ, _PIPE)
        self._held = 0  # bytes in the pipe
        self._timer: asyncio.TimerHandle | None = None
        self._open = True
        self._loop.add_reader(source, self._fill)

    def close(self) -> None:
        if not self._open:
            return
        self._open = False
        self._loop.remove_reader(self._source)
        self._loop.remove_writer(self._sink)
        if self._timer is not None:
            self._timer.cancel()
        os.close(self._out)
        os.close(self._in)

    def _fill(self) -> None:
        for _ in range(_TURNS):
            try:
                count = os.splice(self._source.fileno(), self._in, _PIPE, flags=_FLAGS)
            except BlockingIOError:
                return
            except OSError:
                self._ended("source")
                return
            if not count:
                self._loop.remove_reader(self._source)
                with contextlib.suppress(OSError):  # gone already
                    self._sink.shutdown(socket.SHUT_WR)
                self._ended("")
                return
            self._held = count
            if not self._drain() or self._paced(count):
                return

    def _drain(self) -> bool:
        """Whether the pipe is empty; if not, this half goes on when the sink can take more."""
        while self._held:
            try:
                count = os.splice(self._out, self._sink.fileno(), self._held, flags=_FLAGS)
            except BlockingIOError:
                self._loop.remove_reader(self._source)
                self._loop.add_writer(self._sink, self._go_on)
                return False
            except OSError:
                self._ended("sink")
                return False
            self._held -= count
            self._moved(count)
        return True

    def _go_on(self) -> None:
        held = self._held
        if self._drain():
            self._loop.remove_writer(self._sink)
            if not self._paced(held):
                self._loop.add_reader(self._source, self._fill)

    def _paced(self, count: int) -> bool:
        wait = self._pace.spend(count)
        if not wait:
            return False
        self._loop.remove_reader(self._source)
        self._timer = self._loop.call_later(wait, self._rested)
        return True

    def _rested(self) -> None:
        self._timer = None
        self._loop.add_reader(self._source, self._fill)


class _Joined:
    def __init__(
        self,
        inner: socket.socket,
        outer: socket.socket,
        relayed: Relayed,
        *,
        up: Pace,
        down: Pace,
        idle_s: float,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self.relayed = relayed
        self.over: asyncio.Future[None] = self._loop.create_future()
        self._running = 2
        self._last = self._loop.time()
        self._idle_s = idle_s
        self._timer = self._loop.call_later(idle_s, self._check)
        self._halves: list[_Half] = []
        try:
            ended = self._ender("sandbox", "destination")
            self._halves.append(_Half(inner, outer, up, ended, self._went_up))
            ended = self._ender("destination", "sandbox")
            self._halves.append(_Half(outer, inner, down, ended, self._went_down))
        except OSError:  # no more file descriptors
            self._stop("gateway")

    def close(self) -> None:
        self._timer.cancel()
        for half in self._halves:
            half.close()

    def _went_up(self, count: int) -> None:
        self.relayed.up += count
        self._last = self._loop.time()

    def _went_down(self, count: int) -> None:
        self.relayed.down += count
        self._last = self._loop.time()

    def _ender(self, source: str, sink: str) -> Callable[[str], None]:
        def ended(what: str) -> None:
            self._running -= 1
            if what:
                self._stop({"source": source, "sink": sink}[what])
            elif not self._running:
                self._stop("")

        return ended

    def _stop(self, why: str) -> None:
        if not self.over.done():
            self.relayed.broken = why
            self.over.set_result(None)
            self.close()

    def _check(self) -> None:
        left = self._last + self._idle_s - self._loop.time()
        if left <= 0:
            self._stop("idle")
        else:
            self._timer = self._loop.call_later(left, self._check)


async def relay(
    inner: socket.socket,
    outer: socket.socket,
    relayed: Relayed,
    *,
    up: Pace,
    down: Pace,
    idle_s: float = IDLE_S,
) -> None:
    """Until both directions have ended, one broke, nothing moved for ``idle_s`` seconds, or the
    task is cancelled. Both sockets are connected and non-blocking; both are closed at the end.
    ``relayed`` is filled as it goes.
    """
    joined = _Joined(inner, outer, relayed, up=up, down=down, idle_s=idle_s)
    whole = False
    try:
        await joined.over
        whole = not relayed.broken
    finally:
        joined.close()
        for sock in (inner, outer):
            if not whole:
                with contextlib.suppress(OSError):
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            sock.close()
