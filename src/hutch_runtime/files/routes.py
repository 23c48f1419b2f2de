"""The endpoints of files."""

from __future__ import annotations

import asyncio
import functools
import json
import os
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final
from urllib.parse import quote, unquote_to_bytes

from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from hutch_runtime.files.archives import Archives
from hutch_runtime.files.refusal import FileRefused
from hutch_runtime.files.tree import Entry, Opened, Tree, changed
from hutch_runtime.protocol import (
    FILE_PATH_MAX_BYTES,
    FILES_PAGE_MAX,
    KIB,
    FileErrorCode,
    PathError,
    file_path,
)

Endpoint = Callable[[Request], Awaitable[Response]]

_PIECE: Final = 256 * KIB
_PAGE_MAX: Final = 160 * KIB  # of JSON; the other side takes 256
_TARGET_MAX: Final = 1000  # characters of a link's target, where it is only shown
_BODY_MAX: Final = 4 * FILE_PATH_MAX_BYTES * 6
_NUMBER: Final = re.compile(r"[0-9]{1,15}")
_STATUS: Final[dict[FileErrorCode, int]] = {
    "file_not_found": 404,
    "file_exists": 409,
    "directory_not_empty": 409,
    "permission_denied": 403,
    "file_too_large": 413,
    "no_space": 413,
    "invalid_range": 416,
    "precondition_failed": 412,
    "runtime_error": 500,
}  # of the others 400


class FileRoutes:
    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        self._archives = Archives(tree)

    def all(self) -> list[tuple[str, str, Endpoint]]:
        """Path, method and endpoint of each."""
        routes = [
            ("/files", "GET", self._list),
            ("/files", "DELETE", self._remove),
            ("/files/move", "POST", self._move),
            ("/files/content", "GET", self._read),
            ("/files/content", "PUT", self._write),
            ("/files/archive", "GET", self._pack),
            ("/files/archive", "PUT", self._unpack),
        ]
        return [(path, method, _telling(endpoint)) for path, method, endpoint in routes]

    async def _list(self, http: Request) -> Response:
        """``&after=``: the ``next`` of the page before."""
        after = os.fsdecode(unquote_to_bytes(http.query_params.get("after", "")))
        limit = min(_number(http, "limit") or FILES_PAGE_MAX, FILES_PAGE_MAX)
        page = await asyncio.to_thread(self._tree.list, _path(http), after=after, limit=limit)
        shapes: list[dict[str, Any]] = []
        more, size = page.more, 0
        for entry in page.entries:
            shape = _shape(entry)
            size += len(json.dumps(shape))
            if size > _PAGE_MAX:
                more = True
                break
            shapes.append(shape)
            after = entry.name
        following = quote(os.fsencode(after)) if more else None
        return JSONResponse({"entries": shapes, "next": following})

    async def _remove(self, http: Request) -> Response:
        recursive = http.query_params.get("recursive") == "1"
        await asyncio.to_thread(self._tree.remove, _path(http), recursive=recursive)
        return JSONResponse({})

    async def _move(self, http: Request) -> Response:
        """``{path, to, overwrite}``"""
        given = await _body(http)
        path, to = (_checked(given.get(name)) for name in ("path", "to"))
        overwrite = given.get("overwrite") is True
        await asyncio.to_thread(self._tree.move, path, to, overwrite=overwrite)
        return JSONResponse({})

    async def _read(self, http: Request) -> Response:
        """``&first=``, ``&last=`` or ``&suffix=``: as in HTTP's ranges, and all of it where it is
        not what ``&if_tag=`` is of. What it is stands in the headers.
        """
        opened = await asyncio.to_thread(self._tree.open, _path(http))
        entry = opened.entry
        try:
            begin, end, part = _range(http, entry)
        except FileRefused:
            opened.file.close()
            raise
        headers = {
            "x-hutch-file": json.dumps(_shape(entry)),
            "x-hutch-first": str(begin),
            "x-hutch-part": str(int(part)),
            "content-length": str(end - begin),
        }
        return StreamingResponse(
            _content(opened, begin, end), media_type="application/octet-stream", headers=headers
        )

    async def _write(self, http: Request) -> Response:
        """``&if_tag=``: only in place of that, "*" for anything; ``&new=1``: only where there is
        nothing.
        """
        if_tag, new = http.query_params.get("if_tag"), http.query_params.get("new") == "1"
        length = http.headers.get("content-length", "")
        room = int(length) if _NUMBER.fullmatch(length) else None
        path = _path(http)
        draft = await asyncio.to_thread(self._tree.draft, path, room=room)
        try:
            before = draft.before
            if (if_tag is not None and (before is None or if_tag not in {"*", before.tag})) or (
                new and before is not None
            ):
                raise changed(path)  # noqa: TRY301  the draft goes
            size = await _pour(_begun(http), draft.write)
            if room is not None and size != room:
                raise ClientDisconnect  # noqa: TRY301  the same
        except BaseException:
            await asyncio.shield(asyncio.to_thread(draft.drop))
            raise
        as_seen = new or if_tag is not None
        entry = await asyncio.shield(asyncio.to_thread(draft.put, as_seen=as_seen))
        return JSONResponse({"entry": _shape(entry), "made": before is None})

    async def _pack(self, http: Request) -> Response:
        """The connection breaks off if it is not whole."""
        pieces = await self._archives.pack(_path(http))
        return StreamingResponse(pieces, media_type="application/x-tar")

    async def _unpack(self, http: Request) -> Response:
        entries, size = await self._archives.unpack(_path(http), _begun(http))
        return JSONResponse({"entries": entries, "bytes": size})


