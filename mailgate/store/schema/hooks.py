"""Endpoints of webhooks, how far each is, and what was delivered to them."""

from __future__ import annotations

from sqlalchemy import (
    JSON,
    BigInteger,
    Column,
    Index,
    Integer,
    LargeBinary,
    PrimaryKeyConstraint,
    String,
    Table,
    UniqueConstraint,
    text,
)

from mailgate.store.schema.base import Id, Name, metadata

webhooks = Table(
    "webhooks",
    metadata,
    Column("id", Id, primary_key=True),
    Column("tenant_id", Name, comment="null: events of all tenants, and of the gateway"),
    Column("url", String(2000), nullable=False),
    Column("description", String(200), nullable=False),
    Column("types", JSON, comment="words as the feed's filter has them; null: all"),
    Column("secret", LargeBinary, nullable=False, comment="sealed under the service key"),
    Column("old_secret", LargeBinary, comment="sealed; signs as well until old_secret_until_at"),
    Column("old_secret_until_at", BigInteger),
    Column("state", String(16), nullable=False, comment="enabled or paused"),
    Column("reason", String(32), comment="why it is paused"),
    Column("detail", String(500), comment="the same in words"),
    Column("paused_at", BigInteger),
    Column("position", BigInteger, nullable=False, comment="of the feed: up to here all is settled, or in a lane"),
    Column("generation", Integer, nullable=False, comment="grows with every replay"),
    Column("version", BigInteger, nullable=False, comment="grows with every change from outside"),
    Column("created_at", BigInteger, nullable=False),
    Column("delivered_at", BigInteger, comment="when an event was last delivered"),
    Column("failures", Integer, nullable=False, server_default="0", comment="attempts that failed since then"),
    Index("ix_webhooks_tenant_id", "tenant_id", "id"),
)

webhook_lanes = Table(
    "webhook_lanes",
    metadata,
    Column("webhook_id", Id, nullable=False),
    Column("lane", String(100), nullable=False, comment="tenant/mailbox, or tenant/ for events of no mailbox"),
    Column("tenant_id", Name, nullable=False, comment="of its events; *: the gateway's"),
    Column("position", BigInteger, nullable=False, comment="of the feed: up to here the lane is settled"),
    Column("attempts", Integer, nullable=False),
    Column("since_at", BigInteger, comment="when what is due first failed"),
    Column("next_at", BigInteger, nullable=False),
    PrimaryKeyConstraint("webhook_id", "lane"),
    Index("ix_webhook_lanes_tenant_id", "tenant_id"),
    comment="mailboxes that are behind, since a delivery failed",
)

webhook_deliveries = Table(
    "webhook_deliveries",
    metadata,
    Column("id", Id, primary_key=True),
    Column("webhook_id", Id, nullable=False),
    Column("tenant_id", Name, comment="of the event; *: the gateway's; null: a test"),
    Column("kind", String(8), nullable=False, comment="event, test or again"),
    Column("generation", Integer, nullable=False),
    Column("position", BigInteger, comment="of the event in the feed; null unless kind is event"),
    Column("event_id", String(100), comment="tenant:number; null: a test"),
    Column("message_ref", String(64), nullable=False, comment="webhook-id: the same at every attempt"),
    Column("event_type", String(64), nullable=False),
    Column("mailbox_id", Id),
    Column("state", String(16), nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("started_at", BigInteger, nullable=False, comment="the last attempt"),
    Column("next_at", BigInteger, comment="the next one"),
    Column("finished_at", BigInteger),
    Column("status", Integer, comment="of the receiver's last answer"),
    Column("error", String(200), comment="why there was no answer"),
    Column("response", String(200), comment="how the last answer begins"),
    UniqueConstraint("webhook_id", "generation", "position"),
    Index("ix_webhook_deliveries_webhook_id", "webhook_id", "id"),
    Index("ix_webhook_deliveries_tenant_id", "tenant_id"),
    Index("ix_webhook_deliveries_finished_at", "finished_at"),
    Index(
        "ix_webhook_deliveries_open",
        "webhook_id",
        "state",
        sqlite_where=text("finished_at IS NULL"),
        postgresql_where=text("finished_at IS NULL"),
    ),
)
