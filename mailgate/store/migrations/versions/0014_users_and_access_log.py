"""People who sign in to the pages with their sessions, the access log, and what happened to one mailbox."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0012"
branch_labels = None
depends_on = None

_OF_MAILBOX = sa.text("message_id IS NULL AND mailbox_id IS NOT NULL")


def upgrade() -> None:
    op.create_table(
        "users",
        sa.Column("id", sa.String(length=26), nullable=False),
        sa.Column("name", sa.String(length=200), nullable=False, comment="as it is typed, in small letters"),
        sa.Column("password_hash", sa.String(length=300), nullable=False, comment="Argon2id, with its parameters"),
        sa.Column("role", sa.String(length=16), nullable=False, comment="admin or compliance"),
        sa.Column("tenant_id", sa.String(length=64), nullable=True, comment="null: all tenants"),
        sa.Column("language", sa.String(length=8), nullable=True, comment="null: as the browser asks"),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("password_changed_at", sa.BigInteger(), nullable=False),
        sa.Column("signed_in_at", sa.BigInteger(), nullable=True, comment="the last time"),
        sa.Column("disabled_at", sa.BigInteger(), nullable=True),
        sa.Column(
            "totp",
            sa.LargeBinary(),
            nullable=True,
            comment="secret of one-time codes, sealed under the service key; null: none asked for",
        ),
        sa.Column(
            "totp_pending",
            sa.LargeBinary(),
            nullable=True,
            comment="the same, until the first code proves that the person has it",
        ),
        sa.Column(
            "totp_step",
            sa.BigInteger(),
            server_default="0",
            nullable=False,
            comment="of the last code: none counts twice",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_users")),
        sa.UniqueConstraint("name", name=op.f("uq_users_name")),
    )
    op.create_table(
        "user_recovery_codes",
        sa.Column("user_id", sa.String(length=26), nullable=False),
        sa.Column(
            "code_hash",
            sa.LargeBinary(),
            nullable=False,
            comment="SHA-256 of 80 random bits; a used one is deleted",
        ),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("fk_user_recovery_codes_user_id")),
        sa.PrimaryKeyConstraint("user_id", "code_hash", name=op.f("pk_user_recovery_codes")),
    )
    op.create_table(
        "user_sessions",
        sa.Column(
            "secret_hash",
            sa.LargeBinary(),
            nullable=False,
            comment="SHA-256 of the 256 random bits in the cookie",
        ),
        sa.Column("user_id", sa.String(length=26), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("seen_at", sa.BigInteger(), nullable=False, comment="to the minute"),
        sa.Column("expires_at", sa.BigInteger(), nullable=False),
        sa.Column(
            "passed_at",
            sa.BigInteger(),
            nullable=True,
            comment="null: the one-time code is still asked for, and nothing is shown",
        ),
        sa.Column("address", sa.String(length=64), nullable=True),
        sa.Column("agent", sa.String(length=200), nullable=True, comment="what the browser calls itself"),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("fk_user_sessions_user_id")),
        sa.PrimaryKeyConstraint("secret_hash", name=op.f("pk_user_sessions")),
    )
    op.create_index("ix_user_sessions_user_id", "user_sessions", ["user_id"])
    op.create_table(
        "sign_in_failures",
        sa.Column(
            "key",
            sa.LargeBinary(),
            nullable=False,
            comment="keyed digest of a name as it was typed, or of an address",
        ),
        sa.Column("failures", sa.Integer(), nullable=False),
        sa.Column("last_at", sa.BigInteger(), nullable=False),
        sa.Column("blocked_until_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("key", name=op.f("pk_sign_in_failures")),
    )
    op.create_table(
        "access_log",
        sa.Column("id", sa.String(length=26), nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.Column(
            "until_at", sa.BigInteger(), nullable=True, comment="of reads that are counted together: the last one"
        ),
        sa.Column("kind", sa.String(length=16), nullable=False, comment="change, read or sign_in"),
        sa.Column("actor", sa.String(length=200), nullable=False, comment="token:<id> or user:<id>"),
        sa.Column(
            "tenant_id", sa.String(length=64), nullable=True, comment="null: none in particular, or none is known"
        ),
        sa.Column("method", sa.String(length=8), nullable=False),
        sa.Column(
            "route",
            sa.String(length=200),
            nullable=False,
            comment="the template; what was meant stands in targets",
        ),
        sa.Column("targets", sa.JSON(), nullable=False, comment="ids that stood in the path"),
        sa.Column("status", sa.Integer(), nullable=False),
        sa.Column("count", sa.Integer(), server_default="1", nullable=False),
        sa.Column("address", sa.String(length=64), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_access_log")),
    )
    op.create_index("ix_access_log_tenant_id", "access_log", ["tenant_id", "id"])
    op.create_index("ix_access_log_actor", "access_log", ["actor", "id"])
    op.create_index(
        "ix_events_mailbox",
        "events",
        ["mailbox_id", "at"],
        sqlite_where=_OF_MAILBOX,
        postgresql_where=_OF_MAILBOX,
    )
