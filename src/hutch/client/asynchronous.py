"""The client for asyncio: the methods of ``Client``, to be awaited."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import IO, Self, TypeVar, Unpack

import httpx2

from hutch.client.endpoints import Endpoints, SendsLater
from hutch.client.errors import ClientError, refusal
from hutch.client.events import Event
from hutch.client.file_requests import file, unpacked
from hutch.client.following import Following, Prose
from hutch.client.models import File, Run, Unpacked
from hutch.client.options import ANSWER_S, RETRY_FOR_S, Configured, Options, settled, trust
from hutch.client.requests import Request, Steps
from hutch.client.retries import Patience
from hutch.client.run_options import RunOptions, body_and_headers
from hutch.client.terminals import AsyncTerminal, Notice
from hutch.client.transfers import PIECE, Fetching, Progress, sending

T = TypeVar("T")


class AsyncClient(Endpoints, Configured, SendsLater):
    """As ``Client``. Use as an asynchronous context manager, or ``await close()``."""

    def __init__(
        self,
        url: str,
        key: str,
        *,
        user_id: str | None = None,
        timeout_s: float = ANSWER_S,
        retry_for_s: float = RETRY_FOR_S,
        ca: str | Path | ssl.SSLContext | None = None,
    ) -> None:
        self._options = Options(url.rstrip("/"), key, user_id, timeout_s, retry_for_s)
        self._trusted = trust(ca)
        # Not behind the proxy of this machine's browser.
        self._http = httpx2.AsyncClient(base_url=url, verify=self._trusted, trust_env=False)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        await self._http.aclose()

    def stream(self, provider: str, prompt: str, **options: Unpack[RunOptions]) -> AsyncStream:
        """A new run's events, as they come. It begins when you iterate, and goes on if you stop."""
        start = body_and_headers(provider, prompt, options, stream=True)
        return AsyncStream(self, Following(start=start, retry_for_s=self._options.retry_for_s))

    def follow(self, run_id: str, *, after: int = 0) -> AsyncStream:
        """A run's events after the number ``after``, live until it has ended."""
        retry_for_s = self._options.retry_for_s
        return AsyncStream(self, Following(run_id=run_id, after=after, retry_for_s=retry_for_s))

    async def download(
        self,
        path: str,
        to: IO[bytes],
        *,
        archive: bool = False,
        on_bytes: Progress | None = None,
    ) -> None:
        """As ``Client.download``; ``to`` is written to in another thread."""
        fetching = Fetching(
            path, archive=archive, retry_for_s=self._options.retry_for_s, on_bytes=on_bytes
        )
        while not fetching.done:
            try:
                timeout = self._options.stream_timeout()
                async with self._open(fetching.request(), timeout) as response:
                    fetching.opened(response.status_code, response.headers)
                    async for piece in response.aiter_bytes():
                        await asyncio.to_thread(to.write, piece)
                        fetching.take(piece)
                fetching.ended()
            except ClientError as error:
                await asyncio.sleep(fetching.pause_after(error))

    async def upload(
        self,
        path: str,
        source: IO[bytes],
        *,
        if_match: str | None = None,
        new: bool = False,
        on_bytes: Progress | None = None,
    ) -> File:
        """As ``Client.upload``; ``source`` is read in another thread."""
        request = sending(path, source, file, archive=False, if_match=if_match, new=new)
        sent: File = await self._send_pieces(request, source, on_bytes)
        return sent

    async def upload_archive(
        self, path: str, source: IO[bytes], *, on_bytes: Progress | None = None
    ) -> Unpacked:
        """As ``Client.upload_archive``; ``source`` is read in another thread."""
        request = sending(path, source, unpacked, archive=True)
        done: Unpacked = await self._send_pieces(request, source, on_bytes)
        return done

    async def _send_pieces(
        self, request: Request[T], source: IO[bytes], on_bytes: Progress | None
    ) -> T:
        async def pieces() -> AsyncIterator[bytes]:
            while piece := await asyncio.to_thread(source.read, PIECE):
                yield piece
                if on_bytes is not None:
                    on_bytes(len(piece))

        async with self._open(request, self._options.timeout(request), pieces()) as response:
            return request.decode(await response.aread())

    def terminal(
        self,
        command: Sequence[str] | None = None,
        *,
        terminal_id: str | None = None,
        after: int = 0,
        tty: bool = True,
        rows: int = 24,
        columns: int = 80,
        term: str = "xterm-256color",
        on_notice: Callable[[Notice], None] | None = None,
    ) -> AsyncTerminal:
        """A shell or a command in the user's container; with ``terminal_id`` one that is there,
        from the byte ``after`` of its output on. ``on_notice`` is told of connections that break.
        """
        return AsyncTerminal(
            self,
            command=command,
            terminal_id=terminal_id,
            after=after,
            tty=tty,
            rows=rows,
            columns=columns,
            term=term,
            on_notice=on_notice,
        )

    async def _go(self, steps: Steps[T]) -> T:
        try:
            request = next(steps)
            while True:
                request = steps.send(await self._send(request))
        except StopIteration as end:
            value: T = end.value
            return value

    async def _send(self, request: Request[T]) -> T:
        patience = Patience(self._options.retry_for_s)
        tries = 0
        while True:
            tries += 1
            try:
                return request.decode(await self._try(request))
            except ClientError as error:
                if settled(request, error, tries=tries):
                    return request.decode(b"")
                pause = patience.pause_after(error, repeatable=request.repeatable)
            await asyncio.sleep(pause)

    async def _try(self, request: Request[T]) -> bytes:
        try:
            async with (
                asyncio.timeout(self._options.limit_s(request)),
                self._open(request, self._options.timeout(request)) as response,
            ):
                return await response.aread()
        except TimeoutError:
            raise self._options.late(request) from None

    @asynccontextmanager
    async def _open(
        self,
        request: Request[T],
        timeout: httpx2.Timeout,
        content: AsyncIterator[bytes] | None = None,
    ) -> AsyncIterator[httpx2.Response]:
        try:
            async with self._http.stream(
                request.method,
                request.path,
                json=request.json,
                content=content or request.content,
                params=request.params or None,
                headers=self._options.headers(request),
                timeout=timeout,
            ) as response:
                if response.is_error:
                    raise refusal(response.status_code, response.headers, await response.aread())
                yield response
        except httpx2.TransportError as error:
            raise self._options.broken(error) from None


