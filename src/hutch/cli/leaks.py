"""Search for secrets wherever they could have leaked to. Linux, as root.

Every process of a container is read through the host's ``/proc/PID/mem``. Under gVisor one process
of the host holds the memory of all in the sandbox: agents, their files and the runtime.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Final

_CHUNK: Final = 8 * 1024 * 1024  # bytes read at once
_REGION: Final = re.compile(r"([0-9a-f]+)-([0-9a-f]+) r\S* \S+ \S+ \S+\s*(.*)")
# Not memory: reading them hangs or fails.
_SKIPPED: Final = ("[vvar", "[vsyscall]", "/dev/")


def in_files(folder: Path, secrets: Mapping[str, bytes]) -> list[str]:
    """``secrets`` by name; what was found and where, as "name in place"."""
    found = []
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            content = path.read_bytes()
            found += [f"{name} in {path.name}" for name, text in secrets.items() if text in content]
    return found


def in_process_lists(secrets: Mapping[str, bytes]) -> list[str]:
    """Arguments and environments of every process of this machine."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        for kind in ("cmdline", "environ"):
            with contextlib.suppress(OSError):  # it ended meanwhile
                content = (process / kind).read_bytes()
                found += [
                    f"{name} in {kind} of {process.name}"
                    for name, text in secrets.items()
                    if text in content
                ]
    return found


def in_container(container_id: str, secrets: Mapping[str, bytes]) -> list[str]:
    """The memory of each process that belongs to the engine's container of this id."""
    found: set[str] = set()
    for pid in _processes(container_id):
        for name in _in_memory(pid, secrets):
            found.add(f"{name} in the memory of container {container_id[:12]}")
    return sorted(found)


def _processes(container_id: str) -> Iterator[int]:
    for path in Path("/proc").glob("[0-9]*/cgroup"):
        with contextlib.suppress(OSError):
            if container_id in path.read_text():
                yield int(path.parent.name)


def _in_memory(pid: int, secrets: Mapping[str, bytes]) -> set[str]:
    found: set[str] = set()
    overlap = max((len(text) for text in secrets.values()), default=1) - 1
    try:
        regions = Path(f"/proc/{pid}/maps").read_text().splitlines()
        memory = os.open(f"/proc/{pid}/mem", os.O_RDONLY)
    except OSError:
        return found
    try:
        for line in regions:
            region = _REGION.match(line)
            if region is None or region[3].startswith(_SKIPPED):
                continue
            for content in _read(memory, int(region[1], 16), int(region[2], 16), overlap):
                found |= {name for name, text in secrets.items() if text in content}
    finally:
        os.close(memory)
    return found


def _read(memory: int, start: int, end: int, overlap: int) -> Iterator[bytes]:
    at = start
    while at < end:
        try:
            content = os.pread(memory, min(_CHUNK, end - at), at)
        except (OSError, OverflowError):  # a hole, or a region that has gone
            at += _CHUNK
            continue
        if not content:
            return
        yield content
        at += max(len(content) - overlap, 1) if at + len(content) < end else len(content)


def missing(found: Collection[str], name: str) -> bool:
    """Whether a search overlooked what is known to be there."""
    return not any(place.startswith(f"{name} in ") for place in found)
