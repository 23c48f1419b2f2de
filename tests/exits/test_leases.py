"""One exit a user and one user an exit, whoever asks at once; never another way out."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import update

from hutch.errors import Conflict, ExitUnavailable, NotFound
from hutch.exits.importing import parse
from hutch.exits.service import Exits
from hutch.store.tables import exits as exits_table
from tests.exits.conftest import USERS, Office, an_office, stock


async def test_fifty_users_race_for_fifty_exits(office: Office, exits: Exits) -> None:
    await stock(exits, 50)
    others = [exits, await office.exits(), await office.exits()]  # three processes
    leases = await asyncio.gather(
        *(others[n % 3].lease(user) for n, user in enumerate(USERS[:50])),
        *(others[(n + 1) % 3].lease(user) for n, user in enumerate(USERS[:50])),
    )
    held = [lease.exit.id for lease in leases]
    assert len(set(held[:50])) == 50
    assert held[:50] == held[50:]  # whoever asks twice has one
    with pytest.raises(ExitUnavailable, match="no exit is free") as none:
        await exits.lease(USERS[50])
    assert "hutch admin exits import" in none.value.hint


async def test_nobody_leaves_without_an_exit(office: Office, exits: Exits) -> None:
    leaving = await exits.leaving(USERS[0])
    assert (leaving.egress, leaving.exit) == ("closed", None)
    assert "no exit is free" in leaving.closed_because
    await stock(exits, 1)
    leaving = await exits.leaving(USERS[0])
    assert leaving.egress == "exit"
    assert leaving.exit is not None
    assert leaving.exit.password.reveal() == "secret-0"
    # One password that was tampered with closes its own user's way, and is repaired by an import.
    await office.database.write(update(exits_table).values(sealed=b"\0"))
    again = await office.exits()
    leaving = await again.leaving(USERS[0])
    assert (leaving.egress, leaving.exit) == ("closed", None)
    assert "does not open" in leaving.closed_because
    await stock(again, 1)
    assert (await again.leaving(USERS[0])).egress == "exit"
    assert office.moved == [USERS[0]]


async def test_a_former_user_gets_the_same_one_back(exits: Exits) -> None:
    await stock(exits, 3)
    first = {user: (await exits.lease(user)).exit.id for user in USERS[:3]}
    for user in USERS[:3]:
        assert await exits.release(user) == [first[user]]
    for user in reversed(USERS[:3]):
        assert (await exits.lease(user)).exit.id == first[user]
    assert await exits.release("user_59") == []
    what = [one.what for one in await exits.history(USERS[0])]
    assert what == ["leased", "released", "leased"]


async def test_a_new_one_gets_what_nobody_had_and_sticky_last(exits: Exits) -> None:
    await exits.import_(parse("gate.decodo.com:7000:user-ann:p\nh:1:u:p\nh:2:u:p"))
    one = (await exits.lease(USERS[0])).exit
    await exits.release(USERS[0])
    two, three, four = [(await exits.lease(user)).exit for user in USERS[1:4]]
    assert (one.port, two.port, three.port, four.port) == (1, 2, 1, 7000)
    assert four.kind == "sticky"
    username = (await exits.proxy(four)).username
    session = four.id.removeprefix("exit_")
    assert username == f"user-ann-session-{session}-sessionduration-1440"


async def test_leases_outlive_the_process(office: Office, exits: Exits) -> None:
    await stock(exits, 2)
    lease = await exits.lease(USERS[0])
    again = await office.exits()
    found = again.of(USERS[0])
    assert found is not None
    assert found.exit.id == lease.exit.id
    assert (await again.proxy(found.exit)).password.reveal() == "secret-0"


async def test_drain_and_remove(office: Office, exits: Exits) -> None:
    await stock(exits, 2)
    one = (await exits.lease(USERS[0])).exit
    await exits.drain(one.id, move=False)
    assert exits.of(USERS[0]) is not None
    with pytest.raises(Conflict, match="leased to user_00"):
        await exits.remove(one.id, force=False)
    await exits.drain(one.id, move=True)
    held = exits.of(USERS[0])
    assert held is not None
    assert held.exit.id != one.id
    assert office.moved == [USERS[0]]
    await exits.remove(one.id, force=False)
    with pytest.raises(NotFound):
        exits.get(one.id)
    with pytest.raises(ExitUnavailable, match="cannot be moved"):
        await exits.drain(held.exit.id, move=True)
    assert exits.of(USERS[0]) is not None  # kept, rather than cut off
    await exits.remove(held.exit.id, force=True)
    assert (await exits.leaving(USERS[0])).egress == "closed"
    assert office.moved == [USERS[0]] * 2


async def test_importing_again_renews_and_never_doubles(office: Office, exits: Exits) -> None:
    lines = "h:1:u:first\nh:2:u:second"
    assert (await exits.import_(parse(lines), dry_run=True)).added == 2
    assert exits.all() == []
    assert (await exits.import_(parse(lines))).added == 2
    lease = await exits.lease(USERS[0])
    done = await exits.import_(parse("h:1:u:other\nh:2:u:second\nh:3:u:third"))
    assert (done.added, done.updated, done.unchanged) == (1, 1, 1)
    assert len(exits.all()) == 3
    assert (await exits.proxy(exits.get(lease.exit.id))).password.reveal() == "other"
    assert office.moved == [USERS[0]]  # the gateway has the new one at once


async def test_passwords_are_nowhere_in_the_clear(exits: Exits, tmp_path: Path) -> None:
    await exits.import_(parse("h:1:u:a-very-secret-password"))
    for path in tmp_path.rglob("hutch.db*"):
        assert b"very-secret" not in path.read_bytes()
    assert "very-secret" not in repr(exits.all())


Step = tuple[str, int]
steps = st.lists(
    st.tuples(st.sampled_from(["lease", "release", "spare", "back", "drain", "remove"]),
              st.integers(0, 4)),
    max_size=25,
)  # fmt: skip


async def play(exits: Exits, script: Sequence[Step]) -> None:
    for what, number in script:
        user = USERS[number]
        ids = [exit_.id for exit_ in exits.all()]
        try:
            match what:
                case "lease":
                    await exits.lease(user)
                case "release":
                    await exits.release(user)
                case "spare":
                    await exits.give_spare(user)
                case "back":
                    await exits.end_spare(user, healed=True)
                case "drain" if ids:
                    await exits.drain(ids[number % len(ids)], move=number % 2 == 0)
                case "remove" if ids:
                    await exits.remove(ids[number % len(ids)], force=number % 2 == 0)
        except (ExitUnavailable, Conflict, NotFound):
            continue  # gone, taken or held meanwhile


@settings(max_examples=12, deadline=None)
@given(scripts=st.tuples(steps, steps))
def test_whatever_happens_at_once(
    scripts: tuple[list[Step], list[Step]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Two at a time: no exit has two users, no user two homes, memory is the tables."""

    async def go() -> None:
        folder = tmp_path_factory.mktemp("office")
        async with an_office(folder, f"sqlite:///{folder / 'hutch.db'}") as office:
            exits = await office.exits()
            await stock(exits, 4)
            await asyncio.gather(*(play(exits, script) for script in scripts))
            held = [exit_ for exit_ in exits.all() if exit_.user_id is not None]
            assert len({(exit_.user_id, exit_.role) for exit_ in held}) == len(held)
            assert exits.all() == (await office.exits()).all()
            for exit_ in held:
                assert exit_.user_id is not None
                assert exits.of(exit_.user_id) is not None, "a spare without a home"

    asyncio.run(go())
