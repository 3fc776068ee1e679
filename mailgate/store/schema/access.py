"""People who sign in to the pages, and who read or changed what."""

from __future__ import annotations

from sqlalchemy import (
    JSON,
    BigInteger,
    Column,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    PrimaryKeyConstraint,
    String,
    Table,
)

from mailgate.store.schema.base import Id, Name, metadata

users = Table(
    "users",
    metadata,
    Column("id", Id, primary_key=True),
    Column("name", String(200), nullable=False, unique=True, comment="as it is typed, in small letters"),
    Column("password_hash", String(300), nullable=False, comment="Argon2id, with its parameters"),
    Column("role", String(16), nullable=False, comment="admin or compliance"),
    Column("tenant_id", Name, comment="null: all tenants"),
    Column("language", String(8), comment="null: as the browser asks"),
    Column("created_at", BigInteger, nullable=False),
    Column("password_changed_at", BigInteger, nullable=False),
    Column("signed_in_at", BigInteger, comment="the last time"),
    Column("disabled_at", BigInteger),
    Column("totp", LargeBinary, comment="secret of one-time codes, sealed under the service key; null: none asked for"),
    Column("totp_pending", LargeBinary, comment="the same, until the first code proves that the person has it"),
    Column("totp_step", BigInteger, nullable=False, server_default="0", comment="of the last code: none counts twice"),
)

user_recovery_codes = Table(
    "user_recovery_codes",
    metadata,
    Column("user_id", Id, ForeignKey("users.id"), nullable=False),
    Column("code_hash", LargeBinary, nullable=False, comment="SHA-256 of 80 random bits; a used one is deleted"),
    PrimaryKeyConstraint("user_id", "code_hash"),
)

user_sessions = Table(
    "user_sessions",
    metadata,
    Column("secret_hash", LargeBinary, primary_key=True, comment="SHA-256 of the 256 random bits in the cookie"),
    Column("user_id", Id, ForeignKey("users.id"), nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("seen_at", BigInteger, nullable=False, comment="to the minute"),
    Column("expires_at", BigInteger, nullable=False),
    Column("passed_at", BigInteger, comment="null: the one-time code is still asked for, and nothing is shown"),
    Column("address", String(64)),
    Column("agent", String(200), comment="what the browser calls itself"),
    Index("ix_user_sessions_user_id", "user_id"),
)

sign_in_failures = Table(
    "sign_in_failures",
    metadata,
    Column("key", LargeBinary, primary_key=True, comment="keyed digest of a name as it was typed, or of an address"),
    Column("failures", Integer, nullable=False),
    Column("last_at", BigInteger, nullable=False),
    Column("blocked_until_at", BigInteger, nullable=False),
)

access_log = Table(
    "access_log",
    metadata,
    Column("id", Id, primary_key=True),
    Column("at", BigInteger, nullable=False),
    Column("until_at", BigInteger, comment="of reads that are counted together: the last one"),
    Column("kind", String(16), nullable=False, comment="change, read or sign_in"),
    Column("actor", String(200), nullable=False, comment="token:<id> or user:<id>"),
    Column("tenant_id", Name, comment="null: none in particular, or none is known"),
    Column("method", String(8), nullable=False),
    Column("route", String(200), nullable=False, comment="the template; what was meant stands in targets"),
    Column("targets", JSON, nullable=False, comment="ids that stood in the path"),
    Column("status", Integer, nullable=False),
    Column("count", Integer, nullable=False, server_default="1"),
    Column("address", String(64)),
    Index("ix_access_log_tenant_id", "tenant_id", "id"),
    Index("ix_access_log_actor", "actor", "id"),
)
