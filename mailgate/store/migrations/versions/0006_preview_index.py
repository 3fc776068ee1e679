"""The index by age holds all that a preview adds up, so that it need not read the rows."""

from __future__ import annotations

from alembic import op

revision = "0006"
down_revision = "0003"
branch_labels = None
depends_on = None

_NAME = "ix_messages_tenant_id_anchor_at"


def upgrade() -> None:
    op.drop_index(_NAME, table_name="messages")
    op.create_index(_NAME, "messages", ["tenant_id", "anchor_at", "id", "pins", "mailbox_id", "size"])
