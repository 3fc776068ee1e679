"""All tenants at a glance."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import and_, func, or_, select

from mailgate.clock import Instant
from mailgate.store.database import Database
from mailgate.store.paging import Page, cut
from mailgate.store.schema import mailboxes, subscription_periods, tenant_heads, tenants
from mailgate.store.tenants import LIVING
from mailgate.tenants.catalogue import FREE
from mailgate.tenants.periods import Status

_T = tenants.c
_P = subscription_periods.c


@dataclass(frozen=True, slots=True)
class Listed:
    """A tenant with its plan, and what there is of it: copies that are not purged yet, their sizes in bytes."""

    id: str
    name: str
    plan: str
    status: str
    period_end: Instant | None
    mailboxes: int
    copies: int
    size: int


async def list_page(
    db: Database, now: Instant, *, text: str | None, plan: str | None, only: str | None, after: str | None, limit: int
) -> Page[Listed]:
    """Tenants by id; with a text in id or name; on one plan; `only` that one. The page's key is (id,)."""
    holds = and_(_P.tenant_id == _T.id, _P.effective_at <= now, or_(_P.until_at.is_(None), _P.until_at > now))
    on = func.coalesce(_P.plan, FREE)
    source = tenants.join(tenant_heads, tenant_heads.c.tenant_id == _T.id).outerjoin(subscription_periods, holds)
    status = func.coalesce(_P.status, Status.ACTIVE.value)
    query = (
        select(
            _T.id,
            _T.name,
            on.label("plan"),
            status.label("status"),
            _P.period_end,
            tenant_heads.c.copies,
            tenant_heads.c.storage_bytes,
        )
        .select_from(source)
        .where(LIVING)
        .order_by(_T.id)
        .limit(limit + 1)
    )
    if text:
        query = query.where(or_(_T.id.icontains(text, autoescape=True), _T.name.icontains(text, autoescape=True)))
    if plan is not None:
        query = query.where(on == plan)
    if only is not None:
        query = query.where(_T.id == only)
    if after is not None:
        query = query.where(_T.id > after)
    async with db.read() as conn:
        rows, more = cut((await conn.execute(query)).all(), limit)
        ids = [row.id for row in rows]
        count = select(mailboxes.c.tenant_id, func.count()).where(
            mailboxes.c.tenant_id.in_(ids), mailboxes.c.removed_at.is_(None)
        )
        counted = {row[0]: row[1] for row in await conn.execute(count.group_by(mailboxes.c.tenant_id))}
    items = [
        Listed(
            row.id,
            row.name,
            row.plan,
            row.status,
            row.period_end,
            counted.get(row.id, 0),
            row.copies,
            row.storage_bytes,
        )
        for row in rows
    ]
    return Page(items, (rows[-1].id,) if more else None)
