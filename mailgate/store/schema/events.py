"""The outbox of the change feed."""

from __future__ import annotations

from sqlalchemy import JSON, BigInteger, Column, Index, PrimaryKeyConstraint, String, Table, text

from mailgate.store.schema.base import Id, Name, metadata

events = Table(
    "events",
    metadata,
    Column("tenant_id", Name, nullable=False),
    Column("seq", BigInteger, nullable=False, comment="without gaps within the tenant"),
    Column("position", BigInteger, unique=True, comment="global order, given by the publisher"),
    Column("type", String(64), nullable=False),
    Column("at", BigInteger, nullable=False),
    Column("mailbox_id", Id),
    Column("message_id", Id),
    Column("payload", JSON, nullable=False, comment="ids and instants only, nothing from the message"),
    PrimaryKeyConstraint("tenant_id", "seq"),
    Index(
        "ix_events_unpositioned", "at", sqlite_where=text("position IS NULL"), postgresql_where=text("position IS NULL")
    ),
    comment="the outbox of the change feed",
)
