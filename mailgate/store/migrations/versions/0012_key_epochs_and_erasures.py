"""Which keys of past months are still needed, and tenants that are being erased."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "key_epochs",
        sa.Column("tenant_id", sa.String(length=64), nullable=False),
        sa.Column("epoch", sa.Integer(), nullable=False, comment="year and month of the key, 202611"),
        sa.Column(
            "retired_at", sa.BigInteger(), nullable=True, comment="since when nothing that is stored needs the key"
        ),
        sa.Column(
            "destroying_at", sa.BigInteger(), nullable=True, comment="journal: written before the key file is removed"
        ),
        sa.Column("destroyed_at", sa.BigInteger(), nullable=True),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name="fk_key_epochs_tenant_id"),
        sa.PrimaryKeyConstraint("tenant_id", "epoch", name="pk_key_epochs"),
        comment="keys of months that are over; those of the current month have no row",
    )
    op.add_column(
        "tenants",
        sa.Column(
            "erasing_at",
            sa.BigInteger(),
            nullable=True,
            comment="since when everything of it goes; nothing of it is served from then on",
        ),
    )
    op.add_column(
        "tenants", sa.Column("erased_at", sa.BigInteger(), nullable=True, comment="since when only its log is left")
    )
    op.add_column(
        "tenants",
        sa.Column(
            "erasing",
            sa.JSON(),
            nullable=True,
            comment="reason, actor and run of the erasure, and what it has counted",
        ),
    )
