"""Bring a database to the newest schema, at every start."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, create_engine, event

_MIGRATIONS = Path(__file__).parent / "migrations"


def upgrade(url: str) -> None:
    """Blocking; call it before serving."""
    engine = create_engine(url)
    event.listen(engine, "connect", _overwrite_what_is_dropped)
    try:
        with engine.begin() as connection:
            upgrade_connection(connection)
    finally:
        engine.dispose()


def upgrade_connection(connection: Connection) -> None:
    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS))
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


def _overwrite_what_is_dropped(connection: Any, _record: object) -> None:
    # And no foreign keys: a migration may replace a table, which must not cascade.
    connection.execute("PRAGMA secure_delete=ON")
