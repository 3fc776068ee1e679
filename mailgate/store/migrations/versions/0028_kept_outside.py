"""The database remembers of which logs a checkpoint was kept outside: one that is lost there is not just made anew."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0028"
down_revision = "0027"
branch_labels = None
depends_on = None


def upgrade() -> None:
    comment = "a checkpoint of the log was kept outside the database, so one must be there"
    column: sa.Column[bool] = sa.Column(
        "witnessed", sa.Boolean(), nullable=False, server_default=sa.false(), comment=comment
    )
    op.add_column("tenant_heads", column)
    op.execute("UPDATE tenant_heads SET witnessed = true WHERE tenant_id IN (SELECT tenant_id FROM log_checkpoints)")


def downgrade() -> None:
    op.drop_column("tenant_heads", "witnessed")
