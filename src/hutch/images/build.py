"""Build the sandbox image, unless the one that is there was made from the same inputs."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import aiodocker

from hutch.config import Settings
from hutch.images.base import Choice, Kind
from hutch.images.engine import Context, build_context, engine, labels_of
from hutch.images.fetch import fetch_dependencies, one_at_a_time
from hutch.images.inputs import Inputs, inputs
from hutch.images.tools import tools

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
    """Make ``settings.image``; by ``force`` all of it afresh, with the base's latest packages.

    Raises ``HostNotReady``, ``BackendError``.
    """
    made_from = inputs()
    image = BuiltImage(settings.image, made_from.content(), fresh=False)
    async with engine(settings) as docker:
        if not force and await _is_there(docker, image, base):
            return image
        async with one_at_a_time(made_from.build / "image.lock", say):
            if not force and await _is_there(docker, image, base):  # built while we waited
                return image
            kind, tag = await tools(docker, base, made_from, force=force, say=say)
            say("fetching the runtime's packages (uv.lock) …")
            dependencies = await fetch_dependencies(made_from)
            versions = made_from.versions()
            say(f"building {image.tag} on {tag} …")
            with Context.open(made_from.build, made_from.stages()[1]) as context:
                _fill(context, made_from, dependencies, versions)
                await build_context(
                    docker,
                    context,
                    tag=image.tag,
                    arguments={"TOOLS": tag},
                    labels=_labels(image, kind, versions),
                    say=say,
                )
        name = image.tag.partition(":")[0]
        await docker.images.tag(image.tag, name, tag=image.content[:12])
        size = (await docker.images.inspect(image.tag))["Size"]
    listed = ", ".join(f"{name} {text}" for name, text in versions.items())
    say(f"built {image.tag}: {size / 1e6:.0f} MB, {listed}")
    return BuiltImage(image.tag, image.content, fresh=True)


async def _is_there(docker: aiodocker.Docker, image: BuiltImage, base: Choice) -> bool:
    labels = await labels_of(docker, image.tag) or {}
    right_base = base in {"auto", labels.get(LABEL_BASE)}
    return labels.get(LABEL_CONTENT) == image.content and right_base


def _fill(
    context: Context, made_from: Inputs, dependencies: Path, versions: Mapping[str, str]
) -> None:
    context.add(dependencies, "deps")
    for path in made_from.runtime_files():
        context.add(path, f"runtime/{path.relative_to(made_from.runtime.parent)}")
    context.write("runtime/versions.json", json.dumps(versions))


def _labels(image: BuiltImage, kind: Kind, versions: Mapping[str, str]) -> dict[str, str]:
    return {
        LABEL: "1",
        LABEL_CONTENT: image.content,
        LABEL_BASE: kind,
        **{f"hutch.{name}": text for name, text in versions.items()},
    }
