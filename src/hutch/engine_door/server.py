"""The door's socket: requests read within bounds, and answers in the engine's shape."""

from __future__ import annotations

import asyncio
import json
import signal
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Final

import aiohttp
import structlog
from aiodocker import Docker
from aiodocker.exceptions import DockerError
from aiohttp import web

from hutch.backends.privileges import OwnPrivileges
from hutch.config import Settings
from hutch.engine_door.door import EngineDoor
from hutch.engine_door.engine import Answer, Engine
from hutch.engine_door.strict import Refused, asked
from hutch.errors import BackendError, HostNotReady
from hutch.unix_socket import bind
from hutch_runtime.protocol import KIB

_log = structlog.get_logger()

_BODY_MAX: Final = 256 * KIB  # a sandbox's is two; the attacks on walls are sixty
_BODY_S: Final = 10
_HEADER_MAX: Final = 8 * KIB
_IDLE_S: Final = 75
_AT_ONCE: Final = 128  # requests; the API starts four containers at a time
_DRAIN_S: Final = 5
# Of a request that wants a connection for itself, or that says its length in a second way.
_HEADERS: Final = ("upgrade", "expect", "content-encoding", "transfer-encoding", "trailer")


class Server:
    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._stack = AsyncExitStack()
        self._open = 0

    async def start(self) -> None:
        """Raises ``HostNotReady``."""
        path = self._settings.engine_door
        if not path:
            raise HostNotReady(
                "The engine's door has no socket to listen on.",
                hint="HUTCH_ENGINE_DOOR names one, for the door and for the API.",
            )
        docker = Docker(url=self._settings.docker_host)
        self._stack.push_async_callback(docker.close)
        self._door = EngineDoor(
            self._settings, Engine(docker), OwnPrivileges(docker, self._settings)
        )
        http = web.Server(
            self._handle,
            handler_cancellation=True,  # whoever goes away ends their stream of events
            auto_decompress=False,
            access_log=None,
            keepalive_timeout=_IDLE_S,
            max_line_size=_HEADER_MAX,
            max_field_size=_HEADER_MAX,
        )
        runner = web.ServerRunner(http, shutdown_timeout=_DRAIN_S)
        await runner.setup()
        self._stack.push_async_callback(runner.cleanup)
        listener = bind(Path(path), group=self._settings.socket_group)
        await web.SockSite(runner, listener).start()
        self._stack.callback(Path(path).unlink, missing_ok=True)
        _log.info("door.listening", socket=path, instance=self._settings.instance)

    async def close(self) -> None:
        await self._stack.aclose()

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        self._open += 1
        try:
            return await self._answered(request)
        except Refused as refused:
            _log.warning(
                "door.refused",
                rule=refused.rule,
                reason=refused.text,
                method=request.method[:20],
                path=request.raw_path[:200],
            )
            answer = _message(refused.status, f"refused by Hutch's engine door, {refused}")
            answer.force_close()  # what comes behind it may not be what it looks like
            return answer
        except DockerError as error:
            # 900 is the library's own number for: no connection.
            return _message(502 if error.status == 900 else error.status, error.message)
        except BackendError as error:
            return _message(500, f"{error.message} {error.hint}".rstrip())
        finally:
            self._open -= 1

    async def _answered(self, request: web.BaseRequest) -> web.StreamResponse:
        if self._open > _AT_ONCE:
            raise Refused("limits", f"{_AT_ONCE} requests are under way", status=503)
        wanted = asked(request.method, request.raw_path)
        body = await _body(request)
        if (wanted.method, wanted.path) == ("GET", "/events"):
            try:
                return await self._door.follow(wanted, request)
            except aiohttp.ClientError as error:
                raise DockerError(502, "the engine's events broke off") from error
        return _response(await self._door.answer(wanted, body))


async def _body(request: web.BaseRequest) -> bytes:
    for name in _HEADERS:
        if name in request.headers:
            raise Refused("headers", f"no {name} here", status=400)
    if "upgrade" in request.headers.get("connection", "").lower():
        raise Refused("headers", "a connection stays what it is", status=400)
    if (request.content_length or 0) > _BODY_MAX:
        raise Refused("body", f"it has more than {_BODY_MAX} bytes", status=413)
    try:
        async with asyncio.timeout(_BODY_S):
            return await request.content.read()
    except TimeoutError:
        raise Refused("body", f"it did not come within {_BODY_S} s", status=408) from None


def _response(answer: Answer) -> web.Response:
    if answer.status in {204, 304}:
        return web.Response(status=answer.status)
    # The client compares the type as a whole: without a charset.
    return web.Response(
        status=answer.status, body=answer.body, headers={"content-type": "application/json"}
    )


def _message(status: int, text: str) -> web.Response:
    return _response(Answer(status, json.dumps({"message": text}).encode()))


async def serve(settings: Settings) -> None:
    """Run until SIGTERM or SIGINT."""
    server = Server(settings)
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    try:
        await server.start()
        await stop.wait()
    finally:
        await server.close()
