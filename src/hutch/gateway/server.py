"""The gateway's two sockets: a port for sandboxes, a Unix socket for the orchestrator."""

from __future__ import annotations

import asyncio
import signal
import socket
from contextlib import AsyncExitStack
from typing import Final

import structlog
from aiohttp import web

from hutch.config import Settings
from hutch.errors import HostNotReady
from hutch.gateway.addresses import Resolver, resolve
from hutch.gateway.control import control_app
from hutch.gateway.door import Door
from hutch.gateway.gate import Gate
from hutch.gateway.proxy import Proxy
from hutch.unix_socket import bind
from hutch_runtime.protocol import KIB

_log = structlog.get_logger()

_IP_FREEBIND: Final = 15  # from linux/in.h; the socket module has no name for it
_BACKLOG: Final = 1024
_LINE_MAX: Final = 16 * KIB
_HEADER_MAX: Final = 16 * KIB
_IDLE_S: Final = 75
_DRAIN_S: Final = 5  # for answers that are under way when we are told to end


class Gateway:
    """``host`` is a literal address; it need not exist yet, for the sandboxes' bridge may be made
    after us. ``port`` tells the one in use when the settings say 0.
    """

    def __init__(self, settings: Settings, *, host: str, resolver: Resolver = resolve) -> None:
        self._settings = settings
        self._host = host
        self._resolver = resolver
        self._stack = AsyncExitStack()
        self.port = settings.gateway_port

    async def start(self) -> None:
        """Raises ``HostNotReady`` when the port is taken: no second gateway beside a first."""
        listener = _port_socket(self._host, self.port)
        self._stack.callback(listener.close)
        self.port = listener.getsockname()[1]
        gate = self._gate = Gate(self._settings, self._resolver)
        self._stack.push_async_callback(gate.close)
        http = web.Server(
            Proxy(gate).handle,
            handler_cancellation=True,  # a sandbox that goes away ends its request upstream
            auto_decompress=False,
            access_log=None,
            keepalive_timeout=_IDLE_S,
            max_line_size=_LINE_MAX,
            max_field_size=_HEADER_MAX,
        )
        await self._set_up(web.ServerRunner(http, shutdown_timeout=_DRAIN_S))
        door = Door(gate, listener, http)
        self._stack.push_async_callback(door.close)
        door.open(_BACKLOG)
        control = web.AppRunner(control_app(gate), access_log=None, shutdown_timeout=_DRAIN_S)
        await self._set_up(control)
        socket_path = self._settings.gateway_socket
        control_socket = bind(socket_path, group=self._settings.socket_group)
        await web.SockSite(control, control_socket).start()
        self._stack.callback(socket_path.unlink, missing_ok=True)
        _log.info("gateway.listening", host=self._host, port=self.port)

    async def close(self) -> None:
        await self._stack.aclose()

    async def _set_up(self, runner: web.BaseRunner) -> None:
        await runner.setup()
        self._stack.push_async_callback(runner.cleanup)


async def serve(settings: Settings, *, host: str) -> None:
    """Run until SIGTERM or SIGINT."""
    gateway = Gateway(settings, host=host)
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    try:
        await gateway.start()
        await stop.wait()
    finally:
        await gateway.close()


def _port_socket(host: str, port: int) -> socket.socket:
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setsockopt(socket.IPPROTO_IP, _IP_FREEBIND, 1)
        listener.setblocking(False)
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise HostNotReady(
            f"The gateway cannot listen on {host}:{port}: {error.strerror}.",
            hint="Is another gateway running? HUTCH_GATEWAY_PORT sets another port.",
        ) from error
    return listener
