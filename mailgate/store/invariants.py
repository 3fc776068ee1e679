"""What of the store one statement each can refute: rows are (tenant, what is wrong, …). `mailgate.store.check` asks."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

from sqlalchemy import ColumnElement, Select, Subquery, and_, case, exists, func, or_, select

from mailgate.store.schema import (
    blob_erasures,
    blobs,
    events,
    feed,
    log_leaves,
    message_links,
    messages,
    operations,
    origins,
    pins,
    quarantine,
    search_docs,
    submissions,
    tenant_heads,
    tenants,
    tombstones,
    webhook_deliveries,
    webhook_lanes,
    webhooks,
)

_GOES = ("item.purge", "item.remove", "item.lost")

_made: dict[str, Callable[[], Select[Any]]] = {}


@functools.cache  # making a statement takes SQLAlchemy longer than carrying it out
def queries() -> Mapping[str, Select[Any]]:
    """Each by the invariant that it would refute."""
    return {name: make() for name, make in _made.items()}


def _invariant(name: str) -> Callable[[Callable[[], Select[Any]]], Callable[[], Select[Any]]]:
    def note(make: Callable[[], Select[Any]]) -> Callable[[], Select[Any]]:
        _made[name] = make
        return make

    return note


@_invariant("usage is what is stored")
def _usage() -> Select[Any]:
    h, m = tenant_heads.c, messages.c
    sums = select(m.tenant_id, func.count().label("copies"), func.coalesce(func.sum(m.size), 0).label("bytes"))
    counted = sums.group_by(m.tenant_id).subquery()
    copies, size = func.coalesce(counted.c.copies, 0), func.coalesce(counted.c.bytes, 0)
    query = select(h.tenant_id, h.copies, copies, h.storage_bytes, size)
    query = query.outerjoin(counted, counted.c.tenant_id == h.tenant_id)
    return query.where(or_(h.copies != copies, h.storage_bytes != size))


@_invariant("a message counts its pins")
def _pins() -> Select[Any]:
    m = messages.c
    pinned = select(func.count()).where(pins.c.message_id == m.id).scalar_subquery()
    return select(m.tenant_id, m.id, m.pins, pinned).where(m.pins != pinned)


@_invariant("a blob counts its copies and submissions")
def _references() -> Select[Any]:
    copied = select(messages.c.blob_id, func.count().label("n")).group_by(messages.c.blob_id).subquery()
    queued = select(func.count()).where(submissions.c.blob_id == blobs.c.id).scalar_subquery()
    referred = func.coalesce(copied.c.n, 0) + queued
    query = select(blobs.c.tenant_id, blobs.c.id, blobs.c.refs, referred)
    query = query.outerjoin(copied, copied.c.blob_id == blobs.c.id)
    return query.where(or_(blobs.c.refs != referred, blobs.c.refs <= 0))


@_invariant("a copy has a blob of its tenant")
def _blobs_of_copies() -> Select[Any]:
    m, b = messages.c, blobs.c
    query = select(m.tenant_id, m.id, b.tenant_id).outerjoin(blobs, b.id == m.blob_id)
    return query.where(or_(b.id.is_(None), b.tenant_id != m.tenant_id, b.size != m.size))


@_invariant("a submission's blob is there")
def _blobs_of_submissions() -> Select[Any]:
    s = submissions.c
    query = select(s.tenant_id, s.id).outerjoin(blobs, blobs.c.id == s.blob_id)
    return query.where(s.blob_id.is_not(None), blobs.c.id.is_(None))


@_invariant("an anchor is when the message was received, or stored")
def _anchors() -> Select[Any]:
    m, back = messages.c, _brought_back()
    other = case(
        (m.anchor_source == "internaldate", m.anchor_at != m.internal_date_at),
        (and_(m.anchor_source == "stored", m.anchor_at != m.stored_at), ~back),
        (m.anchor_source == "rehydrated", ~back),
        else_=False,
    )
    return select(m.tenant_id, m.id, m.anchor_at, m.anchor_source).where(other | (m.anchor_at > m.stored_at))


@_invariant("what is set aside with its bytes has a copy")
def _set_aside() -> Select[Any]:
    q = quarantine.c
    query = select(q.tenant_id, q.id, q.message_id).outerjoin(messages, messages.c.id == q.message_id)
    return query.where(q.message_id.is_not(None), messages.c.id.is_(None))


@_invariant("an origin belongs to its message's mailbox")
def _origins() -> Select[Any]:
    m, o = messages.c, origins.c
    query = select(o.tenant_id, o.message_id, o.folder_id).join(messages, m.id == o.message_id)
    return query.where(or_(m.mailbox_id != o.mailbox_id, m.tenant_id != o.tenant_id))


@_invariant("a message is stored or purged, not both")
def _stored_or_purged() -> Select[Any]:
    t = tombstones.c
    return select(t.tenant_id, t.message_id).join(messages, messages.c.id == t.message_id)


@_invariant("a purge has one leaf")
def _one_leaf() -> Select[Any]:
    removals = _removals()
    r, returned = removals.c, _returned(removals)
    return select(r.tenant_id, r.item_ref, r.n).where(r.n != returned, r.n != returned + 1)


@_invariant("what is gone stands in the log")
def _gone_is_logged() -> Select[Any]:
    t = tombstones.c
    return select(t.tenant_id, t.item_ref).where(~_stands_in_log(t.tenant_id, t.item_ref, *_GOES))


@_invariant("what is in the log as gone is not stored")
def _logged_is_gone() -> Select[Any]:
    m, removals = messages.c, _removals()
    mine = and_(removals.c.item_ref == m.item_ref, removals.c.tenant_id == m.tenant_id)
    return select(m.tenant_id, m.id).join(removals, mine).where(removals.c.n != _returned(removals))


@_invariant("a pinned message is not deleted")
def _pinned() -> Select[Any]:
    m = messages.c
    return select(m.tenant_id, m.id, m.pins).where(m.pins > 0, m.deleted_at.is_not(None))


@_invariant("a copy on its way is brought there")
def _on_their_way() -> Select[Any]:
    m, o = messages.c, operations.c
    coming = exists().where(o.message_id == m.id, o.folder_id == m.moving_to, o.finished_at.is_(None))
    return select(m.tenant_id, m.id, m.moving_to).where(m.moving_to.is_not(None), ~coming)


@_invariant("a blob that is to be erased has no row")
def _erasures() -> Select[Any]:
    e = blob_erasures.c
    return select(e.tenant_id, e.blob_id).join(blobs, blobs.c.id == e.blob_id)


@_invariant("events are numbered without gaps")
def _events() -> Select[Any]:
    h, mine = tenant_heads.c, events.c.tenant_id == tenant_heads.c.tenant_id
    last = select(func.coalesce(func.max(events.c.seq), 0)).where(mine).scalar_subquery()
    some = select(func.count()).where(mine).scalar_subquery() > 0
    return select(h.tenant_id, h.event_seq).where(or_(last > h.event_seq, and_(some, last != h.event_seq)))


@_invariant("only indexed messages are in the index")
def _index() -> Select[Any]:
    d = search_docs.c
    query = select(d.tenant_id, d.message_id).outerjoin(messages, messages.c.id == d.message_id)
    return query.where(or_(messages.c.id.is_(None), ~messages.c.indexed))


@_invariant("what refers to others is here")
def _links() -> Select[Any]:
    of = message_links.c
    query = select(of.tenant_id, of.message_id).outerjoin(messages, messages.c.id == of.message_id)
    return query.where(messages.c.id.is_(None))


@_invariant("what may be sent has its bytes")
def _sendable() -> Select[Any]:
    s = submissions.c
    return select(s.tenant_id, s.id, s.state).where(
        s.state.in_(("queued", "sending", "uncertain")), s.blob_id.is_(None)
    )


@_invariant("a webhook's place is in the feed")
def _places_of_webhooks() -> Select[Any]:
    w, end = webhooks.c, select(feed.c.position).scalar_subquery()
    return select(w.tenant_id, w.id, w.position).where(w.position > end)


@_invariant("who is behind at a webhook is of its tenant")
def _lanes() -> Select[Any]:
    w, lane = webhooks.c, webhook_lanes.c
    query = select(lane.tenant_id, lane.webhook_id, lane.lane).outerjoin(webhooks, w.id == lane.webhook_id)
    return query.where(or_(w.id.is_(None), w.tenant_id != lane.tenant_id))


@_invariant("a delivery is of the tenant of its webhook")
def _deliveries() -> Select[Any]:
    d, w = webhook_deliveries.c, webhooks.c
    query = select(d.tenant_id, d.id, d.webhook_id).join(webhooks, w.id == d.webhook_id)
    return query.where(d.tenant_id != w.tenant_id)


@_invariant("a tenant has a head")
def _heads() -> Select[Any]:
    return select(tenants.c.id).outerjoin(tenant_heads).where(tenant_heads.c.tenant_id.is_(None))


def _removals() -> Subquery:
    """How often each copy went, by the log."""
    leaf = log_leaves.c
    query = select(leaf.tenant_id, leaf.item_ref, func.count().label("n")).where(leaf.type.in_(_GOES))
    return query.group_by(leaf.tenant_id, leaf.item_ref).subquery()


def _returned(removals: Subquery) -> ColumnElement[int]:
    """How often one of them was brought back."""
    leaf = log_leaves.c
    mine = (leaf.tenant_id == removals.c.tenant_id) & (leaf.item_ref == removals.c.item_ref)
    return select(func.count()).where(mine, leaf.type == "rehydrate").scalar_subquery()


def _brought_back() -> ColumnElement[bool]:
    return _stands_in_log(messages.c.tenant_id, messages.c.item_ref, "rehydrate")


def _stands_in_log(tenant_id: Any, item_ref: Any, *types: str) -> ColumnElement[bool]:
    leaf = log_leaves.c
    return exists().where(leaf.tenant_id == tenant_id, leaf.item_ref == item_ref, leaf.type.in_(types))
