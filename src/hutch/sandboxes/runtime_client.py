"""HTTP to the runtime inside a sandbox. The other side is hostile: all is bounded and timed."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import io
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

import aiohttp

from hutch.sandboxes.models import Sandbox
from hutch.sandboxes.untrusted import read_json
from hutch_runtime.protocol import (
    DECISIONS,
    ERROR_CODES,
    EVENT_MAX_BYTES,
    FILE_ERROR_CODES,
    KIB,
    Attachment,
    Decision,
    Provider,
)

_CONNECT_S: Final = 5
_ANSWER_S: Final = 10  # for calls that answer at once
_SILENCE_S: Final = 60  # the runtime sends a heartbeat every 15 s
# A hundred megabytes take a second or two; a busy host is slower.
_STATE: Final = aiohttp.ClientTimeout(total=120, connect=_CONNECT_S, sock_read=30)
# Whoever sends or takes a file may be slow, but not silent.
_TRANSFER: Final = aiohttp.ClientTimeout(total=3600, connect=_CONNECT_S, sock_read=60)
_CODES: Final = ERROR_CODES | FILE_ERROR_CODES
_BODY_MAX: Final = 256 * KIB
_HEAD_S: Final = 60  # of a stream; informational answers before it would never end
# Of a stream, beyond as many bytes as its events have: heartbeats of hours, or a moment of a flood.
_IDLE_BYTES_MAX: Final = 64 * KIB


class RuntimeUnreachable(Exception):
    """No answer, or one that breaks off; the sandbox may be gone."""


@dataclass(frozen=True, slots=True)
class RuntimeRefused(Exception):
    """The runtime answered with an error of its own."""

    status: int
    code: str
    message: str


def runtime_key(secret: bytes, incarnation: str) -> str:
    """The bearer key of one sandbox, derived so that it need not be stored."""
    return hmac.digest(secret, b"hutch runtime " + incarnation.encode(), "sha256").hex()


def runtime_key_hash(secret: bytes, incarnation: str) -> str:
    """What the container holds instead: enough to check the key, useless for presenting it."""
    return hashlib.sha256(runtime_key(secret, incarnation).encode()).hexdigest()


class RuntimeClient:
    def __init__(self, secret: bytes) -> None:
        self._secret = secret
        self._http: aiohttp.ClientSession | None = None

    async def close(self) -> None:
        if self._http is not None:
            await self._http.close()

    async def health(self, sandbox: Sandbox) -> dict[str, Any]:
        return await self.call(sandbox, "GET", "/health")

    async def cancel(self, sandbox: Sandbox, run_id: str) -> None:
        await self.call(sandbox, "POST", f"/runs/{run_id}/cancel")

    async def decide(
        self, sandbox: Sandbox, run_id: str, approval_id: str, decision: Decision
    ) -> Decision:
        """What was decided: this, or what was before it. Repeating it is right."""
        path = f"/runs/{run_id}/approvals/{approval_id}"
        answer = await self.call(sandbox, "POST", path, body={"decision": decision})
        decided = answer.get("decision")
        for known in DECISIONS:
            if decided == known:
                return known
        raise RuntimeUnreachable("an answer that is no decision")

    @asynccontextmanager
    async def prompt(
        self,
        sandbox: Sandbox,
        *,
        run_id: str,
        provider: Provider,
        prompt: str,
        model: str | None,
        session: str | None,
        options: Mapping[str, Any] | None = None,
        attachments: Sequence[Attachment] = (),
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        """Start the run, or attach to it if it has started; yields each event's JSON. A runtime
        from before there were options, or approvals, refuses them with 404 and no code.
        """
        body: dict[str, Any] = {
            "run_id": run_id,
            "prompt": prompt,
            "model": model,
            "session": session,
        }
        path, options = f"/{provider}", dict(options or {})
        asks = options.get("permission_mode") == "ask"
        if not asks:  # as any runtime does by itself
            options.pop("permission_mode", None)
        if options or attachments:
            way = "with-approvals" if asks else "with-options"
            path += "/with-diff" if options.get("diff") else f"/{way}"
            body |= {"options": options, "attachments": [*map(_carried, attachments)]}
        # As a file: aiohttp writes a large one piece by piece, and warns of large bytes.
        data = io.BytesIO(json.dumps(body).encode())
        async with self._stream(sandbox, "POST", path, data=data) as events:
            yield events

    @asynccontextmanager
    async def follow(
        self, sandbox: Sandbox, run_id: str, *, after: int
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        path = f"/runs/{run_id}/events?after={after}"
        async with self._stream(sandbox, "GET", path) as events:
            yield events

    async def call(
        self,
        sandbox: Sandbox,
        method: str,
        path: str,
        *,
        params: Mapping[str, str] | None = None,
        body: Mapping[str, Any] | None = None,
        within_s: float = _ANSWER_S,
    ) -> dict[str, Any]:
        """One request that is answered with a JSON object. Raises ``RuntimeUnreachable``,
        ``RuntimeRefused``.
        """
        timeout = aiohttp.ClientTimeout(total=within_s, connect=_CONNECT_S)
        options: dict[str, Any] = {"timeout": timeout, "params": params, "json": body}
        async with self._request(sandbox, method, path, **options) as response:
            return _json(await _read(response))

    @asynccontextmanager
    async def pack(self, sandbox: Sandbox) -> AsyncIterator[AsyncIterator[bytes]]:
        """Home and workspace as a tar stream; breaks off if it is not whole."""
        async with self._request(sandbox, "GET", "/state", timeout=_STATE) as response:
            yield response.content.iter_any()

    async def unpack(self, sandbox: Sandbox, pieces: AsyncIterator[bytes]) -> None:
        """Raises ``RuntimeUnreachable`` also for whatever ``pieces`` raises."""
        async with self._request(sandbox, "PUT", "/state", timeout=_STATE, data=pieces) as response:
            await _read(response)

    @asynccontextmanager
    async def exchange(
        self, sandbox: Sandbox, path: str, pieces: AsyncIterator[bytes]
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        """One request that is written and read at once, for as long as both sides like. Its answer
        does not begin before the first of the ``pieces``.
        """
        async with self._open_ended(sandbox, "POST", path, data=pieces) as response:
            yield response.content.iter_any()

    @asynccontextmanager
    async def download(
        self, sandbox: Sandbox, path: str, *, params: Mapping[str, str]
    ) -> AsyncIterator[tuple[Mapping[str, str], AsyncIterator[bytes]]]:
        """Headers and content; breaks off if it is not whole."""
        options: dict[str, Any] = {"timeout": _TRANSFER, "params": params}
        async with self._request(sandbox, "GET", path, **options) as response:
            yield response.headers, _whole(response)

    async def upload(
        self,
        sandbox: Sandbox,
        path: str,
        *,
        params: Mapping[str, str],
        pieces: AsyncIterator[bytes],
        length: int | None,
    ) -> dict[str, Any]:
        """Nothing of ``pieces`` is asked for before the runtime has said that it takes them. Raises
        ``RuntimeUnreachable`` also for whatever they raise.
        """
        async with self._request(
            sandbox,
            "PUT",
            path,
            headers={"content-length": str(length)} if length is not None else {},
            timeout=_TRANSFER,
            params=params,
            data=pieces,
            expect100=True,
        ) as response:
            return _json(await _read(response))

    @asynccontextmanager
    async def _stream(
        self, sandbox: Sandbox, method: str, path: str, **options: Any
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        async with self._open_ended(sandbox, method, path, **options) as response:
            yield sse_data(response.content.iter_any())

    @asynccontextmanager
    async def _open_ended(
        self, sandbox: Sandbox, method: str, path: str, **options: Any
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """An answer that may take as long as it likes, once it has begun."""
        timeout = aiohttp.ClientTimeout(total=None, connect=_CONNECT_S, sock_read=_SILENCE_S)
        try:
            async with (
                asyncio.timeout(_HEAD_S) as patience,
                self._request(sandbox, method, path, timeout=timeout, **options) as response,
            ):
                patience.reschedule(None)
                yield response
        except TimeoutError as error:
            raise RuntimeUnreachable("no answer") from error

    @asynccontextmanager
    async def _request(
        self,
        sandbox: Sandbox,
        method: str,
        path: str,
        headers: Mapping[str, str] | None = None,
        **options: Any,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        if self._http is None:
            self._http = aiohttp.ClientSession(
                trust_env=False,  # never through a proxy of the operator's
                cookie_jar=aiohttp.DummyCookieJar(),
                connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=300),
                auto_decompress=False,  # no runtime compresses; bounds are of bytes as they came
            )
        url = f"http://{sandbox.address}:{sandbox.port}{path}"
        key = runtime_key(self._secret, sandbox.incarnation)
        try:
            async with self._http.request(
                method,
                url,
                headers={"authorization": f"Bearer {key}", **(headers or {})},
                allow_redirects=False,
                **options,
            ) as response:
                if response.status != 200:
                    raise _refusal(response.status, await _read(response))
                yield response
        except (TimeoutError, aiohttp.ClientError, ConnectionError) as error:
            raise RuntimeUnreachable(type(error).__name__) from error


async def _whole(response: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    """Raises ``RuntimeUnreachable`` where it breaks off."""
    try:
        async for piece in response.content.iter_any():
            yield piece
    except (TimeoutError, aiohttp.ClientError, ConnectionError) as error:
        raise RuntimeUnreachable(type(error).__name__) from error


def _carried(attachment: Attachment) -> dict[str, str]:
    return {
        "name": attachment.name,
        "media_type": attachment.media_type,
        "data": base64.b64encode(attachment.content).decode(),
    }


async def sse_data(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The data of each server-sent event; comments and other fields are passed over.

    Raises ``RuntimeUnreachable`` for a line longer than an event may be, and for a flood of what is
    passed over: it would cost this process its time, and no run its allowance.
    """
    buffer = bytearray()
    scanned = 0
    idle = 0
    async for chunk in chunks:
        buffer += chunk
        while (end := buffer.find(b"\n", scanned)) >= 0:
            line = bytes(buffer[:end])
            del buffer[: end + 1]
            scanned = 0
            if line.startswith(b"data:"):
                idle -= len(line)
                yield line[5:].strip()
            else:
                idle += len(line) + 1
                if idle > _IDLE_BYTES_MAX:
                    raise RuntimeUnreachable("a stream with next to nothing in it")
        scanned = len(buffer)
        if scanned > EVENT_MAX_BYTES:
            raise RuntimeUnreachable("an event of more than the allowed size")


async def _read(response: aiohttp.ClientResponse) -> bytes:
    body = bytearray()
    async for chunk in response.content.iter_any():
        body += chunk
        if len(body) > _BODY_MAX:
            raise RuntimeUnreachable("an answer of more than the allowed size")
    return bytes(body)


def _refusal(status: int, body: bytes) -> RuntimeRefused:
    try:
        error = _json(body).get("error")
    except RuntimeUnreachable:  # a runtime of another version may not know the path
        error = None
    error = error if isinstance(error, dict) else {}
    code = error.get("code")
    return RuntimeRefused(
        status,
        code if isinstance(code, str) and code in _CODES else "",
        str(error.get("message", f"the runtime answered with status {status}"))[:2000],
    )


def _json(body: bytes) -> dict[str, Any]:
    try:
        return read_json(body)
    except ValueError as error:
        raise RuntimeUnreachable(f"an answer that cannot be read: {error}") from None
