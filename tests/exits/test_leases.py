"""Who gets which exit: one each, the same one again, and never none by way of the server's own."""

from __future__ import annotations

import asyncio

import pytest

from hutch.app import Hutch
from hutch.errors import Conflict, ExitUnavailable, NotFound
from hutch.exits.importing import parse
from hutch.exits.models import Exit
from hutch.exits.rows import ExitRows
from hutch.exits.service import Exits
from tests.exits.conftest import add_exits
from tests.orchestrator.conftest import World, new_user, run_to_end


async def users(hutch: Hutch, count: int) -> list[str]:
    return [await new_user(hutch, f"user {number}") for number in range(count)]


async def test_fifty_users_race_for_fifty_exits(hutch: Hutch) -> None:
    everybody = await users(hutch, 50)
    exits = await add_exits(hutch, 50)
    # Two services on one database, as two processes are.
    second = Exits(
        ExitRows(hutch.database),
        hutch.vault._data_keys,
        hutch.clock,
        gateway=hutch.gateway_sync._gateway,
        egress="exits",
        moved=hutch.gateway_sync.user_changed,
    )
    await second.load()
    both = (hutch.exits, second)
    leases = await asyncio.gather(
        *(both[n % 2].lease(user) for n, user in enumerate([*everybody, *everybody]))
    )
    assert sorted(lease.exit.id for lease in leases[:50]) == sorted(exits)
    assert [lease.exit.id for lease in leases[:50]] == [lease.exit.id for lease in leases[50:]]


async def test_the_inventory_ends(hutch: Hutch) -> None:
    one, two = await users(hutch, 2)
    await add_exits(hutch, 1)
    await hutch.exits.lease(one)
    with pytest.raises(ExitUnavailable, match="no exit is free"):
        await hutch.exits.lease(two)
    leaving = await hutch.exits.leaving(two)
    assert (leaving.egress, leaving.exit) == ("closed", None)
    run = await run_to_end(hutch, two)
    assert (run.state, run.error_code, run.exit_id) == ("failed", "exit_unavailable", None)
    await add_exits(hutch, 1, first=2)
    assert (await run_to_end(hutch, two)).state == "succeeded"


async def test_the_same_user_gets_the_same_exit_back(hutch: Hutch) -> None:
    one, two, three = await users(hutch, 3)
    first, second, third = await add_exits(hutch, 3)
    assert (await hutch.exits.lease(one)).exit.id == first
    assert (await hutch.exits.lease(two)).exit.id == second
    assert await hutch.exits.release(one) == [first]
    assert await hutch.exits.release(one) == []
    # Somebody new gets one that nobody had, as long as there is one.
    assert (await hutch.exits.lease(three)).exit.id == third
    assert (await hutch.exits.lease(one)).exit.id == first


async def test_a_restart_keeps_leases(world: World) -> None:
    async with world.orchestrator() as hutch:
        user = await new_user(hutch, "someone")
        await add_exits(hutch, 3)
        before = (await hutch.exits.lease(user)).exit.id
    async with world.orchestrator() as hutch:
        lease = hutch.exits.of(user)
        assert lease is not None
        assert lease.exit.id == before
        assert (await hutch.exits.proxy(lease.exit)).password.reveal() == "password-1"


async def test_a_run_is_recorded_with_its_exit(hutch: Hutch, world: World) -> None:
    user = await new_user(hutch, "someone")
    [exit_id] = await add_exits(hutch, 1)
    await hutch.exits.note_probe(exit_id, "up", seen_ip="192.0.2.1")
    run = await run_to_end(hutch, user)
    assert (run.state, run.exit_id, run.exit_ip) == ("succeeded", exit_id, "192.0.2.1")
    [entry] = world.gateway.table._by_sandbox.values()
    assert entry.egress == "exit"
    assert entry.exit is not None
    assert (entry.exit.id, entry.exit.password.reveal()) == (exit_id, "password-1")


async def test_an_exit_that_is_down_fails_runs_before_anybody_is_woken(
    hutch: Hutch, world: World
) -> None:
    user = await new_user(hutch, "someone")
    [exit_id] = await add_exits(hutch, 1)
    await hutch.exits.lease(user)
    await hutch.exits.note_probe(exit_id, "down", reason="it is gone.")
    run = await run_to_end(hutch, user)
    assert (run.error_code, run.error_message) == (
        "exit_unavailable",
        f"The exit {exit_id} does not work: it is gone.",
    )
    assert world.gateway.table._by_sandbox == {}
    await hutch.exits.note_probe(exit_id, "up", seen_ip="192.0.2.1")
    assert (await run_to_end(hutch, user)).state == "succeeded"


