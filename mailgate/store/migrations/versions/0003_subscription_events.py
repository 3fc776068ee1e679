"""Subscriptions as events, from which the periods are computed; notices that were given; limits that switched off.

What was recorded as periods becomes events of type `set`. The periods are computed at the next start.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "subscription_events",
        sa.Column("id", sa.String(length=26), nullable=False),
        sa.Column("tenant_id", sa.String(length=64), nullable=False),
        sa.Column(
            "event_id", sa.String(length=200), nullable=False, comment="given by who told of it; repeats are ignored"
        ),
        sa.Column("type", sa.String(length=32), nullable=False),
        sa.Column("effective_at", sa.BigInteger(), nullable=False, comment="from when on it counts"),
        sa.Column(
            "body", sa.JSON(), nullable=False, comment="what the type has beside that: plan, period_end, seats, …"
        ),
        sa.Column("told_by", sa.String(length=32), nullable=False, comment="set, command, billing or stripe"),
        sa.Column("recorded_at", sa.BigInteger(), nullable=False),
        sa.Column("actor", sa.String(length=200), nullable=False),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name=op.f("fk_subscription_events_tenant_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_subscription_events")),
        sa.UniqueConstraint("tenant_id", "event_id", name=op.f("uq_subscription_events_tenant_id_event_id")),
        comment="all that happened to subscriptions; the periods are computed from it",
    )
    _keep_periods_as_events()
    op.drop_table("subscription_periods")
    op.create_table(
        "subscription_periods",
        sa.Column("tenant_id", sa.String(length=64), nullable=False),
        sa.Column("effective_at", sa.BigInteger(), nullable=False),
        sa.Column(
            "until_at", sa.BigInteger(), nullable=True, comment="null: for ever, as long as nothing else happens"
        ),
        sa.Column("plan", sa.String(length=64), nullable=False),
        sa.Column(
            "plan_since", sa.BigInteger(), nullable=False, comment="since when the plan has held without a break"
        ),
        sa.Column("status", sa.String(length=16), nullable=False),
        sa.Column("period_start", sa.BigInteger(), nullable=False),
        sa.Column("period_end", sa.BigInteger(), nullable=True),
        sa.Column("auto_renew", sa.Boolean(), nullable=False),
        sa.Column("seats", sa.Integer(), nullable=True),
        sa.Column("term_months", sa.Integer(), nullable=True),
        sa.Column("source", sa.String(length=16), nullable=False),
        sa.Column("pending", sa.JSON(), nullable=True, comment="what begins when the period ends"),
        sa.Column("cause", sa.String(length=200), nullable=True, comment="event_id of what opened it"),
        sa.Column("cause_type", sa.String(length=32), nullable=True, comment="its type, or what time did"),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name=op.f("fk_subscription_periods_tenant_id")),
        sa.PrimaryKeyConstraint("tenant_id", "effective_at", name=op.f("pk_subscription_periods")),
        comment="the timelines, computed anew with each event; the first period begins at 0 unless another one does",
    )
    op.create_table(
        "subscription_notices",
        sa.Column("tenant_id", sa.String(length=64), nullable=False),
        sa.Column(
            "key", sa.String(length=128), nullable=False, comment="what was announced, for when, and how long before"
        ),
        sa.Column("given_at", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name=op.f("fk_subscription_notices_tenant_id")),
        sa.PrimaryKeyConstraint("tenant_id", "key", name=op.f("pk_subscription_notices")),
        comment="notices that the feed has, so that each is given once",
    )
    op.create_table(
        "stripe_accounts",
        sa.Column("ref", sa.String(length=255), nullable=False, comment="Stripe's id of a customer or subscription"),
        sa.Column("tenant_id", sa.String(length=64), nullable=False),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name=op.f("fk_stripe_accounts_tenant_id")),
        sa.PrimaryKeyConstraint("ref", name=op.f("pk_stripe_accounts")),
        comment="whose they are, for news that do not say it",
    )
    op.add_column(
        "tenant_heads",
        sa.Column(
            "feed_plan",
            sa.String(length=64),
            nullable=True,
            comment="digest of the subscription that the feed last announced",
        ),
    )
    op.add_column(
        "mailboxes",
        sa.Column(
            "limited_by",
            sa.String(length=32),
            nullable=True,
            comment="the plan's limit that switched it off; null: a person did, or it is on",
        ),
    )


def _keep_periods_as_events() -> None:
    old = sa.table(
        "subscription_periods",
        *(
            sa.column(name)
            for name in ("id", "tenant_id", "plan", "status", "effective_at", "period_end", "auto_renew", "seats")
        ),
        *(sa.column(name) for name in ("event_id", "recorded_at", "actor")),
    )
    new = sa.table(
        "subscription_events",
        *(sa.column(name) for name in ("id", "tenant_id", "event_id", "type", "effective_at")),
        sa.column("body", sa.JSON()),
        *(sa.column(name) for name in ("told_by", "recorded_at", "actor")),
    )
    connection = op.get_bind()
    for row in connection.execute(sa.select(old)).all():
        body = {"plan": row.plan, "status": row.status, "auto_renew": bool(row.auto_renew)}
        body |= {key: getattr(row, key) for key in ("period_end", "seats") if getattr(row, key) is not None}
        connection.execute(
            sa.insert(new).values(
                id=row.id,
                tenant_id=row.tenant_id,
                event_id=row.event_id,
                type="set",
                effective_at=row.effective_at,
                body=body,
                told_by="set",
                recorded_at=row.recorded_at,
                actor=row.actor,
            )
        )
