"""Keep each user's MCP servers, sealed; and have their sandbox know them before a prompt.

All servers of a user are sealed together, under a version that grows. A user who never had any has
no row, and costs a run nothing; who has none any more keeps theirs, so that a container which comes
back with its files is told.
"""

from __future__ import annotations

import asyncio
import json
import weakref
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Any, Final

import structlog
from sqlalchemy import insert, select, update
from sqlalchemy.exc import IntegrityError

from hutch.clock import Clock
from hutch.errors import (
    Conflict,
    DoesNotOpen,
    HutchError,
    InvalidRequest,
    NotFound,
    NotSupported,
    SandboxFailed,
)
from hutch.gateway.table import Remote
from hutch.mcp_servers.models import SERVERS_MAX, McpServer, read
from hutch.sandboxes.models import Sandbox
from hutch.sandboxes.runtime_client import RuntimeClient, RuntimeRefused, RuntimeUnreachable
from hutch.store.database import Database
from hutch.store.tables import mcp_servers as table
from hutch.vault.data_keys import DataKeys
from hutch_runtime.protocol import MCP_SERVERS_MAX_BYTES

_log = structlog.get_logger()

_TRIES: Final = 5  # of a change that others keep getting ahead of
_PLACE_S: Final = 30.0  # agents end before it answers


