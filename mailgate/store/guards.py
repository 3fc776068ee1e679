"""The rows of guards: raised, approved, closed, listed. What is refused is judged in `mailgate.sync.guards`.

    raised → approved → carried out        a person approves exactly what the guard names
           ↘ restored                      what is gone is no longer improbable: it turned up again
           ↘ changed                       other messages are gone by now: a new guard takes its place

A folder has at most one guard that is not closed. Raising, closing and approving hold the mailbox's row, so that what
is approved is what is gone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import Row, Select, bindparam, func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from mailgate.actors import Actor
from mailgate.clock import Instant
from mailgate.errors import ConflictError, NotFoundError
from mailgate.ids import new_id
from mailgate.store.database import Database
from mailgate.store.disappearances import is_evidence
from mailgate.store.paging import Page, page_by_id
from mailgate.store.schema import folders, guards, mailboxes, messages, origins
from mailgate.store.transaction import Transaction
from mailgate.sync.guards import Outcome, digest
from mailgate.sync.state import OpenGuard, Owner, PendingCount

_G = guards.c
_OPEN = select(guards).where(_G.mailbox_id == bindparam("mailbox"), _G.closed_at.is_(None)).order_by(_G.id)


@dataclass(frozen=True, slots=True)
class Guard:
    """A guard as clients see it. `folder` is the folder's name now; `outcome` None while it is open."""

    id: str
    mailbox_id: str
    folder_id: str
    folder: str
    uidvalidity: int
    digest: bytes
    known: int
    gone: int
    reason: str
    raised_at: Instant
    approved_at: Instant | None
    approved_by: str | None
    closed_at: Instant | None
    outcome: Outcome | None


# For the engine.


async def open_of(conn: AsyncConnection, mailbox_id: str) -> list[OpenGuard]:
    """The mailbox's guards that are not closed, the oldest first."""
    return [_open(row) for row in await conn.execute(_OPEN, {"mailbox": mailbox_id})]


async def stand(tx: Transaction, owner: Owner, count: PendingCount, reason: str, now: Instant) -> OpenGuard:
    """The folder's guard for what is gone from it now: the one that stands, or a new one in its place. One that was
    approved is marked as being carried out.
    """
    gone = await _gone(tx.conn, count.folder_id)
    named = digest(gone.addresses)
    query = select(guards).where(_G.folder_id == count.folder_id, _G.closed_at.is_(None)).with_for_update()
    row = (await tx.conn.execute(query)).one_or_none()
    if row is not None and row.digest == named:
        if row.approved_at is None or row.through_at is not None:
            return _open(row)
        begun = update(guards).where(_G.id == row.id).values(through_at=gone.latest_at)
        return _open((await tx.conn.execute(begun.returning(guards))).one())
    if row is not None:
        await close(tx, owner.tenant_id, row.id, Outcome.CHANGED, now)
    guard_id = new_id(now)
    raised = insert(guards).values(
        id=guard_id,
        tenant_id=owner.tenant_id,
        mailbox_id=owner.mailbox_id,
        folder_id=count.folder_id,
        uidvalidity=max((uidvalidity for uidvalidity, _ in gone.addresses), default=0),
        digest=named,
        known=count.known,
        gone=count.gone,
        reason=reason[:500],
        raised_at=now,
    )
    payload = {"guard_id": guard_id, "folder_id": count.folder_id, "known": count.known, "gone": count.gone}
    tx.emit(owner.tenant_id, "mailbox.guard_refused", at=now, mailbox_id=owner.mailbox_id, payload=payload)
    return _open((await tx.conn.execute(raised.returning(guards))).one())


async def close(tx: Transaction, tenant_id: str, guard_id: str, outcome: Outcome, now: Instant) -> None:
    """The guard is over, with its event."""
    over = update(guards).where(_G.id == guard_id, _G.closed_at.is_(None))
    ended = over.values(closed_at=now, outcome=outcome.value).returning(_G.mailbox_id, _G.folder_id)
    row = (await tx.conn.execute(ended)).one_or_none()
    if row is not None:
        payload = {"guard_id": guard_id, "folder_id": row.folder_id, "outcome": outcome.value}
        tx.emit(tenant_id, "mailbox.guard_closed", at=now, mailbox_id=row.mailbox_id, payload=payload)


# For the interface.


