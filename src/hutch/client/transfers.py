"""Files on their way, piece by piece: all but the bytes going to and fro."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import IO, Any, Final

from hutch.client.errors import ClientError, UnexpectedAnswer, Unreachable
from hutch.client.file_requests import ARCHIVE, CONTENT, conditions
from hutch.client.requests import Request
from hutch.client.retries import Patience

PIECE: Final = 256 * 1024
Progress = Callable[[int], None]  # told how many more bytes have gone


class Fetching:
    """A download over connections that break: a file goes on where it stopped if it is still the
    same; an archive, which is made as it comes, has to begin anew.
    """

    def __init__(
        self, path: str, *, archive: bool, retry_for_s: float, on_bytes: Progress | None
    ) -> None:
        self.size: int | None = None  # of a file, once it is known
        self.done = False
        self._path = path
        self._archive = archive
        self._at = 0
        self._left: int | None = None
        self._tag = ""
        self._patience = Patience(retry_for_s)
        self._on_bytes = on_bytes

    def request(self) -> Request[None]:
        headers = {}
        if self._at:
            headers = {"range": f"bytes={self._at}-", "if-range": self._tag}
        where = ARCHIVE if self._archive else CONTENT
        return Request("GET", where, lambda _: None, params={"path": self._path}, headers=headers)

    def opened(self, status: int, headers: Mapping[str, str]) -> None:
        if self._at and status != 206:
            raise UnexpectedAnswer("The file has changed while it was read.", hint="Read it again.")
        length = headers.get("content-length", "")
        self._left = int(length) if length.isdigit() and not self._archive else None
        if self._left is not None:
            self.size = self._at + self._left
        self._tag = headers.get("etag", "")

    def take(self, piece: bytes) -> None:
        self._at += len(piece)
        if self._left is not None:
            self._left -= len(piece)
        self._patience.progress()
        if self._on_bytes is not None:
            self._on_bytes(len(piece))

    def ended(self) -> None:
        """Raises ``Unreachable`` before all of it is there."""
        if self._left:
            raise Unreachable("The file broke off.")
        self.done = True

    def pause_after(self, error: ClientError) -> float:
        """Seconds until the next try. Raises ``error`` when there is none."""
        if self._at and (self._archive or not self._tag):
            raise error
        return self._patience.pause_after(error, repeatable=True)


def sending(
    path: str,
    source: IO[bytes],
    decode: Callable[[bytes], Any],
    *,
    archive: bool,
    if_match: str | None = None,
    new: bool = False,
) -> Request[Any]:
    """Its length goes ahead where it is known, so that what is too large is refused before."""
    kind = "application/x-tar" if archive else "application/octet-stream"
    headers = {"content-type": kind} | conditions(if_match, new=new)
    length = _length(source)
    if length is not None:
        headers["content-length"] = str(length)
    return Request(
        "PUT",
        ARCHIVE if archive else CONTENT,
        decode,
        params={"path": path},
        headers=headers,
        repeatable=False,
    )


def _length(source: IO[bytes]) -> int | None:
    if not source.seekable():
        return None
    at = source.tell()
    end = source.seek(0, os.SEEK_END)
    source.seek(at)
    return end - at
