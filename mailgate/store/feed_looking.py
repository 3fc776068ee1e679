"""The feed for a person who looks back: newest first, and never further in one look than a bounded number of events.

Programs read the feed forwards (`mailgate.store.feed`). Of one tenant the order is that of its own numbers, which an
index has; of all it is that of the positions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from sqlalchemy import ColumnElement, func, select

from mailgate.events.types import TypeFilter
from mailgate.store.database import Database
from mailgate.store.feed import FeedEvent, event_of
from mailgate.store.schema import events, mailboxes, tenants

STRETCH: Final = 20_000
"""Numbers that one statement looks through."""
_STRETCHES: Final = 3

_E = events.c


@dataclass(frozen=True, slots=True)
class Looked:
    """`events`, newest first; `before`: where to look on, None at the end of what is kept."""

    events: Sequence[FeedEvent]
    before: int | None


async def newest(
    db: Database,
    *,
    before: int | None,
    tenant_id: str | None,
    types: TypeFilter | None,
    mailbox_id: str | None,
    limit: int,
) -> Looked:
    """Events that have their place in the feed. `before`: what an earlier look with the same filters gave."""
    axis = _E.position if tenant_id is None else _E.seq
    wanted: list[ColumnElement[bool]] = [_E.position.is_not(None)]
    if tenant_id is not None:
        wanted.append(_E.tenant_id == tenant_id)
    if mailbox_id is not None:
        wanted.append(_E.mailbox_id == mailbox_id)
    if types is not None:
        wanted.append(_E.type.in_(sorted(types.names)))
    of = [] if tenant_id is None else [_E.tenant_id == tenant_id]
    found: list[FeedEvent] = []
    async with db.read() as conn:
        # Two statements: either end of an index is one step, both at once would be a walk.
        first: int | None = (await conn.execute(select(func.min(axis)).where(*of))).scalar_one()
        last: int | None = (await conn.execute(select(func.max(axis)).where(*of))).scalar_one()
        if first is None or last is None:
            return Looked([], None)
        end = last + 1 if before is None else min(before, last + 1)
        for _ in range(_STRETCHES):
            low = end - STRETCH
            query = select(events).where(axis >= low, axis < end, *wanted).order_by(axis.desc())
            rows = (await conn.execute(query.limit(limit - len(found)))).all()
            found += map(event_of, rows)
            if len(found) == limit:
                end = rows[-1].position if tenant_id is None else rows[-1].seq
                break
            end = low
            if end <= first:
                break
    return Looked(found, end if end > first else None)


async def tenant_of_mailbox(db: Database, mailbox_id: str) -> str | None:
    """Whose mailbox it is, or was."""
    async with db.read() as conn:
        found: str | None = (
            await conn.execute(select(mailboxes.c.tenant_id).where(mailboxes.c.id == mailbox_id))
        ).scalar_one_or_none()
    return found


async def names(
    db: Database, tenant_ids: Sequence[str], mailbox_ids: Sequence[str]
) -> tuple[dict[str, str], dict[str, str]]:
    """What tenants and mailboxes are called, by id."""
    async with db.read() as conn:
        called = await conn.execute(select(tenants.c.id, tenants.c.name).where(tenants.c.id.in_(tenant_ids)))
        addresses = await conn.execute(
            select(mailboxes.c.id, mailboxes.c.address).where(mailboxes.c.id.in_(mailbox_ids))
        )
        return {row[0]: row[1] for row in called}, {row[0]: row[1] for row in addresses}
