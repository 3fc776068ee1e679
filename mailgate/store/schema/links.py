"""Links by which people connect their mailboxes themselves."""

from __future__ import annotations

from sqlalchemy import BigInteger, Boolean, Column, Index, Integer, LargeBinary, String, Table

from mailgate.store.schema.base import Id, Name, metadata

connect_links = Table(
    "connect_links",
    metadata,
    Column("id", Id, primary_key=True),
    Column("tenant_id", Name, nullable=False),
    Column(
        "secret_hash", LargeBinary, nullable=False, unique=True, comment="SHA-256 of the 256 random bits in the URL"
    ),
    Column("owner", String(200), comment="the user of the CRM whose mailbox it will be"),
    Column("address", String(320), comment="a hint; another one may be connected"),
    Column("shared", Boolean, nullable=False),
    Column("return_url", String(2000)),
    Column("created_by", String(200), nullable=False, comment="token:<id> or user:<id>"),
    Column("created_at", BigInteger, nullable=False),
    Column("expires_at", BigInteger, nullable=False),
    Column("attempts", Integer, nullable=False, comment="look-ups and checks that were asked for"),
    Column("used_at", BigInteger),
    Column("revoked_at", BigInteger),
    Column("mailbox_id", Id, comment="what was connected"),
    Index("ix_connect_links_tenant_id", "tenant_id", "id"),
    Index("ix_connect_links_expires_at", "expires_at"),
)
