"""Make the machine ready: programs and engine before the image is built, gVisor with it."""

from __future__ import annotations

import shutil
from collections.abc import Callable

from hutch.config import Settings
from hutch.errors import HostNotReady
from hutch.host import engine, gvisor, packages
from hutch.images.build import build


async def set_up(settings: Settings, say: Callable[[str], None]) -> None:
    """Everything that a sandbox needs, asking nothing. Raises ``HostNotReady`` with the commands to
    type when it would have to change the machine and is not root. Takes no time when all is there.
    """
    if settings.backend != "docker":
        return
    await _set_up_programs(say)
    await _set_up_engine(settings, say)
    await build(settings, say=say)
    if settings.isolation != "runc":
        warning = await gvisor.set_up(settings, say)
        if warning:
            say(f"WARNING: {warning}")


async def _set_up_programs(say: Callable[[str], None]) -> None:
    missing = packages.missing_tools()
    wanted = [package for tool in missing for package in packages.TOOLS[tool]]
    if wanted:
        await packages.install(wanted, say)


async def _set_up_engine(settings: Settings, say: Callable[[str], None]) -> None:
    wrong = await engine.answers(settings)
    if not wrong:
        return
    if not packages.is_root():
        how = [engine.start_command(), "sudo usermod -aG docker $USER  # then log in again"]
        if shutil.which("dockerd") is None:
            how.insert(0, packages.install_command(["docker.io"]))
        commands = "\n  ".join(how)
        raise HostNotReady(
            f"The container engine cannot be used: {wrong}.",
            hint=f"Type this, then `make up` again:\n  {commands}\nor run `sudo make up`.",
        )
    if shutil.which("dockerd") is None:
        await packages.install(["docker.io"], say)
    await engine.start(settings, say)
