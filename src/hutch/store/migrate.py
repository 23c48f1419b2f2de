"""Bring a database to the newest schema, at every start."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from alembic import command
from alembic.config import Config
from sqlalchemy import URL, Connection, NullPool, create_engine, event

from hutch.store.server import engine_of

_MIGRATIONS = Path(__file__).parent / "migrations"
# The first number of every advisory lock that Hutch takes, "HUTC"; the second is this lock's.
LOCKS: Final = 0x48555443
_MIGRATING: Final = 1


def upgrade(url: URL) -> None:
    """Blocking; call it before serving. Of several processes that start at once one does it."""
    if url.get_backend_name() == "sqlite":
        engine = create_engine(url, poolclass=NullPool)
        event.listen(engine, "connect", _overwrite_what_is_dropped)
    else:
        # Tables may be large, and the one before us in the lock may be at work on them.
        engine = engine_of(url, statement_timeout="0", lock_timeout="0")
    with engine.begin() as connection:
        if connection.dialect.name == "postgresql":
            connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({LOCKS}, {_MIGRATING})")
        upgrade_connection(connection)


def upgrade_connection(connection: Connection) -> None:
    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS))
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


def _overwrite_what_is_dropped(connection: Any, _record: object) -> None:
    # And no foreign keys: a migration may replace a table, which must not cascade.
    connection.execute("PRAGMA secure_delete=ON")
