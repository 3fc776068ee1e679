"""Of which purge logs a checkpoint was kept outside the database (`mailgate.store.witness`), as the database remembers.

Whoever wants to go back to an older database, unseen, takes away the checkpoint that would tell. So one that was kept
and is not there is never made anew by itself: nothing more of that log is signed until it is back or somebody says that
a new one begins.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from functools import partial

from sqlalchemy import select, update

from mailgate.store.database import Database
from mailgate.store.schema import tenant_heads, tenants
from mailgate.store.transaction import Transaction
from mailgate.store.witness import Witness

_H = tenant_heads.c


async def was_kept(db: Database, tenant_id: str) -> bool:
    """Whether a checkpoint of the tenant's log must be there."""
    async with db.read() as conn:
        kept: bool = (await conn.execute(select(_H.witnessed).where(_H.tenant_id == tenant_id))).scalar_one()
    return kept


async def note_kept(db: Database, tenant_id: str) -> None:
    """Remember that one was kept."""
    await db.transact(partial(_set, tenant_id))


async def begin_anew(db: Database) -> None:
    """Somebody said that a new witness begins: what is not there is made anew."""

    async def work(tx: Transaction) -> None:
        await tx.conn.execute(update(tenant_heads).values(witnessed=False))

    await db.transact(work)


async def lost(db: Database, witness: Witness) -> Mapping[str, str]:
    """By tenant, what to say of the logs whose checkpoint is not there any more; nothing while the whole folder is
    away, which is said of that.
    """
    query = select(tenants.c.id, tenants.c.ref).join(tenant_heads).where(_H.witnessed)
    async with db.read() as conn:
        kept = (await conn.execute(query)).all()
    if await asyncio.to_thread(lambda: witness.fault) is not None:
        return {}
    there = await asyncio.to_thread(lambda: set(witness.refs()))
    return {tenant_id: why_lost(tenant_id, ref) for tenant_id, ref in kept if ref not in there}


def why_lost(tenant_id: str, ref: str) -> str:
    """What to say of one, and what to do."""
    return (
        f"{ref}.checkpoint, the last of the purge log of tenant {tenant_id}, is gone from ledger.witness: put it back "
        "from a backup of that folder, or take `checkpoint` of the log's newest export. If there is none, compare the "
        "log with what auditors have (`mailgate audit consistency`), then begin anew (`mailgate restore "
        "--new-witness`). Nothing more of it is signed until then"
    )


async def _set(tenant_id: str, tx: Transaction) -> None:
    await tx.conn.execute(update(tenant_heads).where(_H.tenant_id == tenant_id).values(witnessed=True))