class AsyncStream:
    """As ``Stream``, with ``async for``."""

    def __init__(self, client: AsyncClient, following: Following) -> None:
        self._client = client
        self._following = following

    @property
    def run_id(self) -> str:
        """Empty until the service has taken the run."""
        return self._following.run_id

    @property
    def session_id(self) -> str:
        """Of a new run; empty until the service has taken it."""
        return self._following.session_id

    async def __aiter__(self) -> AsyncIterator[Event]:
        following, client = self._following, self._client
        for event in following.take():
            yield event
        while following.goes_on():
            try:
                timeout = client._options.stream_timeout()  # noqa: SLF001  its other half
                async with client._open(following.request(), timeout) as response:  # noqa: SLF001  the same
                    following.opened(response.headers)
                    async for chunk in response.aiter_bytes():
                        following.feed(chunk)
                        for event in following.take():
                            yield event
                        if not following.goes_on():
                            return
                following.ended()
                if following.in_doubt:
                    following.looked(
                        await client.event_page(following.run_id, after=following.last)
                    )
            except ClientError as error:
                await asyncio.sleep(following.pause_after(error))

    async def text(self) -> AsyncIterator[str]:
        """The answer alone, piece by piece."""
        prose = Prose()
        async for event in self:
            if piece := prose.of(event):
                yield piece

    async def cancel(self) -> Run:
        """End the turn; the last events tell of it."""
        return await self._client.cancel(self.run_id)

    async def result(self) -> Run:
        """The run, once it has ended."""
        async for _ in self:
            pass
        return await self._client.get_run(self.run_id)
