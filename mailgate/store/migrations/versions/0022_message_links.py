"""What messages refer to, by which threads are joined. Those that are here have no rows: they keep their thread, and
are found by their own Message-ID.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0022"
down_revision = "0021"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "message_links",
        sa.Column("tenant_id", sa.String(length=64), nullable=False),
        sa.Column("token", sa.LargeBinary(), nullable=False, comment="keyed token of a Message-ID that it refers to"),
        sa.Column("message_id", sa.String(length=26), nullable=False),
        sa.ForeignKeyConstraint(["message_id"], ["messages.id"], name=op.f("fk_message_links_message_id_messages")),
        sa.PrimaryKeyConstraint("tenant_id", "token", "message_id", name=op.f("pk_message_links")),
        sqlite_with_rowid=False,
        comment="what messages refer to: by it threads are joined",
    )
    op.create_index("ix_message_links_message_id", "message_links", ["message_id"])


def downgrade() -> None:
    op.drop_index("ix_message_links_message_id", table_name="message_links")
    op.drop_table("message_links")
