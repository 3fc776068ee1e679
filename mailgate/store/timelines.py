"""Rows of subscriptions: events as they were told, and the periods that are computed from them.

The events are the truth. The periods are kept beside them, written anew in the transaction of each event, so that what
holds at an instant is one row, for one tenant or for all of them. `mailgate doctor` computes them again and compares.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from sqlalchemy import Row, bindparam, delete, func, insert, or_, select
from sqlalchemy.ext.asyncio import AsyncConnection

from mailgate.actors import Actor
from mailgate.clock import MINUTE, Instant
from mailgate.errors import ConflictError
from mailgate.ids import new_id
from mailgate.store.schema import subscription_events, subscription_periods
from mailgate.store.sets import among
from mailgate.store.transaction import Transaction
from mailgate.tenants.timeline import (
    REVISION,
    ChangeKind,
    Event,
    EventType,
    PendingChange,
    Period,
    Source,
    Status,
    SubscriptionRules,
    Timeline,
    timeline,
)

_READ_BY_US = frozenset({"stripe"})
"""Whose events are our reading of what was told: after a change of the plans the same document may read otherwise, and
the first reading counts.
"""

_CLOCKS_APART = 5 * MINUTE
"""How far the clocks of two processes may be apart; what was recorded by one that was farther ahead was a mistake."""

_E = subscription_events.c
_P = subscription_periods.c
# Made once: it is asked with every batch of mail.
_PERIODS = select(subscription_periods).where(_P.tenant_id == bindparam("tenant")).order_by(_P.effective_at)
_IN_COLUMNS = frozenset({"id", "type", "effective_at"})
_ENUMS: dict[str, type[Status] | type[Source]] = {"status": Status, "source": Source}


@dataclass(frozen=True, slots=True)
class RecordedPeriod:
    """A period with the event that caused it; None for what time did, and for the beginning."""

    period: Period
    event: Event | None
    recorded_at: Instant | None
    actor: str | None
    told_by: str | None


async def read_events(conn: AsyncConnection, tenant_id: str) -> list[Event]:
    """All that happened to the tenant's subscription, in the order of recording."""
    query = select(subscription_events).where(_E.tenant_id == tenant_id).order_by(_E.recorded_at, _E.id)
    return [_event(row) for row in await conn.execute(query)]


async def read(conn: AsyncConnection, tenant_id: str) -> Timeline:
    """The tenant's timeline; that of a tenant to which nothing happened is Free from the beginning on."""
    periods = [_period(row) for row in await conn.execute(_PERIODS, {"tenant": tenant_id})]
    return Timeline(tuple(periods)) if periods else timeline(())


async def read_many(conn: AsyncConnection, tenant_ids: Collection[str]) -> dict[str, Timeline]:
    """The same of each of these, in one statement."""
    wanted = among(_P.tenant_id, tenant_ids, sqlite=conn.dialect.name == "sqlite")
    query = select(subscription_periods).where(wanted).order_by(_P.tenant_id, _P.effective_at)
    periods: dict[str, list[Period]] = {}
    for row in await conn.execute(query):
        periods.setdefault(row.tenant_id, []).append(_period(row))
    free = timeline(())
    return {id_: Timeline(tuple(periods[id_])) if id_ in periods else free for id_ in tenant_ids}


async def heard_until(conn: AsyncConnection, tenant_id: str, now: Instant) -> Instant:
    """`now`, or the latest instant at which anything was recorded of the tenant, if that is a little later: `now` was
    read before the tenant's lock was had, or by a clock that is behind another process's. Whoever holds the lock and
    judges by this sees all that was recorded before.
    """
    query = select(func.max(_E.recorded_at)).where(_E.tenant_id == tenant_id)
    last: Instant | None = (await conn.execute(query)).scalar_one_or_none()
    return now if last is None or not now < last <= now + _CLOCKS_APART else last


async def current(conn: AsyncConnection, now: Instant) -> dict[str, tuple[Period, Instant]]:
    """For every tenant to which something happened: the period that holds at `now`, and since when its plan does."""
    query = select(subscription_periods).where(_P.effective_at <= now, or_(_P.until_at.is_(None), _P.until_at > now))
    return {row.tenant_id: (_period(row), row.plan_since) for row in await conn.execute(query)}


