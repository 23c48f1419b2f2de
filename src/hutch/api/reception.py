"""The application of one process among several on one database: it serves while it leads, and
passes requests on while another one does.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Final

import structlog
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hutch.accounts.sources import Sources
from hutch.api.front import FORWARDED, NOT_LEADING, Front, refuse_as_not_leading
from hutch.errors import HutchError
from hutch.store.seat import Leader, Seat

_log = structlog.get_logger()

# After a lead that failed: another process has its turn first.
_AGAIN_S: Final = 3.0


class Reception:
    def __init__(
        self,
        seat: Seat,
        lead: Callable[[Leader], AbstractAsyncContextManager[ASGIApp]],
        *,
        url: str,
        sources: Sources,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        """``lead`` starts all that a leader does, and gives its API. ``url``: of this process."""
        self._seat = seat
        self._lead = lead
        self._url = url
        self._front = Front(seat, sources, tls=tls)
        self._app: ASGIApp | None = None
        self._standing: asyncio.Task[None] | None = None
        self._failed: asyncio.Future[HutchError] | None = None

    async def start(self) -> None:
        """Returns once requests can be answered, here or elsewhere. Raises the ``HutchError`` that
        kept this process from it.
        """
        await self._seat.check()
        self._failed = asyncio.get_running_loop().create_future()
        self._standing = asyncio.create_task(self._stand(), name="leadership")
        while self._app is None and self._seat.leader is None:
            await self._seat.changed(0.1)
            if self._standing.done():
                self._standing.result()
            if self._failed.done():
                await self.stop()
                raise self._failed.result()

    async def stop(self) -> None:
        """End what a leader does, and let another process lead; requests are passed on to it."""
        if self._standing is not None:
            self._standing.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._standing

    async def close(self) -> None:
        await self.stop()
        await self._front.close()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
        elif self._app is not None:
            await self._serve(self._app, scope, receive, send)
        elif any(name == FORWARDED for name, _ in scope["headers"]):
            if scope["type"] == "websocket":
                await send({"type": "websocket.close"})  # a refusal, before it was accepted
            else:
                await refuse_as_not_leading(send)
        else:
            await self._front(scope, receive, send)

    async def _serve(self, app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
        async def marking(message: Message) -> None:
            # What failed because this process stops leading is another one's to answer.
            if (
                message["type"] == "http.response.start"
                and message["status"] >= 500
                and self._app is not app
            ):
                message["headers"] = [*message.get("headers", ()), (NOT_LEADING, b"unclear")]
            await send(message)

        await app(scope, receive, marking)

    async def _stand(self) -> None:
        while True:
            term = await self._seat.take()
            try:
                await self._serve_a_term(term)
            except HutchError as error:
                _log.error("leadership.failed", term=term, error=error.message, hint=error.hint)
                if self._failed is not None and not self._failed.done():
                    self._failed.set_result(error)
            except Exception:  # noqa: BLE001  whatever it was, the next one may lead; it is logged
                _log.exception("leadership.broke_off", term=term)
            finally:
                self._app = None
                await self._seat.resign()
            await asyncio.sleep(_AGAIN_S)

    async def _serve_a_term(self, term: int) -> None:
        since = asyncio.get_running_loop().time()
        async with self._lead(self._seat.own(term, self._url)) as app:
            self._app = app
            try:
                await self._seat.announce(term, self._url)
                took_ms = round((asyncio.get_running_loop().time() - since) * 1000)
                _log.info("leadership.taken", term=term, url=self._url, took_ms=took_ms)
                await self._seat.until_lost(term)
                _log.warning("leadership.lost", term=term)
            finally:
                self._app = None  # before its parts are closed

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        await receive()
        try:
            await self.start()
        except HutchError as error:
            await send({"type": "lifespan.startup.failed", "message": error.message})
            raise
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await self.close()
        await send({"type": "lifespan.shutdown.complete"})
