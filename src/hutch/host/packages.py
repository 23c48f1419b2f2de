"""Programs that come from the distribution."""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from hutch.errors import HostNotReady
from hutch.programs import run

_QUIET: Final = {"DEBIAN_FRONTEND": "noninteractive"}
# Program on PATH → packages that bring it on Debian and Ubuntu.
TOOLS: Final[dict[str, tuple[str, ...]]] = {
    "npm": ("nodejs", "npm"),
    "mmdebstrap": ("mmdebstrap", "debian-archive-keyring"),
}


def is_root() -> bool:
    return os.geteuid() == 0


def has_apt() -> bool:
    return shutil.which("apt-get") is not None


def release() -> tuple[str, str]:
    """Distribution and code name, such as ``("debian", "bookworm")``; "" when not known."""
    try:
        said = platform.freedesktop_os_release()
    except OSError:
        return "", ""
    return said.get("ID", ""), said.get("VERSION_CODENAME", "")


def missing_tools() -> list[str]:
    return [tool for tool in TOOLS if shutil.which(tool) is None]


def install_command(packages: Sequence[str]) -> str:
    return f"sudo apt-get update && sudo apt-get install --yes {' '.join(packages)}"


async def install(packages: Sequence[str], say: Callable[[str], None]) -> None:
    """As root, asking nothing; else raise ``HostNotReady`` with the command to type."""
    if not has_apt():
        raise HostNotReady(
            f"This machine lacks {', '.join(packages)}, and has no apt to install it with.",
            hint="Install the same programs with the distribution's own package manager.",
        )
    if not is_root():
        raise HostNotReady(
            f"This machine lacks {', '.join(packages)}.",
            hint=f"Type this, then `make up` again:\n  {install_command(packages)}",
        )
    say(f"installing {', '.join(packages)} …")
    hint = "Are the package archives reachable from this machine? Then try again."
    await run(("apt-get", "update", "--quiet"), cwd=Path("/"), hint=hint, environment=_QUIET)
    argv = ("apt-get", "install", "--yes", "--quiet", "--no-install-recommends", *packages)
    await run(argv, cwd=Path("/"), hint=hint, environment=_QUIET)
