"""Consents by which mail servers are used without passwords (OAuth 2.0), and those that are being given."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, ForeignKey, Index, Integer, LargeBinary, String, Table

from mailgate.store.schema.base import Id, Name, metadata

consents = Table(
    "consents",
    metadata,
    Column("mailbox_id", Id, ForeignKey("mailboxes.id"), primary_key=True),
    Column("tenant_id", Name, ForeignKey("tenants.id"), nullable=False),
    Column("provider", String(32), nullable=False),
    Column("tokens", LargeBinary, nullable=False, comment="refresh tokens, newest first, and access token; sealed"),
    Column("given", Integer, nullable=False, comment="grows with each new consent"),
    Column("version", Integer, nullable=False, comment="grows with each change of the tokens"),
    Column("given_at", BigInteger, nullable=False),
    Column("refreshed_at", BigInteger, comment="when the provider last gave an access token"),
    Column("expires_at", BigInteger, nullable=False, comment="of the access token; 0: there is none"),
    Column("renew_at", BigInteger, nullable=False, comment="from when on it is renewed"),
    Column("claimed_by", String(200), comment="who asks the provider now"),
    Column("claimed_until_at", BigInteger, nullable=False, server_default="0"),
    Column("failures", Integer, nullable=False, server_default="0", comment="in a row"),
    Column("retry_at", BigInteger, nullable=False, server_default="0", comment="not asked before"),
    Column("last_error", String(500)),
    Column("lapsed_at", BigInteger, comment="since when only a new consent helps"),
    Index("ix_consents_renew_at", "lapsed_at", "renew_at"),
)

consent_flows = Table(
    "consent_flows",
    metadata,
    Column("secret_hash", LargeBinary, primary_key=True, comment="SHA-256 of the 256 random bits of state"),
    Column("tenant_id", Name, ForeignKey("tenants.id"), nullable=False),
    Column("provider", String(32), nullable=False),
    Column("sealed", LargeBinary, nullable=False, comment="code verifier, the mailbox to be, where to go afterwards"),
    Column("browser_hash", LargeBinary, comment="SHA-256 of the cookie of who followed the link; null: nobody yet"),
    Column("expires_at", BigInteger, nullable=False),
    Index("ix_consent_flows_expires_at", "expires_at"),
)
