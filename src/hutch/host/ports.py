"""Is a port free, or held by a program that `hutch up` started?"""

from __future__ import annotations

import errno
import json
import socket
from pathlib import Path
from typing import Final

from hutch.config import Settings
from hutch.host.findings import Finding

_LISTENING: Final = "0A"  # in /proc/net/tcp, the kernel's include/net/tcp_states.h
_LAST: Final = 65535


def check(settings: Settings) -> list[Finding]:
    return [
        _port(settings, settings.host, settings.port, "api", "HUTCH_PORT"),
        _port(
            settings,
            "127.0.0.1",
            settings.offline_model_port,
            "offline-model",
            "HUTCH_OFFLINE_MODEL_PORT",
        ),
    ]


def _port(settings: Settings, host: str, port: int, program: str, variable: str) -> Finding:
    name = f"port {port}"
    if _is_free(host, port):
        return Finding(name, ok=True, detail="free")
    if _is_ours(settings.data_dir / "running" / f"{program}.json", port):
        return Finding(name, ok=True, detail=f"held by our {program}")
    other = port + 10_000 if port + 10_000 <= _LAST else port - 10_000
    return Finding(
        name, ok=False, detail="held by another program", remedy=(f"{variable}={other} make up",)
    )


def _is_free(host: str, port: int) -> bool:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            return error.errno != errno.EADDRINUSE
    return True


def _is_ours(record: Path, port: int) -> bool:
    """The program of the record is the very one that listens there."""
    try:
        pid = int(json.loads(record.read_text())["pid"])
        descriptors = list(Path(f"/proc/{pid}/fd").iterdir())
    except (OSError, ValueError, TypeError, KeyError):
        return False
    return not _listeners(port).isdisjoint(map(_target, descriptors))


def _target(descriptor: Path) -> str:
    try:
        return str(descriptor.readlink())
    except OSError:  # closed meanwhile
        return ""


def _listeners(port: int) -> set[str]:
    found = set()
    for table in (Path("/proc/net/tcp"), Path("/proc/net/tcp6")):
        for line in table.read_text().splitlines()[1:] if table.exists() else ():
            fields = line.split()
            if fields[3] == _LISTENING and int(fields[1].rpartition(":")[2], 16) == port:
                found.add(f"socket:[{fields[9]}]")
    return found
