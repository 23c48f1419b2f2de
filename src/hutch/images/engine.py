"""The container engine, as far as building needs it."""

from __future__ import annotations

import contextlib
import re
from collections.abc import AsyncIterator, Callable
from typing import IO, Any

import aiodocker
import aiohttp

from hutch.config import Settings
from hutch.errors import BackendError

_HINT = "`hutch doctor` looks for the cause."


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


async def build_context(
    docker: aiodocker.Docker,
    context: IO[bytes],
    *,
    tag: str,
    arguments: dict[str, str],
    labels: dict[str, str],
    say: Callable[[str], None],
) -> None:
    """Build from a tar; each step is said as it begins. Raises ``BackendError``."""
    last: list[str] = []
    lines: AsyncIterator[dict[str, Any]] = docker.images.build(
        fileobj=context,
        encoding="identity",
        tag=tag,
        buildargs=arguments,
        labels=labels,
        rm=True,
        forcerm=True,
        stream=True,
        timeout=1800,
    )
    async for line in lines:
        if "error" in line:
            tail = "".join(last[-15:])
            raise BackendError(f"The image could not be built: {line['error']}\n{tail}", hint=_HINT)
        text = str(line.get("stream", ""))
        last.append(text)
        if re.match(r"Step \d+/\d+ : (RUN|COPY|ADD) ", text):  # the others take no time
            say("  " + text.strip().splitlines()[0][:72])
