"""What a start meets: another process, a server that is not fit, passwords that must not show."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy import insert, select
from sqlalchemy.exc import IntegrityError

from hutch.errors import HostNotReady
from hutch.store import server as server_module
from hutch.store.open import open_database, parse
from hutch.store.tables import runs, sessions, users
from tests.postgres import Server

PASSWORD = "the-password-4711"
OPEN = "import sys; from hutch.store.open import open_database; open_database(sys.argv[1])"


def opened_elsewhere(url: str) -> subprocess.CompletedProcess[str]:
    argv = (sys.executable, "-c", OPEN, url)
    return subprocess.run(argv, capture_output=True, text=True, check=False, timeout=50)


async def test_sqlite_is_one_process_s_until_it_ends(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'hutch.db'}"
    database = open_database(url)
    refused = opened_elsewhere(url)
    assert "HostNotReady" in refused.stderr
    assert "Another process" in refused.stderr
    await database.close()
    assert opened_elsewhere(url).returncode == 0


async def test_two_starts_at_once_migrate_once(postgres: Server) -> None:
    postgres.do("CREATE DATABASE fresh")
    url = postgres.url("fresh")
    with ThreadPoolExecutor(4) as pool:
        opened = list(pool.map(open_database, [url] * 4))
    for database in opened:
        assert await database.all(select(users)) == []
        await database.close()
    assert postgres.do("SELECT count(*) FROM alembic_version", "fresh") == [(1,)]
    postgres.drop(url)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("postgresql://hutch:PW@127.0.0.1:1/hutch", "refused"),
        ("postgresql://hutch:PW@/no_such_database?host=SOCKET", "does not exist"),
        ("postgresql://reader:PW@/postgres?host=SOCKET", "may not create tables"),
        ("postgresql://hutch:PW@/ascii?host=SOCKET", "SQL_ASCII"),
        ("mysql://hutch:PW@127.0.0.1/hutch", "not the address of a database"),
        ("postgresql://hutch:PW@127.0.0.1:port/hutch", "not the address of a database"),
    ],
)
def test_what_cannot_be_used_is_said_without_the_password(
    postgres: Server, monkeypatch: pytest.MonkeyPatch, text: str, says: str
) -> None:
    monkeypatch.setattr(server_module, "_WAIT_S", 0.1)
    if "reader" in text and not postgres.do("SELECT 1 FROM pg_roles WHERE rolname = 'reader'"):
        postgres.do("CREATE ROLE reader LOGIN")
    if "ascii" in text:
        postgres.do("CREATE DATABASE ascii ENCODING 'SQL_ASCII' LOCALE 'C' TEMPLATE template0")
    with pytest.raises(HostNotReady) as raised:
        open_database(text.replace("PW", PASSWORD).replace("SOCKET", str(postgres.directory)))
    said = f"{raised.value.message} {raised.value.hint} {raised.value!r} {raised.value.__cause__!r}"
    assert says in said
    assert raised.value.hint
    assert PASSWORD not in said


def test_a_server_that_is_too_old_is_said(
    postgres: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_module, "OLDEST", 99)
    with pytest.raises(HostNotReady, match="needs 99 or newer"):
        open_database(postgres.new_database())


async def test_what_the_server_refuses_shows_nothing_of_the_row(database_url: str) -> None:
    database = open_database(database_url)
    await database.write(
        insert(users).values(id="a", name="a", tier="free", created_at=0.0),
        insert(sessions).values(
            id="s", user_id="a", provider="claude", created_at=0.0, last_used_at=0.0
        ),
    )
    with pytest.raises(IntegrityError) as raised:
        await database.write(insert(runs).values(id="r", prompt="a secret", model="the-canary"))
    said = f"{raised.value} {raised.value!r} {raised.value.orig} {raised.value.orig!r}"
    assert "the-canary" not in said
    assert b"a secret".hex() not in said
    await database.close()


async def test_it_opens_from_any_thread_and_loop(database_url: str) -> None:
    database = await asyncio.to_thread(open_database, database_url)
    assert await database.all(select(users)) == []
    await database.close()
    assert parse(database_url).get_backend_name() in database_url
