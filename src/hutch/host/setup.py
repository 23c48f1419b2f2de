"""Make the machine ready: programs and engine before the image is built, gVisor with it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from hutch.config import Settings
from hutch.errors import HostNotReady
from hutch.host import engine, gvisor, packages
from hutch.host.checks import before_image
from hutch.host.findings import Finding, to_type
from hutch.images.build import build


async def set_up(settings: Settings, say: Callable[[str], None]) -> None:
    """Everything that a sandbox needs, asking nothing. Raises ``HostNotReady`` with the commands to
    type when it would have to change the machine and is not root. Takes a second when all is there.
    """
    if settings.backend != "docker":
        return
    findings = await before_image(settings)
    if packages.is_root() and not all(finding.ok for finding in findings):
        await _mend(settings, findings, say)
        findings = await before_image(settings)
    insist(findings, say)
    await _keep_containers(settings, say)
    await build(settings, say=say)
    if settings.isolation != "runc":
        await _set_up_gvisor(settings, say)


def insist(findings: Sequence[Finding], say: Callable[[str], None]) -> None:
    """Say what could be better; raise ``HostNotReady`` for what is needed and is not there."""
    for finding in findings:
        if not finding.ok and not finding.needed:
            say(f"WARNING: {finding.name}: {finding.detail}\n{to_type([finding])}".rstrip())
    missing = [finding for finding in findings if not finding.ok and finding.needed]
    if missing:
        what = "; ".join(f"{finding.name} ({finding.detail})" for finding in missing)
        raise HostNotReady(
            f"This machine is not ready: {what}.",
            hint=f"Type this, then try again:\n{to_type(missing)}",
        )


async def _mend(
    settings: Settings, findings: Sequence[Finding], say: Callable[[str], None]
) -> None:
    lacking = [finding for finding in findings if not finding.ok and finding.packages]
    if lacking and packages.has_apt():
        await packages.update(say)
        for finding in lacking:
            await _install(finding.packages, say, needed=finding.needed)
        if packages.which("dockerd") and not packages.which("docker"):
            await _install(packages.ENGINE_COMMAND, say, needed=False)
        if not engine.has_cgroups():
            await _install(packages.CGROUPS, say, needed=False)
    if await engine.answers(settings) and packages.which("dockerd"):
        await engine.start(settings, say)


async def _install(names: Sequence[str], say: Callable[[str], None], *, needed: bool) -> None:
    try:
        await packages.install(names, say)
    except HostNotReady as error:
        if needed:
            raise
        say(f"WARNING: {error.message}")


async def _keep_containers(settings: Settings, say: Callable[[str], None]) -> None:
    finding = await engine.check_restarts(settings)
    if not finding.ok and packages.is_root():
        say("having containers outlive a restart of the container engine …")
        engine.keep_copy()
        try:
            await engine.keep_containers(settings)
        except HostNotReady as error:
            say(f"WARNING: {error.message} {error.hint}")
        finding = await engine.check_restarts(settings)
    insist([finding], say)


async def _set_up_gvisor(settings: Settings, say: Callable[[str], None]) -> None:
    finding = await gvisor.check(settings, has_image=True)
    if not finding.ok and packages.is_root():
        try:
            await gvisor.set_up(settings, say)
        except HostNotReady as error:
            say(f"WARNING: {error.message} {error.hint}")
        finding = await gvisor.check(settings, has_image=True)
    insist([finding], say)
