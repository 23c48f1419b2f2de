"""Find and end gVisor processes that outlived their container.

When a container fails in the middle of its start, or the process between it and the engine is
killed, ``runsc`` can leave its sandbox process behind, spinning a core, with nothing in the engine
that owns it (seen with release 20240729).
"""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path
from typing import Final

_PROC: Final = Path("/proc")
_CONTAINER_ID: Final = re.compile(rb"(?<![0-9a-f])[0-9a-f]{64}(?![0-9a-f])")
_PROGRAMS: Final = (b"runsc", b"exe")  # runsc re-executes itself as /proc/self/exe


def runsc_processes(*, proc: Path = _PROC) -> dict[str, list[int]]:
    """Container ids that have runsc processes on this machine, whoever's they are, and the pids.

    Blocking: reads all of /proc. Sees nothing when the engine is on another machine.
    """
    found: dict[str, list[int]] = {}
    for entry in proc.iterdir():
        if entry.name.isdigit():
            for container_id in _containers_of(entry):
                found.setdefault(container_id, []).append(int(entry.name))
    return found


def kill_strays(container_id: str, *, proc: Path = _PROC) -> list[int]:
    """Kill every runsc process of this container, which must be gone already; returns their pids.
    Blocking, as above.
    """
    killed = []
    for pid in runsc_processes(proc=proc).get(container_id, []):
        try:
            os.kill(pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            continue
        killed.append(pid)
    return killed


def _containers_of(entry: Path) -> set[str]:
    try:
        arguments = (entry / "cmdline").read_bytes().split(b"\0")
    except OSError:  # gone, or not ours to read
        return set()
    program = arguments[0].rpartition(b"/")[2]
    if not (program.startswith(_PROGRAMS) and any(b"runsc" in a for a in arguments[:2])):
        return set()
    # The sandbox process has the id as an argument, its gofer in the path of its bundle.
    return {found.decode() for a in arguments for found in _CONTAINER_ID.findall(a)}
