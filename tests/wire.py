"""The API from outside, as it is: answers are its own JSON objects, and nothing is tried twice, so
that tests see what a connection does. ``hutch.client`` is for users, and tested by itself.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final, Self

import httpx2

from hutch.client.errors import Unreachable, refusal

_CONNECT_S: Final = 5
_SILENCE_S: Final = 60  # the service sends a heartbeat every 15 s
_ANSWER_S: Final = 100  # the first run waits for its container


class Wire:
    """Use as a context manager. ``user_id`` is for service keys: whom the requests act for. An
    empty ``key`` is for what needs none, ``/readyz``.
    """

    def __init__(self, url: str, key: str, *, user_id: str | None = None) -> None:
        headers = {"authorization": f"Bearer {key}"} if key else {}
        if user_id is not None:
            headers["x-hutch-user"] = user_id
        self._http = httpx2.Client(
            base_url=url,
            headers=headers,
            timeout=httpx2.Timeout(_ANSWER_S, connect=_CONNECT_S),
            trust_env=False,  # the service is not behind the proxy of this machine's browser
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def run(self, provider: str, prompt: str, **options: Any) -> Iterator[dict[str, Any]]:
        """The events of a new run, as they come; the first holds ``run_id``, the last is
        ``run.finished``. Options: ``model``, ``session_id``, ``timeout_s``.
        """
        body = {"provider": provider, "prompt": prompt, "stream": True, **options}
        with self._open("POST", "/v1/runs", json=body) as response:
            yield from _events(response)

    def follow(self, run_id: str, *, after: int = 0) -> Iterator[dict[str, Any]]:
        headers = {"last-event-id": str(after)}
        with self._open("GET", f"/v1/runs/{run_id}/events", headers=headers) as response:
            yield from _events(response)

    def cancel(self, run_id: str) -> dict[str, Any]:
        return self.call("POST", f"/v1/runs/{run_id}/cancel")

    def get_run(self, run_id: str) -> dict[str, Any]:
        return self.call("GET", f"/v1/runs/{run_id}")

    def execute(self, provider: str, prompt: str, **options: Any) -> dict[str, Any]:
        """To its end by a stream, which may be silent for as long as there are heartbeats."""
        *_, last = self.run(provider, prompt, **options)
        return self.get_run(last["run_id"])

    def container(self) -> dict[str, Any]:
        return self.call("GET", "/v1/container")

    def get_or_create_container(self) -> dict[str, Any]:
        """The user's, made or woken if need be; answers once it is ready."""
        return self.call("PUT", "/v1/container")

    def hibernate(self) -> dict[str, Any]:
        """Put the user's container away now; the next run finds everything as it was."""
        return self.call("POST", "/v1/container/hibernate")

    def destroy_container(self) -> dict[str, Any]:
        """The user's, with everything in it and all that is stored of it."""
        return self.call("DELETE", "/v1/container")

    def put_api_key(self, provider: str, key: str) -> dict[str, Any]:
        return self.call("PUT", f"/v1/credentials/{provider}", json={"api_key": key})

    def call(self, method: str, path: str, **options: Any) -> dict[str, Any]:
        """One request that answers with JSON. Raises ``ApiError``, ``Unreachable``."""
        with self._open(method, path, **options) as response:
            body = response.read()
        value = json.loads(body) if body else {}
        return value if isinstance(value, dict) else {}

    @contextmanager
    def _open(self, method: str, path: str, **options: Any) -> Iterator[httpx2.Response]:
        try:
            timeout = httpx2.Timeout(_ANSWER_S, connect=_CONNECT_S, read=_SILENCE_S)
            with self._http.stream(method, path, timeout=timeout, **options) as response:
                if response.is_error:
                    response.read()
                    raise refusal(response.status_code, response.headers, response.content)
                yield response
        except httpx2.TransportError as error:
            raise Unreachable(
                f"The service at {self._http.base_url} does not answer ({type(error).__name__})."
            ) from None


def _events(response: httpx2.Response) -> Iterator[dict[str, Any]]:
    # Not iter_lines: it splits at U+2028 and others, which may stand inside an event.
    rest = b""
    for chunk in response.iter_bytes():
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            if line.startswith(b"data:"):
                yield json.loads(line[5:])
