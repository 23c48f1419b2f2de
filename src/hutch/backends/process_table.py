"""Local processes as the process backend needs them: who is alive, whose child is whose.

Reads /proc. A process is known by its pid and its start time together, since pids come again.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_PROC: Final = Path("/proc")
_TICKS: Final = os.sysconf("SC_CLK_TCK")
_PAGE: Final = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True, slots=True)
class Process:
    pid: int
    parent: int
    group: int
    state: str  # the kernel's letter: T stopped, Z ended and not yet reaped
    started: int  # clock ticks since boot
    cpu_seconds: float
    threads: int
    resident_bytes: int


def look(pid: int) -> Process | None:
    try:
        text = (_PROC / str(pid) / "stat").read_text(errors="replace")
    except OSError:
        return None
    fields = text.rpartition(")")[2].split()  # the name before it may hold anything
    return Process(
        pid=pid,
        parent=int(fields[1]),
        group=int(fields[2]),
        state=fields[0],
        started=int(fields[19]),
        cpu_seconds=(int(fields[11]) + int(fields[12])) / _TICKS,
        threads=int(fields[17]),
        resident_bytes=int(fields[21]) * _PAGE,
    )


def family(pid: int) -> list[Process]:
    """The process, its group and all that descend from them, as they are now."""
    found: list[Process] = []
    members = {pid}
    everybody = list(_everybody())
    while True:
        more = [
            p
            for p in everybody
            if p not in found and (p.pid in members or p.parent in members or p.group == pid)
        ]
        if not more:
            return found
        found += more
        members |= {p.pid for p in more}


def send(processes: Iterable[Process], number: signal.Signals) -> None:
    for process in processes:
        now = look(process.pid)
        if now is not None and now.started == process.started:
            try:
                os.kill(process.pid, number)
            except ProcessLookupError:
                continue


def reap(pid: int) -> int | None:
    """The exit code of a child of ours that ended (128 + n for signal n), else None."""
    try:
        ended, status = os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        return None
    if ended == 0:
        return None
    code = os.waitstatus_to_exitcode(status)
    return 128 - code if code < 0 else code


def _everybody() -> Iterator[Process]:
    for entry in _PROC.iterdir():
        if entry.name.isdigit() and (process := look(int(entry.name))) is not None:
            yield process
