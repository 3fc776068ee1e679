"""The installation's own: its facts, leases, processes and what they measure, tokens, repeated requests."""

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

processes = Table(
    "processes",
    metadata,
    Column("owner", String(128), primary_key=True, comment="as in leases"),
    Column("version", String(64), nullable=False),
    Column("started_at", BigInteger, nullable=False),
    Column("seen_at", BigInteger, nullable=False),
    Column("memory", BigInteger, nullable=False, comment="bytes that are resident; 0: not known"),
    Column("processor_ms", BigInteger, nullable=False, comment="processor time since the start"),
    Column("load", Integer, nullable=False, comment="thousandths of a processor in the last minute"),
    comment="processes that serve, as each says once a minute",
)

samples = Table(
    "samples",
    metadata,
    Column("at", BigInteger, primary_key=True, autoincrement=False, comment="the beginning of a minute"),
    Column("figures", JSON, nullable=False, comment="numbers by their names"),
    comment="what the gateway measured of itself, once a minute",
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
