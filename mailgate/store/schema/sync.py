"""What synchronization writes down: operations, guards, what is set aside."""

from __future__ import annotations

from sqlalchemy import (
    JSON,
    BigInteger,
    Column,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    String,
    Table,
    UniqueConstraint,
    text,
)

from mailgate.store.schema.base import Id, Name, metadata

operations = Table(
    "operations",
    metadata,
    Column("id", Id, primary_key=True),
    Column("tenant_id", Name, ForeignKey("tenants.id"), nullable=False),
    Column("mailbox_id", Id, ForeignKey("mailboxes.id"), nullable=False),
    Column("seq", BigInteger, nullable=False, comment="order in which the mailbox's operations are brought"),
    Column("kind", String(16), nullable=False),
    Column("state", String(16), nullable=False, comment="pending, sent (its answer is not known), applied or failed"),
    Column("message_id", Id, comment="of ours; the copy may be gone by now"),
    Column("folder_id", Id, comment="where to, or the folder that is created, renamed or deleted"),
    Column("from_folder_id", Id, comment="where the message stood when it was asked for"),
    Column("detail", JSON, nullable=False, comment="what is asked for, by kind"),
    Column("journal", JSON, comment="what was written down before the command was sent"),
    Column("attempts", Integer, nullable=False, server_default="0"),
    Column("next_at", BigInteger, comment="not before; null: at once"),
    Column("reason", String(500), comment="why it failed, or what it waits for"),
    Column("code", String(64), comment="slug of the reason, or the server's response code"),
    Column("requested_at", BigInteger, nullable=False),
    Column("requested_by", String(200), nullable=False),
    Column("finished_at", BigInteger),
    UniqueConstraint("mailbox_id", "seq"),
    Index("ix_operations_tenant_id", "tenant_id", "id"),
    Index(
        "ix_operations_open",
        "mailbox_id",
        "seq",
        sqlite_where=text("finished_at IS NULL"),
        postgresql_where=text("finished_at IS NULL"),
    ),
    Index(
        "ix_operations_open_message",
        "message_id",
        sqlite_where=text("finished_at IS NULL"),
        postgresql_where=text("finished_at IS NULL"),
    ),
    comment="changes that the CRM asked for and that the server must make",
)

guards = Table(
    "guards",
    metadata,
    Column("id", Id, primary_key=True),
    Column("tenant_id", Name, ForeignKey("tenants.id"), nullable=False),
    Column("mailbox_id", Id, ForeignKey("mailboxes.id"), nullable=False),
    Column("folder_id", Id, ForeignKey("folders.id"), nullable=False),
    Column("uidvalidity", BigInteger, nullable=False),
    Column(
        "digest", LargeBinary, nullable=False, comment="SHA-256 of the UIDs that are gone: changed evidence, new guard"
    ),
    Column("known", Integer, nullable=False),
    Column("gone", Integer, nullable=False),
    Column("reason", String(500), nullable=False),
    Column("raised_at", BigInteger, nullable=False),
    Column("approved_at", BigInteger),
    Column("approved_by", String(200)),
    Column(
        "through_at", BigInteger, comment="approved and found valid: what was seen gone until then is being carried out"
    ),
    Column("closed_at", BigInteger),
    Column("outcome", String(16), comment="how it was closed: carried_out, restored or changed"),
    Index("ix_guards_mailbox_id", "mailbox_id", "id"),
    Index(
        "ix_guards_open",
        "folder_id",
        unique=True,
        sqlite_where=text("closed_at IS NULL"),
        postgresql_where=text("closed_at IS NULL"),
    ),
    comment="deletions that were refused as improbable",
)

quarantine = Table(
    "quarantine",
    metadata,
    Column("id", Id, primary_key=True),
    Column("tenant_id", Name, nullable=False),
    Column("mailbox_id", Id, ForeignKey("mailboxes.id"), nullable=False),
    Column("folder_id", Id, ForeignKey("folders.id"), nullable=False),
    Column("uidvalidity", BigInteger, nullable=False),
    Column("uid", BigInteger, nullable=False),
    Column("reason", String(500), nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("first_seen_at", BigInteger, nullable=False),
    Column("last_seen_at", BigInteger, nullable=False),
    Column("cause", String(16), nullable=False, server_default="unknown", comment="slug of the reason"),
    Column("size", BigInteger, comment="of the original, as the server announced it; null while not known"),
    Column("header_token", LargeBinary, comment="keyed token of the header block, if that much arrived"),
    Column(
        "message_id", Id, comment="the copy that holds its bytes all the same, with an empty summary; null: no bytes"
    ),
    Column("build", String(64), comment="program version of the last attempt"),
    Column("limit_bytes", BigInteger, comment="sync.max_message_bytes at the last attempt"),
    Column("retry_at", BigInteger, comment="when a retry was asked for; null: none waits"),
    UniqueConstraint("folder_id", "uidvalidity", "uid"),
    Index("ix_quarantine_mailbox_id", "mailbox_id", "id"),
    Index(
        "ix_quarantine_message_id",
        "message_id",
        sqlite_where=text("message_id IS NOT NULL"),
        postgresql_where=text("message_id IS NOT NULL"),
    ),
)
