"""Whether the kernel has ended processes of this sandbox because it ran out of memory."""

from __future__ import annotations

from pathlib import Path
from typing import Final

# Of the container's own cgroup, as it sees it: version 2, version 1. gVisor shows neither, and ends
# the whole sandbox instead.
_COUNTERS: Final = (
    Path("/sys/fs/cgroup/memory.events"),
    Path("/sys/fs/cgroup/memory/memory.oom_control"),
)


def oom_kills(counters: tuple[Path, ...] = _COUNTERS) -> int:
    """How many so far; 0 where that cannot be told."""
    for path in counters:
        try:
            lines = path.read_text().splitlines()
        except OSError:
            continue
        for line in lines:
            name, _, count = line.partition(" ")
            if name == "oom_kill" and count.isdigit():
                return int(count)
    return 0
