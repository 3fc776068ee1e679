"""What the gateway measures of itself, which processes it has, when an endpoint was last delivered to; and by what long
purge logs are searched.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0020"
down_revision = "0015"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "samples",
        sa.Column("at", sa.BigInteger(), autoincrement=False, nullable=False, comment="the beginning of a minute"),
        sa.Column("figures", sa.JSON(), nullable=False, comment="numbers by their names"),
        sa.PrimaryKeyConstraint("at", name=op.f("pk_samples")),
        comment="what the gateway measured of itself, once a minute",
    )
    op.create_table(
        "processes",
        sa.Column("owner", sa.String(length=128), nullable=False, comment="as in leases"),
        sa.Column("version", sa.String(length=64), nullable=False),
        sa.Column("started_at", sa.BigInteger(), nullable=False),
        sa.Column("seen_at", sa.BigInteger(), nullable=False),
        sa.Column("memory", sa.BigInteger(), nullable=False, comment="bytes that are resident; 0: not known"),
        sa.Column("processor_ms", sa.BigInteger(), nullable=False, comment="processor time since the start"),
        sa.Column("load", sa.Integer(), nullable=False, comment="thousandths of a processor in the last minute"),
        sa.PrimaryKeyConstraint("owner", name=op.f("pk_processes")),
        comment="processes that serve, as each says once a minute",
    )
    op.create_index(
        "ix_log_leaves_run_id",
        "log_leaves",
        ["tenant_id", "run_id", "idx"],
        sqlite_where=sa.text("run_id IS NOT NULL"),
        postgresql_where=sa.text("run_id IS NOT NULL"),
    )
    op.create_index(
        "ix_log_leaves_type",
        "log_leaves",
        ["tenant_id", "type", "idx"],
        sqlite_where=sa.text("type NOT IN ('item.purge', 'blob.erase')"),
        postgresql_where=sa.text("type NOT IN ('item.purge', 'blob.erase')"),
    )
    with op.batch_alter_table("webhooks") as batch:
        batch.add_column(sa.Column("delivered_at", sa.BigInteger(), comment="when an event was last delivered"))
        batch.add_column(
            sa.Column(
                "failures",
                sa.Integer(),
                nullable=False,
                server_default="0",
                comment="attempts that failed since then",
            )
        )
