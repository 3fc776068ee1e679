"""Webhooks: endpoints, the mailboxes that are behind, and deliveries."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None

_OPEN = sa.text("finished_at IS NULL")


def upgrade() -> None:
    op.create_table(
        "webhooks",
        sa.Column("id", sa.String(length=26), nullable=False),
        sa.Column(
            "tenant_id",
            sa.String(length=64),
            nullable=True,
            comment="null: events of all tenants, and of the gateway",
        ),
        sa.Column("url", sa.String(length=2000), nullable=False),
        sa.Column("description", sa.String(length=200), nullable=False),
        sa.Column("types", sa.JSON(), nullable=True, comment="words as the feed's filter has them; null: all"),
        sa.Column("secret", sa.LargeBinary(), nullable=False, comment="sealed under the service key"),
        sa.Column(
            "old_secret",
            sa.LargeBinary(),
            nullable=True,
            comment="sealed; signs as well until old_secret_until_at",
        ),
        sa.Column("old_secret_until_at", sa.BigInteger(), nullable=True),
        sa.Column("state", sa.String(length=16), nullable=False, comment="enabled or paused"),
        sa.Column("reason", sa.String(length=32), nullable=True, comment="why it is paused"),
        sa.Column("detail", sa.String(length=500), nullable=True, comment="the same in words"),
        sa.Column("paused_at", sa.BigInteger(), nullable=True),
        sa.Column(
            "position",
            sa.BigInteger(),
            nullable=False,
            comment="of the feed: up to here all is settled, or in a lane",
        ),
        sa.Column("generation", sa.Integer(), nullable=False, comment="grows with every replay"),
        sa.Column("version", sa.BigInteger(), nullable=False, comment="grows with every change from outside"),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_webhooks")),
    )
    op.create_index("ix_webhooks_tenant_id", "webhooks", ["tenant_id", "id"])
    op.create_table(
        "webhook_lanes",
        sa.Column("webhook_id", sa.String(length=26), nullable=False),
        sa.Column(
            "lane",
            sa.String(length=100),
            nullable=False,
            comment="tenant/mailbox, or tenant/ for events of no mailbox",
        ),
        sa.Column("tenant_id", sa.String(length=64), nullable=False, comment="of its events; *: the gateway's"),
        sa.Column("position", sa.BigInteger(), nullable=False, comment="of the feed: up to here the lane is settled"),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("since_at", sa.BigInteger(), nullable=True, comment="when what is due first failed"),
        sa.Column("next_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("webhook_id", "lane", name=op.f("pk_webhook_lanes")),
        comment="mailboxes that are behind, since a delivery failed",
    )
    op.create_index("ix_webhook_lanes_tenant_id", "webhook_lanes", ["tenant_id"])
    op.create_table(
        "webhook_deliveries",
        sa.Column("id", sa.String(length=26), nullable=False),
        sa.Column("webhook_id", sa.String(length=26), nullable=False),
        sa.Column(
            "tenant_id", sa.String(length=64), nullable=True, comment="of the event; *: the gateway's; null: a test"
        ),
        sa.Column("kind", sa.String(length=8), nullable=False, comment="event, test or again"),
        sa.Column("generation", sa.Integer(), nullable=False),
        sa.Column(
            "position", sa.BigInteger(), nullable=True, comment="of the event in the feed; null unless kind is event"
        ),
        sa.Column("event_id", sa.String(length=100), nullable=True, comment="tenant:number; null: a test"),
        sa.Column("message_ref", sa.String(length=64), nullable=False, comment="webhook-id: the same at every attempt"),
        sa.Column("event_type", sa.String(length=64), nullable=False),
        sa.Column("mailbox_id", sa.String(length=26), nullable=True),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("started_at", sa.BigInteger(), nullable=False, comment="the last attempt"),
        sa.Column("next_at", sa.BigInteger(), nullable=True, comment="the next one"),
        sa.Column("finished_at", sa.BigInteger(), nullable=True),
        sa.Column("status", sa.Integer(), nullable=True, comment="of the receiver's last answer"),
        sa.Column("error", sa.String(length=200), nullable=True, comment="why there was no answer"),
        sa.Column("response", sa.String(length=200), nullable=True, comment="how the last answer begins"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_webhook_deliveries")),
        sa.UniqueConstraint(
            "webhook_id", "generation", "position", name=op.f("uq_webhook_deliveries_webhook_id_generation_position")
        ),
    )
    op.create_index("ix_webhook_deliveries_webhook_id", "webhook_deliveries", ["webhook_id", "id"])
    op.create_index("ix_webhook_deliveries_tenant_id", "webhook_deliveries", ["tenant_id"])
    op.create_index("ix_webhook_deliveries_finished_at", "webhook_deliveries", ["finished_at"])
    op.create_index(
        "ix_webhook_deliveries_open",
        "webhook_deliveries",
        ["webhook_id", "state"],
        sqlite_where=_OPEN,
        postgresql_where=_OPEN,
    )
