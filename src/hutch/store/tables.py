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


class Words(TypeDecorator[str]):
    """What a program or a person has said, for people to read: a NUL in it may become another
    character, since PostgreSQL's text refuses it.
    """

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Any) -> str | None:
        del dialect
        return None if value is None else value.replace("\0", "\N{REPLACEMENT CHARACTER}")


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
    Column("name", String(100), nullable=False, server_default=""),
    Column("read_only", Integer, nullable=False, server_default="0"),
    Column("expires_at", Float),
    Column("successor_id", String(32)),  # the key that was made in its place
    Column("last_used_at", Float),  # within a minute
)

# One random key per user, and one of the installation's own. Without its row, nothing that was
# sealed with it opens again: so it has no foreign key, and goes first when a user is deleted.
data_keys: Final = Table(
    "data_keys",
    metadata,
    Column("owner", String(32), primary_key=True),  # a user's id, or "installation"
    Column("wrapped", LargeBinary, nullable=False),
    Column("master_key", String(32), nullable=False),  # the id of the key that wrapped it
    Column("created_at", Float, nullable=False),
)

credentials: Final = Table(
    "credentials",
    metadata,
    Column("user_id", ForeignKey("users.id", ondelete="CASCADE"), primary_key=True),
    Column("provider", String(16), primary_key=True),
    Column("kind", String(16), nullable=False),
    Column("version", Integer, nullable=False),  # grows with every change of what is sealed
    Column("sealed", LargeBinary, nullable=False),  # nonce and AES-256-GCM ciphertext
    Column("last_four", String(4), nullable=False),
    Column("fingerprint", String(16), nullable=False),
    Column("state", String(16), nullable=False),  # ok | needs_login
    Column("reason", Words, nullable=False),  # why a login is needed; "" otherwise
    Column("created_at", Float, nullable=False),
    Column("used_at", Float),
    Column("last_result", String(32)),  # of the last use or check; null before the first
)

# Of each user, all of them sealed together.
mcp_servers: Final = Table(
    "mcp_servers",
    metadata,
    Column("user_id", ForeignKey("users.id", ondelete="CASCADE"), primary_key=True),
    Column("version", Integer, nullable=False),  # grows with every change
    Column("sealed", LargeBinary, nullable=False),
)

git_tokens: Final = Table(
    "git_tokens",
    metadata,
    Column("user_id", ForeignKey("users.id", ondelete="CASCADE"), primary_key=True),
    Column("host", String(260), primary_key=True),  # host, or host:port
    Column("username", String(100), nullable=False),
    Column("version", Integer, nullable=False),  # of what is sealed; random
    Column("sealed", LargeBinary, nullable=False),
    Column("created_at", Float, nullable=False),
)

# Which text of which document a user has agreed to.
agreements: Final = Table(
    "agreements",
    metadata,
    Column("user_id", ForeignKey("users.id", ondelete="CASCADE"), primary_key=True),
    Column("document", String(32), primary_key=True),
    Column("version", String(32), primary_key=True),
    Column("accepted_at", Float, nullable=False),
)

# Hosts that a user lets their own sandbox reach, besides the operator's list.
allowed_hosts: Final = Table(
    "allowed_hosts",
    metadata,
    Column("user_id", ForeignKey("users.id", ondelete="CASCADE"), primary_key=True),
    Column("host", String(253), primary_key=True),
    Column("port", Integer, primary_key=True),
    Column("created_at", Float, nullable=False),
)

exits: Final = Table(
    "exits",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("kind", String(16), nullable=False),  # static | sticky
    Column("host", String(253), nullable=False),
    Column("port", Integer, nullable=False),
    Column("username", String(255), nullable=False),
    Column("sealed", LargeBinary, nullable=False),  # the password, under the installation's key
    Column("label", String(200), nullable=False),
    Column("expected_ip", String(64)),
    Column("expires_at", Float),
    Column("state", String(16), nullable=False),  # active | draining
    Column("health", String(16), nullable=False),  # unknown | up | down | drifted
    Column("reason", Words, nullable=False),  # of health; "" when all is well
    Column("failures", Integer, nullable=False),  # probes in a row
    Column("seen_ip", String(64)),
    Column("probed_at", Float),
    Column("last_user_id", String(32)),  # gets it back, if it is free
    Column("created_at", Float, nullable=False),
    UniqueConstraint("host", "port", "username"),
)

