"""The container engine: is it there, start it, tell it of another runtime."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import aiodocker
import aiohttp

from hutch.config import Settings
from hutch.errors import HostNotReady
from hutch.programs import run

DAEMON_JSON: Final = Path("/etc/docker/daemon.json")
_PID_FILES: Final = (Path("/var/run/docker.pid"), Path("/run/docker.pid"))
_START_S: Final = 40.0
_RELOAD_S: Final = 10.0
_POLL_S: Final = 0.2


async def answers(settings: Settings) -> str:
    """Empty if it does, else what is wrong."""
    docker = aiodocker.Docker(url=settings.docker_host)
    try:
        async with asyncio.timeout(5):
            await docker.version()
    except PermissionError:
        return "you may not use it"
    except (aiodocker.exceptions.DockerError, aiohttp.ClientError, OSError, TimeoutError) as error:
        cause = error.__cause__ or error.__context__
        denied = isinstance(cause, PermissionError) or "Permission denied" in str(error)
        return "you may not use it" if denied else "it does not answer"
    finally:
        await docker.close()
    return ""


def has_systemd() -> bool:
    return Path("/run/systemd/system").is_dir()


def start_command() -> str:
    return "sudo systemctl enable --now docker" if has_systemd() else "sudo dockerd &"


async def start(settings: Settings, say: Callable[[str], None]) -> None:
    """As root. It belongs to the machine from then on: `hutch down` leaves it running."""
    say("starting the container engine …")
    log = settings.logs_dir / "dockerd.log"
    if has_systemd():
        argv = ("systemctl", "enable", "--now", "docker")
        await run(argv, cwd=Path("/"), hint="`journalctl -u docker` says why.")
        log = Path("the output of `journalctl -u docker`")
    else:
        _start_detached(log)
    try:
        async with asyncio.timeout(_START_S):
            while await answers(settings):
                await asyncio.sleep(_POLL_S)
    except TimeoutError:
        raise HostNotReady(
            f"The container engine did not start within {_START_S:.0f} seconds.",
            hint=f"Its log says why: {log}",
        ) from None


def _start_detached(log: Path) -> None:
    dockerd = shutil.which("dockerd")
    if dockerd is None:
        raise HostNotReady("There is no `dockerd`.", hint="Install the package docker.io.")
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        subprocess.Popen(
            [dockerd],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )


def with_runtime(text: str, name: str, runtime: dict[str, Any] | None) -> str:
    """``daemon.json`` with this runtime, or without it; everything else as it was.

    Raises ``HostNotReady`` for a file that is not a JSON object.
    """
    try:
        settings = json.loads(text) if text.strip() else {}
    except ValueError:
        settings = None
    if not isinstance(settings, dict) or not isinstance(settings.get("runtimes", {}), dict):
        raise HostNotReady(
            f"{DAEMON_JSON} is not what the engine expects.", hint="Mend it, then try again."
        )
    runtimes = {key: value for key, value in settings.get("runtimes", {}).items() if key != name}
    if runtime is not None:
        runtimes[name] = runtime
    rest = {key: value for key, value in settings.items() if key != "runtimes"}
    return json.dumps({**rest, "runtimes": runtimes} if runtimes else rest, indent=2) + "\n"


async def register(
    settings: Settings, name: str, runtime: dict[str, Any] | None, path: Path = DAEMON_JSON
) -> None:
    """Write it down and have the engine read it again, which disturbs no container."""
    before = path.read_text() if path.exists() else ""
    after = with_runtime(before, name, runtime)
    path.parent.mkdir(parents=True, exist_ok=True)
    if before and not (backup := path.with_suffix(".json.before-hutch")).exists():
        backup.write_text(before)
    draft = path.with_suffix(".json.draft")
    draft.write_text(after)
    draft.replace(path)
    for pid_file in _PID_FILES:
        if pid_file.is_file():
            os.kill(int(pid_file.read_text()), signal.SIGHUP)
            break
    try:
        async with asyncio.timeout(_RELOAD_S):
            while (name in await runtimes(settings)) != (runtime is not None):
                await asyncio.sleep(_POLL_S)
    except TimeoutError:
        raise HostNotReady(
            "The container engine has not read its settings again.",
            hint="Restart it: `sudo systemctl restart docker`.",
        ) from None


async def runtimes(settings: Settings) -> dict[str, Any]:
    docker = aiodocker.Docker(url=settings.docker_host)
    try:
        return dict((await docker.system.info()).get("Runtimes") or {})
    finally:
        await docker.close()
