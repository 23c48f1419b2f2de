"""A runtime with real terminals in this process, and a client of ``WS /v1/terminal``."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from hutch_runtime.identity import Identity
from hutch_runtime.server import _guarded, _refusal
from hutch_runtime.terminals.routes import Attach, TerminalRoutes
from hutch_runtime.terminals.service import Terminals
from tests.orchestrator.runtime import ScriptedRuntime


@asynccontextmanager
async def a_runtime(directory: Path, *, attach: ASGIApp | None = None) -> AsyncIterator[int]:
    """Its port. ``attach``: instead of the real one."""
    terminals = Terminals(
        lambda: {"PATH": "/usr/bin:/bin", "SHELL": "/bin/sh"}, directory, Identity()
    )

    async def health(_: Request) -> Response:
        return JSONResponse(ScriptedRuntime().health)

    routes = [
        Route("/health", health),
        Route("/logins/{provider}", health, methods=["DELETE"]),
        *(
            Route(path, _guarded(endpoint), methods=[method])
            for path, method, endpoint in TerminalRoutes(terminals).all()
        ),
        Route(
            "/terminals/{terminal_id}/attach",
            attach or Attach(terminals, _refusal),
            methods=["POST"],
        ),
    ]
    config = uvicorn.Config(
        Starlette(routes=routes),
        http="h11",
        ws="none",
        port=0,
        log_level="error",
        lifespan="off",
        timeout_graceful_shutdown=1,
    )
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    try:
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        await terminals.close()
        server.should_exit = True
        await serving


class Shell:
    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self.socket = socket
        self.output = bytearray()
        self.said: list[dict[str, Any]] = []
        self.code: int | None = None

    @property
    def ready(self) -> dict[str, Any]:
        return next(one for one in self.said if one["type"] == "ready")

    @property
    def offset(self) -> int:
        start: int = self.ready["offset"]
        return start + len(self.output)

    async def type(self, data: bytes) -> None:
        await self.socket.send_bytes(data)

    async def say(self, kind: str, **fields: Any) -> None:
        await self.socket.send_json({"type": kind, **fields})

    async def read(self) -> bool:
        """Some more; False at the end, whose code is known then."""
        message = await self.socket.receive()
        if message.type is aiohttp.WSMsgType.BINARY:
            self.output += message.data
        elif message.type is aiohttp.WSMsgType.TEXT:
            self.said.append(json.loads(message.data))
        else:
            self.code = self.socket.close_code
            return False
        return True

    async def until(self, text: bytes) -> bytes:
        while text not in self.output:
            assert await self.read(), (bytes(self.output), self.said, self.code)
        return bytes(self.output)

    async def heard(self, kind: str) -> dict[str, Any]:
        while not (found := [one for one in self.said if one["type"] == kind]):
            assert await self.read(), (bytes(self.output), self.said, self.code)
        return found[-1]

    async def the_end(self) -> int | None:
        while await self.read():
            pass
        return self.code


@asynccontextmanager
async def shell(url: str, key: str = "", **options: Any) -> AsyncIterator[Shell]:
    """``terminal``, ``after``, ``rows``, …; ``headers`` and ``protocols`` are aiohttp's."""
    given = {name: options.pop(name) for name in ("headers", "protocols") if name in options}
    headers = {**given.pop("headers", {}), **({"authorization": f"Bearer {key}"} if key else {})}
    async with (
        aiohttp.ClientSession() as http,
        http.ws_connect(
            f"{url}/v1/terminal",
            params={name: str(value) for name, value in options.items()},
            headers=headers,
            **given,
        ) as socket,
    ):
        yield Shell(socket)
