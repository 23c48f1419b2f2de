"""The client for asyncio: the methods of ``Client``, to be awaited."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Self, TypeVar, Unpack

import httpx2

from hutch.client.endpoints import Endpoints, SendsLater
from hutch.client.errors import ClientError, refusal
from hutch.client.events import Event
from hutch.client.following import Following, Prose
from hutch.client.models import Run
from hutch.client.options import ANSWER_S, RETRY_FOR_S, Configured, Options, settled, trust
from hutch.client.requests import Request, Steps
from hutch.client.retries import Patience
from hutch.client.run_options import RunOptions, body_and_headers

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
        # Not behind the proxy of this machine's browser.
        self._http = httpx2.AsyncClient(base_url=url, verify=trust(ca), trust_env=False)

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
        self, request: Request[T], timeout: httpx2.Timeout
    ) -> AsyncIterator[httpx2.Response]:
        try:
            async with self._http.stream(
                request.method,
                request.path,
                json=request.json,
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
