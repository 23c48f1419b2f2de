"""gVisor: have a runsc that is new enough, registered in the way that works on this kernel."""

from __future__ import annotations

import asyncio
import contextlib
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import aiodocker
import aiohttp

from hutch.backends.strays import kill_strays
from hutch.config import Settings
from hutch.errors import HostNotReady
from hutch.host import engine, packages, sources
from hutch.host.findings import Finding

RUNTIME: Final = "runsc"
OLDEST: Final = 20230501  # `systrap`, the platform that needs no virtualisation, is of April 2023
INSTALL_DOCS: Final = "https://gvisor.dev/docs/user_guide/install/"
# Its own network stack first. Releases of 2024 refuse it on newer kernels ("cannot run with network
# enabled in root network namespace"); with the host's, packets go through the container's own
# network namespace by the kernel, and system calls stay in the sandbox.
WAYS: Final = (("--platform=systrap",), ("--platform=systrap", "--network=host"))
_PROBE_S: Final = 60.0
_LABEL: Final = "hutch.probe"
_REASON_MAX: Final = 300  # characters of the engine's own words
# gVisor shows a kernel of its own; the argument is the host's.
_PROBE: Final = "import os, sys; sys.exit(os.uname().release == sys.argv[1])"


def release_date(text: str) -> int | None:
    """Of ``runsc --version``, as a number such as 20240729; None when the text has no date.

    Debian writes ``0.0~20240729.0``, gVisor itself ``release-20240729.0``.
    """
    found = re.search(r"\b(20\d{6})\b", text)
    return int(found[1]) if found else None


def is_too_old(program: str) -> bool:
    """A version without a date may be any: whether it works is tried."""
    date = release_date(packages.version_text(program))
    return date is not None and date < OLDEST


async def works(settings: Settings, runtime: str = RUNTIME) -> str:
    """Empty if a container of the sandbox image really runs under gVisor, else why not."""
    try:
        async with engine.connect(settings) as docker:
            info = await docker.system.info()
            registered = (info.get("Runtimes") or {}).get(runtime)
            if registered is None:
                return f"the engine has no runtime `{runtime}`"
            if is_too_old(registered.get("path") or runtime):
                return f"`{runtime}` is older than {OLDEST}"
            return await _try(docker, settings.image, runtime, info["KernelVersion"])
    except aiodocker.exceptions.DockerError as error:
        return (error.message.strip() or "no reason given").splitlines()[-1][:_REASON_MAX]
    except (aiohttp.ClientError, OSError) as error:
        return f"the engine does not answer ({type(error).__name__})"


async def _try(docker: aiodocker.Docker, image: str, runtime: str, kernel: str) -> str:
    container = await docker.containers.create(
        {
            "Image": image,
            "Entrypoint": ["python3", "-c", _PROBE, kernel],
            "Labels": {_LABEL: "1"},
            "HostConfig": {"Runtime": runtime, "NetworkMode": "bridge"},
        }
    )
    try:
        async with asyncio.timeout(_PROBE_S):
            await container.start()
            status = await container.wait()
    except TimeoutError:
        return f"a container did not end within {_PROBE_S:.0f} seconds"
    finally:
        with contextlib.suppress(aiodocker.exceptions.DockerError):
            await container.delete(force=True)
        await asyncio.to_thread(kill_strays, container.id)
    return "" if status["StatusCode"] == 0 else "the container is not inside gVisor"


async def check(settings: Settings, *, has_image: bool) -> Finding:
    """Needs an engine that answers. Without an image nothing can be tried."""
    if settings.isolation == "runc":
        return Finding("gvisor", ok=True, detail="switched off by HUTCH_ISOLATION=runc")
    registered = RUNTIME in await engine.runtimes(settings)
    if registered and not has_image:
        return Finding("gvisor", True, "registered; it is tried once there is an image")
    broken = await works(settings)
    if not broken:
        date = release_date(packages.version_text(RUNTIME))
        return Finding("gvisor", ok=True, detail=f"{RUNTIME} {date or ''} runs the image")
    set_up = packages.as_root(f"{Path(sys.executable).with_name('hutch')} setup")
    remedy = [set_up] if _can_install() else [f"install it: {INSTALL_DOCS}", set_up]
    return Finding(
        "gvisor",
        ok=False,
        detail=f"Sandboxes share this machine's kernel: {broken}",
        needed=settings.isolation == "gvisor",
        remedy=tuple(remedy),
    )


def _can_install() -> bool:
    there = packages.which(RUNTIME) is not None and not is_too_old(RUNTIME)
    return there or (packages.has_apt() and packages.release()[0] == "debian")


async def set_up(settings: Settings, say: Callable[[str], None]) -> None:
    """As root, with an engine and an image. Raises ``HostNotReady`` when it cannot be had."""
    if not await works(settings):
        return
    await _install(say)
    before = (await engine.runtimes(settings)).get(RUNTIME)
    say("registering gVisor with the container engine …")
    engine.keep_copy()
    broken = await register(settings, RUNTIME, packages.which(RUNTIME) or RUNTIME)
    if not broken:
        return
    # What we wrote ourselves must not stay: the backend would use it. Another's is theirs to mend.
    ours = before is None or tuple(before.get("runtimeArgs") or ()) in WAYS
    await engine.register(settings, RUNTIME, None if ours else before)
    raise HostNotReady(
        f"gVisor does not work on this machine: {broken}.",
        hint=f"A newer one may: {INSTALL_DOCS}",
    )


async def register(settings: Settings, name: str, path: str) -> str:
    """Register the program in the first way that works. Empty, or why the last does not."""
    broken = ""
    for arguments in WAYS:
        runtime: dict[str, Any] = {"path": path, "runtimeArgs": list(arguments)}
        await engine.register(settings, name, runtime)
        broken = await works(settings, name)
        if not broken:
            break
    return broken


async def _install(say: Callable[[str], None]) -> None:
    if packages.which(RUNTIME) is not None and not is_too_old(RUNTIME):
        return
    if not _can_install():
        raise HostNotReady(
            f"There is no {RUNTIME} that is new enough.", hint=f"Install it: {INSTALL_DOCS}"
        )
    codename = packages.release()[1]
    if codename == "bookworm":
        await _install_from_backports(codename, say)
    else:
        await packages.update(say)
        await packages.install((RUNTIME,), say)
    if is_too_old(RUNTIME):
        raise HostNotReady(
            f"The distribution's {RUNTIME} is too old.", hint=f"Install a newer: {INSTALL_DOCS}"
        )


async def _install_from_backports(codename: str, say: Callable[[str], None]) -> None:
    """A suite that cannot be had would break every later `apt-get update`: then it goes again."""
    suite = f"{codename}-backports"
    ours = sources.APT / sources.OURS
    added = not sources.has_suite(sources.APT, suite)
    if added:
        entry = sources.backports(sources.APT, codename)
        if entry is None:
            raise HostNotReady(
                "Debian's backports are not among the package sources.",
                hint=f"Add {suite} to them, or see {INSTALL_DOCS}.",
            )
        say(f"adding {suite} to the package sources ({ours}) …")
        ours.write_text(entry)
    try:
        await packages.update(say)
        await packages.install((f"{RUNTIME}/{suite}",), say)
    except HostNotReady:
        if added:
            ours.unlink()
        raise
