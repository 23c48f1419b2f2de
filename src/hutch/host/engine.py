"""The container engine: does it answer, start it, tell it of another runtime."""

from __future__ import annotations

import asyncio
import contextlib
import getpass
import json
import os
import shutil
import signal
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, Final

import aiodocker
import aiohttp

from hutch.config import Settings
from hutch.errors import HostNotReady
from hutch.host import packages
from hutch.host.findings import Finding
from hutch.programs import run

DAEMON_JSON: Final = Path("/etc/docker/daemon.json")
RESTARTS: Final = "restarts"
INSTALL_DOCS: Final = "https://docs.docker.com/engine/install/"
_SOCKETS: Final = ("unix:///var/run/docker.sock", "unix:///run/docker.sock")
_PID_FILE: Final = Path("/var/run/docker.pid")
_DENIED: Final = "this user may not use it"
_ANSWER_S: Final = 10.0
_START_S: Final = 60.0
_RELOAD_S: Final = 15.0
_POLL_S: Final = 0.2


@contextlib.asynccontextmanager
async def connect(settings: Settings) -> AsyncIterator[aiodocker.Docker]:
    docker = aiodocker.Docker(url=settings.docker_host)
    try:
        yield docker
    finally:
        await docker.close()


async def answers(settings: Settings) -> str:
    """Empty if it does, else what is wrong."""
    try:
        async with connect(settings) as docker, asyncio.timeout(_ANSWER_S):
            await docker.version()
    except (aiodocker.exceptions.DockerError, aiohttp.ClientError, OSError, TimeoutError):
        socket = Path(settings.docker_host.removeprefix("unix://"))
        denied = socket.is_socket() and not os.access(socket, os.R_OK | os.W_OK)
        return _DENIED if denied else "it does not answer"
    return ""


async def check(settings: Settings) -> Finding:
    wrong = await answers(settings)
    if not wrong:
        return Finding("docker", ok=True, detail=f"answers at {settings.docker_host}")
    if settings.docker_host not in _SOCKETS:
        detail = f"{wrong} at {settings.docker_host}"
        return Finding("docker", False, detail, remedy=("unset HUTCH_DOCKER_HOST",))
    if wrong == _DENIED:
        remedy = f"sudo usermod -aG docker {getpass.getuser()}  # then log in again"
        return Finding("docker", False, wrong, remedy=(remedy,))
    if packages.which("dockerd") is None:
        install = packages.install_command(packages.ENGINE)
        remedies = (*install, _start_command()) if install else (f"see {INSTALL_DOCS}",)
        return Finding("docker", False, "not installed", remedy=remedies, packages=packages.ENGINE)
    return Finding("docker", False, wrong, remedy=(_start_command(),))


def has_systemd() -> bool:
    return Path("/run/systemd/system").is_dir()


def _start_command() -> str:
    return packages.as_root("systemctl enable --now docker" if has_systemd() else "dockerd &")


async def start(settings: Settings, say: Callable[[str], None]) -> None:
    """As root. It belongs to the machine from then on: `hutch down` leaves it running."""
    if settings.docker_host not in _SOCKETS:
        raise HostNotReady(
            f"The container engine at {settings.docker_host} does not answer.",
            hint="Start it, or unset HUTCH_DOCKER_HOST to use this machine's own.",
        )
    say("starting the container engine …")
    process = None
    where = "`journalctl -u docker` says why."
    if has_systemd():
        await run(("systemctl", "enable", "--now", "docker"), cwd=Path("/"), hint=where)
    else:
        log = settings.logs_dir / "dockerd.log"
        where = f"Its log says why: {log}"
        await _mount_cgroups()
        process = _start_detached(log)
    try:
        async with asyncio.timeout(_START_S):
            while await answers(settings):
                if process is not None and process.poll() is not None:
                    raise HostNotReady("The container engine ended at its start.", hint=where)
                await asyncio.sleep(_POLL_S)
    except TimeoutError:
        raise HostNotReady(
            f"The container engine did not start within {_START_S:.0f} seconds.", hint=where
        ) from None


def has_cgroups() -> bool:
    types = {line.split()[2] for line in Path("/proc/mounts").read_text().splitlines()}
    return not types.isdisjoint({"cgroup", "cgroup2"})


async def _mount_cgroups() -> None:
    """Systemd's work, where there is none: without cgroups the engine does not start."""
    program = packages.which("cgroupfs-mount")
    if program and not has_cgroups():
        await run((program,), cwd=Path("/"), hint="The engine needs the kernel's cgroups.")


def _start_detached(log: Path) -> subprocess.Popen[bytes]:
    dockerd = packages.which("dockerd")
    if dockerd is None:
        raise HostNotReady("There is no `dockerd`.", hint=f"Install Docker: {INSTALL_DOCS}")
    if _PID_FILE.exists() and _pid() is None:
        _PID_FILE.unlink()  # of a boot before: dockerd takes any program of that number for itself
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        return subprocess.Popen(
            [dockerd],
            env={**os.environ, "PATH": packages.search_path()},
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )


