from __future__ import annotations

from dataclasses import dataclass

from hutch.config import Settings
from hutch.images.build import LABEL, LABEL_BASE
from hutch.images.engine import engine


@dataclass(frozen=True, slots=True)
class ImageInfo:
    tags: tuple[str, ...]
    id: str
    size_bytes: int
    created_at: float  # Unix seconds
    base: str
    versions: dict[str, str]


async def list_images(settings: Settings) -> list[ImageInfo]:
    """Every sandbox image on this machine, newest first. Raises ``BackendError``."""
    async with engine(settings) as docker:
        found = await docker.images.list(filters={"label": [f"{LABEL}=1"]})
    infos = [
        ImageInfo(
            tags=tuple(image.get("RepoTags") or ()),
            id=image["Id"].removeprefix("sha256:")[:12],
            size_bytes=image["Size"],
            created_at=image["Created"],
            base=image["Labels"].get(LABEL_BASE, ""),
            versions={
                name: image["Labels"].get(f"hutch.{name}", "")
                for name in ("claude", "codex", "gemini", "runtime")
            },
        )
        for image in found
    ]
    return sorted(infos, key=lambda info: info.created_at, reverse=True)
