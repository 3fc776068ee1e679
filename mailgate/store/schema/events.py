"""The outbox of the change feed, and how far it was put in order."""

from __future__ import annotations

from sqlalchemy import JSON, BigInteger, Column, Index, Integer, PrimaryKeyConstraint, String, Table, text

from mailgate.store.schema.base import Id, Name, Ref, metadata

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
        "ix_events_unpositioned",
        "tenant_id",
        "seq",
        sqlite_where=text("position IS NULL"),
        postgresql_where=text("position IS NULL"),
    ),
    # What happened to a mailbox as a whole is little; an import adds nothing to it.
    Index(
        "ix_events_mailbox",
        "mailbox_id",
        "at",
        sqlite_where=text("message_id IS NULL AND mailbox_id IS NOT NULL"),
        postgresql_where=text("message_id IS NULL AND mailbox_id IS NOT NULL"),
    ),
    comment="the outbox of the change feed",
)

feed = Table(
    "feed",
    metadata,
    Column(
        "id",
        Integer,
        primary_key=True,
        autoincrement=False,
        comment="1: there is one row, made when it is first asked for",
    ),
    Column("ref", Ref, nullable=False, comment="random; tells this feed's cursors from another's"),
    Column("position", BigInteger, nullable=False, comment="the last one that was given"),
    Column("pruned", BigInteger, nullable=False, comment="events up to here are not kept any more"),
)
