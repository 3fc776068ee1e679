"""Consents (OAuth 2.0): tokens of mailboxes, and consents that are being given."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "consents",
        sa.Column("mailbox_id", sa.String(length=26), nullable=False),
        sa.Column("tenant_id", sa.String(length=64), nullable=False),
        sa.Column("provider", sa.String(length=32), nullable=False),
        sa.Column(
            "tokens",
            sa.LargeBinary(),
            nullable=False,
            comment="refresh tokens, newest first, and access token; sealed",
        ),
        sa.Column("given", sa.Integer(), nullable=False, comment="grows with each new consent"),
        sa.Column("version", sa.Integer(), nullable=False, comment="grows with each change of the tokens"),
        sa.Column("given_at", sa.BigInteger(), nullable=False),
        sa.Column(
            "refreshed_at", sa.BigInteger(), nullable=True, comment="when the provider last gave an access token"
        ),
        sa.Column("expires_at", sa.BigInteger(), nullable=False, comment="of the access token; 0: there is none"),
        sa.Column("renew_at", sa.BigInteger(), nullable=False, comment="from when on it is renewed"),
        sa.Column("claimed_by", sa.String(length=200), nullable=True, comment="who asks the provider now"),
        sa.Column("claimed_until_at", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("failures", sa.Integer(), server_default="0", nullable=False, comment="in a row"),
        sa.Column("retry_at", sa.BigInteger(), server_default="0", nullable=False, comment="not asked before"),
        sa.Column("last_error", sa.String(length=500), nullable=True),
        sa.Column("lapsed_at", sa.BigInteger(), nullable=True, comment="since when only a new consent helps"),
        sa.ForeignKeyConstraint(["mailbox_id"], ["mailboxes.id"], name=op.f("fk_consents_mailbox_id_mailboxes")),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name=op.f("fk_consents_tenant_id_tenants")),
        sa.PrimaryKeyConstraint("mailbox_id", name=op.f("pk_consents")),
    )
    op.create_index("ix_consents_renew_at", "consents", ["lapsed_at", "renew_at"])
    op.create_table(
        "consent_flows",
        sa.Column("secret_hash", sa.LargeBinary(), nullable=False, comment="SHA-256 of the 256 random bits of state"),
        sa.Column("tenant_id", sa.String(length=64), nullable=False),
        sa.Column("provider", sa.String(length=32), nullable=False),
        sa.Column(
            "sealed",
            sa.LargeBinary(),
            nullable=False,
            comment="code verifier, the mailbox to be, where to go afterwards",
        ),
        sa.Column(
            "browser_hash",
            sa.LargeBinary(),
            nullable=True,
            comment="SHA-256 of the cookie of who followed the link; null: nobody yet",
        ),
        sa.Column("expires_at", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name=op.f("fk_consent_flows_tenant_id_tenants")),
        sa.PrimaryKeyConstraint("secret_hash", name=op.f("pk_consent_flows")),
    )
    op.create_index("ix_consent_flows_expires_at", "consent_flows", ["expires_at"])
