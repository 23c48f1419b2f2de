"""Build the sandbox image, unless the one that is there was made from the same inputs."""

from __future__ import annotations

import io
import json
import tarfile
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

from hutch.config import Settings
from hutch.images.base import Choice, find_base
from hutch.images.engine import build_context, engine, labels_of
from hutch.images.fetch import fetch_clis, fetch_dependencies
from hutch.images.inputs import Inputs, inputs

LABEL: Final = "hutch.image"
LABEL_CONTENT: Final = "hutch.content"
LABEL_BASE: Final = "hutch.base"


@dataclass(frozen=True, slots=True)
class BuiltImage:
    tag: str
    content: str
    fresh: bool  # False: it was there already


async def build(
    settings: Settings,
    *,
    base: Choice = "auto",
    force: bool = False,
    say: Callable[[str], None],
) -> BuiltImage:
    """Make ``settings.image``. Raises ``HostNotReady``, ``BackendError``."""
    made_from = inputs()
    content = made_from.content()
    async with engine(settings) as docker:
        labels = await labels_of(docker, settings.image) or {}
        right_base = base in {"auto", labels.get(LABEL_BASE)}
        if not force and labels.get(LABEL_CONTENT) == content and right_base:
            return BuiltImage(settings.image, content, fresh=False)
        kind, base_tag = await find_base(docker, base, made_from, say)
        say("fetching the CLIs (image/package-lock.json) …")
        clis = await fetch_clis(made_from)
        say("fetching the runtime's packages (uv.lock) …")
        dependencies = await fetch_dependencies(made_from)
        versions = made_from.versions()
        say(f"building {settings.image} on {base_tag} …")
        with tempfile.TemporaryFile(dir=made_from.build) as context:
            _write_context(context, made_from, clis, dependencies, versions)
            await build_context(
                docker,
                context,
                tag=settings.image,
                arguments={"BASE": base_tag},
                labels={
                    LABEL: "1",
                    LABEL_CONTENT: content,
                    LABEL_BASE: kind,
                    **{f"hutch.{name}": text for name, text in versions.items()},
                },
                say=say,
            )
        name = settings.image.partition(":")[0]
        await docker.images.tag(settings.image, name, tag=content[:12])
        size = (await docker.images.inspect(settings.image))["Size"]
    say(f"built {settings.image}: {size / 1e6:.0f} MB, " + _list(versions))
    return BuiltImage(settings.image, content, fresh=True)


def _write_context(
    context: IO[bytes], made_from: Inputs, clis: Path, dependencies: Path, versions: dict[str, str]
) -> None:
    with tarfile.open(fileobj=context, mode="w") as tar:
        tar.add(made_from.folder / "Dockerfile", "Dockerfile", filter=_plain)
        tar.add(clis / "node_modules", "clis/node_modules", filter=_plain)
        tar.add(dependencies, "deps", filter=_plain)
        for path in made_from.runtime_files():
            name = path.relative_to(made_from.runtime.parent)
            tar.add(path, f"runtime/{name}", filter=_plain)
        body = json.dumps(versions).encode()
        member = tarfile.TarInfo("runtime/versions.json")
        member.size = len(body)
        tar.addfile(member, io.BytesIO(body))
    context.seek(0)


def _plain(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
    """Owned by root, with no trace of when or by whom it was fetched: layers stay cached."""
    if "__pycache__" in member.name:
        return None
    member.uid = member.gid = 0
    member.uname = member.gname = "root"
    member.mtime = 0
    member.mode = 0o755 if member.isdir() or member.mode & 0o100 else 0o644
    return member


def _list(versions: dict[str, str]) -> str:
    return ", ".join(f"{name} {text}" for name, text in versions.items())
