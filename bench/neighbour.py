"""``python -m bench.neighbour``: what one user at full tilt costs another.

Two users under gVisor with the real Claude Code. One prompts, again and again, in a session; first
beside a quiet neighbour, then beside one whose container uses all that it may: CPU, memory, disk,
processes, and requests to the gateway. Then beside one that may have no more of this machine's CPU
than it would have of eight cores, for which the limits were chosen. In turns, several times over.
Prints a table and writes ``bench/results/neighbour.json``.
"""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from hutch.config import Settings
from hutch.images.build import build
from tests.service import Service, User, docker, running_service

LOUD: Final = ("loud", "loud_of_eight")
ROUNDS: Final = 3
TURNS: Final = 20  # of a round, beside each kind of neighbour
_PAUSE_S: Final = 0.3
_AT_FULL_TILT_S: Final = 5.0  # until the neighbour has all that it may have
P95_AT_MOST: Final = 1.5
_PERIOD_US: Final = 100_000  # the engine's own
_CORES: Final = 8  # of the server that the default limits are for

# The limits hold it, not this program; but for memory, past which it would end and be quiet.
TILT: Final = r"""
import os, socket, sys, threading, time
gateway = sys.argv[1]
def spin():
    while True: pass
def remember():
    kept = []
    while sum(map(len, kept)) < 200 << 20: kept.append(os.urandom(1 << 20))
    while True:
        for piece in kept: piece.count(b"x")
def write():
    while True:
        try:
            with open(f"/workspace/{os.getpid()}", "wb") as file:
                while True: file.write(bytes(1 << 20))
        except OSError: pass
def fork():
    while True:
        pid = os.fork()
        if not pid: os._exit(0)
        os.waitpid(pid, 0)
def ask():
    while True:
        try:
            with socket.create_connection((gateway, int(sys.argv[2])), timeout=5) as one:
                one.sendall(b"GET /nothing HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
                while one.recv(65536): pass
        except OSError: pass
for work in (spin, spin, remember, write, fork, ask, ask):
    if not os.fork(): work()
time.sleep(600)
"""


def main() -> int:
    console = Console()
    asyncio.run(build(Settings(), say=console.print))
    with (
        tempfile.TemporaryDirectory(prefix="hutch-bench-") as folder,
        running_service(
            Path(folder) / "data", ISOLATION="gvisor", IMAGE=Settings().image
        ) as service,
    ):
        results = {
            "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "machine": {"cores": os.cpu_count(), "load": round(os.getloadavg()[0], 1)},
            **_measure(service),
        }
    console.print(_table(results))
    path = Path(__file__).parent / "results" / "neighbour.json"
    path.write_text(json.dumps(results, indent=2) + "\n")
    console.print(f"written to {path}")
    return 0


def _measure(service: Service) -> dict[str, Any]:
    quiet_user, loud_user = service.make_user(), service.make_user()
    loud_user.run("claude", "hello")
    session = quiet_user.run("claude", "hello")["session_id"]
    for user in (quiet_user, loud_user):  # the other CLIs take seconds of a core
        while any(agent["state"] == "starting" for agent in user.client.container()["agents"]):
            time.sleep(_PAUSE_S)
    beside: dict[str, list[float]] = {"quiet": [], "loud": [], "loud_of_eight": []}
    ceiling = service.settings.cpu_ceiling
    of_eight = ceiling * (os.cpu_count() or 1) / _CORES
    for _ in range(ROUNDS):
        beside["quiet"] += [_turn(quiet_user, session) for _ in range(TURNS)]
        for kind, cpus in (("loud", ceiling), ("loud_of_eight", of_eight)):
            with _at_full_tilt(service, loud_user.container(), cpus=cpus):
                beside[kind] += [_turn(quiet_user, session) for _ in range(TURNS)]
    p50 = {kind: round(statistics.median(took), 1) for kind, took in beside.items()}
    p95 = {kind: round(statistics.quantiles(took, n=20)[18], 1) for kind, took in beside.items()}
    return {
        "turns": ROUNDS * TURNS,
        "p50_ms": p50,
        "p95_ms": p95,
        "cpus": {"loud": ceiling, "loud_of_eight": of_eight},
        "p50_ratio": {kind: round(p50[kind] / p50["quiet"], 2) for kind in LOUD},
        "p95_ratio": {kind: round(p95[kind] / p95["quiet"], 2) for kind in LOUD},
        "p95_at_most": P95_AT_MOST,
    }


def _turn(user: User, session: str) -> float:
    time.sleep(_PAUSE_S)
    began = time.perf_counter()
    run = user.run("claude", "Hi", session_id=session)
    assert run["state"] == "succeeded", run
    return (time.perf_counter() - began) * 1000


def _hold(container: str, cpus: float) -> None:
    """To so much of the CPU, past the engine: runsc has no way to change a running container."""
    pid = docker("inspect", "--format", "{{.State.Pid}}", container).strip()
    quota = round(cpus * _PERIOD_US)
    groups = Path("/sys/fs/cgroup")
    for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if "cpu" in controllers.split(","):
            (groups / "cpu" / path[1:] / "cpu.cfs_quota_us").write_text(str(quota))
            return
        if not controllers and (limit := groups / path[1:] / "cpu.max").exists():
            limit.write_text(f"{quota} {_PERIOD_US}")
            return
    raise AssertionError("its limit of CPU was not found")


@contextmanager
def _at_full_tilt(service: Service, container: str, *, cpus: float) -> Iterator[None]:
    where = (service.address, str(service.settings.gateway_port))
    _hold(container, cpus)
    loud = subprocess.Popen(
        ["docker", "exec", "--user=app", container, "python3", "-c", TILT, *where],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        time.sleep(_AT_FULL_TILT_S)
        assert loud.poll() is None, "the neighbour is quiet"
        yield
    finally:
        quieten = "import os, signal; os.kill(-1, signal.SIGKILL)"  # all of the agents' user
        command = ["docker", "exec", "--user=app", container, "python3", "-c", quieten]
        subprocess.run(command, capture_output=True, check=False, timeout=60)
        loud.kill()
        loud.wait(timeout=10)
        time.sleep(_AT_FULL_TILT_S)


def _table(results: dict[str, Any]) -> Table:
    shown = Table(box=None, pad_edge=False)
    for column in ("a turn, ms", "beside a quiet one", "at full tilt", "ratio", "asked"):
        shown.add_column(column, justify="right")
    for kind in LOUD:
        for name, asked in (("p50", ""), ("p95", f"≤ {P95_AT_MOST:g}")):
            took, ratio = results[f"{name}_ms"], results[f"{name}_ratio"][kind]
            label = f"{name}, with {results['cpus'][kind]:g} CPU of {results['machine']['cores']}"
            shown.add_row(label, f"{took['quiet']:g}", f"{took[kind]:g}", f"{ratio:g}", asked)
    return shown


if __name__ == "__main__":
    sys.exit(main())
