"""Alarms."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Index, String, Table, text

from mailgate.store.schema.base import Id, Name, metadata

alarms = Table(
    "alarms",
    metadata,
    Column("id", Id, primary_key=True),
    Column("kind", String(32), nullable=False),
    Column("tenant_id", Name, comment="null: it concerns the whole gateway"),
    Column("key", String(128), nullable=False, comment="kind and tenant: one of each stands at a time"),
    Column("detail", String(1000), nullable=False),
    Column("raised_at", BigInteger, nullable=False),
    Column("cleared_at", BigInteger),
    Index(
        "uq_alarms_standing",
        "key",
        unique=True,
        sqlite_where=text("cleared_at IS NULL"),
        postgresql_where=text("cleared_at IS NULL"),
    ),
    comment="what an operator must look at, or had to",
)
