"""The journal is emptied, also while somebody reads, and nobody waits long for it."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from pathlib import Path

import pytest
from sqlalchemy import select, update

from hutch.errors import Unavailable
from hutch.store.database import Database
from hutch.store.tables import users

# PostgreSQL empties its journal by itself.
pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


async def rename(database: Database, name: str) -> None:
    await database.write(update(users).where(users.c.id == "user_ada").values(name=name))


async def test_a_reader_in_the_way(database: Database, tmp_path: Path) -> None:
    await rename(database, "before")
    wal = tmp_path / "hutch.db-wal"
    assert wal.stat().st_size > 0
    reader = sqlite3.connect(tmp_path / "hutch.db", isolation_level=None)
    reader.execute("BEGIN")
    assert reader.execute("SELECT name FROM users WHERE id = 'user_ada'").fetchone() == ("before",)
    await rename(database, "after")
    emptying = asyncio.create_task(database.checkpoint())
    slowest = 0.0
    for number in range(4):
        await asyncio.sleep(0.1)
        began = time.monotonic()
        await rename(database, f"meanwhile {number}")
        slowest = max(slowest, time.monotonic() - began)
    assert not emptying.done()
    assert slowest < 1
    reader.execute("ROLLBACK")
    reader.close()
    await emptying
    assert wal.stat().st_size == 0
    row = await database.first(select(users.c.name).where(users.c.id == "user_ada"))
    assert row is not None
    assert row[0] == "meanwhile 3"


async def test_a_reader_who_does_not_end(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hutch.store.sqlite._CHECKPOINT_TRIES", 2)
    await rename(database, "before")
    reader = sqlite3.connect(tmp_path / "hutch.db", isolation_level=None)
    reader.execute("BEGIN")
    reader.execute("SELECT * FROM users").fetchall()
    with pytest.raises(Unavailable, match="journal"):
        await database.checkpoint()
    reader.close()
    await database.checkpoint()
