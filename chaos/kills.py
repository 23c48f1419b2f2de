"""The schedule of kills, and how each victim is killed and comes back."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psycopg

from chaos.evidence import Kill, sandbox_processes
from chaos.own_engine import OwnEngine
from hutch.backends.base import LABEL_INSTANCE
from hutch.store.open import parse
from tests.integration.driving import AGENTS, KILL
from tests.postgres import Server
from tests.service import Part, Service, docker

# How often each is drawn. A container costs its user seconds, so it comes less often.
WEIGHTS: Final[dict[str, int]] = {
    "api": 6,
    "gateway": 4,
    "model": 3,  # the connections to it, and it
    "agent": 6,
    "runtime": 2,
    "container": 3,
    "container_removed": 1,  # as by an operator's `docker rm -f`
    "sandbox_process": 2,  # gVisor's own kernel
    "shim": 1,  # what stands between the engine and gVisor
    "api_and_container": 2,  # the container ends while nobody looks
    "engine": 2,
    "engine_stalled": 1,
    "database_connections": 3,  # all that the service has
    "database_crash": 1,  # PostgreSQL recovers from its log, and refuses connections meanwhile
}
ENGINES: Final[frozenset[str]] = frozenset({"engine", "engine_stalled"})
DATABASES: Final[frozenset[str]] = frozenset({"database_connections", "database_crash"})
PROCESSES: Final[frozenset[str]] = frozenset({"api", "gateway", "model"})
_DEAD_S: Final = 3.0  # the longest that a process stays dead
_STALL_S: Final = 8.0
_RUNTIME = "hutch_runtime"


@dataclass(frozen=True, slots=True)
class Planned:
    after_s: float  # since the kill before
    victim: str
    dead_s: float
    pick: float  # 0 to 1: which of them


def schedule(seed: int, kills: int, *, mean_s: float, spared: Collection[str]) -> Iterator[Planned]:
    """The same for the same seed. ``spared``: victims that are not our own to kill."""
    draw = random.Random(seed)  # noqa: S311  a schedule, not a secret
    weights = {name: weight for name, weight in WEIGHTS.items() if name not in spared}
    for _ in range(kills):
        yield Planned(
            after_s=min(draw.expovariate(1 / mean_s), 4 * mean_s),
            victim=draw.choices(list(weights), list(weights.values()))[0],
            dead_s=draw.uniform(0, _DEAD_S),
            pick=draw.random(),
        )


class Killer:
    """Blocking; meant for a thread of its own."""

    def __init__(self, service: Service, engine: OwnEngine | None, server: Server | None) -> None:
        self._service = service
        self._engine = engine
        self._server = server
        self.kills: list[Kill] = []

    def carry_out(self, planned: Planned) -> None:
        match planned.victim:
            case "api" | "gateway" | "model" as part:
                self._process(part, planned)
            case "api_and_container":
                self._service.kill("api")
                self._note("api")
                try:
                    self._container(planned, lambda name: docker("kill", name, check=False))
                    time.sleep(planned.dead_s)
                finally:
                    self._service.launch("api")
            case "container":
                self._container(planned, lambda name: docker("kill", name, check=False))
            case "container_removed":
                self._container(planned, lambda name: docker("rm", "-f", name, check=False))
            case "agent":
                wanted = list(AGENTS.values())[int(planned.pick * 997) % len(AGENTS)]
                self._container(planned, lambda name: _kill_inside(name, wanted))
            case "runtime":
                self._container(planned, lambda name: _kill_inside(name, _RUNTIME))
            case "sandbox_process" | "shim" as kind:
                self._container(planned, lambda name: self._kill_outside(name, kind))
            case "engine":
                assert self._engine is not None
                self._note("engine")
                self._engine.kill()
                time.sleep(planned.dead_s)
                self._engine.start()
            case "engine_stalled":
                assert self._engine is not None
                self._note("engine_stalled")
                with self._engine.stalled():
                    time.sleep(_STALL_S)

            case "database_connections" | "database_crash" as kind:
                self._database(kind)

    def restart_ended(self) -> None:
        """As a service manager does it: an API that starts while the engine is dead ends."""
        for part in self._service.ended():
            self._service.launch(part)

    def _database(self, kind: str) -> None:
        assert self._server is not None
        name = parse(self._service.settings.database).database
        ours = f"FROM pg_stat_activity WHERE datname = '{name}'"
        self._note(kind)
        with contextlib.suppress(psycopg.OperationalError):  # it recovers from the last kill still
            if kind == "database_connections":
                self._server.do(f"SELECT pg_terminate_backend(pid) {ours}")
            elif found := self._server.do(f"SELECT pid {ours} LIMIT 1"):
                self._server.kill_backend(found[0][0])

    def _process(self, part: Part, planned: Planned) -> None:
        self._service.kill(part)
        self._note(part)
        time.sleep(planned.dead_s)
        self._service.launch(part)

    def _container(self, planned: Planned, kill: Callable[[str], object]) -> None:
        with contextlib.suppress(subprocess.TimeoutExpired):  # the engine hangs; go on killing
            names = sorted(self._names())
            if names:
                name = names[int(planned.pick * len(names))]
                self._note(planned.victim, name)
                kill(name)

    def _names(self) -> list[str]:
        label = f"label={LABEL_INSTANCE}={self._service.settings.instance}"
        listed = docker("ps", "--filter", label, "--format", "{{.Names}}", check=False)
        return listed.split()

    def _kill_outside(self, name: str, kind: str) -> None:
        handle = docker("inspect", "--format", "{{.Id}}", name, check=False).strip()
        wanted = b"containerd-shim" if kind == "shim" else b"runsc-sandbox"
        for pid in sandbox_processes({handle}).get(handle, []):
            with contextlib.suppress(OSError):
                if wanted in (Path("/proc") / str(pid) / "cmdline").read_bytes():
                    os.kill(pid, signal.SIGKILL)

    def _note(self, victim: str, detail: str = "") -> None:
        self.kills.append(Kill(time.time(), victim, detail))


def _kill_inside(name: str, wanted: str) -> None:
    docker("exec", "-i", name, "python3", "-c", KILL, stdin=f'"{wanted}"', check=False)
