"""End gVisor processes that outlived their container.

When a container fails in the middle of its start, ``runsc`` can leave its sandbox process behind,
spinning a core, with nothing in the engine that owns it (seen with release 20240729).
"""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Final

_MIN_ID: Final = 12  # of a container id's 64 digits; a shorter one could match by chance
_PROGRAMS: Final = (b"runsc", b"exe")  # runsc re-executes itself as /proc/self/exe


def kill_strays(container_id: str, *, proc: Path = Path("/proc")) -> list[int]:
    """Kill every runsc process of this container, which must be gone already; returns their pids.

    Blocking: reads all of /proc. Sees nothing when the engine is on another machine.
    """
    if len(container_id) < _MIN_ID:
        return []
    killed = []
    for entry in proc.iterdir():
        if entry.name.isdigit() and _belongs(entry, container_id.encode()):
            try:
                os.kill(int(entry.name), signal.SIGKILL)
            except (ProcessLookupError, PermissionError):
                continue
            killed.append(int(entry.name))
    return killed


def _belongs(entry: Path, container_id: bytes) -> bool:
    try:
        arguments = (entry / "cmdline").read_bytes().split(b"\0")
    except OSError:  # gone, or not ours to read
        return False
    program = arguments[0].rpartition(b"/")[2]
    named = program.startswith(_PROGRAMS) and any(b"runsc" in a for a in arguments[:2])
    # The sandbox process has the id as an argument, its gofer in the path of its bundle.
    return named and any(container_id in argument for argument in arguments)
