"""Look at the machine and change nothing: what `hutch doctor` shows."""

from __future__ import annotations

import shutil
import socket
from pathlib import Path
from typing import Final

from hutch.backends.open import open_backend
from hutch.config import Settings
from hutch.errors import HutchError
from hutch.host import engine, gvisor, packages
from hutch.host.findings import Finding
from hutch.images.build import LABEL_CONTENT
from hutch.images.engine import engine as open_engine
from hutch.images.engine import labels_of
from hutch.images.inputs import inputs

DISK_BYTES: Final = 6 * 10**9  # the image, its base and its build take 4
MEMORY_KIB: Final = 2 * 1024**2


async def check(settings: Settings) -> list[Finding]:
    findings = [_tools(), await _engine(settings)]
    if findings[-1].ok:
        image = await _image(settings)
        findings += [image, await _network(settings)]
        if image.ok:
            findings.append(await _gvisor(settings))
    return [*findings, _disk(), _memory(), *_ports(settings)]


def _tools() -> Finding:
    missing = packages.missing_tools()
    wanted = [package for tool in missing for package in packages.TOOLS[tool]]
    return Finding(
        "programs",
        not missing,
        f"missing: {', '.join(missing)}" if missing else "npm and mmdebstrap are there",
        remedy=(packages.install_command(wanted),) if wanted else (),
    )


async def _engine(settings: Settings) -> Finding:
    wrong = await engine.answers(settings)
    if not wrong:
        return Finding("docker", ok=True, detail=f"answers at {settings.docker_host}")
    remedy = [engine.start_command()]
    if shutil.which("dockerd") is None:
        remedy.insert(0, packages.install_command(["docker.io"]))
    elif wrong == "you may not use it":
        remedy = ["sudo usermod -aG docker $USER  # then log in again"]
    return Finding("docker", ok=False, detail=wrong, remedy=tuple(remedy))


async def _image(settings: Settings) -> Finding:
    try:
        wanted = inputs().content()
        async with open_engine(settings) as docker:
            labels = await labels_of(docker, settings.image)
    except HutchError as error:
        return Finding("image", ok=False, detail=error.message, remedy=(error.hint,))
    if labels is None:
        return Finding("image", ok=False, detail="not built", remedy=("hutch image build",))
    if labels.get(LABEL_CONTENT) != wanted:
        detail = "built from other inputs than this clone's"
        return Finding("image", True, detail, needed=False, remedy=("hutch image build",))
    return Finding("image", ok=True, detail=f"{settings.image} ({wanted[:12]})")


async def _network(settings: Settings) -> Finding:
    backend = None
    try:
        backend = open_backend(settings)
        address = await backend.prepare()
    except HutchError as error:
        return Finding("network", ok=False, detail=error.message, remedy=(error.hint,))
    finally:
        if backend is not None:
            await backend.close()
    return Finding("network", ok=True, detail=f"sandboxes reach the gateway at {address}")


async def _gvisor(settings: Settings) -> Finding:
    broken = await gvisor.works(settings)
    if not broken:
        return Finding("gvisor", ok=True, detail=f"runsc {gvisor.version()} runs the image")
    return Finding(
        "gvisor",
        ok=False,
        detail=f"{broken}: sandboxes share this machine's kernel",
        needed=settings.isolation == "gvisor",
        remedy=("sudo make up", f"where that cannot: {gvisor.INSTALL_DOCS}"),
    )


def _disk() -> Finding:
    root = Path("/var/lib/docker")
    free = shutil.disk_usage(root if root.is_dir() else Path("/")).free
    return Finding(
        "disk",
        free >= DISK_BYTES,
        f"{free / 1e9:.0f} GB free, {DISK_BYTES / 1e9:.0f} GB needed",
        remedy=() if free >= DISK_BYTES else ("docker image prune",),
    )


def _memory() -> Finding:
    fields = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
    free = int(fields["MemAvailable"].split()[0])
    return Finding(
        "memory",
        free >= MEMORY_KIB,
        f"{free / 1024**2:.1f} GB available; a sandbox with three agents takes 0.4",
        needed=False,
        remedy=() if free >= MEMORY_KIB else ("end other programs, or take a larger machine",),
    )


def _ports(settings: Settings) -> list[Finding]:
    findings = []
    for name, port in (("api", settings.port), ("offline-model", settings.offline_model_port)):
        ours = (settings.data_dir / "running" / f"{name}.json").exists()
        free = _is_free(port)
        variable = "HUTCH_PORT" if name == "api" else "HUTCH_OFFLINE_MODEL_PORT"
        findings.append(
            Finding(
                f"port {port}",
                ours or free,
                f"in use by our {name}" if ours else "free" if free else "in use by another",
                remedy=() if ours or free else (f"{variable}=… make up",),
            )
        )
    return findings


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
