"""gVisor: have a runsc that is new enough, registered in the way that works on this kernel."""

from __future__ import annotations

import asyncio
import contextlib
import re
import shutil
import subprocess
from collections.abc import Callable
from typing import Any, Final

import aiodocker

from hutch.backends.gvisor_strays import kill_strays
from hutch.config import Settings
from hutch.errors import HostNotReady
from hutch.host import engine, packages, sources

RUNTIME: Final = "runsc"
OLDEST: Final = 20230101  # older ones lack system calls that the CLIs make
INSTALL_DOCS: Final = "https://gvisor.dev/docs/user_guide/install/"
# Its own network stack first. Releases of 2024 refuse it on newer kernels ("cannot run with network
# enabled in root network namespace"); with the host's, packets go through the container's own
# network namespace by the kernel, and system calls stay in the sandbox.
_WAYS: Final = (("--platform=systrap",), ("--platform=systrap", "--network=host"))
_PROBE_S: Final = 30.0
_PROBE: Final = "import sys, platform; sys.exit(platform.release() != '4.4.0')"  # gVisor says so


def version() -> int | None:
    """The release's date as a number, such as 20240729; None without a runsc."""
    if shutil.which(RUNTIME) is None:
        return None
    said = subprocess.run([RUNTIME, "--version"], capture_output=True, text=True, check=False)
    return release_date(said.stdout)


def release_date(text: str) -> int:
    """0 when the text holds no date."""
    found = re.search(r"(20\d{6})", text)
    return int(found[1]) if found else 0


async def works(settings: Settings) -> str:
    """Empty if a container of the sandbox image really runs under gVisor, else why not."""
    docker = aiodocker.Docker(url=settings.docker_host)
    container = None
    try:
        if RUNTIME not in dict((await docker.system.info()).get("Runtimes") or {}):
            return f"the engine has no runtime `{RUNTIME}`"
        async with asyncio.timeout(_PROBE_S):
            container = await docker.containers.create(
                {
                    "Image": settings.image,
                    "Entrypoint": ["python3", "-c", _PROBE],
                    "HostConfig": {"Runtime": RUNTIME, "NetworkMode": "bridge"},
                }
            )
            await container.start()
            status = await container.wait()
        return "" if status["StatusCode"] == 0 else "the container is not inside gVisor"
    except aiodocker.exceptions.DockerError as error:
        return error.message.strip().splitlines()[-1][:300]
    except TimeoutError:
        return f"a container did not end within {_PROBE_S:.0f} seconds"
    finally:
        if container is not None:
            with contextlib.suppress(aiodocker.exceptions.DockerError):
                await container.delete(force=True)
            await asyncio.to_thread(kill_strays, container.id)
        await docker.close()


async def set_up(settings: Settings, say: Callable[[str], None]) -> str:
    """Empty once sandboxes run under gVisor; else the warning for an operator who goes without."""
    try:
        broken = await works(settings)
        if not broken:
            return ""
        if not packages.is_root():
            return f"gVisor is not in use ({broken}). Type: sudo make up"
        await _install(say)
    except HostNotReady as error:
        return f"gVisor is not in use: {error.message} {error.hint}"
    say("registering gVisor with the container engine …")
    path = shutil.which(RUNTIME)
    for arguments in _WAYS:
        runtime: dict[str, Any] = {"path": path, "runtimeArgs": list(arguments)}
        await engine.register(settings, RUNTIME, runtime)
        broken = await works(settings)
        if not broken:
            say(f"gVisor works ({RUNTIME} {version()}, {' '.join(arguments)})")
            return ""
    await engine.register(settings, RUNTIME, None)
    return f"gVisor does not work on this machine ({broken}); see {INSTALL_DOCS}"


async def _install(say: Callable[[str], None]) -> None:
    if (version() or 0) >= OLDEST:
        return
    if not packages.has_apt():
        raise HostNotReady(f"there is no {RUNTIME}.", hint=f"Install it: {INSTALL_DOCS}")
    distribution, codename = packages.release()
    package = RUNTIME
    if (distribution, codename) == ("debian", "bookworm"):  # its own is of 2022
        package = f"{RUNTIME}/{codename}-backports"
        if not sources.has_suite(sources.APT, f"{codename}-backports"):
            entry = sources.backports_entry(sources.APT, codename)
            if entry is None:
                raise HostNotReady(
                    "Debian's backports are not among the package sources.",
                    hint=f"Add {codename}-backports to them, or see {INSTALL_DOCS}.",
                )
            entry[0].write_text(entry[1])
    await packages.install([package], say)
    if (version() or 0) < OLDEST:
        raise HostNotReady(
            f"the distribution's {RUNTIME} is too old.", hint=f"Install a newer: {INSTALL_DOCS}"
        )
