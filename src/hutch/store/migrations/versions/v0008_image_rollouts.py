"""Sandboxes know their image by its id, and a roll-out of another one has a row."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    op.create_table(
        "image_rollouts",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("origin", sa.String(length=8), nullable=False),
        sa.Column("image", sa.String(length=200), nullable=False),
        sa.Column("image_id", sa.String(length=80), nullable=False),
        sa.Column("share", sa.Integer(), nullable=False),
        sa.Column("for_s", sa.Float(), nullable=False),
        sa.Column("phase", sa.String(length=16), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("trial_id", sa.String(length=32)),
        sa.Column("under_way", sa.Integer()),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("canary_at", sa.Float()),
        sa.Column("done_at", sa.Float()),
        sa.Column("ended_at", sa.Float()),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_image_rollouts")),
        sa.UniqueConstraint("under_way", name=op.f("uq_image_rollouts_under_way")),
    )
    op.add_column("sandboxes", sa.Column("image_id", sa.String(length=80)))
    op.create_index(op.f("ix_runs_incarnation"), "runs", ["incarnation"])
