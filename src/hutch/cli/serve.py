"""``hutch serve``: the API and the control loop, in the foreground."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Final

import structlog
import uvicorn

from hutch.api.app import create_app
from hutch.app import Hutch, running
from hutch.cli.profile import write_private
from hutch.config import Settings
from hutch.errors import HutchError
from hutch.log_output import to_log_output

# Streams are open for as long as runs last; clients come back with Last-Event-ID.
_GRACE_S: Final = 3


def configure_logging() -> None:
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
        logger_factory=to_log_output(),
        cache_logger_on_first_use=True,
    )


def serve(settings: Settings) -> None:
    """Until a signal. Raises the ``HutchError`` that kept it from starting."""
    configure_logging()
    failed: list[HutchError] = []

    @asynccontextmanager
    async def hutch() -> AsyncIterator[Hutch]:
        async with AsyncExitStack() as stack:
            try:
                built = await stack.enter_async_context(running(settings))
            except HutchError as error:
                failed.append(error)  # the framework would show it without its hint
                raise
            await _ensure_admin_key(built)
            yield built

    server = _Server(
        uvicorn.Config(
            create_app(hutch),
            host=settings.host,
            port=settings.port,
            loop="uvloop",
            access_log=False,
            log_level="warning",
            timeout_graceful_shutdown=_GRACE_S,
            server_header=False,
        )
    )
    try:
        server.run()
    except SystemExit:  # uvicorn's way to say that it could not start
        if failed:
            raise failed[0] from None
        raise


class _Server(uvicorn.Server):
    """Ends the event streams when told to stop: uvicorn would wait for them."""

    async def shutdown(self, sockets: object = None) -> None:
        app = self.config.app
        hutch: Hutch | None = getattr(getattr(app, "state", None), "hutch", None)
        if hutch is not None:
            await hutch.runs.close()
        await super().shutdown(sockets)  # type: ignore[arg-type]  # uvicorn's own list of sockets


async def _ensure_admin_key(hutch: Hutch) -> None:
    path = hutch.settings.admin_key_file
    if not await asyncio.to_thread(path.exists):
        new = await hutch.accounts.create_key("admin")
        await asyncio.to_thread(write_private, path, new.text + "\n")
