"""The tables. One database schema for SQLite and PostgreSQL; DDL that differs by database stands in the migrations.

What holds everywhere:

* Every row belongs to a tenant (but the installation's own: tokens, leases, runs over all tenants).
* Instants are integers: microseconds since the epoch in UTC.
* Nothing derived from a message stands here in clear: what a person could read is in `messages.summary`, encrypted
  under the message's own data key; header ids and search words are keyed tokens (HMAC under a tenant's key). A purge
  deletes the row and with it the key.
* `messages` has rows for live copies only. What stays of a purged copy is a row of `tombstones`.
* Lock order: tenants → mailboxes → messages (by id) → tenant_heads, always last, just before the commit.
* `tenant_heads` carries what is numbered without gaps (events, log entries) and counted exactly (copies, bytes).
"""

from __future__ import annotations

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    String,
    Table,
    Text,
    UniqueConstraint,
    text,
)

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "pk": "pk_%(table_name)s",
    }
)

Id = String(26)
Ref = String(32)
Name = String(64)

installation = Table(
    "installation",
    metadata,
    Column("key", String(64), primary_key=True),
    Column("value", Text, nullable=False),
    comment="Facts fixed at set-up (ledger origin) and marks of time (latest time seen)",
)

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

mailboxes = Table(
    "mailboxes",
    metadata,
    Column("id", Id, primary_key=True),
    Column("tenant_id", Name, ForeignKey("tenants.id"), nullable=False),
    Column("address", String(320), nullable=False),
    Column("owner", String(200)),
    Column("shared", Boolean, nullable=False, server_default=text("false")),
    Column("enabled", Boolean, nullable=False, server_default=text("true")),
    Column("imap", JSON, nullable=False, comment="host, port, security, username, auth kind; no secret"),
    Column("smtp", JSON),
    Column("folder_rules", JSON, nullable=False, comment="include and exclude patterns"),
    Column("secrets", LargeBinary, comment="sealed under the service key; null once removed"),
    Column(
        "account_ref", LargeBinary, nullable=False, comment="keyed token of host and user name: tombstones belong to it"
    ),
    Column(
        "config_version",
        Integer,
        nullable=False,
        server_default="1",
        comment="raised by every change a running sync must notice",
    ),
    Column("state", String(16), nullable=False),
    Column("state_reason", String(500)),
    Column("state_changed_at", BigInteger, nullable=False),
    Column(
        "import_floor_at",
        BigInteger,
        comment="nothing received before is fetched; null until the first entitled connect",
    ),
    Column("progress_done", Integer, nullable=False, server_default="0"),
    Column("progress_total", Integer, nullable=False, server_default="0"),
    Column("progress_started_at", BigInteger),
    Column("imported_at", BigInteger, comment="when the first import was complete"),
    Column("last_checked_at", BigInteger, comment="when all folders were last known to agree with the server"),
    Column("created_at", BigInteger, nullable=False),
    Column("removed_at", BigInteger),
    Column("op_seq", BigInteger, nullable=False, server_default="0", comment="number of the last operation"),
    Index("ix_mailboxes_tenant_id", "tenant_id", "id"),
)

leases = Table(
    "leases",
    metadata,
    Column("name", String(128), primary_key=True, comment="mailbox:<id>, purge:<tenant>, signer:<tenant>, …"),
    Column("owner", String(128), nullable=False),
    Column(
        "fence", BigInteger, nullable=False, comment="grows with every change of owner; checked in the owner's writes"
    ),
    Column("expires_at", BigInteger, nullable=False),
)

folders = Table(
    "folders",
    metadata,
    Column("id", Id, primary_key=True),
    Column("tenant_id", Name, ForeignKey("tenants.id"), nullable=False),
    Column("mailbox_id", Id, ForeignKey("mailboxes.id"), nullable=False),
    Column("name", String(1000), nullable=False),
    Column("delimiter", String(4)),
    Column("special_use", String(16)),
    Column("selectable", Boolean, nullable=False),
    Column("followed", Boolean, nullable=False, comment="by the include and exclude rules"),
    Column("uidvalidity", BigInteger),
    Column("uidnext", BigInteger, comment="checkpoint: UIDs below are known"),
    Column("highestmodseq", BigInteger, comment="checkpoint"),
    Column("exists_count", BigInteger, nullable=False, server_default="0"),
    Column("progress_done", Integer, nullable=False, server_default="0"),
    Column("progress_total", Integer, nullable=False, server_default="0"),
    Column("imported_at", BigInteger),
    Column("last_pass_at", BigInteger),
    Column("last_error", String(500)),
    Column("unreadable_at", BigInteger, comment="since when it can't be read; null while it can"),
    Column("gone_at", BigInteger, comment="no longer listed by the server"),
    Column("wanted_name", String(1000), comment="near side's name while a rename is on its way; name is the server's"),
    Column("on_its_way", String(8), comment="create or delete, until the server did it"),
    Column(
        "believed",
        JSON,
        comment="disappearances believed in the last hour, [[instant, count]]: guards count slices together",
    ),
    UniqueConstraint("mailbox_id", "name"),
)

