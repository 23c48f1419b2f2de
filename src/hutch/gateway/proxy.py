"""One request through: who asks, where to, with which credential; bytes both ways untouched."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Final

import aiohttp
import structlog
from aiohttp import web

from hutch.gateway.headers import presented_keys, to_provider, to_sandbox
from hutch.gateway.refusals import Refusal
from hutch.gateway.table import Entry, Route, Table
from hutch.gateway.target import Target, parse_target
from hutch_runtime.protocol import MIB, Provider

_log = structlog.get_logger()

BODY_MAX: Final = 32 * MIB  # Anthropic's own limit; the largest of the three
SYNC_WAIT_S: Final = 2  # a gateway that was just restarted has its table in milliseconds
_RETRY_AFTER_S: Final = 2
_CONNECT_S: Final = 10
_SILENCE_S: Final = 600  # a model may think that long without a byte
_UPLOAD_SILENCE_S: Final = 60  # but a sandbox has its prompt ready when it asks
_TOTAL_S: Final = 3600  # the longest run
_POOL_IDLE_S: Final = 30  # shorter than the providers' own, or a request meets a closed connection
_PATH_MAX: Final = 200  # characters of it in the log


@dataclass(slots=True)
class _Exchange:
    """What one request's log line says: no header, no body, no query."""

    method: str
    began: float = field(default_factory=time.perf_counter)
    entry: Entry | None = None
    target: Target | None = None
    path: str = ""
    status: int = 499  # unless an answer is sent, the sandbox has gone away
    up: int = 0
    down: int = 0
    refusal: Refusal | None = None  # why the upload was broken off

    def log(self) -> None:
        _log.info(
            "gateway.request",
            user=self.entry.user_id if self.entry else None,
            sandbox=self.entry.sandbox_id if self.entry else None,
            provider=self.target.provider if self.target else None,
            method=self.method,
            path=self.path[:_PATH_MAX],
            status=self.status,
            bytes_up=self.up,
            bytes_down=self.down,
            ms=round((time.perf_counter() - self.began) * 1000, 1),
        )


