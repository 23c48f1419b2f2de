"""The server ends connections, is stopped, or crashes, under load: nothing is lost or doubled."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from sqlalchemy import Connection, delete, func, insert, select

from hutch.errors import DatabaseUnavailable, Unavailable
from hutch.store import postgresql
from hutch.store.open import parse
from hutch.store.postgresql import PostgresDatabase
from hutch.store.server import LIFE
from hutch.store.tables import users
from tests.postgres import Server


def row(name: str) -> dict[str, Any]:
    return {"id": name, "name": name, "tier": "free", "created_at": 0.0}


async def names(database: PostgresDatabase) -> list[str]:
    return [found.id for found in await database.all(select(users.c.id).order_by(users.c.id))]


async def again(server: Server, how: signal.Signals) -> None:
    await asyncio.to_thread(server.stop, how)
    server.launch()
    await asyncio.to_thread(server.wait_until_ready)


class Load:
    """Writers, each of whose rows must be there once, and readers, who must never fail."""

    def __init__(self, database: PostgresDatabase) -> None:
        self.database = database
        self.stored: list[str] = []
        self._going = True

    async def _write(self, writer: int) -> None:
        number = 0
        while self._going:
            number += 1
            name = f"w{writer}-{number:05}"
            # Twice the same would break a rule of the table, and raise.
            await self.database.write(insert(users).values(**row(name)))
            self.stored.append(name)

    async def _read(self) -> None:
        while self._going:
            assert await self.database.first(select(func.count()).select_from(users))

    async def during(self, *disturbances: Callable[[], Awaitable[None]]) -> None:
        tasks = [asyncio.create_task(self._write(writer)) for writer in range(6)]
        tasks += [asyncio.create_task(self._read()) for _ in range(3)]
        for disturb in disturbances:
            await asyncio.sleep(0.3)
            await disturb()
        await asyncio.sleep(0.3)
        self._going = False
        ends = await asyncio.gather(*tasks, return_exceptions=True)
        for failure in filter(None, ends):
            raise failure
        assert await names(self.database) == sorted(self.stored)
        assert len(self.stored) > 20


async def test_connections_are_ended(lasting: PostgresDatabase, own_server: Server) -> None:
    end = (
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
        "WHERE pid <> pg_backend_pid() AND application_name = 'hutch'"
    )

    async def end_them() -> None:
        await asyncio.to_thread(own_server.do, end)

    await Load(lasting).during(*[end_them] * 6)


async def test_the_server_is_restarted(lasting: PostgresDatabase, own_server: Server) -> None:
    async def restart() -> None:
        await again(own_server, signal.SIGINT)

    await Load(lasting).during(restart, restart)


async def test_the_server_crashes(lasting: PostgresDatabase, own_server: Server) -> None:
    """Whether a commit that was under way was carried out may be unknown then; it is said so."""
    load = Load(lasting)

    async def crash() -> None:
        await again(own_server, signal.SIGQUIT)

    said = ""
    try:
        await load.during(crash, crash)
    except DatabaseUnavailable as error:
        said = error.message
    assert not said or "whether a change was stored is not known" in said
    assert set(load.stored) <= set(await names(lasting))


async def test_a_server_that_stays_away_is_waited_for_and_then_said(own_server: Server) -> None:
    url = own_server.new_database()
    database = PostgresDatabase(parse(url), patience_s=0.5)
    assert await names(database) == []
    own_server.stop()
    began = asyncio.get_running_loop().time()
    for attempt in (names(database), database.write(insert(users).values(**row("a")))):
        with pytest.raises(Unavailable, match="does not answer") as raised:
            await attempt
        assert raised.value.hint
    assert asyncio.get_running_loop().time() - began < 5
    own_server.start()
    await database.write(insert(users).values(**row("b")))
    assert await names(database) == ["b"]
    await database.close()


class Cut:
    """Ends the server's side of a transaction at its commit, before or after it is carried out."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, server: Server) -> None:
        self.monkeypatch = monkeypatch
        self.server = server
        self.times = 1

    def at_commit(self, database: PostgresDatabase, *, carried_out: bool) -> None:
        commit = database.engine.dialect.do_commit

        def cut(proxied: Any) -> None:
            connection = proxied.dbapi_connection
            if self.times and connection.info.transaction_status.name == "INTRANS":
                self.times -= 1
                if carried_out:
                    commit(proxied)
                pid = connection.info.backend_pid
                self.server.do(f"SELECT pg_terminate_backend({pid}, 2000)")
                connection.execute("SELECT 1")  # raises what a driver raises then
            commit(proxied)

        self.monkeypatch.setattr(database.engine.dialect, "do_commit", cut)


@pytest.mark.parametrize("carried_out", [True, False])
async def test_a_commit_whose_answer_was_lost(
    lasting: PostgresDatabase,
    own_server: Server,
    monkeypatch: pytest.MonkeyPatch,
    *,
    carried_out: bool,
) -> None:
    await lasting.write(insert(users).values(**row("a")))
    cut = Cut(monkeypatch, own_server)
    cut.at_commit(lasting, carried_out=carried_out)
    done = 0

    def work(connection: Connection) -> int:
        nonlocal done
        done += 1
        connection.execute(insert(users).values(**row(f"b{done}")))
        return connection.execute(delete(users).where(users.c.id == "a")).rowcount

    assert await lasting._transact(work) == 1
    assert cut.times == 0
    assert await names(lasting) == (["b1"] if carried_out else ["b2"])


async def test_after_a_crash_the_fate_of_a_commit_is_not_guessed(
    lasting: PostgresDatabase, own_server: Server
) -> None:
    """The number of a transaction that a crash has lost may be another one's by now."""

    def one() -> tuple[str, str]:
        with lasting.engine.begin() as connection:
            name = connection.execute(postgresql._NAME).scalar_one()
            connection.execute(insert(users).values(**row("somebody's")))
            return name, connection.info[LIFE]

    name, life = await asyncio.to_thread(one)
    doubt = postgresql._InDoubt(name, life, 1)
    assert lasting._committed(doubt)
    own_server.stop()
    own_server.start()
    own_server.stop(signal.SIGQUIT)
    own_server.start()
    with pytest.raises(DatabaseUnavailable, match="not known"):
        lasting._committed(doubt)
    assert not lasting._committed(postgresql._InDoubt(str(int(name) + 10_000), life, 1))


async def test_a_single_backend_that_crashes_is_another_life(
    lasting: PostgresDatabase, own_server: Server
) -> None:
    def life() -> object:
        with lasting.engine.connect() as connection:
            return connection.info[LIFE]

    before = life()
    lasting.engine.dispose()
    assert life() == before
    ((pid,),) = own_server.do(
        "SELECT pid FROM pg_stat_activity WHERE application_name = 'hutch' LIMIT 1"
    )
    own_server.kill_backend(pid)
    assert await names(lasting) == []
    lasting.engine.dispose()
    assert life() != before
