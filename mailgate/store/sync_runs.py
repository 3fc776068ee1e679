"""Passes over a mailbox that somebody asked for: rows of `runs` of kind sync, taken up by whichever process owns it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import bindparam, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from mailgate.clock import Instant
from mailgate.ids import new_id
from mailgate.store.runs import COMPLETED, FAILED, QUEUED, RUNNING, SYNC
from mailgate.store.schema import runs
from mailgate.store.transaction import Transaction
from mailgate.sync.incoming import Applied

_R = runs.c
_FAIL_CUT = (
    update(runs)
    .where(_R.kind == SYNC, _R.mailbox_id == bindparam("mailbox"), _R.state == RUNNING)
    .values(state=FAILED, finished_at=bindparam("now"), detail="the process that ran it ended")
)
_QUEUED = select(_R.id, _R.mailbox_id).where(_R.kind == SYNC, _R.state == QUEUED)


async def request(tx: Transaction, mailbox_id: str, tenant_id: str, actor: str, now: Instant) -> str:
    """Queue one pass; its id. One that is queued already is returned again."""
    waiting = select(_R.id).where(_R.kind == SYNC, _R.mailbox_id == mailbox_id, _R.state == QUEUED)
    found: str | None = (await tx.conn.execute(waiting.limit(1))).scalar_one_or_none()
    if found is not None:
        return found
    run_id = new_id(now)
    await tx.conn.execute(
        insert(runs).values(
            id=run_id,
            kind=SYNC,
            tenant_id=tenant_id,
            mailbox_id=mailbox_id,
            state=QUEUED,
            trigger="request",
            actor=actor,
            now_at=now,
            started_at=now,
            counts=Applied().to_json(),
        )
    )
    return run_id


async def queued(conn: AsyncConnection) -> dict[str, list[str]]:
    """Passes that wait, by mailbox."""
    found: dict[str, list[str]] = {}
    for row in await conn.execute(_QUEUED):
        found.setdefault(row.mailbox_id, []).append(row.id)
    return found


async def begin(tx: Transaction, mailbox_id: str, run_ids: Sequence[str], now: Instant) -> list[str]:
    """The passes begin; those that did: the others were begun before."""
    mine = _R.id.in_(run_ids) & (_R.mailbox_id == mailbox_id) & (_R.state == QUEUED)
    begun = update(runs).where(mine).values(state=RUNNING, started_at=now).returning(_R.id)
    return list((await tx.conn.execute(begun)).scalars())


async def finish(
    tx: Transaction, run_ids: Sequence[str], now: Instant, counts: Mapping[str, Any], failure: str | None
) -> None:
    """The passes ended; `failure` says why they failed."""
    values = {
        "state": COMPLETED if failure is None else FAILED,
        "finished_at": now,
        "counts": dict(counts),
        "detail": None if failure is None else failure[:1000],
    }
    unfinished = _R.id.in_(run_ids) & _R.state.in_([QUEUED, RUNNING])
    await tx.conn.execute(update(runs).where(unfinished).values(values))


async def fail_cut(tx: Transaction, mailbox_id: str, now: Instant) -> None:
    """A pass of an owner that is no more will never end by itself."""
    await tx.conn.execute(_FAIL_CUT, {"mailbox": mailbox_id, "now": now})
