"""Credentials of before data keys: their keys derived from a file that is still there."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy import create_engine, make_url

from hutch.store import migrate
from hutch.store.migrate import upgrade

USERS = 1000


def test_an_upgrade_leaves_nothing_of_them_in_the_file(tmp_path: Path) -> None:
    path = tmp_path / "hutch.db"
    sealed = b"a ciphertext of the old kind, " * 10
    engine = create_engine(f"sqlite:///{path}")
    with engine.begin() as connection:
        config = Config()
        config.set_main_option("script_location", str(Path(migrate.__file__).parent / "migrations"))
        config.attributes["connection"] = connection
        command.upgrade(config, "0001")
        for number in range(USERS):  # more pages than the new tables take
            connection.exec_driver_sql(
                "INSERT INTO users VALUES (?, ?, 'free', 0)", (f"user_{number}", f"u{number}")
            )
            connection.exec_driver_sql(
                "INSERT INTO credentials VALUES (?, 'claude', 'api_key', ?, 'last', 'f', 0)",
                (f"user_{number}", sealed),
            )
    engine.dispose()
    assert sealed in path.read_bytes()
    upgrade(make_url(f"sqlite:///{path}"))
    assert [file.name for file in tmp_path.iterdir() if sealed[:20] in file.read_bytes()] == []
    with sqlite3.connect(path) as database:
        assert database.execute("SELECT count(*) FROM credentials").fetchone() == (0,)
        assert database.execute("SELECT count(*) FROM users").fetchone() == (USERS,)
    database.close()
