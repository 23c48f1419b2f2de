"""The image's base: the public Node image where it can be pulled, else a Debian made here.

The latter needs no image registry: mmdebstrap makes a root from Debian's packages in half a minute,
with everything that the Dockerfile would install.
"""

from __future__ import annotations

import asyncio
import hashlib
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Final, Literal, TypeAlias

import aiodocker

from hutch.errors import BackendError, HostNotReady
from hutch.images.engine import Context, build_context, labels_of
from hutch.images.inputs import Inputs
from hutch.images.recipe import LEFT_OUT, PACKAGES, PUBLIC, SUITE
from hutch.programs import run

Choice: TypeAlias = Literal["auto", "public", "debian"]
Kind: TypeAlias = Literal["public", "debian"]

_FIRST_PROGRESS_S: Final = 15.0  # an unreachable registry is often silence, not an error


async def find_base(
    docker: aiodocker.Docker,
    choice: Choice,
    inputs: Inputs,
    *,
    force: bool,
    say: Callable[[str], None],
) -> tuple[Kind, str]:
    """The kind of base and its tag, fetched or made if it is not there yet, or by ``force``.

    Raises ``BackendError``, ``HostNotReady``.
    """
    if choice != "debian":
        if await _pull(docker, say):
            return "public", PUBLIC
        if choice == "public":
            raise BackendError(
                f"{PUBLIC} cannot be pulled to this machine.",
                hint="`hutch image build --base debian` needs no image registry.",
            )
    wanted = hashlib.sha256(" ".join((SUITE, *PACKAGES, *LEFT_OUT)).encode()).hexdigest()
    tag = f"hutch-base:{SUITE}-{wanted[:12]}"
    if force or await labels_of(docker, tag) is None:
        why = "" if choice == "debian" else " (no public image can be pulled here)"
        say(f"making a Debian {SUITE} root{why} …")
        await _make(docker, tag, inputs)
    return "debian", tag


async def _pull(docker: aiodocker.Docker, say: Callable[[str], None]) -> bool:
    if await labels_of(docker, PUBLIC) is not None:
        return True
    try:
        pulling = docker.images.pull(PUBLIC, stream=True, timeout=1800)
        async with asyncio.timeout(_FIRST_PROGRESS_S) as limit:
            async for _ in pulling:
                if limit.when() is not None:
                    limit.reschedule(None)  # it moves; from here it may take its time
                    say(f"pulling {PUBLIC} …")
    except (TimeoutError, aiodocker.exceptions.DockerError):
        return False
    return await labels_of(docker, PUBLIC) is not None


async def _make(docker: aiodocker.Docker, tag: str, inputs: Inputs) -> None:
    with tempfile.TemporaryDirectory(dir=inputs.build) as folder:
        root = Path(folder) / "root.tar"
        try:
            await _debootstrap(root)
        except HostNotReady:
            mirror = _own_mirror()
            if mirror is None:
                raise
            await _debootstrap(root, mirror)
        with Context.open(inputs.build, "FROM scratch\nADD root.tar /\n") as context:
            context.add(root, "root.tar")
            await build_context(docker, context, tag=tag)


async def _debootstrap(root: Path, *mirror: str) -> None:
    """Without a mirror mmdebstrap takes Debian's own, with the security updates."""
    left_out = [f"--dpkgopt={option}" for option in LEFT_OUT]
    await run(
        (
            *("mmdebstrap", "--variant=minbase", f"--include={','.join(PACKAGES)}"),
            *left_out,
            *("--quiet", SUITE, str(root), *mirror),
        ),
        cwd=root.parent,
        hint="Are Debian's package archives reachable from this machine? Then try again.",
    )


def _own_mirror() -> str | None:
    """Where this machine gets Debian from, if it is one: behind a wall only that may answer."""
    argv = ["apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages"]
    try:
        said = subprocess.run(
            [*argv, "Label: Debian"], capture_output=True, text=True, timeout=60, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return next(iter(said.stdout.split()), None)
