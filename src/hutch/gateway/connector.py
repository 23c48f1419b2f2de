"""aiohttp's client on top of ``dial``: every connection of a session leaves by one way."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable
from functools import cache
from typing import TYPE_CHECKING, Any, Final, TypeVar

import aiohttp
from yarl import URL

from hutch.gateway.dial import Dialled, connect
from hutch.gateway.refusals import Refusal, exit_unavailable, way_changed
from hutch.gateway.table import ExitProxy, Way

if TYPE_CHECKING:
    from aiohttp.client_proto import ResponseHandler

Dial = Callable[[Way, str, int], Awaitable[Dialled]]

_Protocol = TypeVar("_Protocol", bound=asyncio.BaseProtocol)

_HANDSHAKE_S: Final = 10


class WayConnector(aiohttp.BaseConnector):
    """``way`` is an exit or "direct". Requests raise ``hutch.gateway.refusals.Refusal`` as
    ``dial.connect`` does. Certificates are checked against the system's roots, or
    ``SSL_CERT_FILE``.
    """

    def __init__(
        self,
        way: Way,
        *,
        dial: Dial = connect,
        keepalive_s: float = 30,
        reuse: bool = True,
        still: Callable[[], bool] = lambda: True,
    ) -> None:
        """``still``: whether the way may be used, asked again when a connection is made."""
        if reuse:
            super().__init__(limit=0, keepalive_timeout=keepalive_s)
        else:
            super().__init__(limit=0, force_close=True)
        self._way = way
        self._dial = dial
        self._still = still

    async def _create_connection(
        self,
        req: Any,
        traces: list[Any],  # noqa: ARG002 - aiohttp's signature
        timeout: aiohttp.ClientTimeout,  # noqa: ARG002 - ``dial`` has its own
    ) -> ResponseHandler:
        """Called by aiohttp for each new connection, as in its ``UnixConnector``."""
        transport, protocol = await open_transport(
            self._factory, self._way, req.url, dial=self._dial
        )
        if not self._still():
            transport.abort()
            raise way_changed()
        return protocol


@cache
def _tls() -> ssl.SSLContext:
    return ssl.create_default_context()


async def open_transport(
    factory: Callable[[], _Protocol], way: Way, url: URL, *, dial: Dial = connect
) -> tuple[asyncio.Transport, _Protocol]:
    """A transport to the URL's host, inside TLS for https and wss. Raises ``Refusal``."""
    host, port = url.raw_host or "", url.port or 0
    dialled = await dial(way, host, port)
    if dialled.early:
        # An answer before the question: the exit's, or a trap for the next request.
        dialled.sock.close()
        raise _broken(way, host, "sent bytes that nobody had asked for")
    tls: dict[str, Any] = {}
    if url.scheme in {"https", "wss"}:
        tls = {"ssl": _tls(), "server_hostname": host, "ssl_handshake_timeout": _HANDSHAKE_S}
    try:
        return await asyncio.get_running_loop().create_connection(factory, sock=dialled.sock, **tls)
    except ssl.SSLCertVerificationError as error:
        dialled.sock.close()
        raise Refusal(
            502, f"the certificate of {host} is not valid ({error.verify_message})."
        ) from None
    except OSError:
        dialled.sock.close()
        raise _broken(way, host, "broke off before a request") from None
    except BaseException:
        dialled.sock.close()
        raise


def _broken(way: Way, host: str, what: str) -> Refusal:
    if isinstance(way, ExitProxy):
        return exit_unavailable(f"the connection to {host} through exit {way.id} {what}.")
    return Refusal(502, f"the connection to {host} {what}.")


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