class McpServers:
    def __init__(
        self,
        database: Database,
        clock: Clock,
        data_keys: DataKeys,
        runtime: RuntimeClient,
        *,
        changed: Callable[[str], Awaitable[None]],
    ) -> None:
        """``changed`` is told of users whose servers are others now."""
        self._database = database
        self._clock = clock
        self._data_keys = data_keys
        self._runtime = runtime
        self._changed = changed
        self._versions: dict[str, int] = {}  # by user
        self._running: dict[str, Sandbox] = {}  # by user
        self._placed: dict[str, int] = {}  # by incarnation: the version that it knows
        self._placing: weakref.WeakValueDictionary[str, asyncio.Lock]
        self._placing = weakref.WeakValueDictionary()
        self._tasks: set[asyncio.Task[None]] = set()

    async def load(self) -> None:
        rows = await self._database.all(select(table.c.user_id, table.c.version))
        self._versions = {row.user_id: row.version for row in rows}

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def all(self, user_id: str) -> list[McpServer]:
        """By name. Raises ``DoesNotOpen``."""
        servers, _ = await self._stored(user_id)
        return [servers[name] for name in sorted(servers)]

    async def get(self, user_id: str, name: str) -> McpServer:
        """Raises ``NotFound``, ``DoesNotOpen``."""
        servers, _ = await self._stored(user_id)
        if name not in servers:
            raise _unknown(name)
        return servers[name]

    async def put(self, user_id: str, server: McpServer) -> McpServer:
        """Store or replace it. The next run has it. Raises ``InvalidRequest``, ``Conflict``,
        ``KeyUnavailable``.
        """
        server.check()

        def change(servers: dict[str, McpServer]) -> None:
            former = servers.get(server.name)
            created_at = former.created_at if former else server.created_at
            servers[server.name] = replace(server, created_at=created_at)
            if len(servers) > SERVERS_MAX:
                raise Conflict(
                    f"There are {SERVERS_MAX} MCP servers already.", hint="Delete or replace one."
                )

        return (await self._change(user_id, change))[server.name]

    async def delete(self, user_id: str, name: str) -> None:
        """Raises ``NotFound``."""

        def change(servers: dict[str, McpServer]) -> None:
            if servers.pop(name, None) is None:
                raise _unknown(name)

        await self._change(user_id, change)

    async def remotes(self, user_id: str) -> Mapping[str, Remote]:
        """What the gateway is to reach for the user, by its path there."""
        if user_id not in self._versions:
            return {}
        servers, _ = await self._usable(user_id)
        return {
            f"mcp/{one.name}": Remote(one.url, tuple((one.headers or {}).items()))
            for one in servers.values()
            if one.url is not None
        }

    def sandbox_changed(self, sandbox: Sandbox) -> None:
        """The reconciler's word that the row is now this; may be said twice."""
        user_id = sandbox.user_id
        if user_id is None:
            return
        if sandbox.observed == sandbox.desired == "running":
            self._running[user_id] = sandbox
            self._place_soon(sandbox)
        elif (known := self._running.get(user_id)) and known.id == sandbox.id:
            del self._running[user_id]
        if not sandbox.live:
            self._placed.pop(sandbox.incarnation, None)

    async def ready(self, sandbox: Sandbox) -> None:
        """Before a prompt: the sandbox's CLIs have the user's servers as they are now. Raises
        ``SandboxFailed``, ``NotSupported``.
        """
        if self._knows(sandbox):
            return
        try:
            await self._place(sandbox)
        except RuntimeUnreachable:
            return  # as the prompt is about to find out
        except RuntimeRefused as refused:
            if refused.status == 404:
                raise NotSupported(
                    "This container's image is from before there were MCP servers.",
                    hint="`hutch container destroy` makes way for one of a newer image.",
                ) from None
            raise SandboxFailed(
                f"The MCP servers could not be put into the container. {refused.message}",
                hint="Is there room in its home directory?",
            ) from None

    def _knows(self, sandbox: Sandbox) -> bool:
        version = self._versions.get(sandbox.owner)
        return version is None or self._placed.get(sandbox.incarnation) == version

    def _place_soon(self, sandbox: Sandbox) -> None:
        """For whoever uses the CLIs in a terminal; a run has it done before it begins."""
        if self._knows(sandbox):
            return
        task = asyncio.create_task(self._place_quietly(sandbox), name=f"mcp {sandbox.id}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _place_quietly(self, sandbox: Sandbox) -> None:
        try:
            await self._place(sandbox)
        except (RuntimeUnreachable, RuntimeRefused, HutchError) as error:
            _log.warning("mcp_servers.not_placed", sandbox=sandbox.id, error=type(error).__name__)

    async def _place(self, sandbox: Sandbox) -> None:
        lock = self._placing.setdefault(sandbox.incarnation, asyncio.Lock())
        async with lock:
            while not self._knows(sandbox):
                servers, version = await self._usable(sandbox.owner)
                body = {"servers": [_told(servers[name]) for name in sorted(servers)]}
                await self._runtime.call(
                    sandbox, "PUT", "/mcp-servers", body=body, within_s=_PLACE_S
                )
                self._placed[sandbox.incarnation] = version
                if version == 0:  # the user is gone
                    return

    async def _usable(self, user_id: str) -> tuple[dict[str, McpServer], int]:
        """None of what does not open, which must not keep a run from being made."""
        try:
            return await self._stored(user_id)
        except DoesNotOpen:
            _log.error("mcp_servers.do_not_open", user=user_id)
            return {}, self._versions[user_id]

    async def _change(
        self, user_id: str, change: Callable[[dict[str, McpServer]], None]
    ) -> dict[str, McpServer]:
        for _ in range(_TRIES):
            servers, version = await self._stored(user_id)
            change(servers)
            content = json.dumps([one.stored() for one in servers.values()]).encode()
            if len(content) > MCP_SERVERS_MAX_BYTES:
                raise InvalidRequest(
                    f"All MCP servers together may have {MCP_SERVERS_MAX_BYTES} bytes."
                )
            if await self._swap(user_id, version, content):
                self._versions[user_id] = version + 1
                # First the gateway: what a CLI is told of has to be there when it starts.
                await self._changed(user_id)
                if sandbox := self._running.get(user_id):
                    self._place_soon(sandbox)
                return servers
        raise Conflict("The MCP servers were changed by somebody else meanwhile.")

    async def _swap(self, user_id: str, version: int, content: bytes) -> bool:
        """Store it if the version is still this one; 0 is none."""
        sealed = await self._data_keys.seal(user_id, _context(version + 1), content)
        values = {"version": version + 1, "sealed": sealed}
        if version == 0:
            try:
                await self._database.write(insert(table).values(user_id=user_id, **values))
            except IntegrityError:
                return False
            return True
        swap = update(table).where(table.c.user_id == user_id, table.c.version == version)
        return bool(await self._database.write(swap.values(**values)))

    async def _stored(self, user_id: str) -> tuple[dict[str, McpServer], int]:
        row = await self._database.first(select(table).where(table.c.user_id == user_id))
        if row is None:
            return {}, 0
        opened = await self._data_keys.open(user_id, _context(row.version), row.sealed)
        return {one["name"]: read(one) for one in json.loads(opened)}, row.version


def _told(server: McpServer) -> dict[str, Any]:
    """What the container hears of it: of a server outside, its name."""
    if server.command is None:
        return {"name": server.name}
    env = {name: value.reveal() for name, value in (server.env or {}).items()}
    return {
        "name": server.name,
        "command": server.command,
        "args": list(server.args),
        "env": env,
    }


def _context(version: int) -> str:
    return f"mcp servers {version}"


def _unknown(name: str) -> NotFound:
    return NotFound(
        f"There is no MCP server named {name}.", hint="GET /v1/mcp-servers lists yours."
    )
