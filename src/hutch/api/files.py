"""The files in the user's workspace. Both ways are streamed: nothing of a file is kept here."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from email.utils import formatdate
from typing import Annotated, Any, Final, Self

import structlog
from fastapi import APIRouter, Header, Query, Request, Response
from fastapi.responses import StreamingResponse
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from hutch.api.caller import CallerDep, HutchDep
from hutch.api.limits import DROPPED_MAX
from hutch.api.shapes_files import FileAnswer, FilePage, MoveRequest, UnpackedAnswer, etag
from hutch.errors import HutchError, InvalidRequest, PreconditionFailed
from hutch.files.models import Download, Part
from hutch_runtime.protocol import FILES_PAGE_MAX

_log = structlog.get_logger()
router = APIRouter(prefix="/v1/files", tags=["files"])

_RANGE: Final = re.compile(r"bytes=([0-9]{0,15})-([0-9]{0,15})")
_TAG: Final = re.compile(r'"([0-9A-Za-z]{1,64})"')

_WHERE: Final = "Below /workspace; it may begin with that."
FilePath = Annotated[str, Query(description=_WHERE)]
IfMatch = Annotated[str | None, Header(description="Only in place of this ETag; * of anything.")]
IfNone = Annotated[str | None, Header(description="*: only where there is nothing.")]


def _content(kind: str) -> dict[str, Any]:
    return {"content": {kind: {"schema": {"type": "string", "format": "binary"}}}}


_FILE: Final = _content("application/octet-stream")
_TAR: Final = _content("application/x-tar")


@router.get("")
async def list_files(
    hutch: HutchDep,
    caller: CallerDep,
    path: FilePath = "",
    after: Annotated[str | None, Query(max_length=1000, description="`next` of a page.")] = None,
    limit: Annotated[int, Query(ge=1, le=FILES_PAGE_MAX)] = FILES_PAGE_MAX,
) -> FilePage:
    """What is in a directory, by name. A page may be shorter than `limit`; the last has no
    `next`.
    """
    found = await hutch.files.listing(caller.user_id, path, after=after, limit=limit)
    entries = [FileAnswer.of(entry) for entry in found.entries]
    return FilePage(path=found.path, entries=entries, next=found.next)


@router.delete("", status_code=204)
async def delete_file(
    hutch: HutchDep,
    caller: CallerDep,
    path: FilePath,
    recursive: Annotated[bool, Query(description="A directory with what is in it.")] = False,  # noqa: FBT002
) -> None:
    """A file, a link or a directory."""
    await hutch.files.remove(caller.user_id, path, recursive=recursive)


@router.post("/move", status_code=204)
async def move_file(asked: MoveRequest, hutch: HutchDep, caller: CallerDep) -> None:
    """Or rename it. Directories on the way are made."""
    await hutch.files.move(caller.user_id, asked.path, asked.to, overwrite=asked.overwrite)


@router.get(
    "/content",
    response_class=StreamingResponse,
    responses={
        200: _FILE,
        206: {**_FILE, "description": "The part that Range asks for."},
        304: {"description": "It is still what If-None-Match says."},
    },
)
async def read_file(
    *,
    hutch: HutchDep,
    caller: CallerDep,
    path: FilePath,
    range: Annotated[str | None, Header()] = None,  # noqa: A002  the header's name
    if_range: Annotated[str | None, Header()] = None,
    if_none_match: Annotated[str | None, Header()] = None,
) -> Response:
    """A file, or with `Range: bytes=…` one part of it."""
    reading = await hutch.files.read(caller.user_id, path, _part(range), if_tag=_if_range(if_range))
    entry = reading.entry
    headers = {
        "etag": etag(entry),
        "last-modified": formatdate(entry.modified, usegmt=True),
        "accept-ranges": "bytes",
        "content-disposition": "attachment",
    }
    if if_none_match is not None and if_none_match in {etag(entry), "*"}:
        await reading.close()
        return Response(status_code=304, headers=headers)
    headers["content-length"] = str(reading.length)
    if reading.partial:
        end = reading.first + reading.length - 1
        headers["content-range"] = f"bytes {reading.first}-{end}/{entry.size}"
    status = 206 if "content-range" in headers else 200
    return _Sending(reading, status, "application/octet-stream", headers)


@router.put(
    "/content",
    responses={201: {"model": FileAnswer, "description": "Nothing was there before."}},
    openapi_extra={"requestBody": {**_FILE, "required": True}},
)
async def write_file(
    *,
    request: Request,
    response: Response,
    hutch: HutchDep,
    caller: CallerDep,
    path: FilePath,
    if_match: IfMatch = None,
    if_none_match: IfNone = None,
) -> FileAnswer:
    """The body is the file's content. It is there all at once, or not at all; directories on the
    way are made.
    """
    tag = _if_match(if_match)
    if if_none_match not in {None, "*"}:
        raise InvalidRequest("Here If-None-Match is * alone.", hint="Use If-Match for an ETag.")
    async with _Receiving(request) as body:
        written = await hutch.files.write(
            caller.user_id,
            path,
            body.pieces(),
            length=body.length,
            if_tag=tag,
            new=if_none_match is not None,
        )
    response.headers["etag"] = etag(written.entry)
    response.status_code = 201 if written.made else 200
    return FileAnswer.of(written.entry)


@router.get("/archive", response_class=StreamingResponse, responses={200: _TAR})
async def pack_files(hutch: HutchDep, caller: CallerDep, path: FilePath = "") -> Response:
    """A directory as a tar archive, with names relative to it; links are packed as links. The same
    files give the same bytes. An archive that is not whole breaks off.
    """
    packed = await hutch.files.pack(caller.user_id, path)
    return _Sending(packed, 200, "application/x-tar", {"content-disposition": "attachment"})


@router.put("/archive", openapi_extra={"requestBody": {**_FILE, "required": True}})
async def unpack_files(
    request: Request, hutch: HutchDep, caller: CallerDep, path: FilePath = ""
) -> UnpackedAnswer:
    """The body is a tar archive, plain or with gzip, that is unpacked into a directory: all of it,
    or nothing of it.
    """
    async with _Receiving(request) as body:
        done = await hutch.files.unpack(caller.user_id, path, body.pieces(), length=body.length)
    return UnpackedAnswer(entries=done.entries, bytes=done.bytes)


class _Receiving:
    """A body that is read as it comes. Who is refused before the end of it sends on for a while,
    since many clients look for an answer only after that.
    """

    def __init__(self, request: Request) -> None:
        self._request = request
        self._begun = False
        length = request.headers.get("content-length", "")
        self.length = int(length) if length.isascii() and length.isdigit() else None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, _kind: object, error: BaseException | None, _where: object) -> None:
        waits = self._request.headers.get("expect", "").lower() == "100-continue"
        if isinstance(error, HutchError) and (self._begun or not waits):
            await self._drop()

    async def pieces(self) -> AsyncIterator[bytes]:
        self._begun = True
        async for piece in self._request.stream():
            if piece:
                yield piece

    async def _drop(self) -> None:
        dropped = 0
        try:
            async for piece in self._request.stream():
                dropped += len(piece)
                if dropped > DROPPED_MAX:
                    return
        except (ClientDisconnect, RuntimeError):  # RuntimeError: it was read to its end
            pass


class _Sending(StreamingResponse):
    """Of what breaks off the connection is closed, so that nobody takes it for whole."""

    def __init__(
        self, download: Download, status: int, media_type: str, headers: dict[str, str]
    ) -> None:
        super().__init__(download.pieces, status, headers, media_type)
        self._download = download

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        except HutchError as error:
            _log.info("file.broken_off", code=error.code, reason=error.message)
        finally:
            await self._download.close()


def _part(header: str | None) -> Part | None:
    """None: all of it, also where the header is of another kind (RFC 9110, section 14.2)."""
    found = _RANGE.fullmatch(header.replace(" ", "")) if header is not None else None
    if found is None:
        return None
    first, last = (int(text) if text else None for text in found.groups())
    if first is None:
        return Part(suffix=last) if last is not None else None
    if last is not None and last < first:
        return None
    return Part(first=first, last=last)


def _if_range(header: str | None) -> str | None:
    """A date is not told from another one by seconds: then all of it."""
    if header is None:
        return None
    found = _TAG.fullmatch(header)
    return found.group(1) if found is not None else "none"


def _if_match(header: str | None) -> str | None:
    if header in {None, "*"}:
        return header
    found = _TAG.fullmatch(header or "")
    if found is None:
        raise PreconditionFailed("If-Match names no file's ETag.", hint="One, in quotes; or *.")
    return found.group(1)
