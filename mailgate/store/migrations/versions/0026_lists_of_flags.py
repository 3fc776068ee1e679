"""Lists of a mailbox, and of what is unseen, flagged or pinned, find it without a look at all messages of a tenant."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0026"
down_revision = "0023"
branch_labels = None
depends_on = None

_OF = {
    "ix_messages_unseen": (["tenant_id", "anchor_at", "id", "mailbox_id", "seen"], "NOT seen", "seen = 0"),
    "ix_messages_flagged": (["tenant_id", "anchor_at", "id", "mailbox_id", "flagged"], "flagged", "flagged = 1"),
    "ix_messages_pinned": (["tenant_id", "anchor_at", "id", "mailbox_id", "pins"], "pins > 0", "pins > 0"),
}


def upgrade() -> None:
    op.create_index("ix_messages_mailbox_id_anchor_at", "messages", ["mailbox_id", "anchor_at", "id"])
    for name, (columns, where, where_sqlite) in _OF.items():
        op.create_index(name, "messages", columns, sqlite_where=sa.text(where_sqlite), postgresql_where=sa.text(where))
    _unindexed("indexed = 0")


def downgrade() -> None:
    _unindexed("NOT indexed")
    for name in _OF:
        op.drop_index(name, "messages")
    op.drop_index("ix_messages_mailbox_id_anchor_at", "messages")


def _unindexed(where: str) -> None:
    """SQLite uses an index of a part for queries that spell the part like it, and they say `= 0`."""
    if op.get_bind().dialect.name == "sqlite":
        op.drop_index("ix_messages_unindexed", "messages")
        op.create_index("ix_messages_unindexed", "messages", ["tenant_id", "id"], sqlite_where=sa.text(where))