def _pid() -> int | None:
    try:
        pid = int(_PID_FILE.read_text())
        name = Path(f"/proc/{pid}/comm").read_text().strip()
    except (OSError, ValueError):
        return None
    return pid if name == "dockerd" else None


def with_runtime(text: str, name: str, runtime: dict[str, Any] | None) -> str:
    """``daemon.json`` with this runtime, or without it; everything else as it was.

    Raises ``HostNotReady`` for a file that is not a JSON object.
    """
    settings = _parsed(text)
    runtimes = {key: value for key, value in settings.get("runtimes", {}).items() if key != name}
    if runtime is not None:
        runtimes[name] = runtime
    rest = {key: value for key, value in settings.items() if key != "runtimes"}
    return _as_text({**rest, "runtimes": runtimes} if runtimes else rest)


def with_live_restore(text: str) -> str:
    """The same for containers that outlive the engine."""
    return _as_text({**_parsed(text), "live-restore": True})


def _parsed(text: str) -> dict[str, Any]:
    try:
        settings = json.loads(text) if text.strip() else {}
    except ValueError:
        settings = None
    if not isinstance(settings, dict) or not isinstance(settings.get("runtimes", {}), dict):
        raise HostNotReady(
            f"{DAEMON_JSON} is not what the engine expects.", hint="Mend it, then try again."
        )
    return settings


def _as_text(settings: dict[str, Any]) -> str:
    return json.dumps(settings, indent=2) + "\n"


def keep_copy() -> None:
    """Of the settings as they were before Hutch first changed them."""
    copy = DAEMON_JSON.with_suffix(".json.before-hutch")
    if DAEMON_JSON.exists() and not copy.exists():
        shutil.copy2(DAEMON_JSON, copy)


async def register(settings: Settings, name: str, runtime: dict[str, Any] | None) -> None:
    """Write a runtime down, or strike it out, and have the engine read that: no container notices.

    Raises ``HostNotReady``, with the file as it was before, when the engine does not take it.
    """

    async def taken() -> bool:
        return _is(runtime, (await runtimes(settings)).get(name))

    await _change(lambda text: with_runtime(text, name, runtime), taken)


async def keep_containers(settings: Settings) -> None:
    """Have containers outlive the engine, by the same way. Raises ``HostNotReady``."""

    async def taken() -> bool:
        return bool((await _description(settings)).get("LiveRestoreEnabled"))

    await _change(with_live_restore, taken)


async def _change(change: Callable[[str], str], taken: Callable[[], Awaitable[bool]]) -> None:
    before = DAEMON_JSON.read_text() if DAEMON_JSON.exists() else None
    _write(change(before or ""))
    try:
        await _reload()
        async with asyncio.timeout(_RELOAD_S):
            while not await taken():
                await asyncio.sleep(_POLL_S)
    except (HostNotReady, TimeoutError):
        if before is None:
            DAEMON_JSON.unlink()
        else:
            _write(before)
        raise HostNotReady(
            f"The container engine did not read {DAEMON_JSON} again.",
            hint="Is it configured elsewhere, or on another machine? Change it there.",
        ) from None


def _write(text: str) -> None:
    """In one step, so that the engine never reads half a file."""
    DAEMON_JSON.parent.mkdir(parents=True, exist_ok=True)
    draft = DAEMON_JSON.with_suffix(".json.draft")
    draft.write_text(text)
    if DAEMON_JSON.exists():
        shutil.copymode(DAEMON_JSON, draft)
    draft.replace(DAEMON_JSON)


async def _reload() -> None:
    """Never a restart, which would end every container of the machine."""
    pid = _pid()
    if pid is not None:
        os.kill(pid, signal.SIGHUP)
    elif has_systemd():
        await run(("systemctl", "reload", "docker"), cwd=Path("/"), hint="")


def _is(wanted: dict[str, Any] | None, registered: dict[str, Any] | None) -> bool:
    if wanted is None or registered is None:
        return wanted is registered
    return all(registered.get(key) == value for key, value in wanted.items())


async def runtimes(settings: Settings) -> dict[str, Any]:
    """Name → ``{path, runtimeArgs?}``, as the engine has them now."""
    return dict((await _description(settings)).get("Runtimes") or {})


async def check_restarts(settings: Settings) -> Finding:
    """Whether containers outlive the engine's own end. Needs an engine that answers."""
    description = await _description(settings)
    if description.get("LiveRestoreEnabled"):
        return Finding(RESTARTS, ok=True, detail="containers outlive the engine")
    detail = "a restart or crash of the engine ends every container, and the runs in them"
    if (description.get("Swarm") or {}).get("LocalNodeState", "inactive") != "inactive":
        return Finding(RESTARTS, True, f"{detail}: a node of a swarm cannot have it otherwise")
    write = f'add "live-restore": true to {DAEMON_JSON}'
    reload = "systemctl reload docker" if has_systemd() else "kill -HUP $(pidof dockerd)"
    return Finding(RESTARTS, False, detail, needed=False, remedy=(write, packages.as_root(reload)))


async def _description(settings: Settings) -> dict[str, Any]:
    async with connect(settings) as docker:
        return dict(await docker.system.info())
