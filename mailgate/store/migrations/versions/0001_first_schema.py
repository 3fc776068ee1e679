"""The first schema: every table, and the text index in each database's own form."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


# Keyed tokens only (hex words): `rowid` or `doc` is search_docs.doc.
_SEARCH_INDEX = {
    "sqlite": ["CREATE VIRTUAL TABLE search_index USING fts5(terms, detail=none, columnsize=0, tokenize='ascii')"],
    "postgresql": [
        "CREATE TABLE search_index (doc BIGINT PRIMARY KEY, tenant_id VARCHAR(64) NOT NULL, terms TSVECTOR NOT NULL)",
        "CREATE INDEX ix_search_index_terms ON search_index USING gin (terms)",
    ],
}


def upgrade() -> None:
    op.create_table(
        "blob_erasures",
        sa.Column("blob_id", sa.String(length=26), nullable=False),
        sa.Column("tenant_id", sa.String(length=64), nullable=False),
        sa.Column("item_ref", sa.String(length=32), nullable=True),
        sa.Column("run_id", sa.String(length=26), nullable=True),
        sa.Column("stored_size", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("queued_at", sa.BigInteger(), nullable=False),
        sa.Column("attempts", sa.Integer(), server_default="0", nullable=False),
        sa.Column("next_at", sa.BigInteger(), nullable=False),
        sa.Column("last_error", sa.String(length=500), nullable=True),
        sa.PrimaryKeyConstraint("blob_id", name=op.f("pk_blob_erasures")),
    )
    op.create_index("ix_blob_erasures_next_at", "blob_erasures", ["next_at"], unique=False)
    op.create_table(
        "events",
        sa.Column("tenant_id", sa.String(length=64), nullable=False),
        sa.Column("seq", sa.BigInteger(), nullable=False, comment="without gaps within the tenant"),
        sa.Column("position", sa.BigInteger(), nullable=True, comment="global order, given by the publisher"),
        sa.Column("type", sa.String(length=64), nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.Column("mailbox_id", sa.String(length=26), nullable=True),
        sa.Column("message_id", sa.String(length=26), nullable=True),
        sa.Column("payload", sa.JSON(), nullable=False, comment="ids and instants only, nothing from the message"),
        sa.PrimaryKeyConstraint("tenant_id", "seq", name=op.f("pk_events")),
        sa.UniqueConstraint("position", name=op.f("uq_events_position")),
        comment="the outbox of the change feed",
    )
    op.create_index(
        "ix_events_unpositioned",
        "events",
        ["at"],
        unique=False,
        sqlite_where=sa.text("position IS NULL"),
        postgresql_where=sa.text("position IS NULL"),
    )
    op.create_table(
        "idempotency_keys",
        sa.Column("token_id", sa.String(length=26), nullable=False),
        sa.Column("key", sa.String(length=200), nullable=False),
        sa.Column("fingerprint", sa.LargeBinary(), nullable=False, comment="of method, path and body"),
        sa.Column("status", sa.Integer(), nullable=True),
        sa.Column("body", sa.LargeBinary(), nullable=True),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("token_id", "key", name=op.f("pk_idempotency_keys")),
    )
    op.create_table(
        "installation",
        sa.Column("key", sa.String(length=64), nullable=False),
        sa.Column("value", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("key", name=op.f("pk_installation")),
        comment="Facts fixed at set-up (ledger origin) and marks of time (latest time seen)",
    )
    op.create_table(
        "leases",
        sa.Column(
            "name", sa.String(length=128), nullable=False, comment="mailbox:<id>, purge:<tenant>, signer:<tenant>, …"
        ),
        sa.Column("owner", sa.String(length=128), nullable=False),
        sa.Column(
            "fence",
            sa.BigInteger(),
            nullable=False,
            comment="grows with every change of owner; checked in the owner's writes",
        ),
        sa.Column("expires_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_leases")),
    )
    op.create_table(
        "log_checkpoints",
        sa.Column("tenant_id", sa.String(length=64), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("root", sa.LargeBinary(), nullable=False),
        sa.Column("note", sa.Text(), nullable=False, comment="C2SP signed checkpoint"),
        sa.Column("signed_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("tenant_id", "size", name=op.f("pk_log_checkpoints")),
    )
    op.create_table(
        "log_leaves",
        sa.Column("tenant_id", sa.String(length=64), nullable=False),
        sa.Column("idx", sa.BigInteger(), nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.Column("hash", sa.LargeBinary(), nullable=False, comment="RFC 6962 leaf hash"),
        sa.Column("type", sa.String(length=32), nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.Column("run_id", sa.String(length=26), nullable=True),
        sa.Column("item_ref", sa.String(length=32), nullable=True),
        sa.PrimaryKeyConstraint("tenant_id", "idx", name=op.f("pk_log_leaves")),
        comment="the purge log's entries, one tree per tenant",
    )
    op.create_index(
        "ix_log_leaves_item_ref",
        "log_leaves",
        ["tenant_id", "item_ref"],
        unique=False,
        sqlite_where=sa.text("item_ref IS NOT NULL"),
        postgresql_where=sa.text("item_ref IS NOT NULL"),
    )
    op.create_table(
        "log_tiles",
        sa.Column("tenant_id", sa.String(length=64), nullable=False),
        sa.Column("level", sa.Integer(), nullable=False),
        sa.Column("n", sa.BigInteger(), nullable=False),
        sa.Column(
            "hashes", sa.LargeBinary(), nullable=False, comment="256 hashes: full tiles only, made when first needed"
        ),
        sa.PrimaryKeyConstraint("tenant_id", "level", "n", name=op.f("pk_log_tiles")),
    )
    op.create_table(
        "runs",
        sa.Column("id", sa.String(length=26), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False, comment="purge or sync"),
        sa.Column("tenant_id", sa.String(length=64), nullable=True, comment="null: all tenants"),
        sa.Column("mailbox_id", sa.String(length=26), nullable=True),
        sa.Column("state", sa.String(length=16), nullable=False, comment="queued, running, completed, halted, failed"),
        sa.Column("trigger", sa.String(length=32), nullable=False, comment="schedule, request, live"),
        sa.Column("actor", sa.String(length=200), nullable=False),
        sa.Column("dry_run", sa.Boolean(), server_default=sa.text("(false)"), nullable=False),
        sa.Column("now_at", sa.BigInteger(), nullable=False, comment="the instant by which everything was judged"),
        sa.Column("started_at", sa.BigInteger(), nullable=False),
        sa.Column("finished_at", sa.BigInteger(), nullable=True),
        sa.Column(
            "counts",
            sa.JSON(),
            nullable=False,
            comment="purge: candidates, purged, kept by reason, failed; sync: new, changed, gone",
        ),
        sa.Column("policy", sa.JSON(), nullable=True, comment="version and hash"),
        sa.Column("detail", sa.String(length=1000), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_runs")),
    )
    op.create_index("ix_runs_kind", "runs", ["kind", "id"], unique=False)
    op.create_index("ix_runs_mailbox_id", "runs", ["mailbox_id", "id"], unique=False)
    op.create_table(
        "tenants",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column(
            "ref", sa.String(length=32), nullable=False, comment="what the purge log and the key store call the tenant"
        ),
        sa.Column("name", sa.String(length=200), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_tenants")),
        sa.UniqueConstraint("ref", name=op.f("uq_tenants_ref")),
    )
    op.create_table(
        "tokens",
        sa.Column("id", sa.String(length=26), nullable=False),
        sa.Column("name", sa.String(length=200), nullable=False),
        sa.Column("secret_hash", sa.LargeBinary(), nullable=False, comment="SHA-256 of a random 256-bit token"),
        sa.Column("scopes", sa.JSON(), nullable=False),
        sa.Column("tenant_id", sa.String(length=64), nullable=True, comment="null: all tenants"),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("expires_at", sa.BigInteger(), nullable=True),
        sa.Column("last_used_at", sa.BigInteger(), nullable=True),
        sa.Column("revoked_at", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_tokens")),
        sa.UniqueConstraint("secret_hash", name=op.f("uq_tokens_secret_hash")),
    )
    op.create_table(
        "blobs",
        sa.Column("id", sa.String(length=26), nullable=False),
        sa.Column("tenant_id", sa.String(length=64), nullable=False),
        sa.Column(
            "content_token", sa.LargeBinary(), nullable=False, comment="keyed token of the bytes: dedup within a tenant"
        ),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("stored_size", sa.BigInteger(), nullable=False),
        sa.Column("data_key", sa.LargeBinary(), nullable=False, comment="wrapped by the tenant's key of this epoch"),
        sa.Column("key_epoch", sa.Integer(), nullable=False),
        sa.Column("refs", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name=op.f("fk_blobs_tenant_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_blobs")),
        sa.UniqueConstraint("tenant_id", "content_token", name=op.f("uq_blobs_tenant_id_content_token")),
    )
    op.create_table(
        "holds",
        sa.Column("id", sa.String(length=26), nullable=False),
        sa.Column("tenant_id", sa.String(length=64), nullable=False),
        sa.Column("scope", sa.String(length=16), nullable=False, comment="tenant, mailbox or messages"),
        sa.Column("mailbox_id", sa.String(length=26), nullable=True),
        sa.Column("matter", sa.String(length=200), nullable=False),
        sa.Column("reason", sa.String(length=1000), nullable=False),
        sa.Column("placed_at", sa.BigInteger(), nullable=False),
        sa.Column("placed_by", sa.String(length=200), nullable=False),
        sa.Column("released_at", sa.BigInteger(), nullable=True),
        sa.Column("released_by", sa.String(length=200), nullable=True),
        sa.Column("release_reason", sa.String(length=1000), nullable=True),
        sa.Column(
            "protects_until_at", sa.BigInteger(), nullable=True, comment="release plus its delay; null while it stands"
        ),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name=op.f("fk_holds_tenant_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_holds")),
    )
    op.create_index("ix_holds_tenant_id", "holds", ["tenant_id", "scope"], unique=False)
    op.create_table(
        "mailboxes",
        sa.Column("id", sa.String(length=26), nullable=False),
        sa.Column("tenant_id", sa.String(length=64), nullable=False),
        sa.Column("address", sa.String(length=320), nullable=False),
        sa.Column("owner", sa.String(length=200), nullable=True),
        sa.Column("shared", sa.Boolean(), server_default=sa.text("(false)"), nullable=False),
        sa.Column("enabled", sa.Boolean(), server_default=sa.text("(true)"), nullable=False),
        sa.Column("imap", sa.JSON(), nullable=False, comment="host, port, security, username, auth kind; no secret"),
        sa.Column("smtp", sa.JSON(), nullable=True),
        sa.Column("folder_rules", sa.JSON(), nullable=False, comment="include and exclude patterns"),
        sa.Column(
            "secrets", sa.LargeBinary(), nullable=True, comment="sealed under the service key; null once removed"
        ),
        sa.Column(
            "account_ref",
            sa.LargeBinary(),
            nullable=False,
            comment="keyed token of host and user name: tombstones belong to it",
        ),
        sa.Column(
            "config_version",
            sa.Integer(),
            server_default="1",
            nullable=False,
            comment="raised by every change a running sync must notice",
        ),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("state_reason", sa.String(length=500), nullable=True),
        sa.Column("state_changed_at", sa.BigInteger(), nullable=False),
        sa.Column(
            "import_floor_at",
            sa.BigInteger(),
            nullable=True,
            comment="nothing received before is fetched; null until the first entitled connect",
        ),
        sa.Column("progress_done", sa.Integer(), server_default="0", nullable=False),
        sa.Column("progress_total", sa.Integer(), server_default="0", nullable=False),
        sa.Column("progress_started_at", sa.BigInteger(), nullable=True),
        sa.Column("imported_at", sa.BigInteger(), nullable=True, comment="when the first import was complete"),
        sa.Column(
            "last_checked_at",
            sa.BigInteger(),
            nullable=True,
            comment="when all folders were last known to agree with the server",
        ),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("removed_at", sa.BigInteger(), nullable=True),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name=op.f("fk_mailboxes_tenant_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_mailboxes")),
    )
    op.create_index("ix_mailboxes_tenant_id", "mailboxes", ["tenant_id", "id"], unique=False)
    op.create_table(
        "subscription_periods",
        sa.Column("id", sa.String(length=26), nullable=False),
        sa.Column("tenant_id", sa.String(length=64), nullable=False),
        sa.Column("seq", sa.Integer(), nullable=False, comment="order of recording within the tenant"),
        sa.Column("plan", sa.String(length=64), nullable=False),
        sa.Column("status", sa.String(length=16), nullable=False),
        sa.Column("effective_at", sa.BigInteger(), nullable=False),
        sa.Column("period_end", sa.BigInteger(), nullable=True),
        sa.Column("auto_renew", sa.Boolean(), server_default=sa.text("(false)"), nullable=False),
        sa.Column("seats", sa.Integer(), nullable=True),
        sa.Column(
            "event_id", sa.String(length=200), nullable=False, comment="the event that caused it; repeats are ignored"
        ),
        sa.Column("event_type", sa.String(length=64), nullable=False),
        sa.Column("recorded_at", sa.BigInteger(), nullable=False),
        sa.Column("actor", sa.String(length=200), nullable=False),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name=op.f("fk_subscription_periods_tenant_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_subscription_periods")),
        sa.UniqueConstraint("tenant_id", "event_id", name=op.f("uq_subscription_periods_tenant_id_event_id")),
        sa.UniqueConstraint("tenant_id", "seq", name=op.f("uq_subscription_periods_tenant_id_seq")),
    )
    op.create_table(
        "tenant_heads",
        sa.Column("tenant_id", sa.String(length=64), nullable=False),
        sa.Column("event_seq", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("log_size", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column(
            "log_frontier", sa.LargeBinary(), nullable=False, comment="right edge of the purge log's tree, O(log n)"
        ),
        sa.Column(
            "log_policy",
            sa.String(length=64),
            nullable=True,
            comment="SHA-256 of the policy that the log last announced",
        ),
        sa.Column(
            "log_plan",
            sa.String(length=128),
            nullable=True,
            comment="plan, days and instant that the log last announced",
        ),
        sa.Column("copies", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column(
            "storage_bytes",
            sa.BigInteger(),
            server_default="0",
            nullable=False,
            comment="sum of RFC822 sizes of the copies",
        ),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name=op.f("fk_tenant_heads_tenant_id")),
        sa.PrimaryKeyConstraint("tenant_id", name=op.f("pk_tenant_heads")),
    )
    op.create_table(
        "tombstones",
        sa.Column("id", sa.String(length=26), nullable=False),
        sa.Column("tenant_id", sa.String(length=64), nullable=False),
        sa.Column("account_ref", sa.LargeBinary(), nullable=False),
        sa.Column("mailbox_id", sa.String(length=26), nullable=False),
        sa.Column("message_id", sa.String(length=26), nullable=False),
        sa.Column("item_ref", sa.String(length=32), nullable=False),
        sa.Column("folder", sa.String(length=1000), nullable=True, comment="name; null when the copy had no original"),
        sa.Column("uidvalidity", sa.BigInteger(), nullable=True),
        sa.Column("uid", sa.BigInteger(), nullable=True),
        sa.Column("header_token", sa.LargeBinary(), nullable=False),
        sa.Column("anchor_at", sa.BigInteger(), nullable=False),
        sa.Column("reason", sa.String(length=32), nullable=False),
        sa.Column("run_id", sa.String(length=26), nullable=True),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("gone_at", sa.BigInteger(), nullable=True, comment="evidence that the original is gone too"),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name=op.f("fk_tombstones_tenant_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_tombstones")),
    )
    op.create_index("ix_tombstones_anchor_at", "tombstones", ["anchor_at"], unique=False)
    op.create_index("ix_tombstones_header", "tombstones", ["tenant_id", "account_ref", "header_token"], unique=False)
    op.create_index("ix_tombstones_message_id", "tombstones", ["tenant_id", "message_id"], unique=False)
    op.create_index(
        "ix_tombstones_origin", "tombstones", ["tenant_id", "account_ref", "folder", "uidvalidity", "uid"], unique=False
    )
    op.create_table(
        "folders",
        sa.Column("id", sa.String(length=26), nullable=False),
        sa.Column("tenant_id", sa.String(length=64), nullable=False),
        sa.Column("mailbox_id", sa.String(length=26), nullable=False),
        sa.Column("name", sa.String(length=1000), nullable=False),
        sa.Column("delimiter", sa.String(length=4), nullable=True),
        sa.Column("special_use", sa.String(length=16), nullable=True),
        sa.Column("selectable", sa.Boolean(), nullable=False),
        sa.Column("followed", sa.Boolean(), nullable=False, comment="by the include and exclude rules"),
        sa.Column("uidvalidity", sa.BigInteger(), nullable=True),
        sa.Column("uidnext", sa.BigInteger(), nullable=True, comment="checkpoint: UIDs below are known"),
        sa.Column("highestmodseq", sa.BigInteger(), nullable=True, comment="checkpoint"),
        sa.Column("exists_count", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("progress_done", sa.Integer(), server_default="0", nullable=False),
        sa.Column("progress_total", sa.Integer(), server_default="0", nullable=False),
        sa.Column("imported_at", sa.BigInteger(), nullable=True),
        sa.Column("last_pass_at", sa.BigInteger(), nullable=True),
        sa.Column("last_error", sa.String(length=500), nullable=True),
        sa.Column("gone_at", sa.BigInteger(), nullable=True, comment="no longer listed by the server"),
        sa.ForeignKeyConstraint(["mailbox_id"], ["mailboxes.id"], name=op.f("fk_folders_mailbox_id")),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name=op.f("fk_folders_tenant_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_folders")),
        sa.UniqueConstraint("mailbox_id", "name", name=op.f("uq_folders_mailbox_id_name")),
    )
    op.create_table(
        "hold_messages",
        sa.Column("hold_id", sa.String(length=26), nullable=False),
        sa.Column("message_id", sa.String(length=26), nullable=False),
        sa.ForeignKeyConstraint(["hold_id"], ["holds.id"], name=op.f("fk_hold_messages_hold_id")),
        sa.PrimaryKeyConstraint("hold_id", "message_id", name=op.f("pk_hold_messages")),
    )
    op.create_index("ix_hold_messages_message_id", "hold_messages", ["message_id"], unique=False)
    op.create_table(
        "messages",
        sa.Column("id", sa.String(length=26), nullable=False),
        sa.Column("tenant_id", sa.String(length=64), nullable=False),
        sa.Column("mailbox_id", sa.String(length=26), nullable=False),
        sa.Column(
            "item_ref", sa.String(length=32), nullable=False, comment="random; what the purge log calls the copy"
        ),
        sa.Column("anchor_at", sa.BigInteger(), nullable=False, comment="written once; the age counts from here"),
        sa.Column("anchor_source", sa.String(length=16), nullable=False, comment="internaldate, stored or rehydrated"),
        sa.Column(
            "internal_date_at",
            sa.BigInteger(),
            nullable=True,
            comment="as the server said; null when missing or nonsense",
        ),
        sa.Column("stored_at", sa.BigInteger(), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False, comment="of the original's bytes"),
        sa.Column("flags", sa.JSON(), nullable=False, comment="the near side's flags, sorted"),
        sa.Column("seen", sa.Boolean(), nullable=False),
        sa.Column("flagged", sa.Boolean(), nullable=False),
        sa.Column("has_files", sa.Boolean(), nullable=False),
        sa.Column("thread_id", sa.String(length=26), nullable=False),
        sa.Column(
            "header_token",
            sa.LargeBinary(),
            nullable=False,
            comment="keyed token of the header block: recognises a message again",
        ),
        sa.Column("msgid_token", sa.LargeBinary(), nullable=True, comment="keyed token of the Message-ID"),
        sa.Column(
            "content_commit",
            sa.LargeBinary(),
            nullable=False,
            comment="purge log commitment to SHA-256(bytes) under item_ref",
        ),
        sa.Column(
            "msgid_commit",
            sa.LargeBinary(),
            nullable=False,
            comment="purge log commitment to the Message-ID under item_ref",
        ),
        sa.Column("summary", sa.LargeBinary(), nullable=False, comment="what lists show, encrypted under data_key"),
        sa.Column("data_key", sa.LargeBinary(), nullable=False, comment="wrapped by the tenant's key of this epoch"),
        sa.Column("key_epoch", sa.Integer(), nullable=False),
        sa.Column("blob_id", sa.String(length=26), nullable=False),
        sa.Column(
            "pins",
            sa.Integer(),
            server_default="0",
            nullable=False,
            comment="rows in pins; kept under the lock of this row",
        ),
        sa.Column(
            "unpinned_at",
            sa.BigInteger(),
            nullable=True,
            comment="when the last pin went; null while there is one or never was",
        ),
        sa.Column(
            "indexed",
            sa.Boolean(),
            server_default=sa.text("(false)"),
            nullable=False,
            comment="search words are written behind the import",
        ),
        sa.ForeignKeyConstraint(["blob_id"], ["blobs.id"], name=op.f("fk_messages_blob_id")),
        sa.ForeignKeyConstraint(["mailbox_id"], ["mailboxes.id"], name=op.f("fk_messages_mailbox_id")),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name=op.f("fk_messages_tenant_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_messages")),
        sa.UniqueConstraint("item_ref", name=op.f("uq_messages_item_ref")),
    )
    op.create_index("ix_messages_blob_id", "messages", ["blob_id"], unique=False)
    op.create_index("ix_messages_mailbox_id_header_token", "messages", ["mailbox_id", "header_token"], unique=False)
    op.create_index("ix_messages_tenant_id_anchor_at", "messages", ["tenant_id", "anchor_at", "id"], unique=False)
    op.create_index("ix_messages_tenant_id_msgid_token", "messages", ["tenant_id", "msgid_token"], unique=False)
    op.create_index("ix_messages_tenant_id_thread_id", "messages", ["tenant_id", "thread_id"], unique=False)
    op.create_index(
        "ix_messages_unindexed",
        "messages",
        ["tenant_id", "id"],
        unique=False,
        sqlite_where=sa.text("NOT indexed"),
        postgresql_where=sa.text("NOT indexed"),
    )
    op.create_table(
        "origins",
        sa.Column("folder_id", sa.String(length=26), nullable=False),
        sa.Column("uid", sa.BigInteger(), nullable=False),
        sa.Column("uidvalidity", sa.BigInteger(), nullable=False),
        sa.Column("tenant_id", sa.String(length=64), nullable=False),
        sa.Column("mailbox_id", sa.String(length=26), nullable=False),
        sa.Column("message_id", sa.String(length=26), nullable=False),
        sa.Column(
            "flags", sa.JSON(), nullable=False, comment="base: the flags on which both sides last agreed, sorted"
        ),
        sa.Column(
            "vanished_at",
            sa.BigInteger(),
            nullable=True,
            comment="gone with evidence; waits for the other folders' passes (it may be a move)",
        ),
        sa.ForeignKeyConstraint(["folder_id"], ["folders.id"], name=op.f("fk_origins_folder_id")),
        sa.ForeignKeyConstraint(["message_id"], ["messages.id"], name=op.f("fk_origins_message_id")),
        sa.PrimaryKeyConstraint("folder_id", "uid", "uidvalidity", name=op.f("pk_origins")),
        comment="the originals' addresses at the server",
    )
    op.create_index("ix_origins_message_id", "origins", ["message_id"], unique=False)
    op.create_index(
        "ix_origins_vanished",
        "origins",
        ["mailbox_id", "vanished_at"],
        unique=False,
        sqlite_where=sa.text("vanished_at IS NOT NULL"),
        postgresql_where=sa.text("vanished_at IS NOT NULL"),
    )
    op.create_table(
        "pins",
        sa.Column("tenant_id", sa.String(length=64), nullable=False),
        sa.Column("message_id", sa.String(length=26), nullable=False),
        sa.Column("entity_type", sa.String(length=64), nullable=False),
        sa.Column("entity_id", sa.String(length=200), nullable=False),
        sa.Column("ref", sa.String(length=32), nullable=False, comment="random; what the purge log calls the pin"),
        sa.Column("note", sa.LargeBinary(), nullable=True, comment="sealed under the message's data key"),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("created_by", sa.String(length=200), nullable=False),
        sa.ForeignKeyConstraint(["message_id"], ["messages.id"], name=op.f("fk_pins_message_id")),
        sa.PrimaryKeyConstraint("message_id", "entity_type", "entity_id", name=op.f("pk_pins")),
    )
    op.create_index("ix_pins_entity", "pins", ["tenant_id", "entity_type", "entity_id", "message_id"], unique=False)
    op.create_table(
        "quarantine",
        sa.Column("id", sa.String(length=26), nullable=False),
        sa.Column("tenant_id", sa.String(length=64), nullable=False),
        sa.Column("mailbox_id", sa.String(length=26), nullable=False),
        sa.Column("folder_id", sa.String(length=26), nullable=False),
        sa.Column("uidvalidity", sa.BigInteger(), nullable=False),
        sa.Column("uid", sa.BigInteger(), nullable=False),
        sa.Column("reason", sa.String(length=500), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("first_seen_at", sa.BigInteger(), nullable=False),
        sa.Column("last_seen_at", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["folder_id"], ["folders.id"], name=op.f("fk_quarantine_folder_id")),
        sa.ForeignKeyConstraint(["mailbox_id"], ["mailboxes.id"], name=op.f("fk_quarantine_mailbox_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_quarantine")),
        sa.UniqueConstraint("folder_id", "uidvalidity", "uid", name=op.f("uq_quarantine_folder_id_uidvalidity_uid")),
    )
    op.create_table(
        "search_docs",
        sa.Column("doc", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("tenant_id", sa.String(length=64), nullable=False),
        sa.Column("message_id", sa.String(length=26), nullable=False),
        sa.ForeignKeyConstraint(["message_id"], ["messages.id"], name=op.f("fk_search_docs_message_id")),
        sa.PrimaryKeyConstraint("doc", name=op.f("pk_search_docs")),
        sa.UniqueConstraint("message_id", name=op.f("uq_search_docs_message_id")),
        comment="a message's number in search_index, which the migrations make",
    )
    for statement in _SEARCH_INDEX[op.get_bind().dialect.name]:
        op.execute(statement)


def downgrade() -> None:
    op.execute("DROP TABLE search_index")
    op.drop_table("search_docs")
    op.drop_table("quarantine")
    op.drop_index("ix_pins_entity", table_name="pins")
    op.drop_table("pins")
    op.drop_index(
        "ix_origins_vanished",
        table_name="origins",
        sqlite_where=sa.text("vanished_at IS NOT NULL"),
        postgresql_where=sa.text("vanished_at IS NOT NULL"),
    )
    op.drop_index("ix_origins_message_id", table_name="origins")
    op.drop_table("origins")
    op.drop_index(
        "ix_messages_unindexed",
        table_name="messages",
        sqlite_where=sa.text("NOT indexed"),
        postgresql_where=sa.text("NOT indexed"),
    )
    op.drop_index("ix_messages_tenant_id_thread_id", table_name="messages")
    op.drop_index("ix_messages_tenant_id_msgid_token", table_name="messages")
    op.drop_index("ix_messages_tenant_id_anchor_at", table_name="messages")
    op.drop_index("ix_messages_mailbox_id_header_token", table_name="messages")
    op.drop_index("ix_messages_blob_id", table_name="messages")
    op.drop_table("messages")
    op.drop_index("ix_hold_messages_message_id", table_name="hold_messages")
    op.drop_table("hold_messages")
    op.drop_table("folders")
    op.drop_index("ix_tombstones_origin", table_name="tombstones")
    op.drop_index("ix_tombstones_message_id", table_name="tombstones")
    op.drop_index("ix_tombstones_header", table_name="tombstones")
    op.drop_index("ix_tombstones_anchor_at", table_name="tombstones")
    op.drop_table("tombstones")
    op.drop_table("tenant_heads")
    op.drop_table("subscription_periods")
    op.drop_index("ix_mailboxes_tenant_id", table_name="mailboxes")
    op.drop_table("mailboxes")
    op.drop_index("ix_holds_tenant_id", table_name="holds")
    op.drop_table("holds")
    op.drop_table("blobs")
    op.drop_table("tokens")
    op.drop_table("tenants")
    op.drop_index("ix_runs_mailbox_id", table_name="runs")
    op.drop_index("ix_runs_kind", table_name="runs")
    op.drop_table("runs")
    op.drop_table("log_tiles")
    op.drop_index(
        "ix_log_leaves_item_ref",
        table_name="log_leaves",
        sqlite_where=sa.text("item_ref IS NOT NULL"),
        postgresql_where=sa.text("item_ref IS NOT NULL"),
    )
    op.drop_table("log_leaves")
    op.drop_table("log_checkpoints")
    op.drop_table("leases")
    op.drop_table("installation")
    op.drop_table("idempotency_keys")
    op.drop_index(
        "ix_events_unpositioned",
        table_name="events",
        sqlite_where=sa.text("position IS NULL"),
        postgresql_where=sa.text("position IS NULL"),
    )
    op.drop_table("events")
    op.drop_index("ix_blob_erasures_next_at", table_name="blob_erasures")
    op.drop_table("blob_erasures")
