"""``python -m hutch_runtime``: serve until SIGTERM."""

from __future__ import annotations

import asyncio
import logging
import os
import resource
import socket
import sys
from dataclasses import replace
from typing import Final

import uvicorn

from hutch_runtime.agents import Pool
from hutch_runtime.files.routes import FileRoutes
from hutch_runtime.files.tree import Tree
from hutch_runtime.git.clone import Cloner
from hutch_runtime.home import Home
from hutch_runtime.identity import Identity, separate
from hutch_runtime.logins.service import Logins
from hutch_runtime.mcp_servers.service import CHANGED, McpServers
from hutch_runtime.protocol import PROVIDERS
from hutch_runtime.providers import open_driver
from hutch_runtime.runs import Runs
from hutch_runtime.server import Server
from hutch_runtime.settings import Settings, SettingsError, read_settings
from hutch_runtime.state import State
from hutch_runtime.terminals.environment import Environment
from hutch_runtime.terminals.service import Terminals
from hutch_runtime.visitors import FromOutside

_log = logging.getLogger(__name__)

SHUTDOWN_S: Final = 1  # for streams that a reader keeps open


class _Uvicorn(uvicorn.Server):
    """Ends the runs first: their streams end by themselves then, and nothing has to be cut."""

    def __init__(
        self, config: uvicorn.Config, runs: Runs, logins: Logins, terminals: Terminals
    ) -> None:
        super().__init__(config)
        self._runs = runs
        self._logins = logins
        self._terminals = terminals

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await self._runs.close()
        await self._logins.close()
        await self._terminals.close()
        await super().shutdown(sockets)


def build(settings: Settings) -> uvicorn.Server:
    drivers = {name: open_driver(name, settings.setup(name)) for name in PROVIDERS}
    pool = Pool(drivers, prewarm=settings.prewarm, idle_s=settings.agent_idle_s)
    workspace = Home(settings.workspace, settings.identity)
    runs = Runs(pool, settings.versions, workspace=workspace)
    logins = Logins(settings.setup, pool, Home(settings.home, settings.identity))
    mcp_servers = McpServers(
        Home(settings.home, settings.identity),
        settings.setup("claude"),
        lambda provider: logins.restart(provider, CHANGED),
    )
    cloner = Cloner(workspace, settings.setup("claude"))
    state = State(settings.home, settings.workspace, pool, settings.identity)
    terminals = Terminals(
        Environment(settings.setup, logins), settings.workspace, settings.identity
    )
    files = FileRoutes(Tree(settings.workspace, settings.identity))
    config = uvicorn.Config(
        Server(
            settings,
            pool,
            runs,
            logins,
            state,
            mcp_servers=mcp_servers,
            terminals=terminals,
            files=files,
            cloner=cloner,
        ).app(),
        host=settings.host,
        port=settings.port,
        loop="asyncio",
        # Under the process backend the orchestrator is on this machine too.
        http=FromOutside if settings.identity.separate else "h11",
        ws="none",
        lifespan="on",
        access_log=False,
        log_config=None,
        server_header=False,
        date_header=False,
        timeout_keep_alive=600,  # the orchestrator's connections; a new one costs a round trip
        timeout_graceful_shutdown=SHUTDOWN_S,
    )
    return _Uvicorn(config, runs, logins, terminals)


def _identity(settings: Settings) -> Identity:
    if settings.accounts is None:
        return Identity()
    if os.geteuid() != 0:
        # An orchestrator from before there were two users starts it so.
        _log.warning("not started as root: the agents have the same user as the runtime")
        return Identity()
    return separate(*settings.accounts)


def main() -> int:
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    try:
        settings = read_settings()
    except SettingsError as error:
        print(f"hutch_runtime: {error}", file=sys.stderr)  # noqa: T201 - there is no log to go to
        return 2
    if settings.agent_pids:  # for what is started from here on
        resource.setrlimit(resource.RLIMIT_NPROC, (settings.agent_pids, settings.agent_pids))
    try:
        settings = replace(settings, identity=_identity(settings))
    except (OSError, KeyError) as error:
        print(f"hutch_runtime: cannot be another user than its agents: {error}", file=sys.stderr)  # noqa: T201 - the same
        return 2
    server = build(settings)
    asyncio.run(server.serve())
    return 0 if server.started else 1


if __name__ == "__main__":
    sys.exit(main())
