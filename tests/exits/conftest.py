from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from sqlalchemy import insert

from hutch.clock import SystemClock
from hutch.exits.importing import parse
from hutch.exits.rows import ExitRows
from hutch.exits.service import Exits
from hutch.gateway.base import FakeGateway
from hutch.store.database import Database
from hutch.store.open import open_database
from hutch.store.tables import users
from hutch.vault.data_keys import DataKeys
from hutch.vault.key_file import KeyFile

USERS = tuple(f"user_{number:02}" for number in range(60))


class SteeredClock(SystemClock):
    """The time is what the test says, and no two moments are the same."""

    def __init__(self) -> None:
        self.time = 1_000_000.0

    def now(self) -> float:
        self.time += 0.000_001
        return self.time


@dataclass
class Office:
    """Exits over a database, as one process sees them."""

    database: Database
    key_file: KeyFile
    clock: SteeredClock
    gateway: FakeGateway
    moved: list[str] = field(default_factory=list)

    async def exits(self) -> Exits:
        """As after a start; call it again for another process."""

        async def moved(user_id: str) -> None:
            self.moved.append(user_id)

        opened = Exits(
            ExitRows(self.database),
            DataKeys(self.database, self.clock, self.key_file),
            self.clock,
            gateway=self.gateway,
            egress="exits",
            moved=moved,
        )
        await opened.load()
        return opened


@asynccontextmanager
async def an_office(folder: Path, database_url: str) -> AsyncIterator[Office]:
    database = open_database(database_url)
    rows = [{"id": u, "name": u, "tier": "free", "created_at": 0.0} for u in USERS]
    await database.write((insert(users), rows))
    key_file = await KeyFile.open(folder / "master-keys")
    yield Office(database, key_file, SteeredClock(), FakeGateway())
    await database.close()


@pytest.fixture
async def office(tmp_path: Path, database_url: str) -> AsyncIterator[Office]:
    async with an_office(tmp_path, database_url) as opened:
        yield opened


@pytest.fixture
async def exits(office: Office) -> Exits:
    return await office.exits()


async def stock(exits: Exits, count: int) -> None:
    """That many static exits, which nobody asks for anything."""
    await exits.import_(parse("\n".join(f"proxy.test:{1 + n}:u:secret-{n}" for n in range(count))))
