from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from sqlalchemy import delete, func, select, update

from hutch.clock import SystemClock
from hutch.errors import DoesNotOpen, HostNotReady, NotFound
from hutch.store.database import Database
from hutch.store.tables import data_keys as table
from hutch.store.tables import users
from hutch.vault.data_keys import INSTALLATION, DataKeys
from hutch.vault.key_file import KeyFile
from tests.vault.pausing import KeysThatPause


async def count(database: Database) -> int:
    row = await database.first(select(func.count()).select_from(table))
    assert row is not None
    return int(row[0])


def files_with(needle: bytes, directory: Path) -> list[str]:
    return [p.name for p in directory.rglob("*") if p.is_file() and needle in p.read_bytes()]


async def test_what_is_sealed_opens_after_a_restart(database: Database, key_file: KeyFile) -> None:
    sealed = {
        owner: await DataKeys(database, SystemClock(), key_file).seal(owner, "c", b"text")
        for owner in ("user_ada", INSTALLATION)
    }
    again = DataKeys(database, SystemClock(), key_file)
    await again.check()
    for owner, one in sealed.items():
        assert await again.open(owner, "c", one) == b"text"
        assert b"text" not in one


async def test_concurrent_first_seals_make_one_key(database: Database, key_file: KeyFile) -> None:
    """Also of two processes: each has its own lock and its own cache."""
    several = [DataKeys(database, SystemClock(), key_file) for _ in range(4)]
    sealed = await asyncio.gather(
        *(keys.seal("user_ada", "c", b"text") for keys in several for _ in range(5))
    )
    assert await count(database) == 1
    for keys in several:
        assert [await keys.open("user_ada", "c", one) for one in sealed] == [b"text"] * 20


async def test_nobody_gets_a_key_who_is_not_a_user(database: Database, data_keys: DataKeys) -> None:
    with pytest.raises(NotFound):
        await data_keys.seal("user_nobody", "c", b"text")
    assert await count(database) == 0


async def test_opening_makes_no_key(database: Database, data_keys: DataKeys) -> None:
    sealed = await data_keys.seal("user_ada", "c", b"text")
    with pytest.raises(DoesNotOpen):
        await data_keys.open("user_bob", "c", sealed)
    assert await count(database) == 1


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)  # its files are ours to read
async def test_a_destroyed_key_is_in_no_file_and_opens_nothing(
    database: Database, key_file: KeyFile, data_keys: DataKeys, tmp_path: Path
) -> None:
    sealed = await data_keys.seal("user_ada", "c", b"text")
    row = await database.first(select(table.c.wrapped))
    assert row is not None
    wrapped = bytes(row[0])
    assert files_with(wrapped, tmp_path)
    fingerprint = await data_keys.destroy("user_ada")
    assert fingerprint
    assert files_with(wrapped, tmp_path) == []
    for keys in (data_keys, DataKeys(database, SystemClock(), key_file)):
        with pytest.raises(DoesNotOpen):
            await keys.open("user_ada", "c", sealed)
    assert await data_keys.destroy("user_ada") is None
    # A new key of the same user does not open what the old one sealed.
    await data_keys.seal("user_ada", "c", b"other")
    with pytest.raises(DoesNotOpen):
        await data_keys.open("user_ada", "c", sealed)


async def test_no_key_is_kept_that_was_read_before_its_destruction(
    database: Database, key_file: KeyFile, data_keys: DataKeys
) -> None:
    sealed = await data_keys.seal("user_ada", "c", b"text")
    slow = KeysThatPause(key_file, b"hutch data key v1\0user_ada")
    keys = DataKeys(database, SystemClock(), slow)
    opening = asyncio.create_task(keys.open("user_ada", "c", sealed))
    await slow.reached.wait()
    await keys.destroy("user_ada")
    slow.go_on.set()
    await asyncio.gather(opening, return_exceptions=True)  # it began before: either is right
    with pytest.raises(DoesNotOpen):
        await keys.open("user_ada", "c", sealed)


async def test_no_key_is_kept_that_was_made_before_its_destruction(
    database: Database, key_file: KeyFile
) -> None:
    slow = KeysThatPause(key_file, b"hutch data key v1\0user_ada")
    keys = DataKeys(database, SystemClock(), slow)
    sealing = asyncio.create_task(keys.seal("user_ada", "c", b"text"))
    await slow.reached.wait()
    destroying = asyncio.create_task(keys.destroy("user_ada"))
    await asyncio.sleep(0.02)
    slow.go_on.set()
    sealed = await sealing
    assert await destroying
    assert await count(database) == 0
    with pytest.raises(DoesNotOpen):
        await keys.open("user_ada", "c", sealed)


async def test_a_deleted_users_key_does_not_come_back(
    database: Database, data_keys: DataKeys
) -> None:
    await data_keys.seal("user_ada", "c", b"text")
    await data_keys.destroy("user_ada")
    await database.write(delete(users).where(users.c.id == "user_ada"))
    with pytest.raises(NotFound):
        await data_keys.seal("user_ada", "c", b"late")


async def test_a_lost_master_key_is_found_at_the_start(
    database: Database, data_keys: DataKeys, tmp_path: Path
) -> None:
    await data_keys.seal("user_ada", "c", b"text")
    other = await KeyFile.open(tmp_path / "another" / "master-keys")
    with pytest.raises(HostNotReady, match="mk-"):
        await DataKeys(database, SystemClock(), other).check()


async def test_a_wrapped_key_given_to_another_owner_does_not_open(
    database: Database, key_file: KeyFile, data_keys: DataKeys
) -> None:
    sealed = await data_keys.seal("user_ada", "c", b"text")
    await database.write(update(table).values(owner="user_bob"))
    with pytest.raises(DoesNotOpen):
        await DataKeys(database, SystemClock(), key_file).open("user_bob", "c", sealed)


async def test_changing_the_master_key_rewraps_all_and_forgets_the_old_one(
    database: Database, key_file: KeyFile, data_keys: DataKeys, tmp_path: Path
) -> None:
    owners = ("user_ada", "user_bob", INSTALLATION)
    sealed = {owner: await data_keys.seal(owner, "c", owner.encode()) for owner in owners}
    before = await key_file.active()
    old_file = (tmp_path / "master-keys").read_bytes()
    done = await data_keys.rotate()
    assert (done.rewrapped, done.unreadable, done.forgotten) == (3, 0, [before])
    assert done.master_key == await key_file.active() != before
    reopened = await KeyFile.open(tmp_path / "master-keys")
    fresh = DataKeys(database, SystemClock(), reopened)
    for owner, one in sealed.items():
        assert await fresh.open(owner, "c", one) == owner.encode()
    # What leaked before the change opens nothing any more.
    (tmp_path / "leaked").write_bytes(old_file)
    (tmp_path / "leaked").chmod(0o600)
    leaked = DataKeys(database, SystemClock(), await KeyFile.open(tmp_path / "leaked"))
    with pytest.raises(HostNotReady):
        await leaked.check()
