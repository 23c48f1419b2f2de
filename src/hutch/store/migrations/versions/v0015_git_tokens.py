"""Users' tokens for git hosts."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0014"


def upgrade() -> None:
    op.create_table(
        "git_tokens",
        sa.Column("user_id", sa.String(length=32), nullable=False),
        sa.Column("host", sa.String(length=260), nullable=False),
        sa.Column("username", sa.String(length=100), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("sealed", sa.LargeBinary(), nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.ForeignKeyConstraint(
            ["user_id"], ["users.id"], name=op.f("fk_git_tokens_user_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("user_id", "host", name=op.f("pk_git_tokens")),
    )
