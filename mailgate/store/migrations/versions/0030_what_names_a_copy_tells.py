"""What the purge log calls a copy begins with the time of storing; the column's comment said that it is random.

SQLite keeps no comments.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0030"
down_revision = "0029"
branch_labels = None
depends_on = None

TRUE = "what the purge log calls the copy: the time of storing, then random"
BEFORE = "random; what the purge log calls the copy"


def upgrade() -> None:
    _say(TRUE)


def downgrade() -> None:
    _say(BEFORE)


def _say(comment: str) -> None:
    if op.get_bind().dialect.name != "sqlite":
        op.alter_column(
            "messages", "item_ref", existing_type=sa.String(length=32), existing_nullable=False, comment=comment
        )
