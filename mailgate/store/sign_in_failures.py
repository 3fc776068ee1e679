"""Trying out passwords is slowed down: after a few failures each further one makes the next wait longer, by the name
that was typed and by the address it came from.

An attempt is counted as failed before the password is looked at, and taken back when it was right: however many come at
the same moment, no more than the free ones are looked at.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import delete, select, update

from mailgate.clock import DAY, MINUTE, SECOND, Instant, is_over
from mailgate.store.database import Database
from mailgate.store.schema import sign_in_failures
from mailgate.store.transaction import Transaction

_F = sign_in_failures.c

FIRST_PAUSE: Instant = 15 * SECOND
LONGEST_PAUSE: Instant = 15 * MINUTE
"""A pause that has no end would let anybody keep a person out."""
FORGOTTEN_AFTER: Instant = 1 * DAY


@dataclass(frozen=True, slots=True)
class Counted:
    """What failures are counted by: a keyed digest, and how many are free of a pause."""

    key: bytes
    free: int


def pause(failures: int, free: int) -> Instant:
    """How long the next attempt has to wait after so many failures."""
    over = failures - free
    return 0 if over <= 0 else min(FIRST_PAUSE << min(over - 1, 20), LONGEST_PAUSE)


async def attempt(db: Database, by: Sequence[Counted], now: Instant) -> Instant | None:
    """Count an attempt as failed; None when it may be looked at, else when the next one may be made."""

    async def work(tx: Transaction) -> Instant | None:
        known = {}
        for counted in sorted(by, key=lambda counted: counted.key):
            blank = {"key": counted.key, "failures": 0, "last_at": now, "blocked_until_at": 0}
            await tx.conn.execute(tx.insert(sign_in_failures).values(blank).on_conflict_do_nothing())
            query = select(sign_in_failures).where(_F.key == counted.key).with_for_update()
            known[counted.key] = (await tx.conn.execute(query)).one()
        until = max((row.blocked_until_at for row in known.values()), default=0)
        if not is_over(until, now, LONGEST_PAUSE):
            return int(until)
        for counted in by:
            row = known[counted.key]
            failures = 1 + (row.failures if now - row.last_at < FORGOTTEN_AFTER else 0)
            until = now + pause(failures, counted.free)
            values = {"failures": failures, "last_at": now, "blocked_until_at": until}
            await tx.conn.execute(update(sign_in_failures).where(_F.key == counted.key).values(values))
        return None

    return await db.transact(work)


async def take_back(db: Database, name: Counted, address: Counted) -> None:
    """The attempt was right: the name's failures are forgotten, the address has one less."""

    async def work(tx: Transaction) -> None:
        await tx.conn.execute(delete(sign_in_failures).where(_F.key == name.key))
        less = update(sign_in_failures).where(_F.key == address.key, _F.failures > 0)
        await tx.conn.execute(less.values(failures=_F.failures - 1, blocked_until_at=0))

    await db.transact(work)


async def prune(tx: Transaction, now: Instant, limit: int) -> int:
    """Forget failures of long ago, at most so many."""
    old = select(_F.key).where(_F.last_at < now - FORGOTTEN_AFTER).limit(limit)
    return (await tx.conn.execute(delete(sign_in_failures).where(_F.key.in_(old)))).rowcount
