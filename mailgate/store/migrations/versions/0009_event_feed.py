"""The event feed: how far events were put in order, and which wait for it."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

_WAITING = sa.text("position IS NULL")


def upgrade() -> None:
    op.create_table(
        "feed",
        sa.Column(
            "id",
            sa.Integer(),
            autoincrement=False,
            nullable=False,
            comment="1: there is one row, made when it is first asked for",
        ),
        sa.Column(
            "ref", sa.String(length=32), nullable=False, comment="random; tells this feed's cursors from another's"
        ),
        sa.Column("position", sa.BigInteger(), nullable=False, comment="the last one that was given"),
        sa.Column("pruned", sa.BigInteger(), nullable=False, comment="events up to here are not kept any more"),
        sa.PrimaryKeyConstraint("id", name="pk_feed"),
    )
    op.drop_index("ix_events_unpositioned", table_name="events")
    op.create_index(
        "ix_events_unpositioned",
        "events",
        ["tenant_id", "seq"],
        sqlite_where=_WAITING,
        postgresql_where=_WAITING,
    )