# The primary key is the promise: an exit is one user's at a time.
exit_leases: Final = Table(
    "exit_leases",
    metadata,
    Column("exit_id", ForeignKey("exits.id", ondelete="RESTRICT"), primary_key=True),
    Column("user_id", ForeignKey("users.id", ondelete="CASCADE"), nullable=False),
    Column("role", String(8), nullable=False),  # home | spare
    Column("since", Float, nullable=False),
    UniqueConstraint("user_id", "role"),
)

# What happened to a user's way out; it outlives the exit.
exit_history: Final = Table(
    "exit_history",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("exit_id", String(32), nullable=False),
    Column("user_id", ForeignKey("users.id", ondelete="CASCADE"), index=True),
    Column("what", String(16), nullable=False),
    Column("detail", Words, nullable=False),
    Column("at", Float, nullable=False),
)

sandboxes: Final = Table(
    "sandboxes",
    metadata,
    Column("id", String(32), primary_key=True),
    # Null: nobody's yet, a member of the warm pool.
    Column("user_id", ForeignKey("users.id", ondelete="CASCADE"), index=True),
    Column("incarnation", String(32), nullable=False, unique=True),
    Column("desired", String(16), nullable=False),
    Column("observed", String(16), nullable=False),
    Column("reason", Words, nullable=False),  # why it failed; "" otherwise
    Column("image", String(200), nullable=False),
    Column("image_id", String(80)),  # null: made before this was noted, or by an engine without
    Column("isolation", String(16)),
    Column("handle", String(200)),
    Column("address", String(64)),
    Column("port", Integer),
    # What it has to be given before it is ready; null once it was.
    Column("snapshot_id", String(32)),
    Column("cli_versions", JSON, nullable=False),
    Column("created_at", Float, nullable=False),
    Column("changed_at", Float, nullable=False),
)
# At most one live sandbox per user, whatever the code above it does.
Index(
    "uq_sandboxes_one_live_per_user",
    sandboxes.c.user_id,
    unique=True,
    sqlite_where=text("observed NOT IN ('hibernated', 'failed', 'destroyed')"),
    postgresql_where=text("observed NOT IN ('hibernated', 'failed', 'destroyed')"),
)

# Every image that sandboxes were to be made of. The current one is what became done last.
image_rollouts: Final = Table(
    "image_rollouts",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("origin", String(8), nullable=False),  # setting | roll
    Column("image", String(200), nullable=False),
    Column("image_id", String(80), nullable=False),
    Column("share", Integer, nullable=False),  # percent of the warm pool, while it is a canary
    Column("for_s", Float, nullable=False),  # how long it is one, at most
    # checking | canary | done | passed_over | failed | rolled_back
    Column("phase", String(16), nullable=False),
    Column("reason", Text, nullable=False),
    Column("trial_id", String(32)),  # the sandbox in which it is checked
    Column("under_way", Integer, unique=True),  # 1, or null: one at a time, whatever the code does
    Column("created_at", Float, nullable=False),
    Column("canary_at", Float),
    Column("done_at", Float),
    Column("ended_at", Float),  # when it failed or was rolled back
)

# What is stored of a user's home and workspace; the content is in the snapshot store.
snapshots: Final = Table(
    "snapshots",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("user_id", ForeignKey("users.id", ondelete="CASCADE"), nullable=False, index=True),
    Column("incarnation", String(32), nullable=False),  # the container that it was taken from
    Column("sealed_key", LargeBinary, nullable=False),  # under the user's data key
    Column("sha256", LargeBinary(32), nullable=False),
    Column("size", Integer, nullable=False),  # bytes of the archive
    Column("stored", Integer, nullable=False),  # bytes compressed and sealed
    Column("created_at", Float, nullable=False),
)

