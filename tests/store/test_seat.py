"""One leads at a time; the next one begins at once; an earlier one's writes are refused."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import psycopg
import pytest
from sqlalchemy import URL, insert, select

from hutch.clock import SystemClock
from hutch.errors import HostNotReady, NotLeading
from hutch.store.open import parse, prepare
from hutch.store.postgresql import PostgresDatabase
from hutch.store.seat import Seat
from hutch.store.tables import users
from tests.postgres import Server

END_LEADERS = (
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
    "WHERE application_name = 'hutch leadership' AND datname = '{}'"
)


@pytest.fixture
async def url(postgres: Server) -> AsyncIterator[URL]:
    text = postgres.new_database()
    yield parse(text)
    postgres.drop(text)


def seat(url: URL, installation: str = "ours") -> Seat:
    return Seat(url, SystemClock(), installation=installation)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.02)


async def test_one_leads_and_the_next_one_hears_of_it(url: URL) -> None:
    first, second = seat(url), seat(url)
    term = await first.take()
    waiting = asyncio.create_task(second.take())
    await first.announce(term, "http://one.test")
    await until(lambda: second.leader is not None)
    seen = second.leader
    assert seen is not None
    assert (seen.url, seen.term) == ("http://one.test", term)
    assert not waiting.done()
    await first.resign()
    assert await asyncio.wait_for(waiting, 20) == term + 1
    await second.resign()


async def test_what_an_earlier_leader_writes_is_refused(url: URL) -> None:
    row = {"tier": "free", "created_at": 0.0}
    first, second = seat(url), seat(url)
    old = PostgresDatabase(url, term=await first.take())
    await old.write(insert(users).values(id="a", name="a", **row))
    await first.resign()
    new = PostgresDatabase(url, term=await second.take())
    with pytest.raises(NotLeading):
        await old.write(insert(users).values(id="b", name="b", **row))
    await new.write(insert(users).values(id="c", name="c", **row))
    assert {user.id for user in await old.all(select(users))} == {"a", "c"}
    for database in (old, new):
        await database.close()
    await second.resign()


async def test_a_new_leader_waits_for_what_the_old_one_is_writing(url: URL) -> None:
    first, second = seat(url), seat(url)
    old = PostgresDatabase(url, term=await first.take())
    with old.engine.connect() as connection, connection.begin():
        connection.execute(old._name)
        connection.execute(
            insert(users).values(id="late", name="late", tier="free", created_at=0.0)
        )
        await first.resign()
        waiting = asyncio.create_task(second.take())
        await asyncio.sleep(0.5)
        assert not waiting.done()
    term = await asyncio.wait_for(waiting, 20)
    new = PostgresDatabase(url, term=term)
    assert [user.id for user in await new.all(select(users))] == ["late"]
    for database in (old, new):
        await database.close()
    await second.resign()


async def test_a_lost_connection_keeps_the_lead_while_it_is_free(
    url: URL, postgres: Server
) -> None:
    first = seat(url)
    term = await first.take()
    lost = asyncio.create_task(first.until_lost(term))
    for _ in range(3):
        await asyncio.to_thread(postgres.do, END_LEADERS.format(url.database))
        await asyncio.sleep(0.5)
    assert not lost.done()
    lost.cancel()
    await asyncio.gather(lost, return_exceptions=True)
    await first.resign()


async def test_a_leader_stops_when_another_one_was_first(
    url: URL, postgres: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def unreachable() -> Any:
        raise psycopg.OperationalError("no route")

    first, second = seat(url), seat(url)
    term = await first.take()
    lost = asyncio.create_task(first.until_lost(term))
    await asyncio.sleep(0.1)
    with monkeypatch.context() as patch:
        patch.setattr(first, "_connect", unreachable)
        await asyncio.to_thread(postgres.do, END_LEADERS.format(url.database))
        assert await asyncio.wait_for(second.take(), 20) == term + 1
        assert not lost.done()
    await asyncio.wait_for(lost, 20)
    await first.resign()
    await second.resign()


async def test_a_database_of_another_installation_is_refused(url: URL) -> None:
    first = seat(url)
    await first.check()
    await first.take()
    with pytest.raises(HostNotReady, match="another installation"):
        await seat(url, "theirs").check()
    await seat(url).check()
    await first.resign()


def test_the_tables_are_there_for_the_first_process(postgres: Server) -> None:
    postgres.do("CREATE DATABASE first_process")
    url = parse(postgres.url("first_process"))
    prepare(url)
    assert postgres.do("SELECT count(*) FROM leadership", "first_process") == [(0,)]
    postgres.drop(postgres.url("first_process"))
