"""Holds, runs and the erasing of bytes."""

from __future__ import annotations

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    ForeignKey,
    Index,
    Integer,
    PrimaryKeyConstraint,
    String,
    Table,
    text,
)

from mailgate.store.schema.base import Id, Name, Ref, metadata

holds = Table(
    "holds",
    metadata,
    Column("id", Id, primary_key=True),
    Column("tenant_id", Name, ForeignKey("tenants.id"), nullable=False),
    Column("scope", String(16), nullable=False, comment="tenant, mailbox or messages"),
    Column("mailbox_id", Id),
    Column("matter", String(200), nullable=False),
    Column("reason", String(1000), nullable=False),
    Column("placed_at", BigInteger, nullable=False),
    Column("placed_by", String(200), nullable=False),
    Column("released_at", BigInteger),
    Column("released_by", String(200)),
    Column("release_reason", String(1000)),
    Column("protects_until_at", BigInteger, comment="release plus its delay; null while it stands"),
    Index("ix_holds_tenant_id", "tenant_id", "scope"),
)

hold_messages = Table(
    "hold_messages",
    metadata,
    Column("hold_id", Id, ForeignKey("holds.id"), nullable=False),
    Column("message_id", Id, nullable=False),
    PrimaryKeyConstraint("hold_id", "message_id"),
    Index("ix_hold_messages_message_id", "message_id"),
)

runs = Table(
    "runs",
    metadata,
    Column("id", Id, primary_key=True),
    Column("kind", String(16), nullable=False, comment="purge, sync or backfill"),
    Column("tenant_id", Name, comment="null: all tenants"),
    Column("mailbox_id", Id),
    Column("state", String(16), nullable=False, comment="queued, running, completed, halted, failed"),
    Column("trigger", String(32), nullable=False, comment="schedule, request, live"),
    Column("actor", String(200), nullable=False),
    Column("dry_run", Boolean, nullable=False, server_default=text("false")),
    Column("now_at", BigInteger, nullable=False, comment="the instant by which everything was judged"),
    Column("started_at", BigInteger, nullable=False),
    Column("finished_at", BigInteger),
    Column(
        "counts",
        JSON,
        nullable=False,
        comment="purge: candidates, purged, kept by reason, failed; sync: new, changed, gone",
    ),
    Column("policy", JSON, comment="version and hash"),
    Column("detail", String(1000)),
    Column("days", Integer, comment="of a backfill: how far back it reaches from now_at"),
    Index("ix_runs_kind", "kind", "id"),
    Index("ix_runs_mailbox_id", "mailbox_id", "id"),
)

blob_erasures = Table(
    "blob_erasures",
    metadata,
    Column("blob_id", Id, primary_key=True),
    Column("tenant_id", Name, nullable=False),
    Column("item_ref", Ref),
    Column("run_id", Id),
    Column("stored_size", BigInteger, nullable=False, server_default="0"),
    Column("queued_at", BigInteger, nullable=False),
    Column("attempts", Integer, nullable=False, server_default="0"),
    Column("next_at", BigInteger, nullable=False),
    Column("last_error", String(500)),
    Index("ix_blob_erasures_next_at", "next_at"),
)
