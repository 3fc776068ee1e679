"""Bearer tokens: 256 random bits each, of which only the SHA-256 is kept; with scopes, perhaps bound to one tenant.

A random secret of that size needs no slow hash: nobody can try them out. What is looked up is the hash, so the time
that a look-up takes says nothing about any secret.
"""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from sqlalchemy import Row, bindparam, desc, insert, select, update

from mailgate.clock import Instant
from mailgate.errors import NotFoundError, PreconditionError
from mailgate.ids import new_id
from mailgate.store.database import Database
from mailgate.store.paging import Page, cut
from mailgate.store.schema import tenants, tokens
from mailgate.store.transaction import Transaction

PREFIX = "mg_"
LONGEST_SECRET = 512
"""In characters: what is longer is refused before it is looked up."""


class Scope(StrEnum):
    """What a token may do. `admin` covers the others."""

    ADMIN = "admin"
    CRM = "crm"
    COMPLIANCE = "compliance"


@dataclass(frozen=True, slots=True)
class Token:
    """A token without its secret. `tenant_id` None means all tenants; `expires_at` None means never."""

    id: str
    name: str
    scopes: frozenset[Scope]
    tenant_id: str | None
    created_at: Instant
    expires_at: Instant | None
    last_used_at: Instant | None
    revoked_at: Instant | None

    def valid(self, now: Instant) -> bool:
        """Whether it still opens anything."""
        return self.revoked_at is None and (self.expires_at is None or now < self.expires_at)


def secret_hash(secret: str) -> bytes:
    """What is kept of a secret."""
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).digest()


def new_secret() -> str:
    """A secret that scanners of leaked secrets can recognise by its prefix."""
    return PREFIX + base64.urlsafe_b64encode(os.urandom(32)).rstrip(b"=").decode()


async def create(
    db: Database,
    *,
    name: str,
    scopes: Collection[Scope],
    tenant_id: str | None = None,
    expires_at: Instant | None = None,
    now: Instant,
) -> tuple[Token, str]:
    """Make a token; (token, secret), the secret to be shown once. Raises NotFoundError for an unknown tenant and
    PreconditionError when the token would never be valid.
    """
    if expires_at is not None and expires_at <= now:
        raise PreconditionError(
            "`expires_at` lies in the past: the token would never be valid", slug="expires_at_in_the_past"
        )
    secret = new_secret()
    token = Token(new_id(now), name, frozenset(scopes), tenant_id, now, expires_at, None, None)

    async def work(tx: Transaction) -> None:
        if tenant_id is not None:
            living = select(tenants.c.id).where(tenants.c.id == tenant_id, tenants.c.erasing_at.is_(None))
            known = await tx.conn.execute(living.with_for_update(read=True))
            if known.one_or_none() is None:
                raise NotFoundError(f"there is no tenant {tenant_id!r}", slug="tenant_not_found")
        await tx.conn.execute(
            insert(tokens).values(
                id=token.id,
                name=name,
                secret_hash=secret_hash(secret),
                scopes=sorted(token.scopes),
                tenant_id=tenant_id,
                created_at=now,
                expires_at=expires_at,
            )
        )

    await db.transact(work)
    return token, secret


async def find(db: Database, secret: str) -> Token | None:
    """The token that has this secret, valid or not; None when there is none."""
    async with db.read() as conn:
        row = (await conn.execute(select(tokens).where(tokens.c.secret_hash == secret_hash(secret)))).one_or_none()
    return None if row is None else _token(row)


async def names(db: Database, ids: Sequence[str]) -> dict[str, str]:
    """Names by id."""
    async with db.read() as conn:
        query = select(tokens.c.id, tokens.c.name).where(tokens.c.id.in_(ids))
        return {row.id: row.name for row in await conn.execute(query)}


async def any_admin(db: Database) -> bool:
    """Whether an unrevoked admin token exists: then `mailgate init` need not make one."""
    async with db.read() as conn:
        rows = (await conn.execute(select(tokens).where(tokens.c.revoked_at.is_(None)))).all()
    return any(Scope.ADMIN in _token(row).scopes for row in rows)


async def list_page(db: Database, *, tenant_id: str | None, after: str | None, limit: int) -> Page[Token]:
    """Tokens, newest first; of one tenant, or all. The page's key is (id,)."""
    query = select(tokens).order_by(desc(tokens.c.id)).limit(limit + 1)
    if tenant_id is not None:
        query = query.where(tokens.c.tenant_id == tenant_id)
    if after is not None:
        query = query.where(tokens.c.id < after)
    async with db.read() as conn:
        rows, more = cut((await conn.execute(query)).all(), limit)
    return Page([_token(row) for row in rows], (rows[-1].id,) if more else None)


async def revoke(db: Database, token_id: str, *, tenant_id: str | None, now: Instant) -> None:
    """End a token at once; ending it again changes nothing. Raises NotFoundError."""

    async def work(tx: Transaction) -> None:
        which = tokens.c.id == token_id
        if tenant_id is not None:
            which &= tokens.c.tenant_id == tenant_id
        found = (await tx.conn.execute(select(tokens.c.id).where(which))).one_or_none()
        if found is None:
            raise NotFoundError(f"there is no token {token_id!r}", slug="token_not_found")
        await tx.conn.execute(update(tokens).where(which, tokens.c.revoked_at.is_(None)).values(revoked_at=now))

    await db.transact(work)


async def note_use(db: Database, used: Mapping[str, Instant]) -> None:
    """Record when tokens were last used; gathered by the caller, so that reading does not write."""
    if not used:
        return

    async def work(tx: Transaction) -> None:
        statement = update(tokens).where(tokens.c.id == bindparam("token")).values(last_used_at=bindparam("at"))
        await tx.conn.execute(statement, [{"token": token, "at": at} for token, at in sorted(used.items())])

    await db.transact(work)


def _token(row: Row[tuple[object, ...]]) -> Token:
    return Token(
        id=row.id,
        name=row.name,
        scopes=frozenset(Scope(scope) for scope in row.scopes),
        tenant_id=row.tenant_id,
        created_at=row.created_at,
        expires_at=row.expires_at,
        last_used_at=row.last_used_at,
        revoked_at=row.revoked_at,
    )
