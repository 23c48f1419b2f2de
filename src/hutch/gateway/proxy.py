"""Plain requests, to a provider's API or as a proxy for ``http://``; bytes both ways untouched."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Final

import aiohttp
from aiohttp import web
from multidict import CIMultiDict
from yarl import URL

from hutch.errors import InvalidRequest
from hutch.gateway.clients import SILENCE_S
from hutch.gateway.dial import lane_of
from hutch.gateway.gate import Gate, Peer, route_of
from hutch.gateway.headers import (
    NOT_FROM_HOSTS,
    NOT_FROM_PROVIDERS,
    to_host,
    to_provider,
    to_remote,
    to_sandbox,
)
from hutch.gateway.hosts import check_allowed
from hutch.gateway.names import authority, written
from hutch.gateway.refusals import Refusal, exit_unavailable
from hutch.gateway.seats import Seat
from hutch.gateway.table import Entry, ExitProxy
from hutch.gateway.target import (
    RemoteTarget,
    Target,
    parse_absolute,
    parse_remote,
    parse_target,
)
from hutch.gateway.traffic import Exchange
from hutch_runtime.protocol import MIB

BODY_MAX: Final = 32 * MIB  # Anthropic's own limit; the largest of the three
_UPLOAD_SILENCE_S: Final = 60  # but a sandbox has its prompt ready when it asks


@dataclass(frozen=True, slots=True)
class _Outgoing:
    """A request as it leaves: ``what`` is how the sandbox's user knows the other side."""

    url: URL
    headers: CIMultiDict[str]
    client: AbstractAsyncContextManager[aiohttp.ClientSession]
    what: str
    withheld: frozenset[str]


