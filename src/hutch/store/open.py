"""Which database, by its URL."""

from __future__ import annotations

from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError

from hutch.errors import HostNotReady
from hutch.store.database import Database
from hutch.store.migrate import upgrade
from hutch.store.postgresql import PostgresDatabase
from hutch.store.server import check
from hutch.store.sqlite import SqliteDatabase, take


def open_database(text: str) -> Database:
    """The database with the newest schema. Blocking; raises ``HostNotReady``."""
    url = parse(text)
    if not shared(url):
        lock = take(url)
        upgrade(url)
        return SqliteDatabase(url, lock=lock)
    prepare(url)
    return PostgresDatabase(url)


def prepare(url: URL) -> None:
    """See that the server is fit, and make its tables. Blocking; raises ``HostNotReady``."""
    check(url)
    upgrade(url)


def shared(url: URL) -> bool:
    """Whether several processes may use it at once."""
    return url.get_backend_name() == "postgresql"


def parse(text: str) -> URL:
    """Raises ``HostNotReady``, which shows nothing of the text: there is a password in it."""
    try:
        url = make_url(text)
        kind = url.get_backend_name()
    except (ArgumentError, ValueError):
        kind = ""
    if kind in {"postgresql", "postgres"}:
        return url.set(drivername="postgresql+psycopg")
    if kind == "sqlite" and url.database:
        return url
    raise HostNotReady(
        "HUTCH_DATABASE_URL is not the address of a database that Hutch knows.",
        hint="postgresql://USER:PASSWORD@HOST:PORT/NAME, or leave it out for SQLite.",
    )
