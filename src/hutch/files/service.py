"""List, read, write, move, remove, pack and unpack what is in a user's workspace.

All of it happens in the container, by its runtime and with the agents' rights; nothing here opens
or parses a file. Each request is a use of the container: one that sleeps is woken, a user who has
none gets one. Paths are relative to ``/workspace``, and nothing else can be reached.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from typing import Any, Final, TypeVar

from hutch import errors
from hutch.errors import HutchError, NotSupported, Unavailable
from hutch.files.models import (
    Download,
    Listing,
    Part,
    Reading,
    Unpacked,
    Written,
    nonsense,
    read_entry,
)
from hutch.sandboxes.runtime_client import RuntimeClient, RuntimeRefused, RuntimeUnreachable
from hutch.sandboxes.untrusted import read_json
from hutch.sandboxes.uses import Use, Uses
from hutch_runtime.protocol import FILES_PAGE_MAX, MIB, PathError, file_path

_T = TypeVar("_T")

AT_ONCE_MAX: Final = 8  # of one user; each may have a thread of the container's runtime
_WITHIN_S: Final = 90.0  # to remove a tree of many files, say
_WHAT: Final = "requests for files"

_KINDS: Final[dict[str, type[HutchError]]] = {
    kind.code: kind
    for kind in (
        errors.NoSuchFile,
        errors.FileExists,
        errors.IsDirectory,
        errors.NoDirectory,
        errors.NoOrdinaryFile,
        errors.DirectoryNotEmpty,
        errors.FileClosed,
        errors.FileTooLarge,
        errors.NoSpace,
        errors.InvalidPath,
        errors.InvalidRange,
        errors.InvalidArchive,
        errors.PreconditionFailed,
    )
}


class Files:
    """Methods raise the errors that ``hutch.errors`` has for files; ``TooManyUses``;
    ``Unavailable`` where there is no container, or it does not answer; ``SandboxFailed``.
    """

    def __init__(self, uses: Uses, runtime: RuntimeClient, *, bytes_max: int) -> None:
        """``bytes_max``: what a workspace holds."""
        self._uses = uses
        self._runtime = runtime
        self._bytes_max = bytes_max

    async def listing(
        self, user_id: str, path: str, *, after: str | None = None, limit: int = FILES_PAGE_MAX
    ) -> Listing:
        """What is in a directory, by name; ``after`` is the ``next`` of the page before."""
        path = _checked(path)
        params = {"path": path, "limit": str(limit)} | ({"after": after} if after else {})
        answer = await self._call(user_id, "GET", "/files", params)
        entries, following = answer.get("entries"), answer.get("next")
        if not isinstance(entries, list) or len(entries) > limit:
            raise nonsense()
        if following is not None and not (isinstance(following, str) and len(following) < 1000):
            raise nonsense()
        return Listing(path, tuple(map(read_entry, entries)), following)

    async def remove(self, user_id: str, path: str, *, recursive: bool = False) -> None:
        params = {"path": _checked(path)} | ({"recursive": "1"} if recursive else {})
        await self._call(user_id, "DELETE", "/files", params)

    async def move(self, user_id: str, path: str, to: str, *, overwrite: bool = False) -> None:
        body = {"path": _checked(path), "to": _checked(to), "overwrite": overwrite}
        await self._call(user_id, "POST", "/files/move", {}, body=body)

    async def read(
        self, user_id: str, path: str, part: Part | None = None, *, if_tag: str | None = None
    ) -> Reading:
        """``part`` of a file, or all of it; all of it also where it is no more what ``if_tag`` is
        of.
        """
        part = part or Part()
        named = {"first": part.first, "last": part.last, "suffix": part.suffix, "if_tag": if_tag}
        params = {name: str(value) for name, value in named.items() if value is not None}
        async with AsyncExitStack() as stack:
            headers, pieces = await self._download(
                stack, user_id, "/files/content", {"path": _checked(path), **params}
            )
            try:
                entry = read_entry(read_json(headers.get("x-hutch-file", "").encode()))
                first, length = int(headers["x-hutch-first"]), int(headers["content-length"])
            except (ValueError, KeyError):
                raise nonsense() from None
            if first < 0 or length < 0 or first + length > entry.size:
                raise nonsense()
            return Reading(
                entry=entry,
                first=first,
                length=length,
                partial=headers.get("x-hutch-part") == "1",
                pieces=_exactly(length, pieces),
                close=stack.pop_all().aclose,
            )
        raise AssertionError  # the block above returns or raises

    async def write(
        self,
        user_id: str,
        path: str,
        pieces: AsyncIterator[bytes],
        *,
        length: int | None = None,
        if_tag: str | None = None,
        new: bool = False,
    ) -> Written:
        """In one step, once all of it is there. ``if_tag``: only in place of what that is of, "*"
        of anything; ``new``: only where there is nothing.
        """
        params = {"path": _checked(path)}
        params |= {"if_tag": if_tag} if if_tag is not None else {}
        params |= {"new": "1"} if new else {}
        answer = await self._upload(user_id, "/files/content", params, pieces, length)
        return Written(read_entry(answer.get("entry")), answer.get("made") is True)

    async def pack(self, user_id: str, path: str) -> Download:
        """What is below a directory, as a tar archive."""
        async with AsyncExitStack() as stack:
            _, pieces = await self._download(
                stack, user_id, "/files/archive", {"path": _checked(path)}
            )
            return Download(pieces, stack.pop_all().aclose)
        raise AssertionError  # the block above returns or raises

    async def unpack(
        self,
        user_id: str,
        path: str,
        pieces: AsyncIterator[bytes],
        *,
        length: int | None = None,
    ) -> Unpacked:
        """A tar archive, also with gzip, over what is below a directory, which is made if need be;
        all of it or nothing.
        """
        params = {"path": _checked(path)}
        answer = await self._upload(user_id, "/files/archive", params, pieces, length)
        entries, size = answer.get("entries"), answer.get("bytes")
        if not isinstance(entries, int) or not isinstance(size, int):
            raise nonsense()
        return Unpacked(entries, size)

    def _use(self, user_id: str) -> AbstractAsyncContextManager[Use]:
        return self._uses.of(user_id, _WHAT, most=AT_ONCE_MAX)

    async def _call(
        self,
        user_id: str,
        method: str,
        path: str,
        params: Mapping[str, str],
        *,
        body: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        async with self._use(user_id) as use:
            return await _told(
                use.unless_over(
                    self._runtime.call(
                        use.sandbox, method, path, params=params, body=body, within_s=_WITHIN_S
                    )
                )
            )

    async def _download(
        self, stack: AsyncExitStack, user_id: str, path: str, params: Mapping[str, str]
    ) -> tuple[Mapping[str, str], AsyncIterator[bytes]]:
        use = await stack.enter_async_context(self._use(user_id))
        opened = self._runtime.download(use.sandbox, path, params=params)
        headers, pieces = await _told(use.unless_over(stack.enter_async_context(opened)))
        return headers, _pieces(use, pieces)

    async def _upload(
        self,
        user_id: str,
        path: str,
        params: Mapping[str, str],
        pieces: AsyncIterator[bytes],
        length: int | None,
    ) -> dict[str, Any]:
        if length is not None and length > self._room(path):
            raise self._too_large()
        body = _Bounded(pieces, self._room(path), self._too_large)
        async with self._use(user_id) as use:
            try:
                return await _told(
                    use.unless_over(
                        self._runtime.upload(
                            use.sandbox, path, params=params, pieces=body.pieces(), length=length
                        )
                    )
                )
            except Unavailable:
                if body.refused is not None:  # which is why it broke off
                    raise body.refused from None
                raise

    def _room(self, path: str) -> int:
        # An archive of many small files is larger than they are.
        return self._bytes_max * (2 if path == "/files/archive" else 1)

    def _too_large(self) -> errors.FileTooLarge:
        return errors.FileTooLarge(
            f"A workspace holds {self._bytes_max // MIB} MB, and this is more.",
            hint="Nothing was written.",
        )


class _Bounded:
    """Pieces of a body, which are refused where they become too many."""

    def __init__(
        self, pieces: AsyncIterator[bytes], most: int, refusal: Callable[[], HutchError]
    ) -> None:
        self._pieces = pieces
        self._most = most
        self._refusal = refusal
        self.refused: HutchError | None = None

    async def pieces(self) -> AsyncIterator[bytes]:
        size = 0
        async for piece in self._pieces:
            size += len(piece)
            if size > self._most:
                self.refused = self._refusal()
                raise self.refused
            yield piece


async def _told(answer: Awaitable[_T]) -> _T:
    """Its result; a refusal of the runtime in our own words."""
    try:
        return await answer
    except RuntimeRefused as refused:
        kind = _KINDS.get(refused.code)
        if kind is not None:
            raise kind(refused.message, hint=_HINTS.get(refused.code, "")) from None
        if refused.status == 404 and not refused.code:
            raise NotSupported(
                "This container is of an older image, which does not give out files.",
                hint="DELETE /v1/container, or wait until it is replaced.",
            ) from None
        raise Unavailable(f"The container refused: {refused.message}", hint="Try again.") from None
    except RuntimeUnreachable:
        raise Unavailable("The container does not answer.", hint="Try again.") from None


_HINTS: Final = {
    "no_space": "Remove something, or write less. What is replaced stays until the new is whole.",
    "not_a_file": "The listing shows a link's target; ask for that.",
    "is_a_directory": "GET /v1/files lists it, GET /v1/files/archive packs it.",
    "directory_not_empty": "Say recursive=true to remove what is in it, too.",
    "file_exists": "Say overwrite to replace it.",
    "invalid_archive": "Nothing of it was unpacked.",
    "precondition_failed": "Read it again, and decide anew.",
}


async def _pieces(use: Use, pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    while True:
        piece = await _told(use.unless_over(_next(pieces)))
        if not piece:
            return
        yield piece


async def _next(pieces: AsyncIterator[bytes]) -> bytes:
    return await anext(pieces, b"")


async def _exactly(length: int, pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    async for piece in pieces:
        length -= len(piece)
        if length < 0:
            raise nonsense()
        yield piece
    if length:
        raise Unavailable("The file became shorter while it was read.", hint="Read it again.")


def _checked(path: str) -> str:
    try:
        return file_path(path)
    except PathError as error:
        raise errors.InvalidPath(f"{error}.".capitalize()) from None
