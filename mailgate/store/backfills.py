"""Backfills: older mail of a mailbox is fetched again because somebody asked for it.

A row of `runs` says who asked when, and for how many days; `mailboxes.backfill_id` names it while it is not over. That
is the only thing by which purged mail may come back through a pass: every batch that would bring some looks at it under
the mailbox's lock. Whoever owns the mailbox begins it, which means that all followed folders are read as if for the
first time; what was done is known by what is here, so a process that is killed costs nothing but time.
"""

from __future__ import annotations

from sqlalchemy import insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from mailgate.actors import Actor
from mailgate.clock import DAY, Instant
from mailgate.ids import new_id
from mailgate.store.runs import BACKFILL, COMPLETED, FAILED, QUEUED, RUNNING, actor_from_text
from mailgate.store.schema import folders, mailboxes, runs
from mailgate.store.transaction import Transaction
from mailgate.sync.state import Backfill

_R = runs.c
_B = mailboxes.c


def reach(now_at: Instant, days: int) -> Instant:
    """Nothing received before is brought back."""
    return now_at - days * DAY


async def standing(conn: AsyncConnection, mailbox_id: str) -> tuple[Backfill, int] | None:
    """The mailbox's backfill that is not over, and its days."""
    query = (
        select(_R.id, _R.now_at, _R.days, _R.state)
        .join(mailboxes, _B.backfill_id == _R.id)
        .where(_B.id == mailbox_id, _R.finished_at.is_(None))
    )
    row = (await conn.execute(query)).one_or_none()
    if row is None:
        return None
    days = row.days or 0
    return Backfill(row.id, reach(row.now_at, days), begun=row.state == RUNNING), days


async def request(tx: Transaction, tenant_id: str, mailbox_id: str, days: int, now: Instant, actor: Actor) -> str:
    """Ask for one, of a locked mailbox that has none: lower its import floor, and have its sync begin anew; the run."""
    run_id = new_id(now)
    floor_at = reach(now, days)
    await tx.conn.execute(
        insert(runs).values(
            id=run_id,
            kind=BACKFILL,
            tenant_id=tenant_id,
            mailbox_id=mailbox_id,
            state=QUEUED,
            trigger="request",
            actor=str(actor),
            now_at=now,
            started_at=now,
            counts={"new": 0, "rehydrated": 0},
            days=days,
        )
    )
    mine = _B.id == mailbox_id
    asked = {"backfill_id": run_id, "config_version": _B.config_version + 1}
    await tx.conn.execute(update(mailboxes).where(mine).values(asked))
    lower = update(mailboxes).where(mine, _B.import_floor_at > floor_at)
    await tx.conn.execute(lower.values(import_floor_at=floor_at))
    payload = {"run_id": run_id, "days": days, "floor_at": floor_at, "requested_by": str(actor)}
    tx.emit(tenant_id, "mailbox.backfill_requested", at=now, mailbox_id=mailbox_id, payload=payload)
    return run_id


async def begin(tx: Transaction, mailbox_id: str, run_id: str, now: Instant) -> None:
    """Its folders are read as if for the first time, and their progress begins anew."""
    mine = (_R.id == run_id) & (_R.state == QUEUED)
    if not (await tx.conn.execute(update(runs).where(mine).values(state=RUNNING, started_at=now))).rowcount:
        return
    unread = {"uidnext": None, "highestmodseq": None, "progress_done": 0, "progress_total": 0}
    followed = (folders.c.mailbox_id == mailbox_id) & folders.c.followed & folders.c.gone_at.is_(None)
    await tx.conn.execute(update(folders).where(followed).values(unread))
    anew = {"progress_done": 0, "progress_total": 0, "progress_started_at": None}
    await tx.conn.execute(update(mailboxes).where(_B.id == mailbox_id).values(anew))


async def asker(tx: Transaction, mailbox_id: str, run_id: str) -> Actor | None:
    """Who asked for this backfill; None when it is over, so that nothing more may come back by it. The mailbox is
    locked.
    """
    query = select(_R.actor).join(mailboxes, _B.backfill_id == _R.id).where(_B.id == mailbox_id, _R.id == run_id)
    text = (await tx.conn.execute(query)).scalar_one_or_none()
    return None if text is None else actor_from_text(text)


async def count(tx: Transaction, run_id: str, *, new: int, rehydrated: int) -> None:
    """So many messages more."""
    counts = (await tx.conn.execute(select(_R.counts).where(_R.id == run_id))).scalar_one()
    more = {"new": counts["new"] + new, "rehydrated": counts["rehydrated"] + rehydrated}
    await tx.conn.execute(update(runs).where(_R.id == run_id).values(counts=more))


async def end(tx: Transaction, mailbox_id: str, now: Instant, failure: str | None = None) -> None:
    """The backfill of a locked mailbox is over, if there is one; `failure` says why it was not completed."""
    query = select(_R.id, _R.tenant_id, _R.counts).join(mailboxes, _B.backfill_id == _R.id).where(_B.id == mailbox_id)
    run = (await tx.conn.execute(query)).one_or_none()
    if run is None:
        return
    state = COMPLETED if failure is None else FAILED
    detail = None if failure is None else failure[:1000]
    values = {"state": state, "finished_at": now, "detail": detail}
    await tx.conn.execute(update(runs).where(_R.id == run.id, _R.finished_at.is_(None)).values(values))
    payload = {"run_id": run.id, "state": state, "new": run.counts["new"], "rehydrated": run.counts["rehydrated"]}
    tx.emit(run.tenant_id, "mailbox.backfill_finished", at=now, mailbox_id=mailbox_id, payload=payload)
    await tx.conn.execute(update(mailboxes).where(_B.id == mailbox_id).values(backfill_id=None))
