"""The purge log."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Index, Integer, LargeBinary, PrimaryKeyConstraint, String, Table, Text, text

from mailgate.store.schema.base import Id, Name, Ref, metadata

FREQUENT = ("item.purge", "blob.erase")
"""Types of which a log may have millions."""
RARE = "type NOT IN ('item.purge', 'blob.erase')"

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
    Index(
        "ix_log_leaves_run_id",
        "tenant_id",
        "run_id",
        "idx",
        sqlite_where=text("run_id IS NOT NULL"),
        postgresql_where=text("run_id IS NOT NULL"),
    ),
    # What is not in it is nearly everything, and found by looking through a few.
    Index(
        "ix_log_leaves_type",
        "tenant_id",
        "type",
        "idx",
        sqlite_where=text(RARE),
        postgresql_where=text(RARE),
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
    Column("stamp", LargeBinary, comment="RFC 3161 answer of a time-stamping authority"),
    Column("stamp_error", String(500)),
    PrimaryKeyConstraint("tenant_id", "size"),
)