# What the operator has said about the pool's size: one row, or none.
pool_sizes: Final = Table(
    "pool_sizes",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("size", Integer, nullable=False),
    Column("set_at", Float, nullable=False),
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
    Column("name", Words),
    Column("forked_from", String(32)),  # a session, which may be deleted by now
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
    Column("error_message", Words),
    Column("text", Utf8, nullable=False),
    Column("usage", JSON),
    Column("timings", JSON, nullable=False),
    Column("provider_session", String(200)),
    Column("cli_version", String(64)),
    Column("exit_id", String(32)),  # null: the server's own address
    Column("exit_ip", String(64)),  # as last probed
    Column("created_at", Float, nullable=False),
    Column("started_at", Float),
    Column("finished_at", Float),
    Column("options", JSON),  # those that were given; null for none
    Column("attachments", JSON),  # names, types and sizes; null for none
    UniqueConstraint("user_id", "idempotency_key"),
    Index("ix_runs_user_id_created_at", "user_id", "created_at"),
    Index("ix_runs_state", "state"),
    Index("ix_runs_incarnation", "incarnation"),
)

# What attachments hold, until their run has ended.
run_attachments: Final = Table(
    "run_attachments",
    metadata,
    Column("run_id", ForeignKey("runs.id", ondelete="CASCADE"), primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("name", String(200), nullable=False),
    Column("media_type", String(200), nullable=False),
    Column("content", LargeBinary, nullable=False),
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

# Only ever appended to; each line is sealed together with the one before (``hutch.audit.chain``).
# No foreign keys: a line outlives what it tells of.
audit_log: Final = Table(
    "audit_log",
    metadata,
    Column("seq", Integer, primary_key=True, autoincrement=False),
    Column("line", Text, nullable=False),
    Column("seal", LargeBinary(32), nullable=False),
)

# One row: who leads, of several processes on one PostgreSQL. Whoever does holds an advisory lock.
leadership: Final = Table(
    "leadership",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("term", Integer, nullable=False),  # grows with each take-over; writes are bound to it
    Column("url", String(300), nullable=False),  # where it serves; "" until it does
    Column("since", Float, nullable=False),
    Column("installation", String(64), nullable=False),  # a fingerprint of its secret
)

# Where to tell of what has happened. Its secret is sealed with its owner's data key.
webhook_endpoints: Final = Table(
    "webhook_endpoints",
    metadata,
    Column("id", String(32), primary_key=True),
    # Null: of the whole service.
    Column("user_id", ForeignKey("users.id", ondelete="CASCADE"), index=True),
    Column("url", String(2000), nullable=False),
    Column("events", String(400), nullable=False),  # ",run.failed,"; "" is all
    Column("description", Words, nullable=False),
    Column("sealed", LargeBinary, nullable=False),
    Column("previous_sealed", LargeBinary),  # the secret before, which signs as well until then
    Column("previous_until", Float),
    Column("disabled_at", Float),
    Column("reason", Words, nullable=False),  # of disabled_at
    Column("failing_since", Float),
    Column("created_at", Float, nullable=False),
)

# The outbox: written in the transaction in which what they tell of becomes true.
webhook_messages: Final = Table(
    "webhook_messages",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("user_id", ForeignKey("users.id", ondelete="CASCADE"), index=True),
    # What is deleted is not told any more.
    Column("run_id", ForeignKey("runs.id", ondelete="CASCADE"), index=True),
    Column("type", String(32), nullable=False),
    Column("payload", Utf8, nullable=False),
    Column("created_at", Float, nullable=False, index=True),
)

webhook_deliveries: Final = Table(
    "webhook_deliveries",
    metadata,
    Column("message_id", ForeignKey("webhook_messages.id", ondelete="CASCADE"), primary_key=True),
    Column(
        "endpoint_id",
        ForeignKey("webhook_endpoints.id", ondelete="CASCADE"),
        primary_key=True,
        index=True,
    ),
    Column("state", String(16), nullable=False),  # pending | delivered | failed
    Column("attempts", Integer, nullable=False),
    Column("next_at", Float),
    Column("first_at", Float),
    Column("last_at", Float),
    Column("last_status", Integer),  # of HTTP
    Column("last_error", Words, nullable=False),
    Column("last_ms", Float),
    Index("ix_webhook_deliveries_state_next_at", "state", "next_at"),
)
