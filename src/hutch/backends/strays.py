"""Find and end the processes of a container that the engine has forgotten.

When a container fails in the middle of its start, or the process between it and the engine is
killed, ``runsc`` can leave its sandbox process behind, spinning a core, with nothing in the engine
that owns it (seen with release 20240729). An engine that is killed in the middle of a start can
leave that process between, the shim.
"""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Final

_PROC: Final = Path("/proc")
_CONTAINER_ID: Final = re.compile(rb"(?<![0-9a-f])[0-9a-f]{64}(?![0-9a-f])")
_RUNSC: Final = (b"runsc", b"exe")  # it re-executes itself as /proc/self/exe
_SHIM: Final = b"containerd-shim"
_SHIM_ENDS_S: Final = 2.0  # by itself, once its container is gone
_POLL_S: Final = 0.02


def container_processes(*, proc: Path = _PROC) -> dict[str, list[int]]:
    """Container ids that have shims or runsc processes on this machine, whoever's they are, and the
    pids.

    Blocking: reads all of /proc. Sees nothing when the engine is on another machine.
    """
    return _found(proc, shims=True)


def kill_strays(container_id: str, *, proc: Path = _PROC) -> list[int]:
    """Kill every process of this container, which must be gone already; returns their pids.
    Blocking, as above, and for as long as a shim takes that ends by itself.
    """
    killed = _kill(_found(proc, shims=False).get(container_id, ()))
    until = time.monotonic() + _SHIM_ENDS_S
    while left := container_processes(proc=proc).get(container_id):
        if time.monotonic() > until:
            return [*killed, *_kill(left)]
        time.sleep(_POLL_S)
    return killed


def _kill(pids: Iterable[int]) -> list[int]:
    killed = []
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            continue
        killed.append(pid)
    return killed


def _found(proc: Path, *, shims: bool) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for entry in proc.iterdir():
        if entry.name.isdigit():
            for container_id in _containers_of(entry, shims=shims):
                found.setdefault(container_id, []).append(int(entry.name))
    return found


def _containers_of(entry: Path, *, shims: bool) -> set[str]:
    try:
        arguments = (entry / "cmdline").read_bytes().split(b"\0")
    except OSError:  # gone, or not ours to read
        return set()
    program = arguments[0].rpartition(b"/")[2]
    runsc = program.startswith(_RUNSC) and any(b"runsc" in a for a in arguments[:2])
    if not (runsc or (shims and program.startswith(_SHIM))):
        return set()
    # The sandbox process and a shim have the id as an argument, a gofer in the path of its bundle.
    return {found.decode() for a in arguments for found in _CONTAINER_ID.findall(a)}
