"""Keep the gateway's table equal to what the sandboxes' rows and the vault say.

Holds when the gateway runs in the process that was last given the whole table, and each change
since was pushed. Does not decide who has a sandbox, and keeps no credential of its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Final

from hutch.config import Settings
from hutch.control.driver import TaskReport
from hutch.errors import Unavailable
from hutch.exits.service import Exits
from hutch.gateway.base import GatewayControl
from hutch.gateway.table import Entry, HostRule, Route
from hutch.sandboxes.models import Sandbox
from hutch.sandboxes.service import Sandboxes
from hutch.secrets import Secret
from hutch.vault.models import Credential
from hutch.vault.service import Vault
from hutch_runtime.protocol import Provider

CHECK_EVERY_S: Final = 1.0  # how long a restarted gateway may be without its table


def placeholder_key(incarnation: str) -> str:
    """What a container holds for an API key: opens nothing, but looks like what the CLIs expect."""
    return f"hutch-placeholder-{incarnation}"


def route_for(settings: Settings, credential: Credential) -> Route:
    """Where requests go that this credential pays for, and what is put into them."""
    if credential.kind != "login":
        base_url = settings.base_url(credential.provider)
        return Route(base_url, credential.headers(), credential.added())
    if credential.provider == "codex":
        # ChatGPT's own endpoint, whose paths lack the API's /v1.
        return Route(settings.codex_login_base_url, (), strip="/v1", own_credential=True)
    return Route(settings.base_url(credential.provider), (), own_credential=True)


class GatewaySync:
    """The sandboxes' ``Egress``, and the task that pushes the whole table when it is missing."""

    def __init__(
        self,
        gateway: GatewayControl,
        vault: Vault,
        sandboxes: Callable[[], Sandboxes],
        *,
        route_for: Callable[[Credential], Route],
        exits: Callable[[], Exits],
        allowed: Callable[[str], Awaitable[tuple[HostRule, ...]]],
    ) -> None:
        self._gateway = gateway
        self._vault = vault
        self._sandboxes = sandboxes
        self._route_for = route_for
        self._exits = exits
        self._allowed = allowed
        self._boot_id = ""
        # A whole table must not overtake a single change that was made after it was read.
        self._pushing = asyncio.Lock()

    @property
    def synced(self) -> bool:
        return bool(self._boot_id)

    async def admit(self, sandbox: Sandbox) -> None:
        """Let the sandbox out, with its user's credentials of this moment."""
        async with self._changing():
            entry = await self._entry(sandbox)
            if entry is not None:
                await self._gateway.put(entry)

    async def dismiss(self, sandbox: Sandbox) -> None:
        async with self._changing():
            await self._gateway.remove(sandbox.id, sandbox.incarnation)

    async def user_changed(self, user_id: str) -> None:
        """Credentials, exit or allowed hosts: the next request sees what is stored now."""
        for sandbox in await self._sandboxes().all():
            if sandbox.user_id == user_id:
                await self.admit(sandbox)

    async def run(self) -> TaskReport:
        """Push the whole table to a gateway that has not had it from this process."""
        try:
            health = await self._gateway.health()
        except BaseException:
            self._boot_id = ""
            raise
        if health.boot_id != self._boot_id or not health.synced:
            async with self._pushing:
                entries = [await self._entry(s) for s in await self._sandboxes().all()]
                await self._gateway.put_table([e for e in entries if e is not None])
            self._boot_id = health.boot_id
            health = await self._gateway.health()
        return {"entries": health.entries, "boot_id": health.boot_id}

    @asynccontextmanager
    async def _changing(self) -> AsyncIterator[None]:
        """One change at a time; after one that failed, the next look pushes the whole table."""
        async with self._pushing:
            try:
                yield
            except Unavailable:
                self._boot_id = ""
                raise

    async def _entry(self, sandbox: Sandbox) -> Entry | None:
        if sandbox.address is None or sandbox.desired == "destroyed":
            return None
        placeholder = Secret(placeholder_key(sandbox.incarnation))
        user_id = sandbox.user_id
        if user_id is None:  # in the table, so that what it asks is refused with the reason
            return Entry(
                sandbox_id=sandbox.id,
                incarnation=sandbox.incarnation,
                address=sandbox.address,
                user_id=None,
                placeholder=placeholder,
                egress="closed",
                closed_because="this sandbox has no user yet",
            )
        routes: dict[Provider, Route] = {}
        for credential in await self._vault.reveal(user_id):
            routes[credential.provider] = self._route_for(credential)
        leaving = await self._exits().leaving(user_id)
        return Entry(
            sandbox_id=sandbox.id,
            incarnation=sandbox.incarnation,
            address=sandbox.address,
            user_id=user_id,
            placeholder=placeholder,
            routes=routes,
            egress=leaving.egress,
            exit=leaving.exit,
            closed_because=leaving.closed_because,
            allow=await self._allowed(user_id),
        )
