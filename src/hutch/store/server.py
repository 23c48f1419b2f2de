"""How a PostgreSQL server is reached, and what it must be. Passwords stay in here."""

from __future__ import annotations

import time
from typing import Any, Final

from sqlalchemy import URL, Connection, Engine, NullPool, create_engine, event
from sqlalchemy.engine import ExceptionContext
from sqlalchemy.exc import DBAPIError, OperationalError

from hutch.errors import HostNotReady

OLDEST: Final = 15
LIFE: Final = "life"  # in a connection's ``info``; see ``_note_life``
_WAIT_S: Final = 10.0  # for a server that is starting, too
_PAUSE_S: Final = 0.3

_SESSION: Final = {
    "application_name": "hutch",
    "client_encoding": "utf8",
    "connect_timeout": 3,  # seconds
    # A server's machine that is gone sends no word of it.
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,  # ms
}
_OPTIONS: Final = {
    "statement_timeout": "30s",
    "lock_timeout": "10s",
    # A process that stands still must not keep others from a row for ever.
    "idle_in_transaction_session_timeout": "10s",
}


def engine_of(url: URL, *, connections: int = 0, **options: str) -> Engine:
    """Keeps up to so many connections; 0: opens one for each use. ``options`` are settings of
    their sessions.
    """
    settings = " ".join(f"-c {name}={value}" for name, value in (_OPTIONS | options).items())
    session = {**_SESSION, "options": settings}
    # An error may be logged; a prompt may not.
    if connections:
        engine = create_engine(
            url,
            hide_parameters=True,
            connect_args=session,
            pool_size=connections,
            max_overflow=0,
        )
    else:
        engine = create_engine(url, hide_parameters=True, connect_args=session, poolclass=NullPool)
    event.listen(engine, "connect", _note_life)
    event.listen(engine, "handle_error", _drop_details)
    return engine


def check(url: URL) -> None:
    """That the server is there and fit. Blocking. Raises ``HostNotReady``."""
    engine = engine_of(url)
    until = time.monotonic() + _WAIT_S
    while True:
        try:
            with engine.connect() as connection:
                return _check(connection, url)
        except OperationalError as error:
            if time.monotonic() > until or _is_final(error):
                raise HostNotReady(
                    f"PostgreSQL cannot be used: {reason(error, url)}",
                    hint="HUTCH_DATABASE_URL is postgresql://USER:PASSWORD@HOST:PORT/NAME; "
                    "try the same with psql.",
                ) from None
        time.sleep(_PAUSE_S)


def reason(error: BaseException | None, url: URL) -> str:
    """What the driver or the server says, in one line and without the password."""
    cause = error.orig if isinstance(error, DBAPIError) else error
    said = " ".join(str(cause).split())[:500]
    password = url.password
    return said.replace(str(password), "***") if password else said


def _check(connection: Connection, url: URL) -> None:
    def ask(question: str) -> Any:
        return connection.exec_driver_sql(question).scalar_one()

    version = int(ask("SHOW server_version_num")) // 10_000
    if version < OLDEST:
        raise HostNotReady(
            f"The server is PostgreSQL {version}; Hutch needs {OLDEST} or newer.",
            hint="Upgrade the server, or point HUTCH_DATABASE_URL at another one.",
        )
    encoding = ask("SHOW server_encoding")
    if encoding != "UTF8":
        raise HostNotReady(
            f"The database {url.database} has the encoding {encoding}, which is not UTF8.",
            hint="Make one: CREATE DATABASE hutch ENCODING 'UTF8' TEMPLATE template0.",
        )
    if ask("SHOW transaction_read_only") == "on":
        raise HostNotReady(
            "The server takes no writes: it is a standby, or set to read only.",
            hint="Point HUTCH_DATABASE_URL at the primary.",
        )
    if not ask("SELECT coalesce(has_schema_privilege(current_schema(), 'CREATE'), false)"):
        raise HostNotReady(
            f"The role {url.username or 'of this connection'} may not create tables in the "
            f"database {url.database}.",
            hint="Let the role own the database: ALTER DATABASE … OWNER TO …",
        )


def _is_final(error: OperationalError) -> bool:
    """Whether waiting would not help. libpq has no codes for what keeps it from connecting."""
    said = str(error.orig)
    return any(word in said for word in ("authentication failed", "does not exist", "no pg_hba"))


def _note_life(connection: Any, record: Any) -> None:
    """Which life of the server this is: it changes when the server has recovered from a crash,
    since statistics begin anew then. With a clean restart they go on.
    """
    row = connection.execute(
        "SELECT pg_postmaster_start_time()::text, stats_reset::text FROM pg_stat_wal"
    ).fetchone()
    connection.rollback()
    record.info[LIFE] = str(row)


def _drop_details(context: ExceptionContext) -> None:
    """PostgreSQL's DETAIL shows the row that it refuses: prompts, hashes of keys."""
    original = context.original_exception
    primary = getattr(getattr(original, "diag", None), "message_primary", None)
    if primary is None:
        return
    original.args = (primary,)
    if context.sqlalchemy_exception is not None:
        context.sqlalchemy_exception.args = (f"({type(original).__name__}) {primary}",)
