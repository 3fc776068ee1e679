"""Tenants, their heads and their subscriptions."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    ForeignKey,
    Integer,
    LargeBinary,
    String,
    Table,
    UniqueConstraint,
    text,
)

from mailgate.store.schema.base import Id, Name, Ref, metadata

tenants = Table(
    "tenants",
    metadata,
    Column("id", Name, primary_key=True),
    Column("ref", Ref, nullable=False, unique=True, comment="what the purge log and the key store call the tenant"),
    Column("name", String(200), nullable=False),
    Column("created_at", BigInteger, nullable=False),
)

tenant_heads = Table(
    "tenant_heads",
    metadata,
    Column("tenant_id", Name, ForeignKey("tenants.id"), primary_key=True),
    Column("event_seq", BigInteger, nullable=False, server_default="0"),
    Column("log_size", BigInteger, nullable=False, server_default="0"),
    Column("log_frontier", LargeBinary, nullable=False, comment="right edge of the purge log's tree, O(log n)"),
    Column("log_policy", String(64), comment="SHA-256 of the policy that the log last announced"),
    Column("log_plan", String(128), comment="plan, days and instant that the log last announced"),
    Column("copies", BigInteger, nullable=False, server_default="0"),
    Column(
        "storage_bytes", BigInteger, nullable=False, server_default="0", comment="sum of RFC822 sizes of the copies"
    ),
)

subscription_periods = Table(
    "subscription_periods",
    metadata,
    Column("id", Id, primary_key=True),
    Column("tenant_id", Name, ForeignKey("tenants.id"), nullable=False),
    Column("seq", Integer, nullable=False, comment="order of recording within the tenant"),
    Column("plan", Name, nullable=False),
    Column("status", String(16), nullable=False),
    Column("effective_at", BigInteger, nullable=False),
    Column("period_end", BigInteger),
    Column("auto_renew", Boolean, nullable=False, server_default=text("false")),
    Column("seats", Integer),
    Column("event_id", String(200), nullable=False, comment="the event that caused it; repeats are ignored"),
    Column("event_type", String(64), nullable=False),
    Column("recorded_at", BigInteger, nullable=False),
    Column("actor", String(200), nullable=False),
    UniqueConstraint("tenant_id", "event_id"),
    UniqueConstraint("tenant_id", "seq"),
)