blobs = Table(
    "blobs",
    metadata,
    Column("id", Id, primary_key=True),
    Column("tenant_id", Name, ForeignKey("tenants.id"), nullable=False),
    Column("content_token", LargeBinary, nullable=False, comment="keyed token of the bytes: dedup within a tenant"),
    Column("size", BigInteger, nullable=False),
    Column("stored_size", BigInteger, nullable=False),
    Column("data_key", LargeBinary, nullable=False, comment="wrapped by the tenant's key of this epoch"),
    Column("key_epoch", Integer, nullable=False),
    Column("refs", Integer, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    UniqueConstraint("tenant_id", "content_token"),
)

messages = Table(
    "messages",
    metadata,
    Column("id", Id, primary_key=True),
    Column("tenant_id", Name, ForeignKey("tenants.id"), nullable=False),
    Column("mailbox_id", Id, ForeignKey("mailboxes.id"), nullable=False),
    Column("item_ref", Ref, nullable=False, unique=True, comment="random; what the purge log calls the copy"),
    Column("anchor_at", BigInteger, nullable=False, comment="written once; the age counts from here"),
    Column("anchor_source", String(16), nullable=False, comment="internaldate, stored or rehydrated"),
    Column("internal_date_at", BigInteger, comment="as the server said; null when missing or nonsense"),
    Column("stored_at", BigInteger, nullable=False),
    Column("size", BigInteger, nullable=False, comment="of the original's bytes"),
    Column("flags", JSON, nullable=False, comment="the near side's flags, sorted"),
    Column("seen", Boolean, nullable=False),
    Column("flagged", Boolean, nullable=False),
    Column("has_files", Boolean, nullable=False),
    Column("thread_id", Id, nullable=False),
    Column(
        "header_token",
        LargeBinary,
        nullable=False,
        comment="keyed token of the header block: recognises a message again",
    ),
    Column("msgid_token", LargeBinary, comment="keyed token of the Message-ID"),
    Column(
        "content_commit", LargeBinary, nullable=False, comment="purge log commitment to SHA-256(bytes) under item_ref"
    ),
    Column(
        "msgid_commit", LargeBinary, nullable=False, comment="purge log commitment to the Message-ID under item_ref"
    ),
    Column("summary", LargeBinary, nullable=False, comment="what lists show, encrypted under data_key"),
    Column("data_key", LargeBinary, nullable=False, comment="wrapped by the tenant's key of this epoch"),
    Column("key_epoch", Integer, nullable=False),
    Column("blob_id", Id, ForeignKey("blobs.id"), nullable=False),
    Column(
        "pins", Integer, nullable=False, server_default="0", comment="rows in pins; kept under the lock of this row"
    ),
    Column("unpinned_at", BigInteger, comment="when the last pin went; null while there is one or never was"),
    Column(
        "indexed",
        Boolean,
        nullable=False,
        server_default=text("false"),
        comment="search words are written behind the import",
    ),
    Column("labels", JSON, nullable=False, server_default="[]", comment="the near side's labels (Gmail), sorted"),
    Column("email_token", LargeBinary, comment="keyed token of EMAILID or X-GM-MSGID: the server's own identity"),
    Column("moving_to", Id, comment="the near side's folder while a move or an append is on its way to the server"),
    Column(
        "deleted_at", BigInteger, comment="deleted by a user: hidden; the server's answer, or a hold, is waited for"
    ),
    Index("ix_messages_tenant_id_anchor_at", "tenant_id", "anchor_at", "id"),
    Index("ix_messages_mailbox_id_header_token", "mailbox_id", "header_token"),
    Index("ix_messages_tenant_id_thread_id", "tenant_id", "thread_id"),
    Index("ix_messages_tenant_id_msgid_token", "tenant_id", "msgid_token"),
    Index("ix_messages_blob_id", "blob_id"),
    Index(
        "ix_messages_email_token",
        "mailbox_id",
        "email_token",
        sqlite_where=text("email_token IS NOT NULL"),
        postgresql_where=text("email_token IS NOT NULL"),
    ),
    Index(
        "ix_messages_moving_to",
        "moving_to",
        sqlite_where=text("moving_to IS NOT NULL"),
        postgresql_where=text("moving_to IS NOT NULL"),
    ),
    Index(
        "ix_messages_unindexed",
        "tenant_id",
        "id",
        sqlite_where=text("NOT indexed"),
        postgresql_where=text("NOT indexed"),
    ),
)

origins = Table(
    "origins",
    metadata,
    Column("folder_id", Id, ForeignKey("folders.id"), nullable=False),
    Column("uid", BigInteger, nullable=False),
    Column("uidvalidity", BigInteger, nullable=False),
    Column("tenant_id", Name, nullable=False),
    Column("mailbox_id", Id, nullable=False),
    Column("message_id", Id, ForeignKey("messages.id"), nullable=False),
    Column("flags", JSON, nullable=False, comment="base: the flags on which both sides last agreed, sorted"),
    Column(
        "vanished_at", BigInteger, comment="gone with evidence; waits for the other folders' passes (it may be a move)"
    ),
    Column("labels", JSON, comment="base: the labels on which both sides last agreed; null where there are none"),
    PrimaryKeyConstraint("folder_id", "uid", "uidvalidity"),
    Index("ix_origins_message_id", "message_id"),
    Index(
        "ix_origins_vanished",
        "mailbox_id",
        "vanished_at",
        sqlite_where=text("vanished_at IS NOT NULL"),
        postgresql_where=text("vanished_at IS NOT NULL"),
    ),
    comment="the originals' addresses at the server",
)

tombstones = Table(
    "tombstones",
    metadata,
    Column("id", Id, primary_key=True),
    Column("tenant_id", Name, ForeignKey("tenants.id"), nullable=False),
    Column("account_ref", LargeBinary, nullable=False),
    Column("mailbox_id", Id, nullable=False),
    Column("message_id", Id, nullable=False),
    Column("item_ref", Ref, nullable=False),
    Column("folder", String(1000), comment="name; null when the copy had no original"),
    Column("uidvalidity", BigInteger),
    Column("uid", BigInteger),
    Column("header_token", LargeBinary, nullable=False),
    Column("anchor_at", BigInteger, nullable=False),
    Column("reason", String(32), nullable=False),
    Column("run_id", Id),
    Column("created_at", BigInteger, nullable=False),
    Column("gone_at", BigInteger, comment="evidence that the original is gone too"),
    Index("ix_tombstones_origin", "tenant_id", "account_ref", "folder", "uidvalidity", "uid"),
    Index("ix_tombstones_header", "tenant_id", "account_ref", "header_token"),
    Index("ix_tombstones_message_id", "tenant_id", "message_id"),
    Index("ix_tombstones_anchor_at", "anchor_at"),
)

pins = Table(
    "pins",
    metadata,
    Column("tenant_id", Name, nullable=False),
    Column("message_id", Id, ForeignKey("messages.id"), nullable=False),
    Column("entity_type", Name, nullable=False),
    Column("entity_id", String(200), nullable=False),
    Column("ref", Ref, nullable=False, comment="random; what the purge log calls the pin"),
    Column("note", LargeBinary, comment="sealed under the message's data key"),
    Column("created_at", BigInteger, nullable=False),
    Column("created_by", String(200), nullable=False),
    PrimaryKeyConstraint("message_id", "entity_type", "entity_id"),
    Index("ix_pins_entity", "tenant_id", "entity_type", "entity_id", "message_id"),
)

holds = Table(
    "holds",
    metadata,
    Column("id", Id, primary_key=True),
    Column("tenant_id", Name, ForeignKey("tenants.id"), nullable=False),
    Column("scope", String(16), nullable=False, comment="tenant, mailbox or messages"),
    Column("mailbox_id", Id),
    Column("matter", String(200), nullable=False),
    Column("reason", String(1000), nullable=False),
    Column("placed_at", BigInteger, nullable=False),
    Column("placed_by", String(200), nullable=False),
    Column("released_at", BigInteger),
    Column("released_by", String(200)),
    Column("release_reason", String(1000)),
    Column("protects_until_at", BigInteger, comment="release plus its delay; null while it stands"),
    Index("ix_holds_tenant_id", "tenant_id", "scope"),
)

hold_messages = Table(
    "hold_messages",
    metadata,
    Column("hold_id", Id, ForeignKey("holds.id"), nullable=False),
    Column("message_id", Id, nullable=False),
    PrimaryKeyConstraint("hold_id", "message_id"),
    Index("ix_hold_messages_message_id", "message_id"),
)

runs = Table(
    "runs",
    metadata,
    Column("id", Id, primary_key=True),
    Column("kind", String(16), nullable=False, comment="purge or sync"),
    Column("tenant_id", Name, comment="null: all tenants"),
    Column("mailbox_id", Id),
    Column("state", String(16), nullable=False, comment="queued, running, completed, halted, failed"),
    Column("trigger", String(32), nullable=False, comment="schedule, request, live"),
    Column("actor", String(200), nullable=False),
    Column("dry_run", Boolean, nullable=False, server_default=text("false")),
    Column("now_at", BigInteger, nullable=False, comment="the instant by which everything was judged"),
    Column("started_at", BigInteger, nullable=False),
    Column("finished_at", BigInteger),
    Column(
        "counts",
        JSON,
        nullable=False,
        comment="purge: candidates, purged, kept by reason, failed; sync: new, changed, gone",
    ),
    Column("policy", JSON, comment="version and hash"),
    Column("detail", String(1000)),
    Index("ix_runs_kind", "kind", "id"),
    Index("ix_runs_mailbox_id", "mailbox_id", "id"),
)

blob_erasures = Table(
    "blob_erasures",
    metadata,
    Column("blob_id", Id, primary_key=True),
    Column("tenant_id", Name, nullable=False),
    Column("item_ref", Ref),
    Column("run_id", Id),
    Column("stored_size", BigInteger, nullable=False, server_default="0"),
    Column("queued_at", BigInteger, nullable=False),
    Column("attempts", Integer, nullable=False, server_default="0"),
    Column("next_at", BigInteger, nullable=False),
    Column("last_error", String(500)),
    Index("ix_blob_erasures_next_at", "next_at"),
)

log_leaves = Table(
    "log_leaves",
    metadata,
    Column("tenant_id", Name, nullable=False),
    Column("idx", BigInteger, nullable=False),
    Column("body", LargeBinary, nullable=False),
    Column("hash", LargeBinary, nullable=False, comment="RFC 6962 leaf hash"),
    Column("type", String(32), nullable=False),
    Column("at", BigInteger, nullable=False),
    Column("run_id", Id),
    Column("item_ref", Ref),
    PrimaryKeyConstraint("tenant_id", "idx"),
    Index(
        "ix_log_leaves_item_ref",
        "tenant_id",
        "item_ref",
        sqlite_where=text("item_ref IS NOT NULL"),
        postgresql_where=text("item_ref IS NOT NULL"),
    ),
    comment="the purge log's entries, one tree per tenant",
)

log_tiles = Table(
    "log_tiles",
    metadata,
    Column("tenant_id", Name, nullable=False),
    Column("level", Integer, nullable=False),
    Column("n", BigInteger, nullable=False),
    Column("hashes", LargeBinary, nullable=False, comment="256 hashes: full tiles only, made when first needed"),
    PrimaryKeyConstraint("tenant_id", "level", "n"),
)

log_checkpoints = Table(
    "log_checkpoints",
    metadata,
    Column("tenant_id", Name, nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("root", LargeBinary, nullable=False),
    Column("note", Text, nullable=False, comment="C2SP signed checkpoint"),
    Column("signed_at", BigInteger, nullable=False),
    PrimaryKeyConstraint("tenant_id", "size"),
)

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

quarantine = Table(
    "quarantine",
    metadata,
    Column("id", Id, primary_key=True),
    Column("tenant_id", Name, nullable=False),
    Column("mailbox_id", Id, ForeignKey("mailboxes.id"), nullable=False),
    Column("folder_id", Id, ForeignKey("folders.id"), nullable=False),
    Column("uidvalidity", BigInteger, nullable=False),
    Column("uid", BigInteger, nullable=False),
    Column("reason", String(500), nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("first_seen_at", BigInteger, nullable=False),
    Column("last_seen_at", BigInteger, nullable=False),
    Column("cause", String(16), nullable=False, server_default="unknown", comment="slug of the reason"),
    Column("size", BigInteger, comment="of the original, as the server announced it; null while not known"),
    Column("header_token", LargeBinary, comment="keyed token of the header block, if that much arrived"),
    Column(
        "message_id", Id, comment="the copy that holds its bytes all the same, with an empty summary; null: no bytes"
    ),
    Column("build", String(64), comment="program version of the last attempt"),
    Column("limit_bytes", BigInteger, comment="sync.max_message_bytes at the last attempt"),
    Column("retry_at", BigInteger, comment="when a retry was asked for; null: none waits"),
    UniqueConstraint("folder_id", "uidvalidity", "uid"),
    Index("ix_quarantine_mailbox_id", "mailbox_id", "id"),
    Index(
        "ix_quarantine_message_id",
        "message_id",
        sqlite_where=text("message_id IS NOT NULL"),
        postgresql_where=text("message_id IS NOT NULL"),
    ),
)

operations = Table(
    "operations",
    metadata,
    Column("id", Id, primary_key=True),
    Column("tenant_id", Name, ForeignKey("tenants.id"), nullable=False),
    Column("mailbox_id", Id, ForeignKey("mailboxes.id"), nullable=False),
    Column("seq", BigInteger, nullable=False, comment="order in which the mailbox's operations are brought"),
    Column("kind", String(16), nullable=False),
    Column("state", String(16), nullable=False, comment="pending, sent (its answer is not known), applied or failed"),
    Column("message_id", Id, comment="of ours; the copy may be gone by now"),
    Column("folder_id", Id, comment="where to, or the folder that is created, renamed or deleted"),
    Column("from_folder_id", Id, comment="where the message stood when it was asked for"),
    Column("detail", JSON, nullable=False, comment="what is asked for, by kind"),
    Column("journal", JSON, comment="what was written down before the command was sent"),
    Column("attempts", Integer, nullable=False, server_default="0"),
    Column("next_at", BigInteger, comment="not before; null: at once"),
    Column("reason", String(500), comment="why it failed, or what it waits for"),
    Column("code", String(64), comment="slug of the reason, or the server's response code"),
    Column("requested_at", BigInteger, nullable=False),
    Column("requested_by", String(200), nullable=False),
    Column("finished_at", BigInteger),
    UniqueConstraint("mailbox_id", "seq"),
    Index("ix_operations_tenant_id", "tenant_id", "id"),
    Index(
        "ix_operations_open",
        "mailbox_id",
        "seq",
        sqlite_where=text("finished_at IS NULL"),
        postgresql_where=text("finished_at IS NULL"),
    ),
    Index(
        "ix_operations_open_message",
        "message_id",
        sqlite_where=text("finished_at IS NULL"),
        postgresql_where=text("finished_at IS NULL"),
    ),
    comment="changes that the CRM asked for and that the server must make",
)

guards = Table(
    "guards",
    metadata,
    Column("id", Id, primary_key=True),
    Column("tenant_id", Name, ForeignKey("tenants.id"), nullable=False),
    Column("mailbox_id", Id, ForeignKey("mailboxes.id"), nullable=False),
    Column("folder_id", Id, ForeignKey("folders.id"), nullable=False),
    Column("uidvalidity", BigInteger, nullable=False),
    Column(
        "digest", LargeBinary, nullable=False, comment="SHA-256 of the UIDs that are gone: changed evidence, new guard"
    ),
    Column("known", Integer, nullable=False),
    Column("gone", Integer, nullable=False),
    Column("reason", String(500), nullable=False),
    Column("raised_at", BigInteger, nullable=False),
    Column("approved_at", BigInteger),
    Column("approved_by", String(200)),
    Column(
        "through_at", BigInteger, comment="approved and found valid: what was seen gone until then is being carried out"
    ),
    Column("closed_at", BigInteger),
    Column("outcome", String(16), comment="how it was closed: carried_out, restored or changed"),
    Index("ix_guards_mailbox_id", "mailbox_id", "id"),
    Index(
        "ix_guards_open",
        "folder_id",
        unique=True,
        sqlite_where=text("closed_at IS NULL"),
        postgresql_where=text("closed_at IS NULL"),
    ),
    comment="deletions that were refused as improbable",
)

search_docs = Table(
    "search_docs",
    metadata,
    Column("doc", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True),
    Column("tenant_id", Name, nullable=False),
    Column("message_id", Id, ForeignKey("messages.id"), nullable=False, unique=True),
    comment="a message's number in search_index, which the migrations make",
)

tokens = Table(
    "tokens",
    metadata,
    Column("id", Id, primary_key=True),
    Column("name", String(200), nullable=False),
    Column("secret_hash", LargeBinary, nullable=False, unique=True, comment="SHA-256 of a random 256-bit token"),
    Column("scopes", JSON, nullable=False),
    Column("tenant_id", Name, comment="null: all tenants"),
    Column("created_at", BigInteger, nullable=False),
    Column("expires_at", BigInteger),
    Column("last_used_at", BigInteger),
    Column("revoked_at", BigInteger),
)

idempotency_keys = Table(
    "idempotency_keys",
    metadata,
    Column("token_id", Id, nullable=False),
    Column("key", String(200), nullable=False),
    Column("fingerprint", LargeBinary, nullable=False, comment="of method, path and body"),
    Column("status", Integer),
    Column("body", LargeBinary),
    Column("created_at", BigInteger, nullable=False),
    PrimaryKeyConstraint("token_id", "key"),
)
