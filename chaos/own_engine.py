"""A container engine of the storm's own, so that it may be killed without harm to the machine's.

It shares nothing with the machine's: data, state, containerd, socket. It sets no firewall rule,
since both engines would take the same chains for theirs; so what a sandbox may reach is not part of
this, and the tests of the walls run on the machine's engine. It has a bridge of its own, which the
machine's engine makes for it: one that is told to have none removes the machine's `docker0`.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from hutch.host import packages

# One of these that nothing on the machine has a route to: a bridge that a storm left behind, when
# it was killed itself, would take the packets of this one's sandboxes.
_SUBNETS: Final = tuple(f"10.{n}.0.0/16" for n in range(213, 254))
# Not in the file: the engine knows the setting there by another name than its own check does.
_PLUGINS: Final = ("--containerd-plugins-namespace", "hutch-chaos-plugins")
_START_S: Final = 90
_POLL_S: Final = 0.1
_MACHINES: Final = ("docker", "-H", "unix:///var/run/docker.sock")


class OwnEngine:
    def __init__(self, directory: Path, *, live_restore: bool) -> None:
        self._directory = directory
        self._live_restore = live_restore
        self._process: subprocess.Popen[bytes] | None = None
        self._bridge = f"hutch-own-{secrets.token_hex(2)}"  # an interface's name has 15 characters
        self.subnet = _free_subnet()  # for the service's own network

    @property
    def host(self) -> str:
        return f"unix://{self._directory / 'docker.sock'}"

    @property
    def settings_file(self) -> Path:
        return self._directory / "daemon.json"

    @property
    def pid_file(self) -> Path:
        return self._directory / "docker.pid"

    def start(self) -> None:
        """With the settings of its first start; returns once it answers."""
        self._directory.mkdir(parents=True, exist_ok=True)
        self.pid_file.unlink(missing_ok=True)
        if not self.settings_file.exists():
            option = f"com.docker.network.bridge.name={self._bridge}"
            _machines_docker("network", "create", "--opt", option, self._bridge)
            self.settings_file.write_text(json.dumps(self._configuration()))
        with (self._directory / "dockerd.log").open("ab") as log:
            self._process = subprocess.Popen(
                [_dockerd(), "--config-file", str(self.settings_file), *_PLUGINS],
                env={**os.environ, "PATH": packages.search_path()},
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        until = time.monotonic() + _START_S
        while not self.answers():
            assert self._process.poll() is None, self._log_end()
            assert time.monotonic() < until, self._log_end()
            time.sleep(_POLL_S)

    def kill(self) -> None:
        """Its containerd goes with it; the shims of containers stay, as after a real crash."""
        assert self._process is not None
        self._process.kill()
        self._process.wait(timeout=10)
        record = self._directory / "exec" / "containerd" / "containerd.pid"
        self._end([int(record.read_text())])
        # Dead, but a number until it is reaped: the next engine would wait for it in vain.
        record.unlink(missing_ok=True)

    def stop(self) -> None:
        """And whatever is left of its containers and mounts."""
        assert self._process is not None
        self._process.terminate()
        try:
            self._process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(timeout=10)
        self._end(self._processes())
        mounts = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
        for mount in reversed([m for m in mounts if Path(m).is_relative_to(self._directory)]):
            subprocess.run(["umount", "--lazy", mount], check=False, timeout=30)
        _machines_docker("network", "rm", self._bridge)

    @contextlib.contextmanager
    def stalled(self) -> Iterator[None]:
        """It takes connections, and answers none."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._process.send_signal(signal.SIGCONT)

    def answers(self) -> bool:
        return self.docker("version", "--format", "{{.Server.Version}}").returncode == 0

    def load(self, image: str) -> None:
        """From the machine's engine; a gigabyte takes half a minute."""
        with subprocess.Popen([*_MACHINES, "save", image], stdout=subprocess.PIPE) as saving:
            subprocess.run(
                ["docker", "-H", self.host, "load", "-q"],
                stdin=saving.stdout,
                check=True,
                stdout=subprocess.DEVNULL,
                timeout=600,
            )
        assert saving.returncode == 0, f"docker save {image}"

    def _processes(self) -> list[int]:
        """Those that were started with a path of this engine's."""
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):  # it ended meanwhile
                if f"{self._directory}/".encode() in (entry / "cmdline").read_bytes():
                    found.append(int(entry.name))
        return found

    @staticmethod
    def _end(pids: list[int]) -> None:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def docker(self, *arguments: str) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            ["docker", "-H", self.host, *arguments], capture_output=True, check=False, timeout=60
        )

    def _configuration(self) -> dict[str, object]:
        return {
            "hosts": [self.host],
            "data-root": str(self._directory / "data"),
            "exec-root": str(self._directory / "exec"),
            "pidfile": str(self.pid_file),
            "containerd-namespace": "hutch-chaos",
            "bridge": self._bridge,
            "iptables": False,
            "ip6tables": False,
            "live-restore": self._live_restore,
            "runtimes": _runtimes(),
        }

    def _log_end(self) -> str:
        return (self._directory / "dockerd.log").read_text()[-3000:]


def _dockerd() -> str:
    found = packages.which("dockerd")
    assert found is not None, "there is no `dockerd`"
    return found


def _runtimes() -> object:
    """As the machine's engine has them."""
    known = json.loads(_machines_docker("info", "--format", "{{json .Runtimes}}"))
    return {name: known[name] for name in ("runsc",) if name in known}


def _free_subnet() -> str:
    routes = subprocess.run(
        ["ip", "-json", "route", "show"], capture_output=True, check=True, timeout=10
    ).stdout
    taken = {route["dst"] for route in json.loads(routes)}
    free = [subnet for subnet in _SUBNETS if subnet not in taken]
    assert free, "bridges of earlier storms have every subnet: see `ip route`"
    return free[0]


def _machines_docker(*arguments: str) -> bytes:
    return subprocess.run(
        [*_MACHINES, *arguments], capture_output=True, check=True, timeout=60
    ).stdout
