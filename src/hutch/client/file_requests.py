"""Requests for the files in a user's workspace. Paths are relative to ``/workspace``."""

from __future__ import annotations

from typing import Final

from hutch.client import models
from hutch.client.decoding import decoder
from hutch.client.requests import Request, Steps, given
from hutch.client.requests import path as where

CONTENT: Final = "/v1/files/content"
ARCHIVE: Final = "/v1/files/archive"
file: Final = decoder(models.File)
unpacked: Final = decoder(models.Unpacked)
_BYTES: Final = {"content-type": "application/octet-stream"}


def files(path: str = "") -> Steps[tuple[models.File, ...]]:
    """What is in a directory, by name, over as many pages as it takes."""
    found: list[models.File] = []
    after: str | None = None
    while True:
        page: models.FilePage = yield file_page(path, after=after)
        found += page.entries
        after = page.next
        if after is None:
            return tuple(found)


def file_page(
    path: str = "", *, after: str | None = None, limit: int | None = None
) -> Request[models.FilePage]:
    """``after`` is the ``next`` of the page before."""
    params = given(path=path, after=after, limit=limit)
    return Request("GET", "/v1/files", decoder(models.FilePage), params=params)


def read_file(path: str, *, first: int = 0, size: int | None = None) -> Request[bytes]:
    """A file, or ``size`` bytes of it from ``first`` on, in memory; ``download`` streams it."""
    headers = {}
    if first or size is not None:
        last = "" if size is None else first + size - 1
        headers = {"range": f"bytes={first}-{last}"}
    return Request("GET", CONTENT, bytes, params={"path": path}, headers=headers)


def write_file(
    path: str, content: bytes | str, *, if_match: str | None = None, new: bool = False
) -> Request[models.File]:
    """Directories on the way are made. ``if_match``: only in place of what has that ``etag``, else
    raises ``Conflict``; ``new``: only where there is nothing.
    """
    return Request(
        "PUT",
        CONTENT,
        file,
        content=content.encode() if isinstance(content, str) else content,
        params={"path": path},
        headers=_BYTES | conditions(if_match, new=new),
        repeatable=if_match is None and not new,
    )


def changes(run_id: str) -> Request[models.Changes]:
    """What a run with ``diff=True`` changed in the workspace. Raises ``Conflict`` before its end,
    ``NotFound`` for a run that does not tell.
    """
    return Request("GET", where("/v1/runs/{id}/diff", id=run_id), decoder(models.Changes))


def conditions(if_match: str | None, *, new: bool) -> dict[str, str]:
    return given(**{"if-match": if_match, "if-none-match": "*" if new else None})


def delete_file(path: str, *, recursive: bool = False) -> Request[None]:
    """A file, a link or a directory; one that is not empty only with ``recursive``."""
    params = {"path": path, "recursive": str(recursive).lower()}
    return Request("DELETE", "/v1/files", lambda _: None, params=params, gone_is_done=True)


def move_file(path: str, to: str, *, overwrite: bool = False) -> Request[None]:
    """``to`` is the new path, not the directory to move it into."""
    body = {"path": path, "to": to, "overwrite": overwrite}
    return Request("POST", "/v1/files/move", lambda _: None, json=body, repeatable=False)
