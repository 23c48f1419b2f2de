"""Files, as they go over the wire."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field

from hutch.api.shapes import Asked, Shape, Time
from hutch.files.models import Entry
from hutch_runtime.protocol import Change


class FileAnswer(Shape):
    name: str = Field(description="With � for what is no UTF-8.")
    type: Literal["file", "directory", "link", "other"]
    size: int = Field(description="Bytes.")
    modified_at: Time
    mode: int = Field(description="Permissions; 0o644 is 420.")
    etag: str = Field(description="Another one once it was changed.")
    target: str | None = Field(description="Of a link. Links are shown, and never followed.")
    reachable: bool = Field(description="False: no path can name it; its directory's archive can.")

    @classmethod
    def of(cls, entry: Entry) -> Self:
        return cls(
            name=entry.name,
            type=entry.type,
            size=entry.size,
            modified_at=entry.modified,
            mode=entry.mode,
            etag=etag(entry),
            target=entry.target,
            reachable=entry.reachable,
        )


class FilePage(Shape):
    path: str = Field(description='Below /workspace; "" is the workspace itself.')
    entries: list[FileAnswer]
    next: str | None = Field(description="`after` of the page behind this one.")


class MoveRequest(Asked):
    path: str
    to: str = Field(description="The new path, not the directory to move it into.")
    overwrite: bool = Field(False, description="Replace what is there.")


class UnpackedAnswer(Shape):
    entries: int
    bytes: int = Field(description="In files.")


class ChangedFile(Shape):
    path: str = Field(description="With � for what is no UTF-8.")
    change: Change
    size_before: int | None = Field(description="Bytes; null: it was not there.")
    size_after: int | None
    in_diff: bool = Field(description="False: it is no text, or too large.")


class ChangesAnswer(Shape):
    files: list[ChangedFile]
    diff: str = Field(description="Unified.")
    complete: bool = Field(description="False: there is more than was looked at, or is told.")


def etag(entry: Entry) -> str:
    return f'"{entry.tag}"'
