"""The container engine, as far as building needs it."""

from __future__ import annotations

import contextlib
import io
import re
import tarfile
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import aiodocker
import aiohttp

from hutch.config import Settings
from hutch.errors import BackendError

_HINT = "`hutch doctor` looks for the cause."
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
_TAIL = 15  # lines of a failed build's output that are shown


@contextlib.asynccontextmanager
async def engine(settings: Settings) -> AsyncIterator[aiodocker.Docker]:
    """Raises ``BackendError`` for whatever goes wrong inside."""
    docker = aiodocker.Docker(url=settings.docker_host)
    try:
        yield docker
    except aiodocker.exceptions.DockerError as error:
        raise BackendError(f"The container engine refused: {error.message}", hint=_HINT) from error
    except (aiohttp.ClientError, OSError) as error:
        raise BackendError(
            f"The container engine does not answer ({type(error).__name__}).", hint=_HINT
        ) from error
    finally:
        await docker.close()


async def labels_of(docker: aiodocker.Docker, image: str) -> dict[str, str] | None:
    """None when there is no such image."""
    try:
        found = await docker.images.inspect(image)
    except aiodocker.exceptions.DockerError as error:
        if error.status == 404:
            return None
        raise
    return dict(found["Config"].get("Labels") or {})


class Context:
    """What one build may see: a tar with a Dockerfile and the files that were added."""

    def __init__(self, tar: tarfile.TarFile, file: IO[bytes]) -> None:
        self._tar = tar
        self._file = file

    @classmethod
    @contextlib.contextmanager
    def open(cls, folder: Path, dockerfile: str) -> Iterator[Context]:
        """Kept in ``folder`` for as long as it is open, under no name."""
        with (
            tempfile.TemporaryFile(dir=folder) as file,
            tarfile.open(fileobj=file, mode="w") as tar,
        ):
            context = cls(tar, file)
            context.write("Dockerfile", dockerfile)
            yield context

    def add(self, path: Path, name: str) -> None:
        self._tar.add(path, name, filter=_plain)

    def write(self, name: str, text: str) -> None:
        body = text.encode()
        member = tarfile.TarInfo(name)
        member.size = len(body)
        self._tar.addfile(member, io.BytesIO(body))

    def finish(self) -> IO[bytes]:
        self._tar.close()
        self._file.seek(0)
        return self._file


def _plain(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
    """Owned by root, with no trace of when or by whom it was fetched: layers stay cached."""
    if "__pycache__" in member.name:
        return None
    member.uid = member.gid = 0
    member.uname = member.gname = "root"
    member.mtime = 0
    member.mode = 0o755 if member.isdir() or member.mode & 0o100 else 0o644
    return member


async def build_context(
    docker: aiodocker.Docker,
    context: Context,
    *,
    tag: str,
    arguments: Mapping[str, str] | None = None,
    labels: Mapping[str, str] | None = None,
    afresh: bool = False,
    say: Callable[[str], None] = lambda _: None,
) -> None:
    """Build from a context; each step is said as it begins. Raises ``BackendError``."""
    said: list[str] = []
    lines: AsyncIterator[dict[str, Any]] = docker.images.build(
        fileobj=context.finish(),
        encoding="identity",
        tag=tag,
        buildargs=arguments or {},
        labels=labels or {},
        nocache=afresh,
        rm=True,
        forcerm=True,
        stream=True,
        timeout=1800,
    )
    try:
        async for line in lines:
            text = _COLOURS.sub("", str(line.get("stream", "")))
            said.append(text)
            if re.match(r"Step \d+/\d+ : (RUN|COPY|ADD) ", text):  # the others take no time
                say("  " + text.strip().splitlines()[0][:72])
    except aiodocker.exceptions.DockerError as error:
        tail = "\n".join("".join(said).splitlines()[-_TAIL:])
        raise BackendError(
            f"The image could not be built: {error.message}\n{tail}", hint=_HINT
        ) from error
