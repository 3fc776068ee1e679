"""Links by which people connect their mailboxes themselves."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0016"
down_revision = "0020"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "connect_links",
        sa.Column("id", sa.String(length=26), nullable=False),
        sa.Column("tenant_id", sa.String(length=64), nullable=False),
        sa.Column("secret_hash", sa.LargeBinary(), nullable=False, comment="SHA-256 of the 256 random bits in the URL"),
        sa.Column(
            "owner", sa.String(length=200), nullable=True, comment="the user of the CRM whose mailbox it will be"
        ),
        sa.Column("address", sa.String(length=320), nullable=True, comment="a hint; another one may be connected"),
        sa.Column("shared", sa.Boolean(), nullable=False),
        sa.Column("return_url", sa.String(length=2000), nullable=True),
        sa.Column("created_by", sa.String(length=200), nullable=False, comment="token:<id> or user:<id>"),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("expires_at", sa.BigInteger(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False, comment="look-ups and checks that were asked for"),
        sa.Column("used_at", sa.BigInteger(), nullable=True),
        sa.Column("revoked_at", sa.BigInteger(), nullable=True),
        sa.Column("mailbox_id", sa.String(length=26), nullable=True, comment="what was connected"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_connect_links")),
        sa.UniqueConstraint("secret_hash", name=op.f("uq_connect_links_secret_hash")),
    )
    op.create_index("ix_connect_links_tenant_id", "connect_links", ["tenant_id", "id"])
    op.create_index("ix_connect_links_expires_at", "connect_links", ["expires_at"])