def _telling(endpoint: Endpoint) -> Endpoint:
    @functools.wraps(endpoint)
    async def telling(http: Request) -> Response:
        try:
            return await endpoint(http)
        except FileRefused as refused:
            waits = http.headers.get("expect") == "100-continue"
            if getattr(http.state, "begun", False) or not waits:
                await _drain(http)
            error = {"code": refused.code, "message": refused.message, "hint": ""}
            return JSONResponse({"error": error}, status_code=_STATUS.get(refused.code, 400))

    return telling


async def _begun(http: Request) -> AsyncIterator[bytes]:
    """Its body; from the first piece on its sender waits for no answer before the next."""
    http.state.begun = True
    async for piece in http.stream():
        yield piece


async def _drain(http: Request) -> None:
    """Who is still sending sees the answer only when it has sent everything."""
    try:
        async for _ in http.stream():
            pass
    except (ClientDisconnect, RuntimeError):  # RuntimeError: all of it was read
        pass


async def _content(opened: Opened, begin: int, end: int) -> AsyncIterator[bytes]:
    """Breaks off where the file has become shorter meanwhile."""
    with opened.file as file:
        await asyncio.to_thread(file.seek, begin)
        while begin < end:
            piece = await asyncio.to_thread(file.read, min(_PIECE, end - begin))
            if not piece:
                return
            begin += len(piece)
            yield piece


async def _pour(pieces: AsyncIterator[bytes], write: Callable[[bytes], None]) -> int:
    size = 0
    waiting = bytearray()
    async for piece in pieces:
        waiting += piece
        size += len(piece)
        if len(waiting) >= _PIECE:
            await asyncio.to_thread(write, bytes(waiting))
            waiting.clear()
    await asyncio.to_thread(write, bytes(waiting))
    return size


def _range(http: Request, entry: Entry) -> tuple[int, int, bool]:
    """From where to before where, and whether that is what was asked for."""
    first, last, suffix = (_number(http, name) for name in ("first", "last", "suffix"))
    if_tag = http.query_params.get("if_tag")
    if if_tag is not None and if_tag != entry.tag:
        first = suffix = None
    if suffix is not None:
        begin, end = max(0, entry.size - suffix), entry.size
    elif first is not None:
        begin = first
        end = entry.size if last is None else min(last + 1, entry.size)
    else:
        return 0, entry.size, False
    if begin >= end:
        raise FileRefused("invalid_range", f"The file has {entry.size} bytes.")
    return begin, end, True


def _shape(entry: Entry) -> dict[str, Any]:
    shown = _shown(entry.name)
    return {
        "name": shown,
        "reachable": shown == entry.name,
        "type": entry.kind,
        "size": entry.size,
        "modified": entry.modified,
        "mode": entry.mode,
        "tag": entry.tag,
        "target": None if entry.target is None else _shown(entry.target)[:_TARGET_MAX],
    }


def _shown(text: str) -> str:
    return text.encode("utf-8", "surrogateescape").decode(errors="replace")


def _path(http: Request) -> str:
    return _checked(http.query_params.get("path", ""))


def _checked(given: Any) -> str:
    if not isinstance(given, str):
        raise FileRefused("bad_request", "A path is missing.")
    try:
        return file_path(given)
    except PathError as error:
        raise FileRefused("invalid_path", f"{error}.".capitalize()) from None


def _number(http: Request, name: str) -> int | None:
    text = http.query_params.get(name)
    if text is None:
        return None
    if not _NUMBER.fullmatch(text):
        raise FileRefused("bad_request", f"{name} is no number.")
    return int(text)


async def _body(http: Request) -> dict[str, Any]:
    body = b""
    async for part in http.stream():
        body += part
        if len(body) > _BODY_MAX:
            raise FileRefused("bad_request", "The body is too large.")
    try:
        given = json.loads(body)
    except (ValueError, RecursionError):
        given = None
    if not isinstance(given, dict):
        raise FileRefused("bad_request", "The body is not a JSON object.")
    return given
