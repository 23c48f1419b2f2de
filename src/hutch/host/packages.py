"""Programs that come from the distribution."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from hutch.errors import HostNotReady
from hutch.programs import run

# `apt-get install` without what a package recommends: npm's would be three hundred packages. So
# what the engine needs in practice is named: the kernel's AppArmor refuses containers without its
# loader.
ENGINE: Final = ("docker.io", "apparmor", "ca-certificates", "xz-utils")
CGROUPS: Final = ("cgroupfs-mount",)  # mounts them where there is no systemd; none in Debian 13
ENGINE_COMMAND: Final = ("docker-cli",)  # `docker`, a package of its own since Debian 13
NODE: Final = ("nodejs", "npm")
DEBIAN_ROOT: Final = ("mmdebstrap", "debian-archive-keyring")
_OPTIONS: Final = ("-o", "DPkg::Lock::Timeout=300", "-o", "Dpkg::Options::=--force-confold")
_UPDATE_S: Final = 300.0
_INSTALL_S: Final = 1200.0
_VERSION_S: Final = 20.0


def is_root() -> bool:
    return os.geteuid() == 0


def as_root(command: str) -> str:
    """The command as this user has to type it."""
    return command if is_root() else f"sudo {command}"


def has_apt() -> bool:
    return which("apt-get") is not None


def search_path() -> str:
    """PATH with the administrator's programs, which `su` leaves out on Debian."""
    return os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"))


def which(program: str) -> str | None:
    return shutil.which(program, path=search_path())


def version_text(program: str) -> str:
    """What ``PROGRAM --version`` prints; empty when it does not run."""
    path = which(program)
    if path is None:
        return ""
    try:
        said = subprocess.run(
            [path, "--version"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_VERSION_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return said.stdout if said.returncode == 0 else ""


def major(text: str) -> int:
    """Of a version such as ``v20.20.2``; 0 when there is none."""
    found = re.search(r"(\d+)\.\d", text)
    return int(found[1]) if found else 0


def release() -> tuple[str, str]:
    """Distribution and code name, such as ``("debian", "bookworm")``; "" when not known."""
    try:
        said = platform.freedesktop_os_release()
    except OSError:
        return "", ""
    return said.get("ID", ""), said.get("VERSION_CODENAME", "")


def install_command(packages: Sequence[str]) -> tuple[str, ...]:
    """What to type; empty where there is no apt, since the names are Debian's."""
    if not has_apt():
        return ()
    return (
        as_root("apt-get update"),
        as_root(f"apt-get install --yes --no-install-recommends {' '.join(packages)}"),
    )


async def update(say: Callable[[str], None]) -> None:
    """As root. A dead source need not be one that we want: installing will tell."""
    try:
        await _apt("update", timeout_s=_UPDATE_S)
    except HostNotReady as error:
        say(f"WARNING: {error.message}")


async def install(packages: Sequence[str], say: Callable[[str], None]) -> None:
    """As root, asking nothing; the lists must be fresh. Raises ``HostNotReady``."""
    say(f"installing {', '.join(packages)} …")
    await _apt("install", "--yes", "--no-install-recommends", *packages, timeout_s=_INSTALL_S)


async def _apt(*arguments: str, timeout_s: float) -> None:
    await run(
        ("apt-get", *arguments, "--quiet", *_OPTIONS),
        cwd=Path("/"),
        hint="Are the package archives reachable from this machine? Then try again.",
        environment={
            "DEBIAN_FRONTEND": "noninteractive",
            "NEEDRESTART_MODE": "l",  # Ubuntu's would ask which services to restart
            "PATH": search_path(),
        },
        timeout_s=timeout_s,
    )
