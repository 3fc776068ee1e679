"""Answers kept by Idempotency-Key: a client that repeats a POST gets the first one's answer, not a second thing.

A key is reserved before the work and settled after it. A reservation that was never settled (the process was killed) is
taken over after a minute: the client learns by its own repetition what happened.
"""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import delete, select, update

from mailgate.clock import MINUTE, Instant
from mailgate.errors import ConflictError, PreconditionError
from mailgate.store.database import Database
from mailgate.store.schema import idempotency_keys
from mailgate.store.transaction import Transaction

_ABANDONED_AFTER = MINUTE


@dataclass(frozen=True, slots=True)
class Kept:
    """An answer as it was given; `body` is sealed by the caller, since it may hold a secret."""

    status: int
    body: bytes


async def reserve(
    db: Database, token_id: str, key: str, fingerprint: bytes, *, keep: Instant, now: Instant
) -> Kept | None:
    """Claim the key for this request, or return the answer that was given to it before.

    `fingerprint` is of method, path and body; `keep` is how long answers are kept, in microseconds. Raises
    PreconditionError when the key was used for something else, ConflictError while the first request is still at work.
    """

    async def work(tx: Transaction) -> Kept | None:
        mine = (idempotency_keys.c.token_id == token_id) & (idempotency_keys.c.key == key)
        await tx.conn.execute(delete(idempotency_keys).where(idempotency_keys.c.created_at <= now - keep))
        claim = tx.insert(idempotency_keys).values(token_id=token_id, key=key, fingerprint=fingerprint, created_at=now)
        claimed = claim.on_conflict_do_nothing().returning(idempotency_keys.c.key)
        if (await tx.conn.execute(claimed)).one_or_none() is not None:
            return None
        row = (await tx.conn.execute(select(idempotency_keys).where(mine).with_for_update())).one()
        if row.fingerprint != fingerprint:
            raise PreconditionError(
                "this Idempotency-Key was used for another request; take a new one for each thing to make",
                slug="idempotency_key_reused",
            )
        if row.status is not None:
            return Kept(row.status, row.body)
        if now < row.created_at + _ABANDONED_AFTER:
            raise ConflictError(
                "the first request with this Idempotency-Key is still at work; try again in a moment",
                slug="idempotency_in_progress",
            )
        await tx.conn.execute(update(idempotency_keys).where(mine).values(created_at=now))
        return None

    return await db.transact(work)


async def settle(db: Database, token_id: str, key: str, kept: Kept | None) -> None:
    """Keep the answer; None frees the key again, since nothing was made."""

    async def work(tx: Transaction) -> None:
        mine = (idempotency_keys.c.token_id == token_id) & (idempotency_keys.c.key == key)
        if kept is None:
            await tx.conn.execute(delete(idempotency_keys).where(mine, idempotency_keys.c.status.is_(None)))
        else:
            await tx.conn.execute(update(idempotency_keys).where(mine).values(status=kept.status, body=kept.body))

    await db.transact(work)
