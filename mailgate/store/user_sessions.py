"""Sessions of people: rows found by the hash of the random secret in a cookie. Signing out deletes the row, and with it
the session ends in every process at once.
"""

from __future__ import annotations

import base64
import hashlib
import os
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Row, delete, insert, or_, select, update

from mailgate.clock import MINUTE, Instant
from mailgate.store.database import Database
from mailgate.store.schema import user_sessions, users
from mailgate.store.transaction import Transaction
from mailgate.store.users import User, user_of

_S = user_sessions.c


@dataclass(frozen=True, slots=True)
class Session:
    """A session without its secret. `passed` False: the one-time code is still asked for."""

    secret_hash: bytes
    user_id: str
    created_at: Instant
    seen_at: Instant
    expires_at: Instant
    passed: bool
    address: str | None
    agent: str | None


def hash_of(secret: str) -> bytes:
    """What is kept of a secret."""
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).digest()


async def begin(
    db: Database,
    user_id: str,
    now: Instant,
    expires_at: Instant,
    *,
    passed: bool,
    address: str | None,
    agent: str | None,
    instead_of: bytes | None = None,
) -> str:
    """A new session, in place of another if that is named; its secret, 256 random bits."""
    secret = base64.urlsafe_b64encode(os.urandom(32)).rstrip(b"=").decode()
    values = {
        "secret_hash": hash_of(secret),
        "user_id": user_id,
        "created_at": now,
        "seen_at": now,
        "expires_at": expires_at,
        "passed_at": now if passed else None,
        "address": address,
        "agent": None if agent is None else agent[:200],
    }

    async def work(tx: Transaction) -> None:
        if instead_of is not None:
            await tx.conn.execute(delete(user_sessions).where(_S.secret_hash == instead_of))
        await tx.conn.execute(insert(user_sessions).values(values))
        if passed:
            await tx.conn.execute(update(users).where(users.c.id == user_id).values(signed_in_at=now))

    await db.transact(work)
    return secret


async def find(
    db: Database, secret: str, now: Instant, *, idle: Instant, used: bool = True
) -> tuple[Session, User] | None:
    """The session with this secret and its person; None when it is over, was idle for longer, or the person is
    disabled. That it was `used` is written at most once a minute.
    """

    async def read(conn: Any) -> tuple[Session, User] | None:
        mine = (_S.secret_hash == hash_of(secret)) & (_S.expires_at > now) & (_S.seen_at > now - idle)
        row = (await conn.execute(select(user_sessions).where(mine))).one_or_none()
        if row is None:
            return None
        able = (users.c.id == row.user_id) & users.c.disabled_at.is_(None)
        person = (await conn.execute(select(users).where(able))).one_or_none()
        return None if person is None else (_session(row), user_of(person))

    found = await db.query(read)
    if found is not None and used and now - found[0].seen_at >= MINUTE:
        await _seen(db, found[0].secret_hash, now)
    return found


async def end(db: Database, secret_hash: bytes) -> None:
    """Sign out."""

    async def work(tx: Transaction) -> None:
        await tx.conn.execute(delete(user_sessions).where(_S.secret_hash == secret_hash))

    await db.transact(work)


async def end_all(db: Database, user_id: str) -> int:
    """Sign out everywhere; from how many places."""

    async def work(tx: Transaction) -> int:
        return (await tx.conn.execute(delete(user_sessions).where(_S.user_id == user_id))).rowcount

    return await db.transact(work)


async def of_user(db: Database, user_id: str, now: Instant, *, idle: Instant) -> list[Session]:
    """Where the person is signed in, the latest first."""
    query = (
        select(user_sessions)
        .where(_S.user_id == user_id, _S.expires_at > now, _S.seen_at > now - idle, _S.passed_at.is_not(None))
        .order_by(_S.created_at.desc())
    )
    async with db.read() as conn:
        return [_session(row) for row in await conn.execute(query)]


async def prune(tx: Transaction, now: Instant, idle: Instant, limit: int) -> int:
    """Forget sessions that are over, at most so many."""
    over = or_(_S.expires_at <= now, _S.seen_at <= now - idle)
    old = select(_S.secret_hash).where(over).limit(limit)
    return (await tx.conn.execute(delete(user_sessions).where(_S.secret_hash.in_(old)))).rowcount


async def _seen(db: Database, secret_hash: bytes, now: Instant) -> None:
    async def work(tx: Transaction) -> None:
        await tx.conn.execute(update(user_sessions).where(_S.secret_hash == secret_hash).values(seen_at=now))

    await db.transact(work)


def _session(row: Row[Any]) -> Session:
    return Session(
        secret_hash=row.secret_hash,
        user_id=row.user_id,
        created_at=row.created_at,
        seen_at=row.seen_at,
        expires_at=row.expires_at,
        passed=row.passed_at is not None,
        address=row.address,
        agent=row.agent,
    )
