"""Snapshots as objects of an S3-compatible service.

Address and credentials come from the variables that every S3 client reads: ``AWS_ENDPOINT_URL``,
``AWS_ACCESS_KEY_ID``, ``AWS_SECRET_ACCESS_KEY``, ``AWS_REGION``.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from typing import Final
from urllib.parse import urlsplit

import obstore
from obstore.exceptions import BaseError, NotFoundError
from obstore.store import S3Store

from hutch.errors import HostNotReady, SnapshotStoreUnavailable
from hutch.snapshots.base import Kept, SnapshotMissing

_PIECE: Final = 1024 * 1024
_PART: Final = 5 * 1024 * 1024  # the smallest that S3 takes
_CALL: Final = timedelta(seconds=30)
_TRIES: Final = 3
_TRYING: Final = timedelta(seconds=20)


class BucketStore:
    def __init__(self, url: str) -> None:
        """``s3://BUCKET/PREFIX``. Raises ``HostNotReady``."""
        parts = urlsplit(url)
        if parts.scheme != "s3" or not parts.netloc:
            raise HostNotReady(
                "HUTCH_SNAPSHOTS is neither a directory nor s3://BUCKET/PREFIX.",
                hint="Such as s3://my-bucket/hutch; docs/operating.md, Idle containers.",
            )
        with _told():
            self._store = S3Store(
                parts.netloc,
                prefix=parts.path.strip("/") or None,
                client_options={"allow_http": True, "timeout": _CALL, "connect_timeout": "5s"},
                retry_config={"max_retries": _TRIES, "retry_timeout": _TRYING},
            )

    async def put(self, name: str, pieces: AsyncIterator[bytes]) -> int:
        size = 0
        failures: list[BaseException] = []

        async def counted() -> AsyncIterator[bytes]:
            nonlocal size
            try:
                async for piece in pieces:
                    size += len(piece)
                    yield piece
            except BaseException as error:
                failures.append(error)
                raise

        with _told():
            try:
                await obstore.put_async(self._store, name, counted(), chunk_size=_PART)
            except BaseError:
                if failures:  # the source's own failure, which comes back as one of the library's
                    raise failures[0] from None
                raise
        return size

    async def get(self, name: str) -> AsyncIterator[bytes]:
        with _told():
            try:
                found = await obstore.get_async(self._store, name)
            except (NotFoundError, FileNotFoundError):
                raise SnapshotMissing(name) from None
            stream = aiter(found.stream(min_chunk_size=_PIECE))
        while True:
            with _told():
                piece = await anext(stream, None)
            if piece is None:
                return
            yield bytes(piece)

    async def delete(self, name: str) -> None:
        with _told(), contextlib.suppress(NotFoundError, FileNotFoundError):
            await obstore.delete_async(self._store, name)

    async def kept(self) -> list[Kept]:
        with _told():
            return [
                Kept(one["path"], one["last_modified"].timestamp())
                for page in [await obstore.list(self._store).collect_async()]
                for one in page
            ]

    async def close(self) -> None:
        """Its connections are the library's."""


@contextlib.contextmanager
def _told() -> Iterator[None]:
    try:
        yield
    except (BaseError, OSError) as error:
        # Not the library's words: they hold addresses, and may hold more.
        raise SnapshotStoreUnavailable(
            f"The bucket of snapshots did not do what was asked ({type(error).__name__}).",
            hint="Are AWS_ENDPOINT_URL, the credentials and the bucket right, and is it there?",
        ) from None
