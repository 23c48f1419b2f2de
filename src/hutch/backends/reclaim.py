"""Push the memory of a frozen container out to swap, by writing its cgroup's files.

The engine has no call for it. Works as root, on a host with swap (a zram device or a file), with
either version of cgroups; elsewhere it does nothing. Where the numbers come from:
docs/decisions/0019.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Final

_CGROUPS: Final = Path("/sys/fs/cgroup")
_EAGER: Final = "100"  # swappiness: gVisor's memory is shared memory, which nothing else moves


def reclaim(pid: int) -> int:
    """Of the container whose first process this is. Returns how many bytes went; takes about a
    second for 200 MB.
    """
    if not _has_swap():
        return 0
    group = _group(pid)
    if group is None:
        return 0
    with contextlib.suppress(OSError):  # not root, or the container has just ended
        return _version_2(group) if (group / "memory.reclaim").exists() else _version_1(group)
    return 0


def _has_swap() -> bool:
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("SwapTotal:"):
            return int(line.split()[1]) > 0
    return False


def _group(pid: int) -> Path | None:
    """The directory with the memory controller's files."""
    try:
        lines = Path(f"/proc/{pid}/cgroup").read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if "memory" in controllers.split(","):
            return _CGROUPS / "memory" / path.lstrip("/")
    for line in lines:
        if line.startswith("0::"):
            return _CGROUPS / line[3:].lstrip("/")
    return None


def _version_1(group: Path) -> int:
    before = _number(group / "memory.usage_in_bytes")
    (group / "memory.swappiness").write_text(_EAGER)
    limit = _number(group / "memory.limit_in_bytes")
    with contextlib.suppress(OSError):  # a kernel without swap accounting has no such limit
        (group / "memory.memsw.limit_in_bytes").write_text(str(2 * limit))
    with contextlib.suppress(OSError):  # busy: some pages could not go
        (group / "memory.force_empty").write_text("0")
    return max(0, before - _number(group / "memory.usage_in_bytes"))


def _version_2(group: Path) -> int:
    before = _number(group / "memory.current")
    limit = (group / "memory.max").read_text().strip()
    with contextlib.suppress(OSError):
        (group / "memory.swap.max").write_text(limit)
    with contextlib.suppress(OSError):  # not all of it could go
        (group / "memory.reclaim").write_text(f"{before} swappiness={_EAGER}")
    return max(0, before - _number(group / "memory.current"))


def _number(file: Path) -> int:
    return int(file.read_text())
