"""The image's base: the public Node image where it can be pulled, else a Debian made here.

The latter needs no image registry: mmdebstrap makes a root from Debian's packages in half a minute,
with everything that the Dockerfile would install.
"""

from __future__ import annotations

import asyncio
import hashlib
import io
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Final, Literal, TypeAlias

import aiodocker

from hutch.images.engine import build_context, labels_of
from hutch.images.inputs import Inputs
from hutch.programs import run

Choice: TypeAlias = Literal["auto", "public", "debian"]
Kind: TypeAlias = Literal["public", "debian"]

PUBLIC: Final = "node:24-trixie-slim"
SUITE: Final = "trixie"
PACKAGES: Final = (
    *("bash", "ca-certificates", "curl", "git", "nodejs", "procps", "python3", "ripgrep"),
    "tini",
)
_FIRST_PROGRESS_S: Final = 15.0  # an unreachable registry is often silence, not an error


async def find_base(
    docker: aiodocker.Docker, choice: Choice, inputs: Inputs, say: Callable[[str], None]
) -> tuple[Kind, str]:
    """The kind of base and its tag, fetched or made if it is not there yet."""
    if choice != "debian" and (await _pull(docker, say) or choice == "public"):
        return "public", PUBLIC
    wanted = hashlib.sha256(" ".join((SUITE, *PACKAGES)).encode()).hexdigest()
    tag = f"hutch-base:{SUITE}-{wanted[:12]}"
    if await labels_of(docker, tag) is None:
        say(f"making a Debian {SUITE} root (no public image can be pulled here) …")
        await _make(docker, tag, inputs)
    return "debian", tag


async def _pull(docker: aiodocker.Docker, say: Callable[[str], None]) -> bool:
    if await labels_of(docker, PUBLIC) is not None:
        return True
    try:
        pulling = docker.images.pull(PUBLIC, stream=True, timeout=1800)
        async with asyncio.timeout(_FIRST_PROGRESS_S) as limit:
            async for line in pulling:
                if "error" in line:
                    return False
                if limit.when() is not None:
                    limit.reschedule(None)  # it moves; from here it may take its time
                    say(f"pulling {PUBLIC} …")
    except (TimeoutError, aiodocker.exceptions.DockerError):
        return False
    return await labels_of(docker, PUBLIC) is not None


async def _make(docker: aiodocker.Docker, tag: str, inputs: Inputs) -> None:
    inputs.build.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=inputs.build) as folder:
        root = Path(folder) / "root.tar"
        await run(
            (
                *("mmdebstrap", "--variant=minbase", f"--include={','.join(PACKAGES)}"),
                *("--quiet", SUITE, str(root)),
            ),
            cwd=Path(folder),
            hint="Are Debian's package archives reachable from this machine? Then try again.",
        )
        with tempfile.TemporaryFile(dir=inputs.build) as context:
            with tarfile.open(fileobj=context, mode="w") as tar:
                dockerfile = b"FROM scratch\nADD root.tar /\n"
                member = tarfile.TarInfo("Dockerfile")
                member.size = len(dockerfile)
                tar.addfile(member, io.BytesIO(dockerfile))
                tar.add(root, "root.tar")
            context.seek(0)
            await build_context(
                docker, context, tag=tag, arguments={}, labels={}, say=lambda _: None
            )
