"""Every table. Times are Unix seconds; ids are ``hutch.ids``.

A change here needs a migration in ``migrations/versions``; a test compares the two.
"""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy import (
    JSON,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    TypeDecorator,
    UniqueConstraint,
    text,
)


class Utf8(TypeDecorator[str]):
    """Text that may hold a NUL, which PostgreSQL's text type refuses."""

    impl = LargeBinary
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Any) -> bytes | None:
        del dialect
        return None if value is None else value.encode()

    def process_result_value(self, value: bytes | None, dialect: Any) -> str | None:
        del dialect
        return None if value is None else value.decode()


metadata: Final = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)

users: Final = Table(
    "users",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("name", String(200), nullable=False, unique=True),
    Column("tier", String(32), nullable=False),
    Column("created_at", Float, nullable=False),
)

api_keys: Final = Table(
    "api_keys",
    metadata,
    Column("id", String(32), primary_key=True),
    # Null for keys that belong to the installation: service and admin.
    Column("user_id", ForeignKey("users.id", ondelete="CASCADE"), index=True),
    Column("scope", String(16), nullable=False),
    Column("prefix", String(24), nullable=False),  # shown to tell keys apart; opens nothing
    Column("hash", LargeBinary(32), nullable=False, unique=True),  # HMAC-SHA-256
    Column("created_at", Float, nullable=False),
)

credentials: Final = Table(
    "credentials",
    metadata,
    Column("user_id", ForeignKey("users.id", ondelete="CASCADE"), primary_key=True),
    Column("provider", String(16), primary_key=True),
    Column("kind", String(16), nullable=False),
    Column("sealed", LargeBinary, nullable=False),  # nonce and AES-256-GCM ciphertext
    Column("last_four", String(4), nullable=False),
    Column("fingerprint", String(16), nullable=False),
    Column("created_at", Float, nullable=False),
)

sandboxes: Final = Table(
    "sandboxes",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("user_id", ForeignKey("users.id", ondelete="CASCADE"), nullable=False, index=True),
    Column("incarnation", String(32), nullable=False, unique=True),
    Column("desired", String(16), nullable=False),
    Column("observed", String(16), nullable=False),
    Column("reason", Text, nullable=False),  # why it failed; "" otherwise
    Column("image", String(200), nullable=False),
    Column("isolation", String(16)),
    Column("handle", String(200)),
    Column("address", String(64)),
    Column("port", Integer),
    Column("cli_versions", JSON, nullable=False),
    Column("created_at", Float, nullable=False),
    Column("changed_at", Float, nullable=False),
)
# At most one live sandbox per user, whatever the code above it does.
Index(
    "uq_sandboxes_one_live_per_user",
    sandboxes.c.user_id,
    unique=True,
    sqlite_where=text("observed NOT IN ('failed', 'destroyed')"),
    postgresql_where=text("observed NOT IN ('failed', 'destroyed')"),
)

sessions: Final = Table(
    "sessions",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("user_id", ForeignKey("users.id", ondelete="CASCADE"), nullable=False),
    Column("provider", String(16), nullable=False),
    # The CLI's own id and the sandbox that holds its files; null until the first run has started.
    Column("provider_session", String(200)),
    Column("incarnation", String(32)),
    Column("created_at", Float, nullable=False),
    Column("last_used_at", Float, nullable=False),
    Index("ix_sessions_user_id_last_used_at", "user_id", "last_used_at"),
)

runs: Final = Table(
    "runs",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("user_id", ForeignKey("users.id", ondelete="CASCADE"), nullable=False),
    Column("session_id", ForeignKey("sessions.id", ondelete="CASCADE"), nullable=False, index=True),
    Column("incarnation", String(32)),
    Column("provider", String(16), nullable=False),
    Column("model", String(200)),
    Column("prompt", Utf8, nullable=False),
    Column("timeout_s", Float, nullable=False),
    Column("idempotency_key", String(200)),
    Column("request_hash", String(64), nullable=False),
    Column("state", String(16), nullable=False),
    Column("cancel_requested", Integer, nullable=False),
    Column("stop_reason", String(16)),
    Column("error_code", String(64)),
    Column("error_message", Text),
    Column("text", Utf8, nullable=False),
    Column("usage", JSON),
    Column("timings", JSON, nullable=False),
    Column("provider_session", String(200)),
    Column("cli_version", String(64)),
    Column("created_at", Float, nullable=False),
    Column("started_at", Float),
    Column("finished_at", Float),
    UniqueConstraint("user_id", "idempotency_key"),
    Index("ix_runs_user_id_created_at", "user_id", "created_at"),
    Index("ix_runs_state", "state"),
)

run_events: Final = Table(
    "run_events",
    metadata,
    Column("run_id", ForeignKey("runs.id", ondelete="CASCADE"), primary_key=True),
    Column("seq", Integer, primary_key=True),
    # The runtime's own number, to read on from there; null for events that Hutch itself added.
    Column("runtime_seq", Integer),
    Column("time", Float, nullable=False),
    Column("type", String(32), nullable=False),
    Column("data", JSON, nullable=False),
)
