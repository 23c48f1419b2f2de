"""What both clients are made of, and how they read what went wrong below them."""

from __future__ import annotations

import copy
import ssl
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Self

import httpx2

from hutch.client.errors import ApiError, ClientError, NotSent, TimedOut, Unreachable
from hutch.client.requests import Request, given

# Of one try; a container may be waited for, for which the service gives up after 90 s.
ANSWER_S: Final = 100.0
CONNECT_S: Final = 5.0
SILENCE_S: Final = 60.0  # of a stream: the service sends a heartbeat every 15 s
RETRY_FOR_S: Final = 30.0  # a restart, or another leader, takes a few seconds


@dataclass(frozen=True, slots=True)
class Options:
    """``timeout_s``: of one try of a request, from its start to its end, beside what the request
    itself waits for; ``retry_for_s``: for which it is tried again, and of a stream since it last
    brought something; 0: never.
    """

    url: str
    key: str
    user_id: str | None = None
    timeout_s: float = ANSWER_S
    retry_for_s: float = RETRY_FOR_S

    def headers(self, request: Request[Any]) -> dict[str, str]:
        ours = {"authorization": f"Bearer {self.key}"} if self.key else {}
        if self.user_id is not None:
            ours["x-hutch-user"] = self.user_id
        return {**ours, **request.headers}

    def limit_s(self, request: Request[Any]) -> float:
        return self.timeout_s + request.waits_s

    def timeout(self, request: Request[Any]) -> httpx2.Timeout:
        connect = min(CONNECT_S, self.timeout_s)
        return httpx2.Timeout(self.limit_s(request), connect=connect, pool=connect)

    def stream_timeout(self) -> httpx2.Timeout:
        """An answer that begins may go on for as long as it brings something."""
        connect = min(CONNECT_S, self.timeout_s)
        return httpx2.Timeout(min(SILENCE_S, self.timeout_s), connect=connect, pool=connect)

    def broken(self, error: httpx2.TransportError | httpx2.StreamError) -> ClientError:
        where = f"The service at {self.url}"
        if isinstance(error, httpx2.ConnectError | httpx2.ConnectTimeout | httpx2.PoolTimeout):
            return NotSent(f"{where} does not answer ({type(error).__name__}).")
        if isinstance(error, httpx2.TimeoutException):
            return TimedOut(f"{where} does not answer ({type(error).__name__}).")
        return Unreachable(f"{where} does not answer ({type(error).__name__}).")

    def late(self, request: Request[Any]) -> TimedOut:
        limit_s = self.limit_s(request)
        return TimedOut(f"The service at {self.url} took more than {limit_s:g} s.")


class Configured:
    """What both clients can change of themselves: the other one shares its connections, and closing
    one closes both.
    """

    _options: Options

    @property
    def url(self) -> str:
        return self._options.url

    def for_user(self, user_id: str) -> Self:
        """The same client for one user of yours; for a service or admin key."""
        return self._with(replace(self._options, user_id=user_id))

    def with_options(
        self, *, timeout_s: float | None = None, retry_for_s: float | None = None
    ) -> Self:
        """The same client with other limits: ``client.with_options(timeout_s=5).runs()``."""
        changed = given(timeout_s=timeout_s, retry_for_s=retry_for_s)
        return self._with(replace(self._options, **changed))

    def _with(self, options: Options) -> Self:
        other = copy.copy(self)
        other._options = options  # noqa: SLF001  its own
        return other


def settled(request: Request[Any], error: ClientError, *, tries: int) -> bool:
    """A deletion that was tried before, and finds nothing now, is done."""
    gone = isinstance(error, ApiError) and error.status == 404
    return gone and request.gone_is_done and tries > 1


def trust(ca: str | Path | ssl.SSLContext | None) -> ssl.SSLContext | bool:
    if ca is None or isinstance(ca, ssl.SSLContext):
        return ca or True
    return ssl.create_default_context(cafile=ca)
