"""Operations (what the CRM asks for), guards (deletions that were refused), labels, the server's own identities."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_OPEN = sa.text("finished_at IS NULL")


def upgrade() -> None:
    op.add_column(
        "mailboxes",
        sa.Column(
            "op_seq", sa.BigInteger(), server_default="0", nullable=False, comment="number of the last operation"
        ),
    )
    op.add_column(
        "folders",
        sa.Column(
            "wanted_name",
            sa.String(length=1000),
            nullable=True,
            comment="near side's name while a rename is on its way; name is the server's",
        ),
    )
    op.add_column(
        "folders",
        sa.Column(
            "on_its_way", sa.String(length=8), nullable=True, comment="create or delete, until the server did it"
        ),
    )
    op.add_column(
        "messages",
        sa.Column(
            "labels", sa.JSON(), server_default="[]", nullable=False, comment="the near side's labels (Gmail), sorted"
        ),
    )
    op.add_column(
        "messages",
        sa.Column(
            "email_token",
            sa.LargeBinary(),
            nullable=True,
            comment="keyed token of EMAILID or X-GM-MSGID: the server's own identity",
        ),
    )
    op.add_column(
        "messages",
        sa.Column(
            "moving_to",
            sa.String(length=26),
            nullable=True,
            comment="the near side's folder while a move or an append is on its way to the server",
        ),
    )
    op.add_column(
        "messages",
        sa.Column(
            "deleted_at",
            sa.BigInteger(),
            nullable=True,
            comment="deleted by a user: hidden; the server's answer, or a hold, is waited for",
        ),
    )
    op.add_column(
        "origins",
        sa.Column(
            "labels",
            sa.JSON(),
            nullable=True,
            comment="base: the labels on which both sides last agreed; null where there are none",
        ),
    )
    for name, columns, where in (
        ("ix_messages_email_token", ["mailbox_id", "email_token"], sa.text("email_token IS NOT NULL")),
        ("ix_messages_moving_to", ["moving_to"], sa.text("moving_to IS NOT NULL")),
    ):
        op.create_index(name, "messages", columns, unique=False, sqlite_where=where, postgresql_where=where)
    op.create_table(
        "operations",
        sa.Column("id", sa.String(length=26), nullable=False),
        sa.Column("tenant_id", sa.String(length=64), nullable=False),
        sa.Column("mailbox_id", sa.String(length=26), nullable=False),
        sa.Column(
            "seq", sa.BigInteger(), nullable=False, comment="order in which the mailbox's operations are brought"
        ),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column(
            "state",
            sa.String(length=16),
            nullable=False,
            comment="pending, sent (its answer is not known), applied or failed",
        ),
        sa.Column("message_id", sa.String(length=26), nullable=True, comment="of ours; the copy may be gone by now"),
        sa.Column(
            "folder_id",
            sa.String(length=26),
            nullable=True,
            comment="where to, or the folder that is created, renamed or deleted",
        ),
        sa.Column(
            "from_folder_id",
            sa.String(length=26),
            nullable=True,
            comment="where the message stood when it was asked for",
        ),
        sa.Column("detail", sa.JSON(), nullable=False, comment="what is asked for, by kind"),
        sa.Column("journal", sa.JSON(), nullable=True, comment="what was written down before the command was sent"),
        sa.Column("attempts", sa.Integer(), server_default="0", nullable=False),
        sa.Column("next_at", sa.BigInteger(), nullable=True, comment="not before; null: at once"),
        sa.Column("reason", sa.String(length=500), nullable=True, comment="why it failed, or what it waits for"),
        sa.Column(
            "code", sa.String(length=64), nullable=True, comment="slug of the reason, or the server's response code"
        ),
        sa.Column("requested_at", sa.BigInteger(), nullable=False),
        sa.Column("requested_by", sa.String(length=200), nullable=False),
        sa.Column("finished_at", sa.BigInteger(), nullable=True),
        sa.ForeignKeyConstraint(["mailbox_id"], ["mailboxes.id"], name=op.f("fk_operations_mailbox_id")),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name=op.f("fk_operations_tenant_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_operations")),
        sa.UniqueConstraint("mailbox_id", "seq", name=op.f("uq_operations_mailbox_id_seq")),
        comment="changes that the CRM asked for and that the server must make",
    )
    op.create_index("ix_operations_tenant_id", "operations", ["tenant_id", "id"], unique=False)
    for name, columns in (
        ("ix_operations_open", ["mailbox_id", "seq"]),
        ("ix_operations_open_message", ["message_id"]),
    ):
        op.create_index(name, "operations", columns, unique=False, sqlite_where=_OPEN, postgresql_where=_OPEN)
    op.create_table(
        "guards",
        sa.Column("id", sa.String(length=26), nullable=False),
        sa.Column("tenant_id", sa.String(length=64), nullable=False),
        sa.Column("mailbox_id", sa.String(length=26), nullable=False),
        sa.Column("folder_id", sa.String(length=26), nullable=False),
        sa.Column("uidvalidity", sa.BigInteger(), nullable=False),
        sa.Column(
            "digest",
            sa.LargeBinary(),
            nullable=False,
            comment="SHA-256 of the UIDs that are gone: changed evidence, new guard",
        ),
        sa.Column("known", sa.Integer(), nullable=False),
        sa.Column("gone", sa.Integer(), nullable=False),
        sa.Column("reason", sa.String(length=500), nullable=False),
        sa.Column("raised_at", sa.BigInteger(), nullable=False),
        sa.Column("approved_at", sa.BigInteger(), nullable=True),
        sa.Column("approved_by", sa.String(length=200), nullable=True),
        sa.Column(
            "through_at",
            sa.BigInteger(),
            nullable=True,
            comment="approved and found valid: what was seen gone until then is being carried out",
        ),
        sa.Column("closed_at", sa.BigInteger(), nullable=True),
        sa.Column(
            "outcome",
            sa.String(length=16),
            nullable=True,
            comment="how it was closed: carried_out, restored or changed",
        ),
        sa.ForeignKeyConstraint(["folder_id"], ["folders.id"], name=op.f("fk_guards_folder_id")),
        sa.ForeignKeyConstraint(["mailbox_id"], ["mailboxes.id"], name=op.f("fk_guards_mailbox_id")),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name=op.f("fk_guards_tenant_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_guards")),
        comment="deletions that were refused as improbable",
    )
    op.create_index("ix_guards_mailbox_id", "guards", ["mailbox_id", "id"], unique=False)
    closed = sa.text("closed_at IS NULL")
    op.create_index(
        "ix_guards_open", "guards", ["folder_id"], unique=True, sqlite_where=closed, postgresql_where=closed
    )
    op.add_column(
        "folders",
        sa.Column(
            "believed",
            sa.JSON(),
            nullable=True,
            comment="disappearances believed in the last hour, [[instant, count]]: guards count slices together",
        ),
    )
    op.add_column(
        "folders",
        sa.Column(
            "unreadable_at",
            sa.BigInteger(),
            nullable=True,
            comment="since when it can't be read; null while it can",
        ),
    )
    for column in _quarantine():
        op.add_column("quarantine", column)
    op.create_index("ix_quarantine_mailbox_id", "quarantine", ["mailbox_id", "id"], unique=False)
    kept = sa.text("message_id IS NOT NULL")
    op.create_index(
        "ix_quarantine_message_id",
        "quarantine",
        ["message_id"],
        unique=False,
        sqlite_where=kept,
        postgresql_where=kept,
    )


def downgrade() -> None:
    op.drop_table("guards")
    op.drop_table("operations")
    op.drop_index("ix_quarantine_message_id", "quarantine")
    op.drop_index("ix_quarantine_mailbox_id", "quarantine")
    op.drop_index("ix_messages_moving_to", "messages")
    op.drop_index("ix_messages_email_token", "messages")
    for table, columns in (
        ("origins", ["labels"]),
        ("messages", ["deleted_at", "moving_to", "email_token", "labels"]),
        ("quarantine", [column.name for column in reversed(_quarantine())]),
        ("folders", ["unreadable_at", "believed", "on_its_way", "wanted_name"]),
        ("mailboxes", ["op_seq"]),
    ):
        for column in columns:
            op.drop_column(table, column)


def _quarantine() -> list[sa.Column[Any]]:
    return [
        sa.Column(
            "cause", sa.String(length=16), nullable=False, server_default="unknown", comment="slug of the reason"
        ),
        sa.Column(
            "size",
            sa.BigInteger(),
            nullable=True,
            comment="of the original, as the server announced it; null while not known",
        ),
        sa.Column(
            "header_token",
            sa.LargeBinary(),
            nullable=True,
            comment="keyed token of the header block, if that much arrived",
        ),
        sa.Column(
            "message_id",
            sa.String(length=26),
            nullable=True,
            comment="the copy that holds its bytes all the same, with an empty summary; null: no bytes",
        ),
        sa.Column("build", sa.String(length=64), nullable=True, comment="program version of the last attempt"),
        sa.Column("limit_bytes", sa.BigInteger(), nullable=True, comment="sync.max_message_bytes at the last attempt"),
        sa.Column("retry_at", sa.BigInteger(), nullable=True, comment="when a retry was asked for; null: none waits"),
    ]
