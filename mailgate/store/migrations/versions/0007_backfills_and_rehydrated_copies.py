"""What brings purged mail back on request: backfills, and copies that stay for a time whatever their age."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


_BY_AGE = "ix_messages_tenant_id_anchor_at"
_COLUMNS = ("tenant_id", "anchor_at", "id", "pins", "mailbox_id", "size")


def upgrade() -> None:
    op.add_column(
        "messages",
        sa.Column(
            "keep_until_at",
            sa.BigInteger(),
            nullable=True,
            comment="brought back after a purge: it stays until then, whatever its age",
        ),
    )
    op.drop_index(_BY_AGE, table_name="messages")
    op.create_index(_BY_AGE, "messages", [*_COLUMNS, "keep_until_at"])
    op.add_column(
        "mailboxes",
        sa.Column(
            "backfill_id",
            sa.String(length=26),
            nullable=True,
            comment="the run of a backfill that was asked for and is not over",
        ),
    )
    op.add_column(
        "runs",
        sa.Column("days", sa.Integer(), nullable=True, comment="of a backfill: how far back it reaches from now_at"),
    )
    _say_kinds("purge, sync or backfill")


def downgrade() -> None:
    _say_kinds("purge or sync")
    op.drop_column("runs", "days")
    op.drop_column("mailboxes", "backfill_id")
    op.drop_index(_BY_AGE, table_name="messages")
    op.create_index(_BY_AGE, "messages", list(_COLUMNS))
    op.drop_column("messages", "keep_until_at")


def _say_kinds(comment: str) -> None:
    if op.get_bind().dialect.name == "postgresql":  # SQLite keeps no comments
        op.alter_column("runs", "kind", existing_type=sa.String(length=16), existing_nullable=False, comment=comment)
