"""Runs with options and attachments, sessions with names and origins."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from hutch.store.tables import Words

revision = "0013"
down_revision = "0012"


def upgrade() -> None:
    op.add_column("sessions", sa.Column("name", Words(), nullable=True))
    op.add_column("sessions", sa.Column("forked_from", sa.String(length=32), nullable=True))
    op.add_column("runs", sa.Column("options", sa.JSON(), nullable=True))
    op.add_column("runs", sa.Column("attachments", sa.JSON(), nullable=True))
    op.create_table(
        "run_attachments",
        sa.Column("run_id", sa.String(length=32), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("name", sa.String(length=200), nullable=False),
        sa.Column("media_type", sa.String(length=200), nullable=False),
        sa.Column("content", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(
            ["run_id"], ["runs.id"], name=op.f("fk_run_attachments_run_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("run_id", "number", name=op.f("pk_run_attachments")),
    )
