"""What the gateway is told while sandboxes come and go underneath."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hutch.config import Settings
from hutch.control.gateway import GatewaySync, route_for
from hutch.exits.models import Leaving
from hutch.gateway.base import FakeGateway, GatewayHealth
from hutch.gateway.table import Entry, HostRule, Remote, Route
from hutch.runs.service import NewRun
from hutch.sandboxes.models import Sandbox
from hutch.secrets import Secret
from hutch.vault.models import Credential
from hutch_runtime.protocol import Provider
from tests.orchestrator.conftest import World, new_user
from tests.orchestrator.runtime import ScriptedRun, answers


class GatewayThatIsSlowToForget(FakeGateway):
    def __init__(self) -> None:
        super().__init__()
        self.asked, self.go_on = asyncio.Event(), asyncio.Event()

    async def remove(self, sandbox_id: str, incarnation: str) -> None:
        self.asked.set()
        await self.go_on.wait()
        await super().remove(sandbox_id, incarnation)


class GatewayThatIsSlow(FakeGateway):
    """``hangs``: it never gets to know of a user. ``late``: it takes its time to say how it is."""

    hangs = late = False

    async def put(self, *entries: Entry) -> None:
        if self.hangs and any(entry.user_id is not None for entry in entries):
            await asyncio.Event().wait()
        await super().put(*entries)

    async def health(self) -> GatewayHealth:
        if self.late:
            await asyncio.sleep(0.3)
        return await super().health()


class Parts:
    """Sandboxes, vault and exits, as far as the gateway's table is made of them."""

    def __init__(self) -> None:
        self.rows: list[Sandbox] = []

    async def remotes(self, _: str) -> dict[str, Remote]:
        return {}

    async def all(self) -> list[Sandbox]:
        return list(self.rows)

    async def reveal(self, user_id: str) -> Sequence[Credential]:
        return [Credential("claude", "api_key", Secret(f"key-of-{user_id}"))]

    async def leaving(self, _: str) -> Leaving:
        return Leaving("direct")


@pytest.fixture
def parts() -> Parts:
    return Parts()


def syncing(parts: Any, gateway: FakeGateway, tmp_path: Path) -> GatewaySync:
    settings = Settings(data_dir=tmp_path)

    async def no_routes() -> dict[Provider, Route]:
        return {}

    async def allowed(_: str) -> tuple[HostRule, ...]:
        return ()

    return GatewaySync(
        gateway,
        parts,
        lambda: parts,
        route_for=lambda credential: route_for(settings, credential),
        exits=lambda: parts,
        mcp_servers=lambda: parts,
        git=lambda: parts,
        allowed=allowed,
        trial_routes=no_routes,
    )


def sandbox(name: str, user_id: str, address: str) -> Sandbox:
    return Sandbox(
        id=f"sbx_{name}",
        user_id=user_id,
        incarnation=f"inc_{name}",
        desired="running",
        observed="running",
        reason="",
        image="any",
        created_at=0.0,
        changed_at=0.0,
        address=address,
        port=3000,
    )


def owner(gateway: FakeGateway, address: str) -> str | None:
    entry = gateway.table.find(address, ())
    return entry.user_id if entry is not None else None


async def test_a_changed_credential_brings_no_dismissed_sandbox_back(
    parts: Parts, tmp_path: Path
) -> None:
    gateway = GatewayThatIsSlowToForget()
    sync = syncing(parts, gateway, tmp_path)
    one = sandbox("a", "user_a", "10.0.0.2")
    parts.rows = [one]
    await sync.admit(one)
    ending = asyncio.create_task(sync.dismiss(one))
    await gateway.asked.wait()
    changing = asyncio.create_task(sync.user_changed("user_a"))
    await asyncio.sleep(0)
    parts.rows = [replace(one, desired="destroyed")]
    gateway.go_on.set()
    await ending
    await changing
    assert owner(gateway, "10.0.0.2") is None


async def test_an_address_stays_with_the_sandbox_that_got_it_last(
    parts: Parts, tmp_path: Path
) -> None:
    """The container of user_a has died, which nobody has noticed yet; the engine has given its
    address to the next one.
    """
    gateway = FakeGateway()
    sync = syncing(parts, gateway, tmp_path)
    died, next_one = sandbox("a", "user_a", "10.0.0.2"), sandbox("b", "user_b", "10.0.0.2")
    # The younger row comes first: the older one has taken longer to start.
    parts.rows = [next_one, died]
    await sync.admit(replace(died, observed="provisioning"))
    await sync.admit(replace(next_one, observed="provisioning"))
    await sync.user_changed("user_a")
    assert owner(gateway, "10.0.0.2") == "user_b"
    # Had it been warm, it is claimed in the same moment.
    await sync.admit(died)
    assert owner(gateway, "10.0.0.2") == "user_b"
    gateway.restart()
    await sync.run()
    assert owner(gateway, "10.0.0.2") == "user_b"
    # Once that one is over, whoever has the address is told of again.
    parts.rows = [died]
    await sync.user_changed("user_a")
    assert owner(gateway, "10.0.0.2") == "user_a"


async def test_killed_in_a_claim_no_run_begins_before_the_gateway_knows(world: World) -> None:
    gateway = world.gateway = GatewayThatIsSlow()
    world.settings = world.settings.model_copy(update={"pool_size": 1})
    owners: list[list[str | None]] = []

    async def notes(run: ScriptedRun) -> AsyncIterator[tuple[str, dict[str, Any]]]:
        owners.append([entry.user_id for entry in gateway.table._by_sandbox.values()])
        async for event in answers(run):
            yield event

    world.runtime.script = notes
    async with world.orchestrator() as hutch:
        user_id = await new_user(hutch, "someone")
        while not [s for s in await hutch.sandboxes.all() if s.observed == "warm"]:
            await asyncio.sleep(0.01)
        gateway.hangs = True
        run = await hutch.runs.submit(user_id, NewRun("claude", "hello"))
        while not [s for s in await hutch.sandboxes.all() if s.user_id == user_id]:
            await asyncio.sleep(0.01)
    assert owners == []
    gateway.hangs, gateway.late = False, True
    async with world.orchestrator() as hutch:
        assert (await hutch.runs.finished(user_id, run.id)).state == "succeeded"
    assert [user_id in known for known in owners] == [True]
