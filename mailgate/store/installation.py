"""Facts of the installation that are fixed by whoever comes first, whichever process that is."""

from __future__ import annotations

from sqlalchemy import select

from mailgate.store.database import Database
from mailgate.store.schema import installation
from mailgate.store.transaction import Transaction

LEDGER_ORIGIN = "ledger.origin"


async def fix(db: Database, key: str, value: str) -> str:
    """The fact that stands under `key`: `value` if nothing stood there before."""
    standing = select(installation.c.value).where(installation.c.key == key)
    async with db.read() as conn:
        found: str | None = (await conn.execute(standing)).scalar_one_or_none()
    if found is not None:
        return found

    async def work(tx: Transaction) -> str:
        await tx.conn.execute(tx.insert(installation).values(key=key, value=value).on_conflict_do_nothing())
        fixed: str = (await tx.conn.execute(standing)).scalar_one()
        return fixed

    return await db.transact(work)
