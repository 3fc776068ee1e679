"""The installation's own: its facts, leases, tokens, repeated requests."""

from __future__ import annotations

from sqlalchemy import JSON, BigInteger, Column, Integer, LargeBinary, PrimaryKeyConstraint, String, Table, Text

from mailgate.store.schema.base import Id, Name, metadata

installation = Table(
    "installation",
    metadata,
    Column("key", String(64), primary_key=True),
    Column("value", Text, nullable=False),
    comment="Facts fixed at set-up (ledger origin) and marks of time (latest time seen)",
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
