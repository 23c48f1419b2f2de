"""Keep the gateway's table equal to what the sandboxes' rows and the vault say.

Holds when the gateway runs in the process that was last given the whole table, and each change
since was pushed. Does not decide who has a sandbox, and keeps no credential of its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

from hutch.config import Settings
from hutch.control.driver import TaskReport
from hutch.errors import Unavailable
from hutch.exits.service import Exits
from hutch.gateway.base import GatewayControl
from hutch.gateway.table import SHARED_ADDRESS, Entry, HostRule, Route
from hutch.git.service import Git
from hutch.mcp_servers.service import McpServers
from hutch.sandboxes.models import Sandbox
from hutch.sandboxes.service import Sandboxes
from hutch.secrets import Secret
from hutch.vault.models import Credential
from hutch.vault.service import Vault
from hutch_runtime.protocol import Provider

TRIAL_USER: Final = "image-trial"  # in the gateway's log; no user has such an id
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


@dataclass(slots=True, eq=False)
class _Admission:
    sandbox: Sandbox
    done: bool = False
    error: BaseException | None = None


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
        mcp_servers: Callable[[], McpServers],
        git: Callable[[], Git],
        trial_routes: Callable[[], Awaitable[Mapping[Provider, Route]]],
    ) -> None:
        """``trial_routes``: the ways of a sandbox in which an image is tried."""
        self._gateway = gateway
        self._vault = vault
        self._sandboxes = sandboxes
        self._route_for = route_for
        self._exits = exits
        self._allowed = allowed
        self._mcp_servers = mcp_servers
        self._git = git
        self._trial_routes = trial_routes
        self._boot_id = ""
        # Incarnations by address: whoever was let out there last. Another row may still have the
        # address, its container having ended a moment ago.
        self._latest: dict[str, str] = {}
        # A whole table must not overtake a single change that was made after it was read.
        self._pushing = asyncio.Lock()
        self._admissions: list[_Admission] = []  # waiting for it

    @property
    def synced(self) -> bool:
        return bool(self._boot_id)

    async def admit(self, sandbox: Sandbox) -> None:
        """Let the sandbox out, with its user's credentials of this moment. One that was ready long
        ago may have died since, and its address be another's: then nothing changes.
        """
        admission = _Admission(sandbox)
        self._admissions.append(admission)
        try:
            await asyncio.sleep(0)  # whoever comes in the same moment comes along
            async with self._changing():
                if not admission.done:
                    await self._admit_waiting()
        finally:
            if not admission.done:
                self._admissions.remove(admission)
        if admission.error is not None:
            raise admission.error

    async def _admit_waiting(self) -> None:
        """All who came while another change was under way, in one message: each alone would wait
        for all before it.
        """
        together = list(self._admissions)
        entries = await asyncio.gather(
            *(self._entry(admission.sandbox) for admission in together), return_exceptions=True
        )
        admitted = []
        for admission, entry in zip(together, entries, strict=True):
            if isinstance(entry, BaseException):
                admission.error = entry
            elif entry is not None and not await self._lost_its_address(admission.sandbox):
                if entry.address != SHARED_ADDRESS:
                    self._latest[entry.address] = entry.incarnation
                admitted.append(entry)
        if admitted:
            await self._gateway.put(*admitted)
        for admission in together:
            admission.done = True
        self._admissions = [other for other in self._admissions if not other.done]

    async def dismiss(self, sandbox: Sandbox) -> None:
        async with self._changing():
            await self._gateway.remove(sandbox.id, sandbox.incarnation)

    async def user_changed(self, user_id: str) -> None:
        """What there is for the gateway of theirs: the next request sees what is stored now."""
        async with self._changing():
            # Read in here: what has been dismissed meanwhile must not come back.
            if entries := await self._entries(user_id):
                await self._gateway.put(*entries)

    async def run(self) -> TaskReport:
        """Push the whole table to a gateway that has not had it from this process."""
        try:
            health = await self._gateway.health()
        except BaseException:
            self._boot_id = ""
            raise
        if health.boot_id != self._boot_id or not health.synced:
            async with self._pushing:
                entries = await self._entries()
                await self._gateway.put_table(entries)
                self._latest = {
                    e.address: e.incarnation for e in entries if e.address != SHARED_ADDRESS
                }
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

    async def _lost_its_address(self, sandbox: Sandbox) -> bool:
        if sandbox.observed == "provisioning":
            return False
        latest = self._latest.get(sandbox.address or "")
        if latest in {None, sandbox.incarnation}:
            return False
        return any(latest == other.incarnation for other in await self._sandboxes().all())

    async def _entries(self, user_id: str | None = None) -> list[Entry]:
        """Of this user's sandboxes, or of all."""
        rows = await self._sandboxes().all()
        live = {sandbox.incarnation for sandbox in rows}
        entries = []
        for sandbox in rows:
            latest = self._latest.get(sandbox.address or "")
            if latest in live and latest != sandbox.incarnation:
                continue
            if user_id in {None, sandbox.user_id} and (entry := await self._entry(sandbox)):
                entries.append(entry)
        return entries

    async def _entry(self, sandbox: Sandbox) -> Entry | None:
        if sandbox.address is None or sandbox.desired == "destroyed":
            return None
        placeholder = Secret(placeholder_key(sandbox.incarnation))
        user_id = sandbox.user_id
        if sandbox.trial:  # to an offline model, and nowhere else
            return Entry(
                sandbox_id=sandbox.id,
                incarnation=sandbox.incarnation,
                address=sandbox.address,
                user_id=TRIAL_USER,
                placeholder=placeholder,
                routes=await self._trial_routes(),
            )
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
        credentials, leaving, allow, servers, repositories = await asyncio.gather(
            self._vault.reveal(user_id),
            self._exits().leaving(user_id),
            self._allowed(user_id),
            self._mcp_servers().remotes(user_id),
            self._git().remotes(user_id),
        )
        return Entry(
            sandbox_id=sandbox.id,
            incarnation=sandbox.incarnation,
            address=sandbox.address,
            user_id=user_id,
            placeholder=placeholder,
            routes={one.provider: self._route_for(one) for one in credentials},
            egress=leaving.egress,
            exit=leaving.exit,
            closed_because=leaving.closed_because,
            allow=allow,
            remotes={**servers, **repositories},
        )
