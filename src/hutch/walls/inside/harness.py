"""Run attacks one after the other, each in a process of its own and for a few seconds at most."""

from __future__ import annotations

import ctypes
import errno
import json
import os
import select
import signal
import struct
import sys
import time
from collections.abc import Callable
from typing import Any, Final

LIMIT_S: Final = 8.0
_AT_ONCE: Final = 12  # most of them wait for an answer that does not come
_AGENT_WITHIN_S: Final = 30.0
_DROP_FROM_BOUNDING_SET: Final = 24  # linux/prctl.h
_CAPABILITY_VERSION_3: Final = 0x20080522
_SAID_MAX: Final = 4000  # bytes of one attempt
_DETAIL_MAX: Final = 300


def run(attempts: dict[str, Callable[[], str]]) -> None:
    """One line of JSON for each, as soon as it has ended; several wait at the same time."""
    waiting, running = list(attempts.items()), list[_Running]()
    while waiting or running:
        while waiting and len(running) < _AT_ONCE:
            running.append(_Running(*waiting.pop(0)))
        left = max(0.0, min(one.until for one in running) - time.monotonic())
        ready = select.select([one.reading for one in running], [], [], left)[0]
        for one in list(running):
            if (one.reading in ready and one.read()) or one.until <= time.monotonic():
                running.remove(one)
                print(json.dumps({"name": one.name, **one.end()}), flush=True)  # noqa: T201  how it is told


class _Running:
    """An attempt in a process, and a group of processes, of its own."""

    def __init__(self, name: str, attempt: Callable[[], str]) -> None:
        self.name = name
        self.until = time.monotonic() + LIMIT_S
        self._said = b""
        self.reading, writing = os.pipe()
        sys.stdout.flush()
        self._pid = os.fork()
        if self._pid == 0:
            os.setpgid(0, 0)
            os.write(writing, json.dumps(_outcome(attempt)).encode()[:_SAID_MAX])
            os._exit(0)
        os.close(writing)

    def read(self) -> bool:
        """Whether that was all."""
        piece = os.read(self.reading, _SAID_MAX)
        self._said += piece
        return not piece or self._said.endswith(b"}")

    def end(self) -> dict[str, str]:
        os.close(self.reading)
        try:
            os.killpg(self._pid, signal.SIGKILL)  # with what it has started
        except OSError:
            pass
        _, status = os.waitpid(self._pid, 0)
        if self._said:
            said: dict[str, str] = json.loads(self._said)
            return said
        if time.monotonic() >= self.until:
            return {"outcome": "hung", "detail": ""}
        ended = signal.Signals(os.WTERMSIG(status)).name if os.WIFSIGNALED(status) else "silent"
        return {"outcome": ended, "detail": ""}


def _outcome(attempt: Callable[[], str]) -> dict[str, str]:
    try:
        return {"outcome": "done", "detail": attempt()[:_DETAIL_MAX]}
    except OSError as error:
        known = errno.errorcode.get(error.errno or 0, "unknown")
        name = "timeout" if isinstance(error, TimeoutError) else known
        return {"outcome": name, "detail": str(error)[:_DETAIL_MAX]}
    except BaseException as error:  # noqa: BLE001  whatever it is, it is told and is no refusal
        return {"outcome": "broken", "detail": f"{type(error).__name__}: {error}"[:_DETAIL_MAX]}


def become(agent: dict[str, str]) -> None:
    """The engine starts a program as the container's first user, which may be root with the rights
    by which the runtime starts agents. Raises ``OSError`` where it has them and cannot drop them.
    """
    if os.getuid() != 0:
        return
    libc = ctypes.CDLL(None, use_errno=True)
    for capability in range(64):  # past the last one the kernel knows it refuses, and has none
        libc.prctl(_DROP_FROM_BOUNDING_SET, ctypes.c_ulong(capability), 0, 0, 0)
    uid, gid = (int(agent[name].split()[0]) for name in ("Uid", "Gid"))
    os.setgroups([int(group) for group in agent.get("Groups", "").split()])
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)  # with it go all capabilities but inheritable ones
    header = ctypes.create_string_buffer(struct.pack("Ii", _CAPABILITY_VERSION_3, 0), 8)
    libc.capset(header, ctypes.create_string_buffer(24))


def facts() -> dict[str, Any]:
    """Become an agent; who this process then is to the kernel, and who the agents are."""
    until, agents = time.monotonic() + _AGENT_WITHIN_S, list[dict[str, str]]()
    while not agents and time.monotonic() < until:
        found = [pid for pid in os.listdir("/proc") if pid.isdigit() and _is_agent(pid)]
        agents = [status for pid in found[:8] if (status := _status(pid))]  # not of one that ended
        time.sleep(0.1)
    if agents:
        become(agents[0])
    return {"self": _status("self"), "agents": agents}


def _is_agent(pid: str) -> bool:
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            words = file.read().split(b"\0")
    except OSError:
        return False
    return b"app-server" in words or b"--acp" in words or b"stream-json" in words


def _status(pid: str) -> dict[str, str]:
    kept = ("Uid", "Gid", "Groups", "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")
    more = ("NoNewPrivs", "Seccomp")  # gVisor has no such lines
    try:
        with open(f"/proc/{pid}/status", encoding="utf-8", errors="replace") as file:
            fields = dict(line.split(":", 1) for line in file if ":" in line)
    except OSError:
        return {}
    return {name: " ".join(fields[name].split()) for name in kept + more if name in fields}
