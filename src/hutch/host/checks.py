"""Look at the machine and change nothing: what `hutch doctor` shows."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Final

from hutch.config import Settings
from hutch.errors import HutchError
from hutch.host import engine, firewall, gvisor, network, packages, ports
from hutch.host.findings import Finding
from hutch.images.build import LABEL_CONTENT
from hutch.images.engine import engine as open_engine
from hutch.images.engine import labels_of
from hutch.images.inputs import inputs

DISK_BYTES: Final = 6 * 10**9  # the image, its base and its build take 4
MEMORY_KIB: Final = 2 * 1024**2
NODE: Final = 18  # the oldest whose npm fetches the CLIs
NODE_DOCS: Final = "https://nodejs.org/en/download"
_DOCKER_ROOT: Final = Path("/var/lib/docker")


async def check(settings: Settings) -> list[Finding]:
    """Everything, in the order in which it is needed."""
    if settings.backend != "docker":
        return ports.check(settings)
    findings = await before_image(settings)
    if all(finding.ok for finding in findings if finding.name == "docker"):
        image = await _image(settings)
        restarts = await engine.check_restarts(settings)
        findings += [restarts, image, await gvisor.check(settings, has_image=image.ok)]
        if image.ok:  # from inside, instead of the look from outside
            findings = [f for f in findings if f.name != firewall.NAME]
            findings.append(await firewall.check(settings))
    return [*findings, _memory(), *ports.check(settings)]


async def before_image(settings: Settings) -> list[Finding]:
    """What building the image needs."""
    docker = await engine.check(settings)
    findings = [docker]
    has_image = False
    if docker.ok:
        findings.append(await network.check(settings))
        has_image = (await _image(settings)).ok
    findings.append(await firewall.can_be_put_up())
    return [*findings, _node(), _mmdebstrap(), disk(has_image=has_image)]


def _node() -> Finding:
    major = packages.major(packages.version_text("node"))
    npm = packages.which("npm") is not None
    remedy = packages.install_command(packages.NODE) or (f"install it: {NODE_DOCS}",)
    if major and npm:
        if major >= NODE:
            return Finding("node", ok=True, detail=f"Node {major} with npm")
        detail = f"Node {major} is too old, {NODE} is needed"
        return Finding("node", False, detail, remedy=(f"install a newer: {NODE_DOCS}",))
    return Finding("node", False, "no npm", remedy=remedy, packages=packages.NODE)


def _mmdebstrap() -> Finding:
    if packages.which("mmdebstrap"):
        return Finding("mmdebstrap", ok=True, detail="there")
    return Finding(
        "mmdebstrap",
        ok=False,
        detail="the image can be built only where the public Node image can be pulled",
        needed=False,
        remedy=packages.install_command(packages.DEBIAN_ROOT),
        packages=packages.DEBIAN_ROOT,
    )


async def _image(settings: Settings) -> Finding:
    try:
        async with open_engine(settings) as docker:
            labels = await labels_of(docker, settings.image)
        wanted = inputs().content()
    except HutchError as error:
        return Finding("image", ok=False, detail=error.message, remedy=(error.hint,))
    if labels is None:
        return Finding("image", ok=False, detail="not built", remedy=("hutch image build",))
    if labels.get(LABEL_CONTENT) != wanted:
        detail = "built from other inputs than this clone's"
        return Finding("image", True, detail, needed=False, remedy=("hutch image build",))
    return Finding("image", ok=True, detail=f"{settings.image} ({wanted[:12]})")


def disk(*, has_image: bool) -> Finding:
    root = _DOCKER_ROOT if _DOCKER_ROOT.is_dir() else Path("/")
    free = shutil.disk_usage(root).free
    enough = free >= DISK_BYTES
    return Finding(
        "disk",
        enough,
        f"{free / 1e9:.0f} GB free at {root}; building the image takes {DISK_BYTES / 1e9:.0f}",
        needed=not has_image,
        remedy=() if enough else ("docker image prune", "docker builder prune"),
    )


def _memory() -> Finding:
    fields = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
    free = int(fields["MemAvailable"].split()[0])
    enough = free >= MEMORY_KIB
    return Finding(
        "memory",
        enough,
        f"{free / 1024**2:.1f} GB available; a sandbox with three agents takes 0.4",
        needed=False,
        remedy=() if enough else ("end other programs, or take a larger machine",),
    )
