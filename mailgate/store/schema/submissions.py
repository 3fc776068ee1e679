"""Outgoing mail, and how much of it was sent."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    PrimaryKeyConstraint,
    String,
    Table,
    text,
)

from mailgate.store.schema.base import Id, Name, metadata

submissions = Table(
    "submissions",
    metadata,
    Column("id", Id, primary_key=True),
    Column("tenant_id", Name, ForeignKey("tenants.id"), nullable=False),
    Column("mailbox_id", Id, ForeignKey("mailboxes.id"), nullable=False),
    Column("state", String(16), nullable=False, comment="queued, sending, sent, failed, canceled or uncertain"),
    Column("purpose", String(8), nullable=False, comment="user or service"),
    Column("requested_at", BigInteger, nullable=False),
    Column("requested_by", String(200), nullable=False),
    Column("next_at", BigInteger, nullable=False, comment="not before; at first what the client asked for"),
    Column("give_up_at", BigInteger, nullable=False, comment="what waits then has failed"),
    Column("attempts", Integer, nullable=False, server_default="0", comment="also the fence of the claim"),
    Column("code", String(64), comment="why it waits or failed: a reply code or a slug"),
    Column("claimed_by", String(128), comment="process that works on it, while its lease sender:<process> lasts"),
    Column("config_version", Integer, comment="the mailbox's, at the last attempt"),
    Column("sending_at", BigInteger, comment="journal: from then on the server may have it; written before DATA"),
    Column("sent_at", BigInteger, comment="when the server first took it"),
    Column("finished_at", BigInteger),
    Column("size", BigInteger, nullable=False),
    Column("blob_id", Id, comment="the bytes; null once nobody may send them any more"),
    Column("data_key", LargeBinary, nullable=False, comment="wrapped by the tenant's key of this epoch"),
    Column("key_epoch", Integer, nullable=False),
    Column("sealed", LargeBinary, comment="envelope, recipients, the server's words, under data_key; null once pruned"),
    Column("message_id", Id, nullable=False, comment="of the copy, which exists from sent_at on"),
    Column("prepared", LargeBinary, comment="what the copy's row will say, under data_key; null once it was made"),
    Column("parent_id", Id, comment="message that it answers"),
    Column("pin_to_parent", Boolean, nullable=False, server_default=text("false")),
    Column("msgid_token", LargeBinary, nullable=False, comment="keyed token of the Message-ID"),
    Column("likeness_token", LargeBinary, nullable=False, comment="keyed token of recipients, subject and part sizes"),
    Column("file_at", BigInteger, comment="when we put the copy into Sent unless the server has; null: settled"),
    Column("charged_at", BigInteger, comment="the instant whose day it counts on; null: it does not count"),
    Index("ix_submissions_tenant_id", "tenant_id", "id"),
    Index("ix_submissions_mailbox_id", "mailbox_id", "id"),
    Index("ix_submissions_msgid_token", "tenant_id", "msgid_token"),
    Index("ix_submissions_message_id", "message_id"),
    Index("ix_submissions_blob_id", "blob_id"),
    Index("ix_submissions_sent_at", "mailbox_id", "sent_at"),
    Index(
        "ix_submissions_due",
        "next_at",
        sqlite_where=text("state = 'queued'"),
        postgresql_where=text("state = 'queued'"),
    ),
    Index(
        "ix_submissions_sending",
        "id",
        sqlite_where=text("state = 'sending'"),
        postgresql_where=text("state = 'sending'"),
    ),
    Index(
        "ix_submissions_file_at",
        "file_at",
        sqlite_where=text("file_at IS NOT NULL"),
        postgresql_where=text("file_at IS NOT NULL"),
    ),
    comment="outgoing messages on their way through SMTP",
)

sent_counts = Table(
    "sent_counts",
    metadata,
    Column("tenant_id", Name, ForeignKey("tenants.id"), nullable=False),
    Column("day_at", BigInteger, nullable=False, comment="midnight in UTC"),
    Column("user_count", Integer, nullable=False, server_default="0"),
    Column("service_count", Integer, nullable=False, server_default="0"),
    PrimaryKeyConstraint("tenant_id", "day_at"),
    comment="messages that count against the sending allowance, by day",
)
