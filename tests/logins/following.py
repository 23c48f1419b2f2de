"""An orchestrator with nothing but its vault and its followers, for one sandbox: a process that can
be killed at any moment. ``python -m tests.logins.following DIRECTORY PORT``
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path

from sqlalchemy import insert, select

from hutch.clock import SystemClock
from hutch.config import Settings
from hutch.errors import CredentialNotAllowed, NotFound
from hutch.logins.service import Logins
from hutch.sandboxes.models import Sandbox
from hutch.sandboxes.runtime_client import RuntimeClient, runtime_key
from hutch.store.migrate import upgrade
from hutch.store.open import parse
from hutch.store.sqlite import SqliteDatabase
from hutch.store.tables import users
from hutch.vault.data_keys import DataKeys
from hutch.vault.key_file import KeyFile
from hutch.vault.service import Vault

USER = "user_00000000000000000000"
SANDBOX = Sandbox(
    id="sbx_00000000000000000000",
    user_id=USER,
    incarnation="inc_00000000000000000000",
    desired="running",
    observed="running",
    reason="",
    image="",
    created_at=0,
    changed_at=0,
    address="127.0.0.1",
)


class OneSandbox:
    """``Sandboxes``, as far as logins ask: its user's is ``current``."""

    def __init__(self, current: Sandbox) -> None:
        self.current: Sandbox | None = current

    async def of(self, _user_id: str) -> Sandbox:
        if self.current is None:
            raise NotFound("There is no container.")
        return self.current

    async def ensure(self, user_id: str) -> Sandbox:
        return await self.of(user_id)


@dataclass
class Following:
    vault: Vault
    logins: Logins
    sandboxes: OneSandbox
    sandbox: Sandbox
    changed: list[str]


def key_of(directory: Path, incarnation: str = SANDBOX.incarnation) -> str:
    return runtime_key(Settings(data_dir=directory).secret, incarnation)


@contextlib.asynccontextmanager
async def vault_in(directory: Path) -> AsyncIterator[Vault]:
    settings = Settings(data_dir=directory)

    async def never(_user_id: str) -> None:
        raise CredentialNotAllowed("not here")

    # Beside the process that is killed, and without its lock.
    url = parse(settings.database)
    await asyncio.to_thread(upgrade, url)
    database = SqliteDatabase(url)
    keys = DataKeys(database, SystemClock(), await KeyFile.open(settings.master_keys_file))
    if await database.first(select(users)) is None:
        row = {"id": USER, "name": "someone", "tier": "free", "created_at": 0}
        await database.write(insert(users).values(**row))
    vault = Vault(database, SystemClock(), keys, permit_session_token=never)
    try:
        yield vault
    finally:
        await vault.close()
        await database.close()


@contextlib.asynccontextmanager
async def following(
    directory: Path, port: int, *, incarnation: str = SANDBOX.incarnation, hosts: str = "127.0.0.1"
) -> AsyncIterator[Following]:
    """Followers of the runtime at ``port``."""
    sandbox = replace(SANDBOX, port=port, incarnation=incarnation)
    changed: list[str] = []

    async def note(user_id: str) -> None:
        changed.append(user_id)

    async def refuse(_user_id: str) -> None:
        raise CredentialNotAllowed("not here")

    async with vault_in(directory) as vault:
        client = RuntimeClient(Settings(data_dir=directory).secret)
        sandboxes = OneSandbox(sandbox)
        logins = Logins(
            vault,
            client,
            lambda: sandboxes,  # type: ignore[arg-type,return-value]  # the two methods that are asked for
            permit_claude=refuse,
            changed=note,
            sign_in_hosts=frozenset({hosts}),
        )
        logins.sandbox_changed(sandbox)
        try:
            yield Following(vault, logins, sandboxes, sandbox, changed)
        finally:
            await logins.close()
            await client.close()


async def _main(directory: Path, port: int) -> None:
    async with following(directory, port) as it:
        await it.logins.ready(it.sandbox, "codex")
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_main(Path(sys.argv[1]), int(sys.argv[2])))
