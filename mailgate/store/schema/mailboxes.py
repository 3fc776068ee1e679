"""Connected accounts and their folders."""

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
    String,
    Table,
    UniqueConstraint,
    text,
)

from mailgate.store.schema.base import Id, Name, metadata

mailboxes = Table(
    "mailboxes",
    metadata,
    Column("id", Id, primary_key=True),
    Column("tenant_id", Name, ForeignKey("tenants.id"), nullable=False),
    Column("address", String(320), nullable=False),
    Column("owner", String(200)),
    Column("shared", Boolean, nullable=False, server_default=text("false")),
    Column("enabled", Boolean, nullable=False, server_default=text("true")),
    Column("limited_by", String(32), comment="the plan's limit that switched it off; null: a person did, or it is on"),
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
    Column("backfill_id", Id, comment="the run of a backfill that was asked for and is not over"),
    Column("op_seq", BigInteger, nullable=False, server_default="0", comment="number of the last operation"),
    Index("ix_mailboxes_tenant_id", "tenant_id", "id"),
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
    Column("object_id", String(255), comment="the server's own identity of it, which a rename keeps (RFC 8474)"),
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
