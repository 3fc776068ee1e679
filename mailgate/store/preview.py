"""What a purge would do, in sums: the evaluator of the purge (a `Horizon`'s expressions) in statements that read one
index from end to end, so that a million copies take less than a second and no memory. How many statements there are
hangs on how many kinds of rules hold, not on the number of tenants.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Row,
    Select,
    and_,
    case,
    func,
    literal,
    literal_column,
    or_,
    select,
    true,
    union_all,
)
from sqlalchemy.ext.asyncio import AsyncConnection

from mailgate.clock import Instant
from mailgate.store.database import Database
from mailgate.store.expiry import COPY_COLUMNS, Expiry, Horizon, due_by_age_at
from mailgate.store.schema import messages
from mailgate.store.sets import among
from retention.model import KeptBy, Reason, Rules, Sum, Supposed, Verdict
from retention.policy import judge
from retention.port import Survey

_M = messages.c
_Key = tuple[Rules, str, int]
_TENANTS_AT_ONCE = 500
_NAMES = ("all", "held", "held of age", "pinned", "pinned of age", "due", "due by plan")


@dataclass(frozen=True, slots=True)
class Example:
    """One copy and what would become of it."""

    tenant_id: str
    message_id: str
    mailbox_id: str
    item_ref: str
    anchor_at: Instant
    bytes: int
    verdict: Verdict


async def surveys(conn: AsyncConnection, horizons: Iterable[Horizon]) -> dict[str, Survey]:
    """All copies of these tenants by their fate at an instant, the same for all, whatever the clock. Tenants that are
    judged alike are read in one statement.
    """
    found: dict[str, Survey] = {}
    for horizon, tenant_ids in _together((_key(horizon), horizon) for horizon in horizons).values():
        sums = await _sums(conn, horizon, tenant_ids)
        found |= {tenant_id: _survey(horizon, sums.get(tenant_id, {})) for tenant_id in tenant_ids}
    return found


async def _sums(conn: AsyncConnection, horizon: Horizon, tenant_ids: Collection[str]) -> dict[str, Mapping[str, Sum]]:
    """Conditional sums over the tenants' copies, by tenant and name.

    What a hold names is added up by itself, as if no hold named it, and moved to what is held: to ask of each of a
    million copies whether it is among ten thousand takes several times as long as all the rest.
    """
    holds = horizon.holds
    if not holds.on_messages:
        names, query = _asked(horizon, _of(conn, tenant_ids))
        return {row.tenant_id: _read(names, row) for row in await conn.execute(query)}
    others = replace(horizon, holds=replace(holds, on_messages=()))
    names, query = _asked(others, _of(conn, tenant_ids))
    named = _asked(others, holds.named())[1]
    found: dict[str, list[Mapping[str, Sum]]] = {}
    for row in await conn.execute(union_all(query.add_columns(literal(0)), named.add_columns(literal(1)))):
        found.setdefault(row.tenant_id, [{}, {}])[row[-1]] = _read(names, row)
    return {tenant_id: _moved(*sums) for tenant_id, sums in found.items()}


def _moved(whole: Mapping[str, Sum], named: Mapping[str, Sum]) -> Mapping[str, Sum]:
    """The sums over all when those over the ones that holds name, apart from these holds, are held too."""
    sums = {name: _less(whole.get(name, Sum()), named.get(name, Sum())) for name in _NAMES}
    of_age = [named.get(name, Sum()) for name in ("held of age", "pinned of age", "due")]
    return sums | {
        "all": whole["all"],
        "held": sums["held"] + named.get("all", Sum()),
        "held of age": sum(of_age, sums["held of age"]),
    }


def _read(names: Iterable[str], row: Row[Any]) -> Mapping[str, Sum]:
    return {name: Sum(row[2 * n + 1], int(row[2 * n + 2] or 0)) for n, name in enumerate(names)}


def _asked(horizon: Horizon, which: ColumnElement[bool]) -> tuple[list[str], Select[Any]]:
    """What is added up, and the statement: the tenant, then a count and a size of each."""
    held, bounds = horizon.holds.held(), horizon.bounds
    free = true() if horizon.holds.none else ~held
    of_age, of_plan = horizon.of_age(), horizon.of_plan()
    wanted: dict[str, ColumnElement[bool]] = {"all": true()}
    if not horizon.holds.none:
        wanted |= {"held": held, "held of age": and_(held, of_age)}
    if not horizon.holds.tenant:
        wanted["pinned"] = and_(_M.pins > 0, free)
        if bounds is not None:
            wanted |= {"pinned of age": and_(_M.pins > 0, free, of_age), "due": and_(_M.pins == 0, free, of_age)}
            if horizon.removed:
                wanted["due by plan"] = and_(_M.pins == 0, free, of_plan)
    columns: list[ColumnElement[Any]] = [_M.tenant_id]
    for name, condition in wanted.items():
        count, size = func.count(), func.sum(_M.size)
        columns += (count, size) if name == "all" else (count.filter(condition), size.filter(condition))
    return list(wanted), select(*columns).where(which).group_by(_M.tenant_id)


def _survey(horizon: Horizon, sums: Mapping[str, Sum]) -> Survey:
    """What is left over is subtracted, which costs a third of what a CASE for each copy does."""
    found = {name: sums.get(name, Sum()) for name in _NAMES}
    held, pinned, due = found["held"], found["pinned"], found["due"]
    rest = _less(found["all"], held + pinned + due)
    if horizon.bounds is None:
        kept = _nonzero({KeptBy.HELD: held, KeptBy.PINNED: pinned, KeptBy.PLAN_UNKNOWN: rest})
        return Survey({}, kept, {kept_by: sum_.copies for kept_by, sum_ in kept.items()})
    by_plan = found["due by plan"] if horizon.removed else due
    of_plan_reason = Reason.PLAN_END if horizon.rules.days == 0 else Reason.AGE
    of_age_kept = _nonzero({KeptBy.HELD: found["held of age"], KeptBy.PINNED: found["pinned of age"]})
    return Survey(
        _nonzero({of_plan_reason: by_plan, Reason.MAILBOX_REMOVED: _less(due, by_plan)}),
        _nonzero({KeptBy.HELD: held, KeptBy.PINNED: pinned, KeptBy.NOT_DUE: rest}),
        {kept_by: sum_.copies for kept_by, sum_ in of_age_kept.items()},
    )


@dataclass(frozen=True, slots=True)
class Days:
    """When is counted what becomes due: at `now`, then `count` times, first at `first`, always `step` apart."""

    now: Instant
    first: Instant
    step: Instant
    count: int

    @property
    def instants(self) -> list[Instant]:
        """All of them, in order."""
        return [self.now, *(self.first + number * self.step for number in range(self.count))]


async def ahead(
    db: Database, expiry: Expiry, tenant_ids: Collection[str], days: Days, plan: Supposed | None = None
) -> list[Sum]:
    """What will be due by each of these instants and was not by the one before, of the copies that these tenants have:
    the first is all that is due by then. By the plans that hold then, or as if this one began at the first instant.
    """
    found, ids = [Sum()] * (days.count + 1), sorted(tenant_ids)
    for start in range(0, len(ids), _TENANTS_AT_ONCE):
        async with db.read() as conn:
            horizons = await expiry.horizons(conn, ids[start : start + _TENANTS_AT_ONCE], days.instants, plan)
            stretches = ((_key(horizon, number), horizon) for turns in horizons.values() for number, horizon in turns)
            due = {key: await _due_by(conn, *alike, days) for key, alike in _together(stretches).items()}
        for tenant_id, turns in horizons.items():
            seen, ends = Sum(), [number for number, _ in turns[1:]] + [len(found)]
            for (begins, horizon), end in zip(turns, ends, strict=True):
                sums = due[_key(horizon, begins)].get(tenant_id, [])
                for number in range(begins, end if sums else begins):
                    # what was due once is gone, though a plan that begins later would have kept it
                    more = Sum(max(0, sums[number].copies - seen.copies), max(0, sums[number].bytes - seen.bytes))
                    found[number], seen = found[number] + more, seen + more
    return found


async def _due_by(
    conn: AsyncConnection, horizon: Horizon, tenant_ids: Collection[str], days: Days
) -> dict[str, list[Sum]]:
    """For each of these tenants, which are judged alike, what would be due by each instant if nothing had gone before.
    One statement, whatever the number of instants: each copy falls due at one of them.
    """
    if horizon.holds.tenant or horizon.rules.days is None:
        return {}
    at, last = due_by_age_at(horizon.rules, sqlite=conn.dialect.name == "sqlite"), days.instants[-1]
    number: ColumnElement[Any] = case(
        (at <= days.now, 0), (at <= days.first, 1), else_=(at - days.first + 2 * days.step - 1) // days.step
    )
    due = at <= last
    if horizon.removed:
        gone = _M.mailbox_id.in_(sorted(horizon.removed))
        number, due = case((gone, 0), else_=number), or_(gone, due)
    query = (
        select(_M.tenant_id, number.label("which"), func.count(), func.sum(_M.size))
        .where(_of(conn, tenant_ids), _M.pins == 0, due, true() if horizon.holds.none else ~horizon.holds.held())
        .group_by(_M.tenant_id, literal_column("which"))  # the same parameters twice are two for PostgreSQL
    )
    found: dict[str, list[Sum]] = {}
    for tenant_id, which, count, size in await conn.execute(query):
        found.setdefault(tenant_id, [Sum()] * (days.count + 1))[which] = Sum(count, int(size))
    return {tenant_id: [*accumulate(sums)] for tenant_id, sums in found.items()}


def _key(horizon: Horizon, number: int = 0) -> _Key:
    """The same for tenants that are judged alike: by the same rules, with nothing held and no mailbox removed."""
    if horizon.holds.none and not horizon.removed:
        return horizon.rules, "", 0
    return horizon.rules, horizon.tenant_id, number


def _together(horizons: Iterable[tuple[_Key, Horizon]]) -> dict[_Key, tuple[Horizon, set[str]]]:
    """One of the horizons that are alike, and whose they are."""
    found: dict[_Key, tuple[Horizon, set[str]]] = {}
    for key, horizon in horizons:
        found.setdefault(key, (horizon, set()))[1].add(horizon.tenant_id)
    return found


def _of(conn: AsyncConnection, tenant_ids: Collection[str]) -> ColumnElement[bool]:
    return among(_M.tenant_id, sorted(tenant_ids), sqlite=conn.dialect.name == "sqlite")


async def examples(conn: AsyncConnection, horizon: Horizon, limit: int, *, sqlite: bool) -> list[Example]:
    """At most `limit` copies of age that would go, the oldest first, and as many that would stay."""
    if horizon.bounds is None or limit < 1:
        return []
    held = horizon.holds.held()
    of_age = select(*COPY_COLUMNS, _M.item_ref, _M.size).where(_M.tenant_id == horizon.tenant_id, horizon.of_age())
    rows: list[Any] = []
    for fate in (and_(_M.pins == 0, ~held), or_(_M.pins > 0, held)):
        rows += (await conn.execute(of_age.where(fate).order_by(_M.anchor_at, _M.id).limit(limit))).all()
    holds = await horizon.holds.count(conn, {row.id: row.mailbox_id for row in rows}, sqlite=sqlite)
    return [
        Example(
            tenant_id=horizon.tenant_id,
            message_id=row.id,
            mailbox_id=row.mailbox_id,
            item_ref=row.item_ref,
            anchor_at=row.anchor_at,
            bytes=row.size,
            verdict=judge(horizon.copy(row, holds[row.id]), horizon.rules, horizon.now),
        )
        for row in rows
    ]


def _less(whole: Sum, part: Sum) -> Sum:
    return Sum(whole.copies - part.copies, whole.bytes - part.bytes)


def _nonzero(sums: Mapping[Any, Sum]) -> dict[Any, Sum]:
    return {fate: sum_ for fate, sum_ in sums.items() if sum_.copies}
