"""``python -m hutch_runtime``: serve until SIGTERM."""

from __future__ import annotations

import asyncio
import logging
import socket
import sys
from typing import Final

import uvicorn

from hutch_runtime.agents import Pool
from hutch_runtime.logins.service import Logins
from hutch_runtime.protocol import PROVIDERS
from hutch_runtime.providers import open_driver
from hutch_runtime.runs import Runs
from hutch_runtime.server import Server
from hutch_runtime.settings import Settings, SettingsError, read_settings
from hutch_runtime.state import State

SHUTDOWN_S: Final = 1  # for streams that a reader keeps open


class _Uvicorn(uvicorn.Server):
    """Ends the runs first: their streams end by themselves then, and nothing has to be cut."""

    def __init__(self, config: uvicorn.Config, runs: Runs, logins: Logins) -> None:
        super().__init__(config)
        self._runs = runs
        self._logins = logins

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await self._runs.close()
        await self._logins.close()
        await super().shutdown(sockets)


def build(settings: Settings) -> uvicorn.Server:
    drivers = {name: open_driver(name, settings.setup(name)) for name in PROVIDERS}
    pool = Pool(drivers, prewarm=settings.prewarm, idle_s=settings.agent_idle_s)
    runs = Runs(pool, settings.versions, workspace=settings.workspace)
    logins = Logins(settings.setup, pool, settings.home)
    state = State(settings.home, settings.workspace, pool)
    config = uvicorn.Config(
        Server(settings, pool, runs, logins, state).app(),
        host=settings.host,
        port=settings.port,
        loop="asyncio",
        http="h11",
        ws="none",
        lifespan="on",
        access_log=False,
        log_config=None,
        server_header=False,
        date_header=False,
        timeout_keep_alive=600,  # the orchestrator's connections; a new one costs a round trip
        timeout_graceful_shutdown=SHUTDOWN_S,
    )
    return _Uvicorn(config, runs, logins)


def main() -> int:
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    try:
        settings = read_settings()
    except SettingsError as error:
        print(f"hutch_runtime: {error}", file=sys.stderr)  # noqa: T201 - there is no log to go to
        return 2
    server = build(settings)
    asyncio.run(server.serve())
    return 0 if server.started else 1


if __name__ == "__main__":
    sys.exit(main())
