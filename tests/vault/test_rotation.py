"""Changing the master key: under load, and killed at every moment."""

from __future__ import annotations

import asyncio
import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Literal

import pytest
from sqlalchemy import delete, func, insert, select, update

from hutch.clock import SystemClock
from hutch.errors import DoesNotOpen, KeyUnavailable
from hutch.store.database import Database
from hutch.store.tables import data_keys as table
from hutch.store.tables import users
from hutch.vault.data_keys import DataKeys
from hutch.vault.key_environment import EnvironmentKeys
from hutch.vault.key_file import KeyFile
from hutch.vault.keys import MasterKey
from tests.vault.kms import FakeKms
from tests.vault.pausing import KeysThatPause

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("database_url", "how", "moments"),
    [
        ("sqlite", "lines", 80),
        ("sqlite", "times", 40),
        ("postgresql", "lines", 12),
        ("postgresql", "times", 10),
    ],
    indirect=["database_url"],
)
def test_a_change_killed_at_any_moment_loses_nothing(
    database_url: str, tmp_path: Path, how: Literal["lines", "times"], moments: int
) -> None:
    module = "tests.vault.killed_rotation"
    done = subprocess.run(
        [sys.executable, "-m", module, str(tmp_path), database_url, how, str(moments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=55,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    outcome = json.loads(done.stdout)
    assert outcome["killed"] >= moments * 0.9, outcome


async def test_others_seal_and_open_while_keys_change(database: Database, tmp_path: Path) -> None:
    owners = [f"user_{number:03}" for number in range(120)]
    rows = [{"id": u, "name": u, "tier": "free", "created_at": 0.0} for u in owners]
    await database.write((insert(users), rows))
    file = await KeyFile.open(tmp_path / "master-keys")
    rotating = DataKeys(database, SystemClock(), file)
    for owner in owners[:60]:
        await rotating.seal(owner, "c", b"")
    changes = 0
    sealed: list[tuple[str, bytes]] = []

    async def change() -> None:
        nonlocal changes
        while len(sealed) < 400:
            await rotating.rotate()
            changes += 1

    async def others(seed: int) -> None:
        chance = random.Random(seed)  # noqa: S311  a choice, no secret
        while len(sealed) < 400:
            # Each time without a cache, so that the stored key is read in the midst of it.
            keys = DataKeys(database, SystemClock(), file)
            owner = chance.choice(owners)
            sealed.append((owner, await keys.seal(owner, "c", owner.encode())))
            await asyncio.sleep(0)
            owner, one = chance.choice(sealed)
            fresh = DataKeys(database, SystemClock(), file)
            assert await fresh.open(owner, "c", one) == owner.encode()

    # Keys that are made within the object that changes the master key, too.
    async def own() -> None:
        for owner in owners[60:]:
            sealed.append((owner, await rotating.seal(owner, "c", owner.encode())))
            await asyncio.sleep(0.001)

    await asyncio.gather(change(), own(), *(others(seed) for seed in range(4)))
    assert changes >= 3
    await rotating.rotate()
    fresh = DataKeys(database, SystemClock(), await KeyFile.open(tmp_path / "master-keys"))
    for owner, one in sealed:
        assert await fresh.open(owner, "c", one) == owner.encode()
    in_use = await database.all(select(table.c.master_key).distinct())
    assert [key for (key,) in in_use] == [await file.active()]
    lines = (tmp_path / "master-keys").read_text().splitlines()
    assert len(lines) == 2  # the header and one key


async def test_a_key_wrapped_with_the_old_master_key_and_stored_late(
    database: Database, key_file: KeyFile
) -> None:
    slow = KeysThatPause(key_file, b"hutch data key v1\0user_ada")
    keys = DataKeys(database, SystemClock(), slow)
    before = await key_file.active()
    sealing = asyncio.create_task(keys.seal("user_ada", "c", b"text"))
    await slow.reached.wait()
    changing = asyncio.create_task(keys.rotate())
    while await key_file.active() == before:
        await asyncio.sleep(0.001)
    await asyncio.sleep(0.05)  # long enough for all that need not wait
    slow.go_on.set()
    sealed = await sealing
    assert (await changing).forgotten == [before]
    fresh = DataKeys(database, SystemClock(), key_file)
    assert await fresh.open("user_ada", "c", sealed) == b"text"


async def test_a_row_read_before_the_change_and_opened_after(
    database: Database, key_file: KeyFile, data_keys: DataKeys
) -> None:
    sealed = await data_keys.seal("user_ada", "c", b"text")
    slow = KeysThatPause(key_file, b"hutch data key v1\0user_ada")
    opening = asyncio.create_task(
        DataKeys(database, SystemClock(), slow).open("user_ada", "c", sealed)
    )
    await slow.reached.wait()
    assert (await data_keys.rotate()).forgotten
    slow.go_on.set()
    assert await opening == b"text"


async def test_a_key_destroyed_meanwhile_does_not_come_back(database: Database) -> None:
    kms = FakeKms()
    keys = DataKeys(database, SystemClock(), kms)
    await keys.seal("user_ada", "c", b"text")
    await keys.seal("user_bob", "c", b"text")
    changing = asyncio.create_task(keys.rotate())
    while kms.calls < 4:
        await asyncio.sleep(0)
    await keys.destroy("user_ada")
    await changing
    owners = await database.all(select(table.c.owner))
    assert [owner for (owner,) in owners] == ["user_bob"]


async def test_one_that_opens_with_no_key_is_left_and_told_of(
    database: Database, key_file: KeyFile
) -> None:
    keys = DataKeys(database, SystemClock(), key_file)
    sealed = await keys.seal("user_ada", "c", b"text")
    await keys.seal("user_bob", "c", b"text")
    before = await key_file.active()
    damaged = os.urandom(60)
    await database.write(update(table).where(table.c.owner == "user_bob").values(wrapped=damaged))
    done = await keys.rotate()
    # Its master key stays: a backup of the row may turn up.
    assert (done.rewrapped, done.unreadable, done.forgotten) == (1, 1, [])
    row = await database.first(select(table).where(table.c.owner == "user_bob"))
    assert row is not None
    assert (row.wrapped, row.master_key) == (damaged, before)
    fresh = DataKeys(database, SystemClock(), key_file)
    assert await fresh.open("user_ada", "c", sealed) == b"text"
    with pytest.raises(DoesNotOpen):
        await fresh.open("user_bob", "c", sealed)
    await database.write(delete(table).where(table.c.owner == "user_bob"))
    assert (await keys.rotate()).unreadable == 0
    assert before not in Path(key_file._path).read_text()


async def test_in_the_environment_the_operator_brings_the_key(database: Database) -> None:
    old, new = MasterKey.generate(), MasterKey.generate()
    sealed = await DataKeys(database, SystemClock(), EnvironmentKeys(old.text())).seal(
        "user_ada", "c", b"text"
    )
    # Restarted with both: all opens, and is wrapped anew.
    keys = DataKeys(database, SystemClock(), EnvironmentKeys(new.text(), old.text()))
    await keys.check()
    assert await keys.open("user_ada", "c", sealed) == b"text"
    done = await keys.rotate()
    assert (done.master_key, done.rewrapped) == (new.id, 1)
    assert (await keys.rotate()).rewrapped == 0
    # And with the new one alone.
    keys = DataKeys(database, SystemClock(), EnvironmentKeys(new.text()))
    await keys.check()
    assert await keys.open("user_ada", "c", sealed) == b"text"


async def test_a_kms_that_is_down_is_said_and_stops_only_what_needs_it(database: Database) -> None:
    kms = FakeKms()
    keys = DataKeys(database, SystemClock(), kms)
    sealed = await keys.seal("user_ada", "c", b"text")
    kms.down = True
    assert await keys.open("user_ada", "c", sealed) == b"text"  # its key is in memory
    for work in (
        keys.seal("user_bob", "c", b"text"),
        DataKeys(database, SystemClock(), kms).open("user_ada", "c", sealed),
        keys.rotate(),
    ):
        with pytest.raises(KeyUnavailable):
            await work
    assert await keys.destroy("user_ada")  # needs no key
    kms.down = False
    await keys.rotate()
    row = await database.first(select(func.count()).select_from(table))
    assert row is not None
    assert row[0] == 0
