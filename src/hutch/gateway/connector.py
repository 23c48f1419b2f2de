"""aiohttp's client on top of ``dial``: every connection of a session leaves by one way."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final

import aiohttp

from hutch.gateway.dial import Dialled, Way, connect
from hutch.gateway.refusals import Refusal, exit_unavailable
from hutch.gateway.table import ExitProxy

if TYPE_CHECKING:
    from aiohttp.client_proto import ResponseHandler

Dial = Callable[[Way, str, int], Awaitable[Dialled]]

_HANDSHAKE_S: Final = 10


class WayConnector(aiohttp.BaseConnector):
    """``way`` is an exit or "direct". Requests raise ``hutch.gateway.refusals.Refusal`` as
    ``dial.connect`` does. Certificates are checked against the system's roots, or
    ``SSL_CERT_FILE``.
    """

    def __init__(
        self, way: Way, *, dial: Dial = connect, keepalive_s: float = 30, reuse: bool = True
    ) -> None:
        if reuse:
            super().__init__(limit=0, keepalive_timeout=keepalive_s)
        else:
            super().__init__(limit=0, force_close=True)
        self._way = way
        self._dial = dial
        self._tls: ssl.SSLContext | None = None

    async def _create_connection(
        self,
        req: Any,
        traces: list[Any],  # noqa: ARG002 - aiohttp's signature
        timeout: aiohttp.ClientTimeout,  # noqa: ARG002 - ``dial`` has its own
    ) -> ResponseHandler:
        """Called by aiohttp for each new connection, as in its ``UnixConnector``."""
        host, port = req.url.raw_host, req.url.port
        dialled = await self._dial(self._way, host, port)
        if dialled.early:
            # An answer before the question: the exit's, or a trap for the next request.
            dialled.sock.close()
            raise self._broken("sent bytes that nobody had asked for", host)
        tls: dict[str, Any] = {}
        if req.url.scheme == "https":
            self._tls = self._tls or ssl.create_default_context()
            tls = {
                "ssl": self._tls,
                "server_hostname": host,
                "ssl_handshake_timeout": _HANDSHAKE_S,
            }
        try:
            _, protocol = await asyncio.get_running_loop().create_connection(
                self._factory, sock=dialled.sock, **tls
            )
        except ssl.SSLCertVerificationError as error:
            dialled.sock.close()
            raise Refusal(
                502, f"the certificate of {host} is not valid ({error.verify_message})."
            ) from None
        except (OSError, TimeoutError):
            dialled.sock.close()
            raise self._broken("broke off", host) from None
        except BaseException:
            dialled.sock.close()
            raise
        return protocol

    def _broken(self, what: str, host: str) -> Refusal:
        if isinstance(self._way, ExitProxy):
            return exit_unavailable(f"the connection to {host} through exit {self._way.id} {what}.")
        return Refusal(502, f"{host} {what}.")


def session(connector: WayConnector, timeout: aiohttp.ClientTimeout) -> aiohttp.ClientSession:
    """A client that adds nothing of its own to what it is given: no header, cookie or proxy."""
    return aiohttp.ClientSession(
        connector=connector,
        timeout=timeout,
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
        trust_env=False,
        skip_auto_headers=("Accept", "Accept-Encoding", "Content-Type", "User-Agent"),
    )
