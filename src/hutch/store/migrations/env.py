"""Alembic's entry; always called by ``hutch.store.migrate`` with a connection."""

from __future__ import annotations

from alembic import context

from hutch.store.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    render_as_batch=True,  # SQLite cannot alter a column in place
)
with context.begin_transaction():
    context.run_migrations()
