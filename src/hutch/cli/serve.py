"""``hutch serve``: the API and the control loop, in the foreground."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import hmac
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Final

import uvicorn
from sqlalchemy import URL
from starlette.types import ASGIApp

from hutch.accounts.sources import Sources
from hutch.api.app import create_app
from hutch.api.guard import guarded
from hutch.api.heads import BoundedHeads
from hutch.api.reception import Reception
from hutch.api.websockets import MESSAGE_MAX_BYTES, PING_EVERY_S, PING_WITHIN_S
from hutch.app import Hutch, Leading, running
from hutch.audit.models import Entry
from hutch.cli.servers import write_private
from hutch.cli.tls import LOOK_EVERY_S, Certificate
from hutch.clock import SystemClock
from hutch.config import Settings
from hutch.errors import HutchError
from hutch.log_output import configure_logging
from hutch.store.open import parse, prepare, shared
from hutch.store.postgresql import PostgresDatabase
from hutch.store.seat import Leader, Seat

# Streams are open for as long as runs last; clients come back with Last-Event-ID.
_GRACE_S: Final = 3
_LOOK_TICKS: Final = round(LOOK_EVERY_S / 0.1)  # uvicorn's tick


def serve(settings: Settings) -> None:
    """Until a signal. Raises the ``HutchError`` that kept it from starting."""
    configure_logging(*_secrets(settings))
    url = parse(settings.database)
    certificate = Certificate.of(settings)
    sources = Sources(settings.trusted_proxies, settings.secret)
    failed: list[HutchError] = []
    app: ASGIApp
    if shared(url):
        prepare(url)
        app = reception = _one_of_several(settings, url, failed, sources, certificate)
        before_shutdown = reception.stop
    else:
        app = alone = create_app(lambda: _orchestrator(settings, failed))

        async def before_shutdown() -> None:
            await alone.state.hutch.runs.close()
            await alone.state.hutch.terminals.close()

    server = _Server(
        uvicorn.Config(
            guarded(app, sources, settings.cors_origins),
            http=BoundedHeads,
            ssl_certfile=certificate.cert if certificate else None,
            ssl_keyfile=certificate.key if certificate else None,
            host=settings.host,
            port=settings.port,
            loop="uvloop",
            access_log=False,
            log_config=None,  # what it has to say goes where all does
            log_level="warning",
            timeout_graceful_shutdown=_GRACE_S,
            server_header=False,
            ws_max_size=MESSAGE_MAX_BYTES,
            ws_ping_interval=PING_EVERY_S,
            ws_ping_timeout=PING_WITHIN_S,
            proxy_headers=False,  # uvicorn would believe everybody on this machine; ``Sources``
        ),
        before_shutdown,
        certificate,
    )
    try:
        server.run()
    except SystemExit:  # uvicorn's way to say that it could not start
        if failed:
            raise failed[0] from None
        raise


def _one_of_several(
    settings: Settings,
    url: URL,
    failed: list[HutchError],
    sources: Sources,
    certificate: Certificate | None,
) -> Reception:
    clock = SystemClock()
    fingerprint = hmac.digest(settings.secret, b"hutch installation v1", "sha256").hex()

    @asynccontextmanager
    async def lead(leader: Leader) -> AsyncIterator[ASGIApp]:
        leading = Leading(PostgresDatabase(url, term=leader.term), leader)
        app = create_app(lambda: _orchestrator(settings, failed, leading=leading))
        async with app.router.lifespan_context(app):
            yield app

    return Reception(
        Seat(url, clock, installation=fingerprint),
        lead,
        url=settings.own_url,
        sources=sources,
        tls=certificate.pinned if certificate else None,
    )


@asynccontextmanager
async def _orchestrator(
    settings: Settings, failed: list[HutchError], *, leading: Leading | None = None
) -> AsyncIterator[Hutch]:
    async with AsyncExitStack() as stack:
        try:
            built = await stack.enter_async_context(running(settings, leading=leading))
        except HutchError as error:
            failed.append(error)  # the framework would show it without its hint
            raise
        await _ensure_admin_key(built)
        # A full collection stops everything for 50 ms (seen in claims), nearly all of them to look
        # at modules, statements and shapes that never go.
        gc.collect()
        gc.freeze()
        yield built


class _Server(uvicorn.Server):
    """Ends the event streams when told to stop: uvicorn would wait for them."""

    def __init__(
        self,
        config: uvicorn.Config,
        before_shutdown: Callable[[], Awaitable[None]],
        certificate: Certificate | None,
    ) -> None:
        super().__init__(config)
        self._before_shutdown = before_shutdown
        self._certificate = certificate

    async def on_tick(self, counter: int) -> bool:
        serving = self.config.ssl
        if self._certificate is not None and serving is not None and not counter % _LOOK_TICKS:
            self._certificate.renew(serving)
        return await super().on_tick(counter)

    async def shutdown(self, sockets: object = None) -> None:
        await self._before_shutdown()
        await super().shutdown(sockets)  # type: ignore[arg-type]  # uvicorn's own list of sockets


def _secrets(settings: Settings) -> Iterator[str]:
    """What this process holds that opens something, and is no ``Secret``."""
    yield settings.secret.hex()
    yield settings.master_key.get_secret_value()
    yield settings.master_key_previous.get_secret_value()
    url = settings.database_url.get_secret_value()
    yield url
    with contextlib.suppress(HutchError):  # then it is not used either
        yield str((parse(url).password if url else None) or "")
    yield os.environ.get("AWS_SECRET_ACCESS_KEY", "")
    yield os.environ.get("AWS_SESSION_TOKEN", "")


async def _ensure_admin_key(hutch: Hutch) -> None:
    path = hutch.settings.admin_key_file
    if not await asyncio.to_thread(path.exists):
        new = await hutch.accounts.create_key("admin")
        target = (("key", new.key.id),)
        await hutch.audit.record(Entry("service.admin_key_made", target=target))
        await asyncio.to_thread(write_private, path, new.text + "\n")
