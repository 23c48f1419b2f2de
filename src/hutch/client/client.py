"""The client for code that waits; ``hutch.client.asynchronous`` has the other."""

from __future__ import annotations

import ssl
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Self, TypeVar, Unpack

import httpx2

from hutch.client.endpoints import Endpoints, Sends
from hutch.client.errors import ClientError, refusal
from hutch.client.events import Event
from hutch.client.file_requests import file, unpacked
from hutch.client.following import Following, Prose
from hutch.client.models import File, Run, Unpacked
from hutch.client.options import ANSWER_S, RETRY_FOR_S, Configured, Options, settled, trust
from hutch.client.requests import Request, Steps
from hutch.client.retries import Patience
from hutch.client.run_options import RunOptions, body_and_headers
from hutch.client.terminal import Terminal
from hutch.client.transfers import PIECE, Fetching, Progress, sending

T = TypeVar("T")


class Client(Endpoints, Configured, Sends):
    """Use as a context manager, or ``close()`` it. ``user_id`` is for service keys: whom the
    requests act for. An empty ``key`` is for what needs none, ``/readyz``. ``ca``: what a server's
    certificate is checked against, where it is not from a public authority: a PEM file, or a
    context for more than that. May be used by several threads.
    """

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
        self._ca = ca
        # Not behind the proxy of this machine's browser.
        self._http = httpx2.Client(base_url=url, verify=trust(ca), trust_env=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()

    def stream(self, provider: str, prompt: str, **options: Unpack[RunOptions]) -> Stream:
        """A new run's events, as they come. It begins when you iterate, and goes on if you stop."""
        start = body_and_headers(provider, prompt, options, stream=True)
        return Stream(self, Following(start=start, retry_for_s=self._options.retry_for_s))

    def follow(self, run_id: str, *, after: int = 0) -> Stream:
        """A run's events after the number ``after``, live until it has ended."""
        retry_for_s = self._options.retry_for_s
        return Stream(self, Following(run_id=run_id, after=after, retry_for_s=retry_for_s))

    def download(
        self,
        path: str,
        to: IO[bytes],
        *,
        archive: bool = False,
        on_bytes: Progress | None = None,
    ) -> None:
        """A file, or with ``archive`` a directory as a tar archive, written into ``to`` as it
        comes. ``on_bytes`` is told of each piece's size. What breaks off goes on where it stopped.
        """
        fetching = Fetching(
            path, archive=archive, retry_for_s=self._options.retry_for_s, on_bytes=on_bytes
        )
        while not fetching.done:
            try:
                with self._open(fetching.request(), self._options.stream_timeout()) as response:
                    fetching.opened(response.status_code, response.headers)
                    for piece in response.iter_bytes():
                        to.write(piece)
                        fetching.take(piece)
                fetching.ended()
            except ClientError as error:
                time.sleep(fetching.pause_after(error))

    def upload(
        self,
        path: str,
        source: IO[bytes],
        *,
        if_match: str | None = None,
        new: bool = False,
        on_bytes: Progress | None = None,
    ) -> File:
        """A file from what ``source`` holds, read piece by piece; as ``write_file``."""
        request = sending(path, source, file, archive=False, if_match=if_match, new=new)
        sent: File = self._send_pieces(request, source, on_bytes)
        return sent

    def upload_archive(
        self, path: str, source: IO[bytes], *, on_bytes: Progress | None = None
    ) -> Unpacked:
        """A tar archive, plain or with gzip, unpacked into the directory at ``path``: all of it, or
        nothing of it.
        """
        request = sending(path, source, unpacked, archive=True)
        done: Unpacked = self._send_pieces(request, source, on_bytes)
        return done

    def _send_pieces(self, request: Request[T], source: IO[bytes], on_bytes: Progress | None) -> T:
        def pieces() -> Iterator[bytes]:
            while piece := source.read(PIECE):
                yield piece
                if on_bytes is not None:
                    on_bytes(len(piece))

        with self._open(request, self._options.timeout(request), pieces()) as response:
            return request.decode(response.read())

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
    ) -> Terminal:
        """A shell or a command in the user's container; with ``terminal_id`` one that is there,
        from the byte ``after`` of its output on.
        """
        return Terminal(
            self._options,
            self._ca,
            command=command,
            terminal_id=terminal_id,
            after=after,
            tty=tty,
            rows=rows,
            columns=columns,
            term=term,
        )

    def _go(self, steps: Steps[T]) -> T:
        try:
            request = next(steps)
            while True:
                request = steps.send(self._send(request))
        except StopIteration as end:
            value: T = end.value
            return value

    def _send(self, request: Request[T]) -> T:
        patience = Patience(self._options.retry_for_s)
        tries = 0
        while True:
            tries += 1
            try:
                return request.decode(self._try(request))
            except ClientError as error:
                if settled(request, error, tries=tries):
                    return request.decode(b"")
                pause = patience.pause_after(error, repeatable=request.repeatable)
            time.sleep(pause)

    def _try(self, request: Request[T]) -> bytes:
        until = time.monotonic() + self._options.limit_s(request)
        body = bytearray()
        with self._open(request, self._options.timeout(request)) as response:
            for chunk in response.iter_bytes():
                body += chunk
                if time.monotonic() > until:
                    raise self._options.late(request)
        return bytes(body)

    @contextmanager
    def _open(
        self,
        request: Request[T],
        timeout: httpx2.Timeout,
        content: Iterator[bytes] | None = None,
    ) -> Iterator[httpx2.Response]:
        try:
            with self._http.stream(
                request.method,
                request.path,
                json=request.json,
                content=content or request.content,
                params=request.params or None,
                headers=self._options.headers(request),
                timeout=timeout,
            ) as response:
                if response.is_error:
                    raise refusal(response.status_code, response.headers, response.read())
                yield response
        except httpx2.TransportError as error:
            raise self._options.broken(error) from None


class Stream:
    """A run's events; iterate over it. Each comes once: whoever was interrupted iterates again, and
    goes on after the last one. A broken connection is made anew.
    """

    def __init__(self, client: Client, following: Following) -> None:
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

    def __iter__(self) -> Iterator[Event]:
        following, client = self._following, self._client
        yield from following.take()
        while following.goes_on():
            try:
                timeout = client._options.stream_timeout()  # noqa: SLF001  its other half
                with client._open(following.request(), timeout) as response:  # noqa: SLF001  the same
                    following.opened(response.headers)
                    for chunk in response.iter_bytes():
                        following.feed(chunk)
                        yield from following.take()
                        if not following.goes_on():
                            return
                following.ended()
                if following.in_doubt:
                    following.looked(client.event_page(following.run_id, after=following.last))
            except ClientError as error:
                time.sleep(following.pause_after(error))

    def text(self) -> Iterator[str]:
        """The answer alone, piece by piece."""
        prose = Prose()
        for event in self:
            if piece := prose.of(event):
                yield piece

    def cancel(self) -> Run:
        """End the turn; the last events tell of it."""
        return self._client.cancel(self.run_id)

    def result(self) -> Run:
        """The run, once it has ended."""
        for _ in self:
            pass
        return self._client.get_run(self.run_id)
