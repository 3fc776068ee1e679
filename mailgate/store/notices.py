"""Notices: what will happen to a subscription by itself, how many copies and mailboxes it touches, told days ahead.

Each notice stands in the feed once for each of the days ahead that the settings name (`subscription.notice`). One whose
cause went away is not taken back: the next `subscription.changed` says what holds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import ColumnElement, func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from mailgate.clock import DAY, Instant
from mailgate.store import plan_limits, tenants, timelines
from mailgate.store.database import Database
from mailgate.store.expiry import Expiry
from mailgate.store.schema import messages, subscription_notices, subscription_periods
from mailgate.store.schema import tenants as tenants_table
from mailgate.store.subscriptions import Subscriptions
from mailgate.store.transaction import Transaction
from mailgate.tenants.entitlements import entitled
from mailgate.tenants.notices import Upcoming, upcoming

_P = subscription_periods.c


@dataclass(frozen=True, slots=True)
class Notice:
    """What will happen, how many days the plan that follows has (None: not known), and what it touches of what there is
    now: copies that become due at that moment because of it, and mailboxes that will be switched off.
    """

    what: Upcoming
    retention_days: int | None
    copies_due: int
    bytes_due: int
    switched_off: Sequence[str]


async def upcoming_for(
    db: Database, subscriptions: Subscriptions, expiry: Expiry, tenant_id: str, now: Instant, until: Instant
) -> list[Notice]:
    """What begins by itself after `now`, up to `until`, in order."""
    async with db.read() as conn:
        return await _upcoming(conn, subscriptions, expiry, tenant_id, now, until)


async def give(
    db: Database, subscriptions: Subscriptions, expiry: Expiry, days_ahead: Sequence[int], now: Instant
) -> int:
    """The scheduler's tick: put what is near into the feed, once for each of the days ahead. Returns how many."""
    farthest = now + max(days_ahead, default=0) * DAY
    near = select(_P.tenant_id).distinct().where(_P.effective_at > now, _P.effective_at <= farthest)
    near = near.join(tenants_table, tenants_table.c.id == _P.tenant_id).where(tenants.LIVING)
    async with db.read() as conn:
        ids = sorted((await conn.execute(near)).scalars())
    given = 0
    for tenant_id in ids:
        async with db.read() as conn:
            found = await _upcoming(conn, subscriptions, expiry, tenant_id, now, farthest)
            told = select(subscription_notices.c.key).where(subscription_notices.c.tenant_id == tenant_id)
            known = set((await conn.execute(told)).scalars())
        wanted = {
            _key(notice.what, days): notice for notice in found for days in _reached(notice.what, days_ahead, now)
        }
        missing = {key: notice for key, notice in wanted.items() if key not in known}
        if missing:
            given += await _tell(db, tenant_id, missing, now)
    return given


def _reached(what: Upcoming, days_ahead: Sequence[int], now: Instant) -> list[int]:
    """The nearest of the days ahead that has come; one that was missed while no process ran is not made up for."""
    return sorted(days for days in days_ahead if what.at - now <= days * DAY)[:1]


def _key(what: Upcoming, days: int) -> str:
    return f"{what.key}:{days}"


async def _tell(db: Database, tenant_id: str, missing: dict[str, Notice], now: Instant) -> int:
    async def work(tx: Transaction) -> int:
        await tenants.lock(tx, tenant_id)
        given = 0
        for key, notice in sorted(missing.items()):
            row = tx.insert(subscription_notices).values(tenant_id=tenant_id, key=key, given_at=now)
            if (await tx.conn.execute(row.on_conflict_do_nothing())).rowcount == 0:
                continue  # another process was here first
            given += 1
            what = notice.what
            payload = {
                "kind": what.kind.value,
                "effective_at": what.at,
                "plan": what.before.plan,
                "plan_after": what.after.plan,
                "status_after": what.after.status.value,
                "retention_days_after": notice.retention_days,
                "copies_due": notice.copies_due,
                "bytes_due": notice.bytes_due,
                "mailboxes_switched_off": list(notice.switched_off),
            }
            tx.emit(tenant_id, "subscription.notice", at=now, payload=payload)
        return given

    return await db.transact(work)


async def _upcoming(
    conn: AsyncConnection,
    subscriptions: Subscriptions,
    expiry: Expiry,
    tenant_id: str,
    now: Instant,
    until: Instant,
) -> list[Notice]:
    line = await timelines.read(conn, tenant_id)
    connected = await plan_limits.connected(conn, tenant_id)
    found = []
    for what in upcoming(line, now, until):
        holds = entitled(what.after, line.plan_since(what.at), subscriptions.catalogue)
        surplus = plan_limits.surplus_of(connected, holds)
        copies, size = await _due_because_of(conn, expiry, tenant_id, what)
        found.append(Notice(what, holds.retention_days, copies, size, sorted(surplus)))
    return found


async def _due_because_of(conn: AsyncConnection, expiry: Expiry, tenant_id: str, what: Upcoming) -> tuple[int, int]:
    """Copies, and their bytes, that are due at the moment of the change and were not a moment before."""
    after = await expiry.horizon(conn, tenant_id, what.at)
    before = await expiry.horizon(conn, tenant_id, what.at - 1)
    newly: ColumnElement[bool] = after.expired() & before.visible()
    query = select(func.count(), func.coalesce(func.sum(messages.c.size), 0)).where(
        messages.c.tenant_id == tenant_id, newly
    )
    count, size = (await conn.execute(query)).one()
    return int(count), int(size)
