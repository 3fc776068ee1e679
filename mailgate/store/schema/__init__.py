"""The tables. One database schema for SQLite and PostgreSQL; DDL that differs by database stands in the migrations.

What holds everywhere:

* Every row belongs to a tenant (but the installation's own: tokens, leases, runs over all tenants, some alarms).
* Instants are integers: microseconds since the epoch in UTC.
* Nothing derived from a message stands here in clear: what a person could read is in `messages.summary`, encrypted
  under the message's own data key; header ids and search words are keyed tokens (HMAC under a tenant's key). A purge
  deletes the row and with it the key.
* `messages` has rows for live copies only. What stays of a purged copy is a row of `tombstones`.
* Lock order: tenants → mailboxes → the tenant's threads (`mailgate.store.threads`) → messages (by id) → blobs (by
  token) → tenant_heads, always last, just before the commit.
* `tenant_heads` carries what is numbered without gaps (events, log entries) and counted exactly (copies, bytes).
"""

from __future__ import annotations

from mailgate.store.schema.access import access_log, sign_in_failures, user_recovery_codes, user_sessions, users
from mailgate.store.schema.alarms import alarms
from mailgate.store.schema.base import Id, Name, Ref, metadata
from mailgate.store.schema.consents import consent_flows, consents
from mailgate.store.schema.events import events, feed
from mailgate.store.schema.hooks import webhook_deliveries, webhook_lanes, webhooks
from mailgate.store.schema.links import connect_links
from mailgate.store.schema.log import log_checkpoints, log_leaves, log_tiles
from mailgate.store.schema.mailboxes import folders, mailboxes
from mailgate.store.schema.messages import (
    blobs,
    message_links,
    messages,
    origins,
    pins,
    search_docs,
    search_leftovers,
    tombstones,
)
from mailgate.store.schema.retention import blob_erasures, hold_messages, holds, runs
from mailgate.store.schema.submissions import sent_counts, submissions
from mailgate.store.schema.sync import guards, operations, quarantine
from mailgate.store.schema.system import idempotency_keys, installation, leases, processes, samples, tokens
from mailgate.store.schema.tenants import (
    key_epochs,
    stripe_accounts,
    subscription_events,
    subscription_notices,
    subscription_periods,
    tenant_heads,
    tenants,
)

__all__ = [
    "Id",
    "Name",
    "Ref",
    "access_log",
    "alarms",
    "blob_erasures",
    "blobs",
    "connect_links",
    "consent_flows",
    "consents",
    "events",
    "feed",
    "folders",
    "guards",
    "hold_messages",
    "holds",
    "idempotency_keys",
    "installation",
    "key_epochs",
    "leases",
    "log_checkpoints",
    "log_leaves",
    "log_tiles",
    "mailboxes",
    "message_links",
    "messages",
    "metadata",
    "operations",
    "origins",
    "pins",
    "processes",
    "quarantine",
    "runs",
    "samples",
    "search_docs",
    "search_leftovers",
    "sent_counts",
    "sign_in_failures",
    "submissions",
    "stripe_accounts",
    "subscription_events",
    "subscription_notices",
    "subscription_periods",
    "tenant_heads",
    "tenants",
    "tokens",
    "tombstones",
    "user_recovery_codes",
    "user_sessions",
    "users",
    "webhook_deliveries",
    "webhook_lanes",
    "webhooks",
]