async def add(
    tx: Transaction, tenant_id: str, events: Iterable[Event], *, told_by: str, now: Instant, actor: Actor
) -> list[Event]:
    """Record those that are not known yet, and return them. The caller holds the tenant's lock.

    Raises ConflictError (event_id_reused) for an id that stands for something else.
    """
    known = {event.id: event for event in await read_events(tx.conn, tenant_id)}
    added: list[Event] = []
    for event in events:
        before = known.get(event.id)
        if before is not None:
            if before != event and told_by not in _READ_BY_US:
                raise ConflictError(
                    f"event {event.id!r} was told before and said something else", slug="event_id_reused"
                )
            continue
        known[event.id] = event
        added.append(event)
        await tx.conn.execute(
            insert(subscription_events).values(
                id=new_id(now),
                tenant_id=tenant_id,
                event_id=event.id,
                type=event.type.value,
                effective_at=event.effective_at,
                body=_body(event),
                told_by=told_by,
                recorded_at=now,
                actor=str(actor),
            )
        )
    return added


async def write(tx: Transaction, tenant_id: str, line: Timeline) -> None:
    """Replace the tenant's periods."""
    await tx.conn.execute(delete(subscription_periods).where(_P.tenant_id == tenant_id))
    rows = [_row(tenant_id, period, line.plan_since(period.effective_at)) for period in line.periods]
    await tx.conn.execute(insert(subscription_periods), rows)


async def compute(conn: AsyncConnection, tenant_id: str, rules: SubscriptionRules) -> Timeline:
    """The timeline that the recorded events make."""
    return timeline(await read_events(conn, tenant_id), rules)


async def history(conn: AsyncConnection, tenant_id: str, now: Instant) -> list[RecordedPeriod]:
    """Every period up to now with its event, the latest first."""
    line = await read(conn, tenant_id)
    rows = (await conn.execute(select(subscription_events).where(_E.tenant_id == tenant_id))).all()
    recorded = {row.event_id: row for row in rows}
    found = []
    for period in reversed(line.periods):
        if period.effective_at > now or period.cause_type is None:
            continue
        row = recorded.get(period.cause or "")
        if row is None:
            found.append(RecordedPeriod(period, None, None, None, None))
        else:
            found.append(RecordedPeriod(period, _event(row), row.recorded_at, row.actor, row.told_by))
    return found


def mark_of(rules: SubscriptionRules) -> str:
    """What is remembered of how timelines were computed."""
    return json.dumps(asdict(rules) | {"revision": REVISION}, sort_keys=True)


def rules_of(mark: str | None) -> SubscriptionRules | None:
    """The rules by which timelines were computed; None: not known, or by another version of the gateway, in another
    way.
    """
    if mark is None:
        return None
    kept = json.loads(mark)
    return SubscriptionRules(**kept) if kept.pop("revision", 1) == REVISION else None


def changed_before(old: Timeline, new: Timeline, now: Instant) -> bool:
    """Whether what was thought to hold at some moment before `now` did not."""
    return _until(old, now) != _until(new, now)


def _until(line: Timeline, now: Instant) -> Sequence[tuple[Instant, str, Status]]:
    told: list[tuple[Instant, str, Status]] = []
    for period in line.periods:
        if period.effective_at < now and (not told or told[-1][1:] != (period.plan, period.status)):
            told.append((period.effective_at, period.plan, period.status))
    return told


def _body(event: Event) -> dict[str, Any]:
    values = {field.name: getattr(event, field.name) for field in fields(Event) if field.name not in _IN_COLUMNS}
    return {name: value for name, value in values.items() if value is not None}


def _event(row: Row[Any]) -> Event:
    body: dict[str, Any] = dict(row.body)
    for name, kind in _ENUMS.items():
        if name in body:
            body[name] = kind(body[name])
    return Event(id=row.event_id, type=EventType(row.type), effective_at=row.effective_at, **body)


def _row(tenant_id: str, period: Period, plan_since: Instant) -> dict[str, Any]:
    values = {field.name: getattr(period, field.name) for field in fields(Period)}
    pending = period.pending
    return values | {
        "tenant_id": tenant_id,
        "plan_since": plan_since,
        "status": period.status.value,
        "source": period.source.value,
        "pending": None if pending is None else asdict(pending) | {"kind": pending.kind.value},
    }


def _period(row: Row[Any]) -> Period:
    values = {field.name: getattr(row, field.name) for field in fields(Period)}
    pending = values["pending"]
    if pending is not None:
        values["pending"] = PendingChange(**{**pending, "kind": ChangeKind(pending["kind"])})
    return Period(**{**values, "status": Status(row.status), "source": Source(row.source)})
