"""Outgoing mail: the queue of submissions, and how much was sent by day."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

_QUEUED = sa.text("state = 'queued'")
_SENDING = sa.text("state = 'sending'")
_TO_FILE = sa.text("file_at IS NOT NULL")


def upgrade() -> None:
    op.create_table(
        "submissions",
        sa.Column("id", sa.String(length=26), nullable=False),
        sa.Column("tenant_id", sa.String(length=64), nullable=False),
        sa.Column("mailbox_id", sa.String(length=26), nullable=False),
        sa.Column(
            "state",
            sa.String(length=16),
            nullable=False,
            comment="queued, sending, sent, failed, canceled or uncertain",
        ),
        sa.Column("purpose", sa.String(length=8), nullable=False, comment="user or service"),
        sa.Column("requested_at", sa.BigInteger(), nullable=False),
        sa.Column("requested_by", sa.String(length=200), nullable=False),
        sa.Column("next_at", sa.BigInteger(), nullable=False, comment="not before; at first what the client asked for"),
        sa.Column("give_up_at", sa.BigInteger(), nullable=False, comment="what waits then has failed"),
        sa.Column("attempts", sa.Integer(), server_default="0", nullable=False, comment="also the fence of the claim"),
        sa.Column(
            "code", sa.String(length=64), nullable=True, comment="why it waits or failed: a reply code or a slug"
        ),
        sa.Column(
            "claimed_by",
            sa.String(length=128),
            nullable=True,
            comment="process that works on it, while its lease sender:<process> lasts",
        ),
        sa.Column("config_version", sa.Integer(), nullable=True, comment="the mailbox's, at the last attempt"),
        sa.Column(
            "sending_at",
            sa.BigInteger(),
            nullable=True,
            comment="journal: from then on the server may have it; written before DATA",
        ),
        sa.Column("sent_at", sa.BigInteger(), nullable=True, comment="when the server first took it"),
        sa.Column("finished_at", sa.BigInteger(), nullable=True),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column(
            "blob_id",
            sa.String(length=26),
            nullable=True,
            comment="the bytes; null once nobody may send them any more",
        ),
        sa.Column("data_key", sa.LargeBinary(), nullable=False, comment="wrapped by the tenant's key of this epoch"),
        sa.Column("key_epoch", sa.Integer(), nullable=False),
        sa.Column(
            "sealed",
            sa.LargeBinary(),
            nullable=True,
            comment="envelope, recipients, the server's words, under data_key; null once pruned",
        ),
        sa.Column(
            "message_id", sa.String(length=26), nullable=False, comment="of the copy, which exists from sent_at on"
        ),
        sa.Column(
            "prepared",
            sa.LargeBinary(),
            nullable=True,
            comment="what the copy's row will say, under data_key; null once it was made",
        ),
        sa.Column("parent_id", sa.String(length=26), nullable=True, comment="message that it answers"),
        sa.Column("pin_to_parent", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("msgid_token", sa.LargeBinary(), nullable=False, comment="keyed token of the Message-ID"),
        sa.Column(
            "likeness_token",
            sa.LargeBinary(),
            nullable=False,
            comment="keyed token of recipients, subject and part sizes",
        ),
        sa.Column(
            "file_at",
            sa.BigInteger(),
            nullable=True,
            comment="when we put the copy into Sent unless the server has; null: settled",
        ),
        sa.Column(
            "charged_at",
            sa.BigInteger(),
            nullable=True,
            comment="the instant whose day it counts on; null: it does not count",
        ),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name=op.f("fk_submissions_tenant_id")),
        sa.ForeignKeyConstraint(["mailbox_id"], ["mailboxes.id"], name=op.f("fk_submissions_mailbox_id")),
        sa.ForeignKeyConstraint(["blob_id"], ["blobs.id"], name=op.f("fk_submissions_blob_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_submissions")),
        comment="outgoing messages on their way through SMTP",
    )
    op.create_index("ix_submissions_tenant_id", "submissions", ["tenant_id", "id"])
    op.create_index("ix_submissions_mailbox_id", "submissions", ["mailbox_id", "id"])
    op.create_index("ix_submissions_msgid_token", "submissions", ["tenant_id", "msgid_token"])
    op.create_index("ix_submissions_message_id", "submissions", ["message_id"])
    op.create_index("ix_submissions_blob_id", "submissions", ["blob_id"])
    op.create_index("ix_submissions_sent_at", "submissions", ["mailbox_id", "sent_at"])
    for name, column, where in (
        ("ix_submissions_due", "next_at", _QUEUED),
        ("ix_submissions_sending", "id", _SENDING),
        ("ix_submissions_file_at", "file_at", _TO_FILE),
    ):
        op.create_index(name, "submissions", [column], sqlite_where=where, postgresql_where=where)
    op.create_table(
        "sent_counts",
        sa.Column("tenant_id", sa.String(length=64), nullable=False),
        sa.Column("day_at", sa.BigInteger(), nullable=False, comment="midnight in UTC"),
        sa.Column("user_count", sa.Integer(), server_default="0", nullable=False),
        sa.Column("service_count", sa.Integer(), server_default="0", nullable=False),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name=op.f("fk_sent_counts_tenant_id")),
        sa.PrimaryKeyConstraint("tenant_id", "day_at", name=op.f("pk_sent_counts")),
        comment="messages that count against the sending allowance, by day",
    )
