"""Facts of the installation. Some are fixed by whoever comes first, whichever process that is."""

from __future__ import annotations

from sqlalchemy import BigInteger, cast, select
from sqlalchemy.ext.asyncio import AsyncConnection

from mailgate.clock import Instant
from mailgate.store.database import Database
from mailgate.store.schema import installation
from mailgate.store.transaction import Transaction

LEDGER_ORIGIN = "ledger.origin"
LEDGER_KEY = "ledger.key"
"""The public key that purge logs are signed with, in hexadecimal: it tells a key store that is not this one's."""
CLOCK_MARK = "clock.last_seen_at"
"""The latest time on record (`mailgate.store.latest_time`)."""

SUBSCRIPTION_RULES = "subscriptions.rules"
"""The rules under which the periods of subscriptions were computed last, as JSON."""
SUBMISSIONS_PRUNED = "submissions.pruned_before"
"""Of what ended before this instant, submissions may have been pruned; none of what ended later was."""


async def fix(db: Database, key: str, value: str) -> str:
    """The fact that stands under `key`: `value` if nothing stood there before."""
    async with db.read() as conn:
        found = await read(conn, key)
    if found is not None:
        return found

    async def work(tx: Transaction) -> str:
        await tx.conn.execute(tx.insert(installation).values(key=key, value=value).on_conflict_do_nothing())
        return await read(tx.conn, key) or value

    return await db.transact(work)


async def read(conn: AsyncConnection, key: str) -> str | None:
    """The fact that stands under `key`, if any."""
    query = select(installation.c.value).where(installation.c.key == key)
    value: str | None = (await conn.execute(query)).scalar_one_or_none()
    return value


async def put(db: Database, key: str, value: str) -> None:
    """Replace the fact that stands under `key`."""
    await db.transact(lambda tx: put_in(tx, key, value))


async def put_in(tx: Transaction, key: str, value: str) -> None:
    """The same within a transaction."""
    fact = tx.insert(installation).values(key=key, value=value)
    await tx.conn.execute(fact.on_conflict_do_update(index_elements=[installation.c.key], set_={"value": value}))


async def latest_time(conn: AsyncConnection) -> Instant | None:
    """The latest time on record: a clock that shows an earlier one was set back."""
    mark = await read(conn, CLOCK_MARK)
    return None if mark is None else int(mark)


async def mark_time(tx: Transaction, now: Instant, *, force: bool) -> None:
    """Move the latest time on record to `now`; back only by `force`. One statement: processes may do it at once."""
    fact = tx.insert(installation).values(key=CLOCK_MARK, value=str(now))
    later = None if force else cast(installation.c.value, BigInteger) < now
    changed = {"value": fact.excluded.value}
    await tx.conn.execute(fact.on_conflict_do_update(index_elements=[installation.c.key], set_=changed, where=later))
