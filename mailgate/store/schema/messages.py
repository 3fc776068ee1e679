"""Copies, their bytes, their originals' addresses, what stays of purged ones, and what keeps them."""

from __future__ import annotations

from sqlalchemy import (
    JSON,
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
    UniqueConstraint,
    text,
)

from mailgate.store.schema.base import Id, Name, Ref, metadata

blobs = Table(
    "blobs",
    metadata,
    Column("id", Id, primary_key=True),
    Column("tenant_id", Name, ForeignKey("tenants.id"), nullable=False),
    Column("content_token", LargeBinary, nullable=False, comment="keyed token of the bytes: dedup within a tenant"),
    Column("size", BigInteger, nullable=False),
    Column("stored_size", BigInteger, nullable=False),
    Column("data_key", LargeBinary, nullable=False, comment="wrapped by the tenant's key of this epoch"),
    Column("key_epoch", Integer, nullable=False),
    Column("refs", Integer, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    UniqueConstraint("tenant_id", "content_token"),
)

messages = Table(
    "messages",
    metadata,
    Column("id", Id, primary_key=True),
    Column("tenant_id", Name, ForeignKey("tenants.id"), nullable=False),
    Column("mailbox_id", Id, ForeignKey("mailboxes.id"), nullable=False),
    Column(
        "item_ref",
        Ref,
        nullable=False,
        unique=True,
        comment="what the purge log calls the copy: the time of storing, then random",
    ),
    Column("anchor_at", BigInteger, nullable=False, comment="written once; the age counts from here"),
    Column("anchor_source", String(16), nullable=False, comment="internaldate, stored or rehydrated"),
    Column("internal_date_at", BigInteger, comment="as the server said; null when missing or nonsense"),
    Column("stored_at", BigInteger, nullable=False),
    Column("size", BigInteger, nullable=False, comment="of the original's bytes"),
    Column("flags", JSON, nullable=False, comment="the near side's flags, sorted"),
    Column("seen", Boolean, nullable=False),
    Column("flagged", Boolean, nullable=False),
    Column("has_files", Boolean, nullable=False),
    Column("thread_id", Id, nullable=False),
    Column(
        "header_token",
        LargeBinary,
        nullable=False,
        comment="keyed token of the header block: recognises a message again",
    ),
    Column("msgid_token", LargeBinary, comment="keyed token of the Message-ID"),
    Column(
        "content_commit", LargeBinary, nullable=False, comment="purge log commitment to SHA-256(bytes) under item_ref"
    ),
    Column(
        "msgid_commit", LargeBinary, nullable=False, comment="purge log commitment to the Message-ID under item_ref"
    ),
    Column("summary", LargeBinary, nullable=False, comment="what lists show, encrypted under data_key"),
    Column("data_key", LargeBinary, nullable=False, comment="wrapped by the tenant's key of this epoch"),
    Column("key_epoch", Integer, nullable=False),
    Column("blob_id", Id, nullable=False),  # no key: counted in the blob's refs, under its row's lock
    Column(
        "pins", Integer, nullable=False, server_default="0", comment="rows in pins; kept under the lock of this row"
    ),
    Column("unpinned_at", BigInteger, comment="when the last pin went; null while there is one or never was"),
    Column("keep_until_at", BigInteger, comment="brought back after a purge: it stays until then, whatever its age"),
    Column(
        "indexed",
        Boolean,
        nullable=False,
        server_default=text("false"),
        comment="search words are written behind the import",
    ),
    Column("labels", JSON, nullable=False, server_default="[]", comment="the near side's labels (Gmail), sorted"),
    Column("email_token", LargeBinary, comment="keyed token of EMAILID or X-GM-MSGID: the server's own identity"),
    Column("moving_to", Id, comment="the near side's folder while a move or an append is on its way to the server"),
    Column(
        "deleted_at", BigInteger, comment="deleted by a user: hidden; the server's answer, or a hold, is waited for"
    ),
    # What follows the id is read by sums over a tenant, which never touch the rows themselves.
    Index(
        "ix_messages_tenant_id_anchor_at",
        "tenant_id",
        "anchor_at",
        "id",
        "pins",
        "mailbox_id",
        "size",
        "keep_until_at",
    ),
    Index("ix_messages_mailbox_id_anchor_at", "mailbox_id", "anchor_at", "id"),
    Index("ix_messages_mailbox_id_header_token", "mailbox_id", "header_token"),
    Index("ix_messages_tenant_id_thread_id", "tenant_id", "thread_id"),
    Index("ix_messages_tenant_id_msgid_token", "tenant_id", "msgid_token"),
    Index(
        "ix_messages_email_token",
        "mailbox_id",
        "email_token",
        sqlite_where=text("email_token IS NOT NULL"),
        postgresql_where=text("email_token IS NOT NULL"),
    ),
    Index(
        "ix_messages_moving_to",
        "moving_to",
        sqlite_where=text("moving_to IS NOT NULL"),
        postgresql_where=text("moving_to IS NOT NULL"),
    ),
    # Of what a list is often asked for, though few are so. SQLite takes an index of a part only for a query that spells
    # the part like this, and rather than the index above if it has all that is asked.
    Index(
        "ix_messages_unseen",
        "tenant_id",
        "anchor_at",
        "id",
        "mailbox_id",
        "seen",
        sqlite_where=text("seen = 0"),
        postgresql_where=text("NOT seen"),
    ),
    Index(
        "ix_messages_flagged",
        "tenant_id",
        "anchor_at",
        "id",
        "mailbox_id",
        "flagged",
        sqlite_where=text("flagged = 1"),
        postgresql_where=text("flagged"),
    ),
    Index(
        "ix_messages_pinned",
        "tenant_id",
        "anchor_at",
        "id",
        "mailbox_id",
        "pins",
        sqlite_where=text("pins > 0"),
        postgresql_where=text("pins > 0"),
    ),
    Index(
        "ix_messages_unindexed",
        "tenant_id",
        "id",
        sqlite_where=text("indexed = 0"),
        postgresql_where=text("NOT indexed"),
    ),
)

origins = Table(
    "origins",
    metadata,
    Column("folder_id", Id, ForeignKey("folders.id"), nullable=False),
    Column("uid", BigInteger, nullable=False),
    Column("uidvalidity", BigInteger, nullable=False),
    Column("tenant_id", Name, nullable=False),
    Column("mailbox_id", Id, nullable=False),
    Column("message_id", Id, ForeignKey("messages.id"), nullable=False),
    Column("flags", JSON, nullable=False, comment="base: the flags on which both sides last agreed, sorted"),
    Column(
        "vanished_at", BigInteger, comment="gone with evidence; waits for the other folders' passes (it may be a move)"
    ),
    Column("labels", JSON, comment="base: the labels on which both sides last agreed; null where there are none"),
    PrimaryKeyConstraint("folder_id", "uid", "uidvalidity"),
    Index("ix_origins_message_id", "message_id"),
    Index(
        "ix_origins_vanished",
        "mailbox_id",
        "vanished_at",
        sqlite_where=text("vanished_at IS NOT NULL"),
        postgresql_where=text("vanished_at IS NOT NULL"),
    ),
    comment="the originals' addresses at the server",
)

message_links = Table(
    "message_links",
    metadata,
    Column("tenant_id", Name, nullable=False),
    Column("token", LargeBinary, nullable=False, comment="keyed token of a Message-ID that it refers to"),
    Column("message_id", Id, nullable=False),
    PrimaryKeyConstraint("tenant_id", "token", "message_id"),
    Index("ix_message_links_message_id", "message_id"),
    sqlite_with_rowid=False,
    comment="what messages refer to: by it threads are joined",
)

tombstones = Table(
    "tombstones",
    metadata,
    Column("id", Id, primary_key=True),
    Column("tenant_id", Name, nullable=False),
    Column("account_ref", LargeBinary, nullable=False),
    Column("mailbox_id", Id, nullable=False),
    Column("message_id", Id, nullable=False),
    Column("item_ref", Ref, nullable=False),
    Column("folder", String(1000), comment="name; null when the copy had no original"),
    Column("uidvalidity", BigInteger),
    Column("uid", BigInteger),
    Column("header_token", LargeBinary, nullable=False),
    Column("anchor_at", BigInteger, nullable=False),
    Column("reason", String(32), nullable=False),
    Column("run_id", Id),
    Column("created_at", BigInteger, nullable=False),
    Column("gone_at", BigInteger, comment="evidence that the original is gone too"),
    Index("ix_tombstones_origin", "tenant_id", "account_ref", "folder", "uidvalidity", "uid"),
    Index("ix_tombstones_header", "tenant_id", "account_ref", "header_token"),
    Index("ix_tombstones_message_id", "tenant_id", "message_id"),
    Index("ix_tombstones_anchor_at", "anchor_at"),
)

pins = Table(
    "pins",
    metadata,
    Column("tenant_id", Name, nullable=False),
    Column("message_id", Id, ForeignKey("messages.id"), nullable=False),
    Column("entity_type", Name, nullable=False),
    Column("entity_id", String(200), nullable=False),
    Column("ref", Ref, nullable=False, comment="random; what the purge log calls the pin"),
    Column("note", LargeBinary, comment="sealed under the message's data key"),
    Column("created_at", BigInteger, nullable=False),
    Column("created_by", String(200), nullable=False),
    PrimaryKeyConstraint("message_id", "entity_type", "entity_id"),
    Index("ix_pins_entity", "tenant_id", "entity_type", "entity_id", "message_id"),
)

search_docs = Table(
    "search_docs",
    metadata,
    Column("doc", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True),
    Column("tenant_id", Name, nullable=False),
    Column("message_id", Id, nullable=False, unique=True),
    comment="a message's number in search_index, which the migrations make",
)

search_leftovers = Table(
    "search_leftovers",
    metadata,
    Column("doc", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=False),
    Column("tenant_id", Name, nullable=False),
    Index("ix_search_leftovers_tenant_id", "tenant_id"),
    comment="numbers in search_index whose messages are gone: their tokens go behind the purge",
)