async def approve(db: Database, tenant_id: str, mailbox_id: str, guard_id: str, *, now: Instant, actor: Actor) -> Guard:
    """Allow exactly what the guard names; the mailbox's next pass carries it out. Repeating it changes nothing.

    Raises NotFoundError, and ConflictError: `guard_changed` when other messages are gone by now, or turned up again.
    """

    async def work(tx: Transaction) -> None:
        mine = (mailboxes.c.id == mailbox_id) & (mailboxes.c.tenant_id == tenant_id)
        await tx.conn.execute(select(mailboxes.c.id).where(mine).with_for_update(key_share=True))
        query = select(guards).where(_G.id == guard_id, _G.mailbox_id == mailbox_id, _G.tenant_id == tenant_id)
        row = (await tx.conn.execute(query)).one_or_none()
        if row is None:
            raise _unknown(guard_id)
        if row.outcome == Outcome.CARRIED_OUT.value or (row.closed_at is None and row.approved_at is not None):
            return
        if row.closed_at is not None or digest((await _gone(tx.conn, row.folder_id)).addresses) != row.digest:
            raise ConflictError(
                "what is gone from the folder is no longer what this guard names; look at the guards again",
                slug="guard_changed",
                guard_id=guard_id,
            )
        approved = update(guards).where(_G.id == guard_id).values(approved_at=now, approved_by=str(actor))
        await tx.conn.execute(approved)
        payload = {"guard_id": guard_id, "folder_id": row.folder_id}
        tx.emit(tenant_id, "mailbox.guard_approved", at=now, mailbox_id=mailbox_id, payload=payload)

    await db.transact(work)
    async with db.read() as conn:
        found = (await conn.execute(_view(tenant_id, mailbox_id).where(_G.id == guard_id))).one()
    return _show(found)


async def list_page(
    db: Database,
    tenant_id: str,
    mailbox_id: str,
    *,
    open_: bool | None = None,
    after: str | None = None,
    limit: int,
) -> Page[Guard]:
    """The mailbox's guards, newest first; `open_`: only those that are not closed, or only those that are."""
    query = _view(tenant_id, mailbox_id)
    if open_ is not None:
        query = query.where(_G.closed_at.is_(None) if open_ else _G.closed_at.is_not(None))
    return await page_by_id(db, query, _G.id, _show, after=after, limit=limit)


# What is gone.


@dataclass(frozen=True, slots=True)
class _Gone:
    """(UIDVALIDITY, UID) of what is gone from a folder, and when the latest was seen gone."""

    addresses: list[tuple[int, int]]
    latest_at: Instant


async def _gone(conn: AsyncConnection, folder_id: str) -> _Gone:
    query = (
        select(origins.c.uidvalidity, origins.c.uid)
        .join(messages, messages.c.id == origins.c.message_id)
        .where(origins.c.folder_id == folder_id, origins.c.vanished_at.is_not(None), is_evidence())
    )
    latest = select(func.max(origins.c.vanished_at)).where(origins.c.folder_id == folder_id)
    addresses = [(row[0], row[1]) for row in await conn.execute(query)]
    return _Gone(addresses, (await conn.execute(latest)).scalar_one() or 0)


def _open(row: Row[Any]) -> OpenGuard:
    return OpenGuard(
        id=row.id,
        folder_id=row.folder_id,
        reason=row.reason,
        gone=row.gone,
        raised_at=row.raised_at,
        approved=row.approved_at is not None,
        through_at=row.through_at,
    )


def _view(tenant_id: str, mailbox_id: str) -> Select[Any]:
    query = select(guards, folders.c.name.label("folder")).join(folders, folders.c.id == _G.folder_id)
    return query.where(_G.tenant_id == tenant_id, _G.mailbox_id == mailbox_id)


def _show(row: Row[Any]) -> Guard:
    return Guard(
        id=row.id,
        mailbox_id=row.mailbox_id,
        folder_id=row.folder_id,
        folder=row.folder,
        uidvalidity=row.uidvalidity,
        digest=row.digest,
        known=row.known,
        gone=row.gone,
        reason=row.reason,
        raised_at=row.raised_at,
        approved_at=row.approved_at,
        approved_by=row.approved_by,
        closed_at=row.closed_at,
        outcome=None if row.outcome is None else Outcome(row.outcome),
    )


def _unknown(guard_id: str) -> NotFoundError:
    return NotFoundError(f"there is no guard {guard_id}", slug="guard_not_found")
