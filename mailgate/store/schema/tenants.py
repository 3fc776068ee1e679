"""Tenants, their heads and their subscriptions."""

from __future__ import annotations

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    ForeignKey,
    Integer,
    LargeBinary,
    PrimaryKeyConstraint,
    String,
    Table,
    UniqueConstraint,
    false,
)

from mailgate.store.schema.base import Id, Name, Ref, metadata

tenants = Table(
    "tenants",
    metadata,
    Column("id", Name, primary_key=True),
    Column("ref", Ref, nullable=False, unique=True, comment="what the purge log and the key store call the tenant"),
    Column("name", String(200), nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("erasing_at", BigInteger, comment="since when everything of it goes; nothing of it is served from then on"),
    Column("erased_at", BigInteger, comment="since when only its log is left"),
    Column("erasing", JSON, comment="reason, actor and run of the erasure, and what it has counted"),
)

key_epochs = Table(
    "key_epochs",
    metadata,
    Column("tenant_id", Name, ForeignKey("tenants.id"), nullable=False),
    Column("epoch", Integer, nullable=False, comment="year and month of the key, 202611"),
    Column("retired_at", BigInteger, comment="since when nothing that is stored needs the key"),
    Column("destroying_at", BigInteger, comment="journal: written before the key file is removed"),
    Column("destroyed_at", BigInteger),
    PrimaryKeyConstraint("tenant_id", "epoch"),
    comment="keys of months that are over; those of the current month have no row",
)

tenant_heads = Table(
    "tenant_heads",
    metadata,
    Column("tenant_id", Name, ForeignKey("tenants.id"), primary_key=True),
    Column("event_seq", BigInteger, nullable=False, server_default="0"),
    Column("log_size", BigInteger, nullable=False, server_default="0"),
    Column("log_frontier", LargeBinary, nullable=False, comment="right edge of the purge log's tree, O(log n)"),
    Column(
        "witnessed",
        Boolean,
        nullable=False,
        server_default=false(),
        comment="a checkpoint of the log was kept outside the database, so one must be there",
    ),
    Column("log_policy", String(64), comment="SHA-256 of the policy that the log last announced"),
    Column("log_plan", String(128), comment="plan, days and instant that the log last announced"),
    Column("feed_plan", String(64), comment="digest of the subscription that the feed last announced"),
    Column("copies", BigInteger, nullable=False, server_default="0"),
    Column(
        "storage_bytes", BigInteger, nullable=False, server_default="0", comment="sum of RFC822 sizes of the copies"
    ),
)

subscription_events = Table(
    "subscription_events",
    metadata,
    Column("id", Id, primary_key=True),
    Column("tenant_id", Name, ForeignKey("tenants.id"), nullable=False),
    Column("event_id", String(200), nullable=False, comment="given by who told of it; repeats are ignored"),
    Column("type", String(32), nullable=False),
    Column("effective_at", BigInteger, nullable=False, comment="from when on it counts"),
    Column("body", JSON, nullable=False, comment="what the type has beside that: plan, period_end, seats, …"),
    Column("told_by", String(32), nullable=False, comment="set, command, billing or stripe"),
    Column("recorded_at", BigInteger, nullable=False),
    Column("actor", String(200), nullable=False),
    UniqueConstraint("tenant_id", "event_id"),
    comment="all that happened to subscriptions; the periods are computed from it",
)

subscription_periods = Table(
    "subscription_periods",
    metadata,
    Column("tenant_id", Name, ForeignKey("tenants.id"), nullable=False),
    Column("effective_at", BigInteger, nullable=False),
    Column("until_at", BigInteger, comment="null: for ever, as long as nothing else happens"),
    Column("plan", Name, nullable=False),
    Column("plan_since", BigInteger, nullable=False, comment="since when the plan has held without a break"),
    Column("status", String(16), nullable=False),
    Column("period_start", BigInteger, nullable=False),
    Column("period_end", BigInteger),
    Column("auto_renew", Boolean, nullable=False),
    Column("seats", Integer),
    Column("term_months", Integer),
    Column("source", String(16), nullable=False),
    Column("pending", JSON, comment="what begins when the period ends"),
    Column("cause", String(200), comment="event_id of what opened it"),
    Column("cause_type", String(32), comment="its type, or what time did"),
    PrimaryKeyConstraint("tenant_id", "effective_at"),
    comment="the timelines, computed anew with each event; the first period begins at 0 unless another one does",
)

stripe_accounts = Table(
    "stripe_accounts",
    metadata,
    Column("ref", String(255), primary_key=True, comment="Stripe's id of a customer or subscription"),
    Column("tenant_id", Name, ForeignKey("tenants.id"), nullable=False),
    comment="whose they are, for news that do not say it",
)

subscription_notices = Table(
    "subscription_notices",
    metadata,
    Column("tenant_id", Name, ForeignKey("tenants.id"), nullable=False),
    Column("key", String(128), nullable=False, comment="what was announced, for when, and how long before"),
    Column("given_at", BigInteger, nullable=False),
    PrimaryKeyConstraint("tenant_id", "key"),
    comment="notices that the feed has, so that each is given once",
)