class Proxy:
    """The handler of the gateway's port. ``table`` is empty until ``synced`` is set."""

    def __init__(self, table: Table) -> None:
        self.table = table
        self.synced = asyncio.Event()
        self._http = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=_POOL_IDLE_S),
            timeout=aiohttp.ClientTimeout(
                total=_TOTAL_S, sock_connect=_CONNECT_S, sock_read=_SILENCE_S
            ),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            trust_env=False,
            skip_auto_headers=("Accept", "Accept-Encoding", "Content-Type", "User-Agent"),
        )

    async def close(self) -> None:
        await self._http.close()

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        exchange = _Exchange(request.method, path=request.raw_path.partition("?")[0])
        try:
            url_route = await self._admit(request, exchange)
            return await self._forward(request, exchange, *url_route)
        except Refusal as refusal:
            return self._refuse(request, exchange, refusal)
        finally:
            exchange.log()

    async def _admit(self, request: web.BaseRequest, exchange: _Exchange) -> tuple[Target, Route]:
        if not self.synced.is_set():
            try:
                async with asyncio.timeout(SYNC_WAIT_S):
                    await self.synced.wait()
            except TimeoutError:
                raise Refusal(
                    503, "just started, and not told yet who is who.", _RETRY_AFTER_S
                ) from None
        refused: Refusal | None = None
        try:
            exchange.target = parse_target(request.raw_path)
        except Refusal as refusal:  # told only to those whom we know
            refused = refusal
        target = exchange.target
        keys = (*presented_keys(request.headers), *(target.presented if target else ()))
        exchange.entry = self.table.find(_peer(request), keys)
        if exchange.entry is None:
            raise Refusal(403, "this address is no sandbox's.")
        if request.method == "CONNECT":
            raise Refusal(405, "CONNECT is not open.")
        if target is None:
            raise refused or Refusal(400, "the request's path is not one that can be forwarded.")
        if "upgrade" in request.headers:
            raise Refusal(426, "WebSockets are not forwarded; use plain requests.")
        if (request.content_length or 0) > BODY_MAX:
            raise Refusal(413, f"a request may have {BODY_MAX // MIB} MB.")
        if exchange.entry.user_id is None:
            raise Refusal(403, "this sandbox has no user yet.")
        route = exchange.entry.routes.get(target.provider)
        if route is None:
            raise Refusal(
                403,
                f"no credential for {target.provider} is stored: "
                f"PUT /v1/credentials/{target.provider}",
            )
        return target, route

    async def _forward(
        self, request: web.BaseRequest, exchange: _Exchange, target: Target, route: Route
    ) -> web.StreamResponse:
        headers = to_provider(request.headers.items(), route)
        body = None
        if request.body_exists:
            if request.content_length is not None:
                headers["Content-Length"] = str(request.content_length)
            body = self._upload(request, exchange)
        try:
            upstream = await self._http.request(
                request.method,
                target.url(route.base_url, route.strip),
                headers=headers,
                data=body,
                allow_redirects=False,
            )
        except TimeoutError as error:
            raise Refusal(504, f"the API of {target.provider} does not answer.") from error
        except (aiohttp.ClientError, OSError, ValueError) as error:
            if exchange.refusal is not None:
                raise exchange.refusal from error
            raise Refusal(
                502, f"the API of {target.provider} cannot be reached ({type(error).__name__})."
            ) from error
        try:
            return await self._answer(request, exchange, upstream)
        finally:
            # Not release(): what the sandbox has not read must not be read by us instead.
            upstream.close() if not upstream.content.at_eof() else upstream.release()

    async def _upload(self, request: web.BaseRequest, exchange: _Exchange) -> AsyncIterator[bytes]:
        if request.headers.get("expect", "").lower() == "100-continue":
            await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            request.writer.output_size = 0
        while True:
            try:
                async with asyncio.timeout(_UPLOAD_SILENCE_S):
                    chunk = await request.content.readany()
            except TimeoutError:
                exchange.refusal = Refusal(408, "the request's body does not come.")
                raise
            if not chunk:
                return
            exchange.up += len(chunk)
            if exchange.up > BODY_MAX:
                exchange.refusal = Refusal(413, f"a request may have {BODY_MAX // MIB} MB.")
                raise exchange.refusal
            yield chunk

    async def _answer(
        self,
        request: web.BaseRequest,
        exchange: _Exchange,
        upstream: aiohttp.ClientResponse,
    ) -> web.StreamResponse:
        response = web.StreamResponse(
            status=upstream.status,
            reason=upstream.reason,
            headers=to_sandbox(upstream.headers.items()),
        )
        await response.prepare(request)
        exchange.status = upstream.status
        try:
            while chunk := await upstream.content.readany():
                exchange.down += len(chunk)
                async with asyncio.timeout(_SILENCE_S):
                    await response.write(chunk)
        except (aiohttp.ClientError, TimeoutError, OSError):
            # Half an answer must not look like a whole one: break the connection off.
            if request.transport is not None:
                request.transport.abort()
            return response
        await response.write_eof()
        return response

    def _refuse(
        self, request: web.BaseRequest, exchange: _Exchange, refusal: Refusal
    ) -> web.StreamResponse:
        exchange.status = refusal.status
        provider: Provider | None = exchange.target.provider if exchange.target else None
        if exchange.entry is None and refusal.status == 403:
            provider = None
        response = web.Response(
            status=refusal.status, headers=refusal.headers(provider), body=refusal.body(provider)
        )
        if request.body_exists and not request.content.at_eof():
            response.force_close()  # rather than read what nobody wants
        return response


def _peer(request: web.BaseRequest) -> str:
    peer = request.transport.get_extra_info("peername") if request.transport else None
    return str(peer[0]) if isinstance(peer, tuple) else ""