async def test_a_drained_exit_stays_its_users_until_they_are_moved(hutch: Hutch) -> None:
    one, two = await users(hutch, 2)
    first, second = await add_exits(hutch, 2)
    await hutch.exits.lease(one)
    assert (await hutch.exits.drain(first, move=False)).state == "draining"
    assert (await hutch.exits.lease(one)).exit.id == first
    moved = await hutch.exits.drain(first, move=True)
    assert moved.user_id is None
    assert (await hutch.exits.lease(one)).exit.id == second
    with pytest.raises(ExitUnavailable):
        await hutch.exits.lease(two)
    with pytest.raises(ExitUnavailable, match="cannot be moved"):
        await hutch.exits.drain(second, move=True)
    assert (await hutch.exits.lease(one)).exit.id == second


async def test_a_leased_exit_is_removed_only_by_force(hutch: Hutch, world: World) -> None:
    user = await new_user(hutch, "someone")
    [exit_id] = await add_exits(hutch, 1)
    assert (await run_to_end(hutch, user)).exit_id == exit_id
    with pytest.raises(Conflict, match="is leased to"):
        await hutch.exits.remove(exit_id, force=False)
    await hutch.exits.remove(exit_id, force=True)
    # At once: what runs in the sandbox now has no way out, and not the server's own.
    [entry] = world.gateway.table._by_sandbox.values()
    assert (entry.egress, entry.exit) == ("closed", None)
    with pytest.raises(NotFound):
        hutch.exits.get(exit_id)
    assert [h.what for h in await hutch.exits.history(user)] == ["removed", "leased"]


async def test_a_spare_and_the_way_back(hutch: Hutch, world: World) -> None:
    user = await new_user(hutch, "someone")
    home, spare = await add_exits(hutch, 2)
    await run_to_end(hutch, user)
    await hutch.exits.note_probe(home, "down", reason="gone.")
    lease = await hutch.exits.give_spare(user)
    assert lease is not None
    assert (lease.exit.id, lease.home.id, lease.spare) == (spare, home, True)
    assert (await run_to_end(hutch, user)).exit_id == spare
    [entry] = world.gateway.table._by_sandbox.values()
    assert entry.exit is not None
    assert entry.exit.id == spare
    await hutch.exits.note_probe(home, "up", seen_ip="192.0.2.1")
    await hutch.exits.end_spare(user, "its own exit works again")
    assert (await run_to_end(hutch, user)).exit_id == home
    whats = [happening.what for happening in await hutch.exits.history(user)]
    assert whats == ["healed", "released", "up", "spare", "down", "leased"]


async def test_importing_again_renews_the_password_of_who_has_it(
    hutch: Hutch, world: World
) -> None:
    user = await new_user(hutch, "someone")
    await add_exits(hutch, 2)
    await run_to_end(hutch, user)
    again = parse("exit1.test,80,user1,another\nexit2.test,80,user2,password-2\nx.test,1,u,p")
    dry = await hutch.exits.import_(again, dry_run=True)
    assert (dry.added, dry.updated, dry.unchanged) == (1, 1, 1)
    assert len(hutch.exits.all()) == 2
    done = await hutch.exits.import_(again)
    assert (done.added, done.updated, done.unchanged) == (1, 1, 1)
    [entry] = world.gateway.table._by_sandbox.values()
    assert entry.exit is not None
    assert entry.exit.password.reveal() == "another"


async def test_only_sealed_passwords_are_stored(hutch: Hutch) -> None:
    [exit_id] = await add_exits(hutch, 1)
    assert "password-1" not in repr(hutch.exits.get(exit_id))
    stored = b"".join(
        path.read_bytes() for path in hutch.settings.data_dir.rglob("*") if path.is_file()
    )
    assert b"exit1.test" in stored
    assert b"password-1" not in stored


async def test_a_residential_session_is_the_exits_own(hutch: Hutch) -> None:
    await hutch.exits.import_(parse("gate.decodo.com:7000:user-ann:p"))
    [exit_] = hutch.exits.all()
    assert isinstance(exit_, Exit)
    proxy = await hutch.exits.proxy(exit_)
    session = exit_.id.partition("_")[2]
    assert proxy.username == f"user-ann-session-{session}-sessionduration-1440"


async def test_a_deleted_users_exit_is_free(hutch: Hutch) -> None:
    one, two = await users(hutch, 2)
    [exit_id] = await add_exits(hutch, 1)
    await hutch.exits.lease(one)
    await hutch.deletion.delete(one)
    assert (await hutch.exits.lease(two)).exit.id == exit_id