class Proxy:
    """The handler of all requests that are neither CONNECT nor an upgrade."""

    def __init__(self, gate: Gate) -> None:
        self._gate = gate

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        plain = request.raw_path.startswith("http://")
        exchange = Exchange("plain" if plain else "route", request.method)
        try:
            await self._gate.seats.arrived(_peer(request)[0])
            outgoing = await self._admit(request, exchange)
            return await self._forward(request, exchange, outgoing)
        except Refusal as refusal:
            return self._refuse(request, exchange, refusal)
        finally:
            self._gate.traffic.finished(exchange)

    async def _admit(self, request: web.BaseRequest, exchange: Exchange) -> _Outgoing:
        refused: Refusal | None = None
        target: Target | RemoteTarget | None = None
        if exchange.kind == "route":
            exchange.path = request.raw_path.partition("?")[0]
            try:
                target = parse_remote(request.raw_path) or parse_target(request.raw_path)
            except Refusal as refusal:  # told only to those whom we know
                refused = refusal
        keys = target.presented if target else ()
        peer = _peer(request)
        entry = await self._gate.entry(peer[0], request.headers, keys)
        self._gate.stays(peer, entry)
        exchange.entry = entry
        exchange.provider = target.provider if isinstance(target, Target) else None
        if request.method == "CONNECT" or "upgrade" in request.headers:
            raise Refusal(426, "a tunnel or WebSocket needs a connection of its own.")
        if request.method == "TRACE":
            # Its answer is the request as it arrived there: with the credential.
            raise Refusal(405, "TRACE is not forwarded.")
        if (request.content_length or 0) > BODY_MAX:
            raise Refusal(413, f"a request may have {BODY_MAX // MIB} MB.")
        if refused is not None:
            raise refused
        if isinstance(target, RemoteTarget):
            return self._to_remote(request, exchange, entry, target)
        if target is not None:
            return self._to_provider(request, exchange, entry, target)
        return self._to_host(request, exchange, entry)

    def _to_remote(
        self, request: web.BaseRequest, exchange: Exchange, entry: Entry, target: RemoteTarget
    ) -> _Outgoing:
        remote = entry.remotes.get(target.name)
        url = target.url(remote)
        if url is None or entry.user_id is None:
            raise Refusal(403, f"there is no {target.name}.")
        exchange.host = written(url.raw_host or "", url.port or 0)
        if remote is None:
            check_allowed(entry, *_authority(exchange.host))
        lane = lane_of(entry)
        exchange.exit = lane.way.id if isinstance(lane.way, ExitProxy) else None
        return _Outgoing(
            url,
            to_remote(request.headers.items(), remote),
            self._gate.clients.to_host(lane),  # its address is a user's, and is checked
            exchange.host,
            NOT_FROM_PROVIDERS,
        )

    def _to_provider(
        self, request: web.BaseRequest, exchange: Exchange, entry: Entry, target: Target
    ) -> _Outgoing:
        route = route_of(entry, target)
        lane = lane_of(entry)
        exchange.exit = lane.way.id if isinstance(lane.way, ExitProxy) else None
        return _Outgoing(
            target.url(route.base_url, route.strip),
            to_provider(request.headers.items(), route),
            self._gate.clients.to_provider(lane),
            f"the API of {target.provider}",
            NOT_FROM_PROVIDERS,
        )

    def _to_host(self, request: web.BaseRequest, exchange: Exchange, entry: Entry) -> _Outgoing:
        try:
            host, port, url = parse_absolute(request.raw_path)
        except InvalidRequest as error:
            raise Refusal(400, error.message) from None
        exchange.host = written(host, port)
        exchange.path = url.raw_path
        check_allowed(entry, host, port)
        lane = lane_of(entry)
        exchange.exit = lane.way.id if isinstance(lane.way, ExitProxy) else None
        return _Outgoing(
            url,
            to_host(request.headers.items()),
            self._gate.clients.to_host(lane),
            exchange.host,
            NOT_FROM_HOSTS,
        )

    async def _forward(
        self, request: web.BaseRequest, exchange: Exchange, outgoing: _Outgoing
    ) -> web.StreamResponse:
        assert exchange.entry is not None  # noqa: S101 - for mypy: _admit has set it
        seat = self._gate.seats.of(exchange.entry)
        headers, body = outgoing.headers, None
        if request.body_exists:
            if request.content_length is not None:
                headers["Content-Length"] = str(request.content_length)
            body = self._upload(request, exchange, seat)
        async with outgoing.client as client:
            try:
                upstream = await client.request(
                    request.method, outgoing.url, headers=headers, data=body, allow_redirects=False
                )
            except TimeoutError as error:
                raise Refusal(504, f"{outgoing.what} does not answer.") from error
            except (aiohttp.ClientError, OSError, ValueError) as error:
                raise _failure(exchange, outgoing, error) from error
            try:
                return await self._answer(request, exchange, upstream, outgoing, seat)
            finally:
                # Not release(): what the sandbox has not read must not be read by us instead.
                upstream.close() if not upstream.content.at_eof() else upstream.release()

    async def _upload(
        self, request: web.BaseRequest, exchange: Exchange, seat: Seat
    ) -> AsyncIterator[bytes]:
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
            await seat.up.passed(len(chunk))
            yield chunk

    async def _answer(
        self,
        request: web.BaseRequest,
        exchange: Exchange,
        upstream: aiohttp.ClientResponse,
        outgoing: _Outgoing,
        seat: Seat,
    ) -> web.StreamResponse:
        response = web.StreamResponse(
            status=upstream.status,
            reason=upstream.reason,
            headers=to_sandbox(upstream.headers.items(), outgoing.withheld),
        )
        try:
            await response.prepare(request)
        except ValueError:  # control characters in its reason or a header
            raise Refusal(502, f"the answer of {outgoing.what} cannot be forwarded.") from None
        exchange.status = upstream.status
        while True:
            try:
                chunk = await upstream.content.readany()
            except (aiohttp.ClientError, TimeoutError, OSError) as error:
                exchange.refusal = _failure(exchange, outgoing, error)
                return _broken_off(request, response)
            if not chunk:
                break
            exchange.down += len(chunk)
            try:
                async with asyncio.timeout(SILENCE_S):
                    await response.write(chunk)
            except (aiohttp.ClientError, TimeoutError, OSError):
                return _broken_off(request, response)
            await seat.down.passed(len(chunk))
        await response.write_eof()
        return response

    def _refuse(
        self, request: web.BaseRequest, exchange: Exchange, refusal: Refusal
    ) -> web.StreamResponse:
        exchange.status, exchange.refusal = refusal.status, refusal
        response = web.Response(
            status=refusal.status,
            headers=refusal.headers(exchange.provider),
            body=refusal.body(exchange.provider),
        )
        if request.body_exists and not request.content.at_eof():
            response.force_close()  # rather than read what nobody wants
        return response


def _authority(place: str) -> tuple[str, int]:
    """Raises ``Refusal``."""
    try:
        return authority(place)
    except InvalidRequest as error:
        raise Refusal(400, error.message) from None


def _failure(exchange: Exchange, outgoing: _Outgoing, error: Exception) -> Refusal:
    """What to say of a connection that was made, and then failed."""
    if exchange.refusal is not None:  # our own doing: the upload was broken off
        return exchange.refusal
    name = type(error).__name__
    if exchange.exit is not None:
        return exit_unavailable(
            f"the connection to {outgoing.what} through exit {exchange.exit} broke off ({name})."
        )
    return Refusal(502, f"{outgoing.what} cannot be reached ({name}).")


def _broken_off(request: web.BaseRequest, response: web.StreamResponse) -> web.StreamResponse:
    """Half an answer must not look like a whole one."""
    if request.transport is not None:
        request.transport.abort()
    return response


def _peer(request: web.BaseRequest) -> Peer:
    peer = request.transport.get_extra_info("peername") if request.transport else None
    return (str(peer[0]), int(peer[1])) if isinstance(peer, tuple) else ("", 0)
