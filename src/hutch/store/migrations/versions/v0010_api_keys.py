"""API keys have names, ends, successors and a last use, and may be read-only."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"


def upgrade() -> None:
    for column in (
        sa.Column("name", sa.String(length=100), nullable=False, server_default=""),
        sa.Column("read_only", sa.Integer(), nullable=False, server_default="0"),
        sa.Column("expires_at", sa.Float()),
        sa.Column("successor_id", sa.String(length=32)),
        sa.Column("last_used_at", sa.Float()),
    ):
        op.add_column("api_keys", column)
