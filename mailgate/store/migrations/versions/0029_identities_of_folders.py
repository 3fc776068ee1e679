"""A folder's own identity, where the server tells one (RFC 8474): it is kept when the folder is renamed.

Folders that are known get theirs when they are opened the next time.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0029"
down_revision = "0028"
branch_labels = None
depends_on = None


def upgrade() -> None:
    comment = "the server's own identity of it, which a rename keeps (RFC 8474)"
    op.add_column("folders", sa.Column("object_id", sa.String(length=255), nullable=True, comment=comment))


def downgrade() -> None:
    op.drop_column("folders", "object_id")
