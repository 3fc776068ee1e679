"""All mailboxes at a glance, over all tenants: those in trouble first, counted by state; and what became of one.

What a mailbox says of itself holds while a process has it (`Mailbox.as_of`); lists sort and count by what holds, so the
same rule stands here once more, in SQL.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import ColumnElement, Select, and_, case, desc, func, literal, or_, select, tuple_

from mailgate.clock import Instant
from mailgate.store.database import Database
from mailgate.store.fenced import LEASE_PREFIX
from mailgate.store.mailboxes import TOLD_BY_ITS_PROCESS, Mailbox, mailbox_of
from mailgate.store.paging import Page, cut
from mailgate.store.schema import events, leases, mailboxes, messages, tenants
from mailgate.store.sets import among
from mailgate.sync.state import MailboxState

_M = mailboxes.c

RANKS: Final[Mapping[MailboxState, int]] = {
    MailboxState.AUTH_FAILED: 0,
    MailboxState.NEEDS_APPROVAL: 1,
    MailboxState.BACKOFF: 2,
    MailboxState.CONNECTING: 3,
    MailboxState.IMPORTING: 4,
    MailboxState.POLLING: 5,
    MailboxState.LIVE: 5,
    MailboxState.NOT_ENTITLED: 6,
    MailboxState.DISABLED: 7,
}
"""What a person should look at first."""


@dataclass(frozen=True, slots=True)
class Listed:
    """A mailbox with the name of its tenant."""

    mailbox: Mailbox
    tenant_name: str


@dataclass(frozen=True, slots=True)
class Which:
    """Which mailboxes: of a tenant, in some states, with a text in address, owner or tenant."""

    tenant_id: str | None = None
    states: Collection[str] = ()
    text: str | None = None


@dataclass(frozen=True, slots=True)
class Stored:
    """Copies of a mailbox and the sum of their sizes in bytes."""

    copies: int = 0
    size: int = 0


async def list_page(
    db: Database, which: Which, now: Instant, *, after: tuple[int, str] | None, limit: int
) -> Page[Listed]:
    """Mailboxes that are not removed: those in trouble first, then by tenant and address. The page's key is
    (rank, id).
    """
    state = _state(now)
    rank = case(*((state == name.value, place) for name, place in RANKS.items()), else_=len(RANKS))
    order = (rank, _M.tenant_id, _M.address, _M.id)
    query = _joined(rank.label("rank")).where(*_filters(which, state)).order_by(*order).limit(limit + 1)
    async with db.read() as conn:
        if after is not None:
            last = select(_M.tenant_id, _M.address).where(_M.id == after[1])
            found = (await conn.execute(last)).one_or_none()
            if found is None:
                return Page([])  # mailboxes are never deleted: a cursor of another installation
            query = query.where(tuple_(*order) > tuple_(*map(literal, (after[0], found[0], found[1], after[1]))))
        rows, more = cut((await conn.execute(query)).all(), limit)
    items = [Listed(mailbox_of(row).as_of(now), row.tenant_name) for row in rows]
    return Page(items, (rows[-1].rank, rows[-1].id) if more else None)


async def these(db: Database, ids: Sequence[str], tenant_id: str | None, now: Instant) -> list[Listed]:
    """The mailboxes with these ids, in this order; of one tenant, or all. Those that are gone are left out."""
    query = _joined(literal(0).label("rank")).where(among(_M.id, ids, sqlite=db.sqlite), _M.removed_at.is_(None))
    if tenant_id is not None:
        query = query.where(_M.tenant_id == tenant_id)
    async with db.read() as conn:
        found = {row.id: Listed(mailbox_of(row).as_of(now), row.tenant_name) for row in await conn.execute(query)}
    return [found[id_] for id_ in ids if id_ in found]


async def count_states(db: Database, which: Which, now: Instant) -> dict[str, int]:
    """How many there are in each state, whatever states `which` names."""
    state = _state(now)
    query = select(state, func.count()).select_from(_source())
    query = query.where(*_filters(Which(which.tenant_id, (), which.text), state)).group_by(state)
    async with db.read() as conn:
        return {row[0]: row[1] for row in await conn.execute(query)}


async def stored(db: Database, tenant_ids: Collection[str], mailbox_ids: Collection[str]) -> dict[str, Stored]:
    """Copies and bytes of these mailboxes of these tenants. Reads an index that has all of it, but all of the tenants'
    copies: for the mailboxes of a page, not for each row.
    """
    columns = messages.c
    query = (
        select(columns.mailbox_id, func.count(), func.sum(columns.size))
        .where(among(columns.tenant_id, tenant_ids, sqlite=db.sqlite))
        .where(among(columns.mailbox_id, mailbox_ids, sqlite=db.sqlite))
        .group_by(columns.mailbox_id)
    )
    async with db.read() as conn:
        return {row[0]: Stored(row[1], int(row[2])) for row in await conn.execute(query)}


@dataclass(frozen=True, slots=True)
class Happened:
    """Something that happened to a mailbox as a whole: an event's type, and the state that it brought, if it did, with
    the reason, if there was one to say.
    """

    at: Instant
    type: str
    state: str | None
    reason: str | None


async def happened(db: Database, mailbox_id: str, limit: int) -> list[Happened]:
    """The last events about the mailbox itself, newest first, as far back as events are kept."""
    query = (
        select(events.c.at, events.c.type, events.c.payload)
        .where(events.c.mailbox_id == mailbox_id, events.c.message_id.is_(None))
        .where(events.c.type.like("mailbox.%"))
        .order_by(desc(events.c.at), desc(events.c.seq))
        .limit(limit)
    )
    async with db.read() as conn:
        found = (await conn.execute(query)).all()
        return [Happened(row.at, row.type, row.payload.get("state"), row.payload.get("reason")) for row in found]


async def states_since(db: Database, mailbox_id: str, since: Instant, limit: int) -> list[tuple[Instant, str]]:
    """When the mailbox got into which state, newest first: from its last change before `since` on, at most so many, as
    far back as events are kept.
    """
    about = and_(events.c.mailbox_id == mailbox_id, events.c.message_id.is_(None))
    of = and_(about, events.c.type == "mailbox.state_changed")
    columns = select(events.c.at, events.c.payload)
    order = (desc(events.c.at), desc(events.c.seq))
    async with db.read() as conn:
        rows = list((await conn.execute(columns.where(of, events.c.at >= since).order_by(*order).limit(limit))).all())
        if len(rows) < limit:
            rows += (await conn.execute(columns.where(of, events.c.at < since).order_by(*order).limit(1))).all()
    return [(row.at, row.payload["state"]) for row in rows]


def _source() -> Any:
    of = leases.c.name == LEASE_PREFIX + _M.id
    return mailboxes.join(tenants, tenants.c.id == _M.tenant_id).outerjoin(leases, of)


def _joined(rank: Any) -> Select[Any]:
    owned = func.coalesce(leases.c.expires_at, 0).label("owned_until_at")
    return select(mailboxes, tenants.c.name.label("tenant_name"), owned, rank).select_from(_source())


def _state(now: Instant) -> ColumnElement[str]:
    """The state that holds at `now`, as `Mailbox.as_of` has it."""
    told = _M.state.in_(sorted(state.value for state in TOLD_BY_ITS_PROCESS))
    lost = and_(told, func.coalesce(leases.c.expires_at, 0) <= now)
    return case((lost, MailboxState.CONNECTING.value), else_=_M.state)


def _filters(which: Which, state: ColumnElement[str]) -> list[ColumnElement[bool]]:
    found: list[ColumnElement[bool]] = [_M.removed_at.is_(None)]
    if which.tenant_id is not None:
        found.append(_M.tenant_id == which.tenant_id)
    if which.states:
        found.append(state.in_(sorted(which.states)))
    if which.text:
        places = (_M.address, _M.owner, tenants.c.name, _M.tenant_id)
        found.append(or_(*(place.icontains(which.text, autoescape=True) for place in places), _M.id == which.text))
    return found
