"""Alarms; time-stamps of an authority beside checkpoints."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0009"
branch_labels = None
depends_on = None

_STANDING = sa.text("cleared_at IS NULL")


def upgrade() -> None:
    op.create_table(
        "alarms",
        sa.Column("id", sa.String(length=26), nullable=False),
        sa.Column("kind", sa.String(length=32), nullable=False),
        sa.Column("tenant_id", sa.String(length=64), nullable=True, comment="null: it concerns the whole gateway"),
        sa.Column(
            "key", sa.String(length=128), nullable=False, comment="kind and tenant: one of each stands at a time"
        ),
        sa.Column("detail", sa.String(length=1000), nullable=False),
        sa.Column("raised_at", sa.BigInteger(), nullable=False),
        sa.Column("cleared_at", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_alarms"),
        comment="what an operator must look at, or had to",
    )
    op.create_index(
        "uq_alarms_standing", "alarms", ["key"], unique=True, sqlite_where=_STANDING, postgresql_where=_STANDING
    )
    op.add_column(
        "log_checkpoints",
        sa.Column("stamp", sa.LargeBinary(), nullable=True, comment="RFC 3161 answer of a time-stamping authority"),
    )
    op.add_column("log_checkpoints", sa.Column("stamp_error", sa.String(length=500), nullable=True))
