"""What is expired at an instant, in SQL: one place for the purge, for reading and for counting, so that they agree.

*Expired* means unpinned, unheld and due. An expired copy is left out of lists, search, threads, parts and usage from
that instant on, even if the purge has not run yet. A `Horizon` holds all that decides it for one tenant: the rules,
the holds, the removed mailboxes; its expressions are over the table `messages`.

The scalar form is `retention.policy.judge`; `Horizon.copy` makes what it judges from a row.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import BigInteger, ColumnElement, and_, exists, false, func, literal, or_, select
from sqlalchemy.ext.asyncio import AsyncConnection

from mailgate.clock import DAY, Instant
from mailgate.store import installation, timelines
from mailgate.store.holds import ActiveHolds, HoldsAhead, active
from mailgate.store.holds import ahead as holds_ahead
from mailgate.store.schema import mailboxes, messages
from mailgate.store.sets import among
from mailgate.store.subscriptions import Subscriptions
from mailgate.tenants.entitlements import Entitlements
from mailgate.tenants.timeline import Timeline
from retention.model import Copy, Cutoffs, Graces, Rules, Supposed
from retention.policy import ClockLimits, clock_fault, cutoffs, due_at

COPY_COLUMNS = (
    messages.c.id,
    messages.c.mailbox_id,
    messages.c.anchor_at,
    messages.c.stored_at,
    messages.c.pins,
    messages.c.unpinned_at,
    messages.c.keep_until_at,
)
"""What a row must have for `Horizon.copy` and `Horizon.expires_at`."""


_REMOVED = select(mailboxes.c.tenant_id, mailboxes.c.id, mailboxes.c.removed_at).where(
    mailboxes.c.removed_at.is_not(None),
    exists().where(messages.c.mailbox_id == mailboxes.c.id),
)


@dataclass(frozen=True, slots=True)
class Horizon:
    """What decides about one tenant's copies at `now`. `removed`: its removed mailboxes with copies, and since when."""

    tenant_id: str
    now: Instant
    rules: Rules
    holds: ActiveHolds
    removed: Mapping[str, Instant]

    @classmethod
    async def under(cls, conn: AsyncConnection, tenant_id: str, rules: Rules, now: Instant) -> Horizon:
        """The tenant's horizon under these rules."""
        return cls(tenant_id, now, rules, await active(conn, tenant_id, now), await removed_mailboxes(conn, tenant_id))

    @property
    def bounds(self) -> Cutoffs | None:
        """The set form of the rules; None: nothing is of age."""
        return cutoffs(self.rules, self.now)

    def of_age(self) -> ColumnElement[bool]:
        """Whether a copy is due if nothing keeps it."""
        bounds = self.bounds
        return false() if bounds is None else of_age(bounds, self.removed)

    def of_plan(self) -> ColumnElement[bool]:
        """Whether it is the plan's days that make it due, not the end of its mailbox."""
        bounds = self.bounds
        return false() if bounds is None else of_plan(bounds)

    def expired(self) -> ColumnElement[bool]:
        """Whether a copy is no longer served. Nothing expires by a clock that is not sane."""
        if self.rules.clock_fault is not None or self.bounds is None or self.holds.tenant:
            return false()
        free = [messages.c.pins == 0, self.of_age()]
        if not self.holds.none:
            free.append(~self.holds.held())
        return and_(*free)

    def visible(self) -> ColumnElement[bool]:
        """Whether a copy is served: the opposite of `expired`, written so that the index on (tenant, anchor) helps."""
        bounds = self.bounds
        if self.rules.clock_fault is not None or bounds is None or self.holds.tenant:
            return ~false()
        parts = [messages.c.pins > 0, young(bounds, self.removed)]
        if not self.holds.none:
            parts.append(self.holds.held())
        return or_(*parts)

    def copy(self, row: Any, holds: int = 0) -> Copy:
        """The copy that a row with COPY_COLUMNS is, protected by so many holds."""
        return Copy(
            id=row.id,
            anchor_at=row.anchor_at,
            stored_at=row.stored_at,
            pins=row.pins,
            holds=holds,
            unpinned_at=row.unpinned_at,
            removed_at=self.removed.get(row.mailbox_id),
            keep_until_at=row.keep_until_at,
        )

    def expires_at(self, row: Any, holds: int = 0) -> Instant | None:
        """When the copy expires; None while it is pinned or held, or when the plan is not known."""
        return None if row.pins or holds else due_at(self.copy(row), self.rules)


def of_age(bounds: Cutoffs, removed: Mapping[str, Instant]) -> ColumnElement[bool]:
    """The set form's statement over `messages`: `retention.policy.of_age` in SQL."""
    gone = [mailbox_id for mailbox_id, at in sorted(removed.items()) if at <= bounds.removed_at]
    by_age = of_plan(bounds)
    return or_(by_age, messages.c.mailbox_id.in_(gone)) if gone else by_age


def of_plan(bounds: Cutoffs) -> ColumnElement[bool]:
    """The part of it that the plan's days decide."""
    if bounds.anchor_at is None:
        return false()
    parts = [messages.c.anchor_at <= bounds.anchor_at]
    if bounds.stored_at is not None:
        parts.append(messages.c.stored_at <= bounds.stored_at)
    if bounds.unpinned_at is not None:
        parts.append(or_(messages.c.unpinned_at.is_(None), messages.c.unpinned_at <= bounds.unpinned_at))
    if bounds.keep_until_at is not None:
        parts.append(or_(messages.c.keep_until_at.is_(None), messages.c.keep_until_at <= bounds.keep_until_at))
    return and_(*parts)


def due_by_age_at(rules: Rules, *, sqlite: bool) -> ColumnElement[Any]:
    """`retention.policy.due_by_age_at` in SQL."""
    if rules.days is None:
        return literal(None)
    graces = rules.graces
    parts: list[ColumnElement[Any]] = [
        messages.c.anchor_at + rules.days * DAY,
        func.coalesce(messages.c.keep_until_at, 0),
    ]
    if graces.after_storing:
        parts.append(messages.c.stored_at + graces.after_storing * DAY)
    if graces.after_shrink and rules.shrunk_at is not None:
        parts.append(literal(rules.shrunk_at + graces.after_shrink * DAY))
    if graces.after_unpin:
        parts.append(func.coalesce(messages.c.unpinned_at, 0) + graces.after_unpin * DAY)
    return (func.max if sqlite else func.greatest)(*parts, type_=BigInteger)


def young(bounds: Cutoffs, removed: Mapping[str, Instant]) -> ColumnElement[bool]:
    """The opposite of `of_age`, without NOT, which an index can't use."""
    gone = [mailbox_id for mailbox_id, at in sorted(removed.items()) if at <= bounds.removed_at]
    parts: list[ColumnElement[bool]] = []
    if bounds.anchor_at is None:
        parts.append(~false())
    else:
        parts.append(messages.c.anchor_at > bounds.anchor_at)
        if bounds.stored_at is not None:
            parts.append(messages.c.stored_at > bounds.stored_at)
        if bounds.unpinned_at is not None:
            parts.append(messages.c.unpinned_at > bounds.unpinned_at)
        if bounds.keep_until_at is not None:
            parts.append(messages.c.keep_until_at > bounds.keep_until_at)
    late = or_(*parts)
    return and_(late, messages.c.mailbox_id.not_in(gone)) if gone else late


class Expiry:
    """Makes horizons, with the rules that one process works by."""

    def __init__(self, subscriptions: Subscriptions, graces: Graces) -> None:
        self.subscriptions = subscriptions
        self._graces = graces

    async def horizon(
        self, conn: AsyncConnection, tenant_id: str, now: Instant, *, clock_fault: str | None = None
    ) -> Horizon:
        """What decides about the tenant's copies at `now`. With a `clock_fault` nothing is expired."""
        rules = replace(await self.rules(conn, tenant_id, now), clock_fault=clock_fault)
        return await Horizon.under(conn, tenant_id, rules, now)

    async def served(self, conn: AsyncConnection, tenant_id: str, now: Instant, limits: ClockLimits) -> Horizon:
        """The horizon by which copies are served at `now`: nothing is expired by a clock outside of its limits."""
        mark = await installation.read(conn, installation.CLOCK_MARK)
        fault = clock_fault(now, None if mark is None else int(mark), limits)
        return await self.horizon(conn, tenant_id, now, clock_fault=fault)

    async def rules(self, conn: AsyncConnection, tenant_id: str, at: Instant) -> Rules:
        """The tenant's rules at `at`."""
        return self._rules(await timelines.read(conn, tenant_id), at)

    async def rules_of(self, conn: AsyncConnection, tenant_id: str, holds: Entitlements, at: Instant) -> Rules:
        """The rules under these entitlements."""
        shrunk_at = await self._last_shrink(conn, tenant_id, at) if self._graces.after_shrink else None
        return self._under(holds, shrunk_at)

    async def supposed(self, conn: AsyncConnection, tenant_id: str, plan: Supposed, at: Instant) -> Rules:
        """The rules at `at` as if this plan began then: when it shrinks, it waits for that grace like any other."""
        if not self._graces.after_shrink:
            return Rules(plan.plan, plan.days, self._graces)
        return self._supposed(await timelines.read(conn, tenant_id), plan, at)

    async def horizons(
        self,
        conn: AsyncConnection,
        tenant_ids: Collection[str],
        instants: Sequence[Instant],
        plan: Supposed | None = None,
    ) -> dict[str, list[tuple[int, Horizon]]]:
        """For each of these tenants what decides about its copies at these instants, which are in order, as long as
        nothing happens; as if this plan began at the first. Each horizon stands with the number of the first instant
        at which it decides: the next one is where rules or holds change. Three statements, however many tenants.
        """
        lines = await timelines.read_many(conn, tenant_ids)
        held = await holds_ahead(conn, tenant_ids, instants[0])
        removed = await removed_of(conn, tenant_ids)
        made: dict[str, list[tuple[int, Horizon]]] = {}
        for tenant_id, line in lines.items():
            holding = held.get(tenant_id, HoldsAhead())
            turns = {instants[0]} | holding.ends
            if plan is None:
                turns |= {period.effective_at for period in line.after(instants[0])}
            numbers = sorted({bisect_left(instants, turn) for turn in turns if turn <= instants[-1]})
            begun = None if plan is None else self._supposed(line, plan, instants[0])
            made[tenant_id] = [
                (
                    number,
                    Horizon(
                        tenant_id,
                        instants[number],
                        begun or self._rules(line, instants[number]),
                        holding.at(instants[number]),
                        removed.get(tenant_id, {}),
                    ),
                )
                for number in numbers
            ]
        return made

    def _rules(self, line: Timeline, at: Instant) -> Rules:
        shrunk_at = self._shrunk_at(line, at) if self._graces.after_shrink else None
        return self._under(self.subscriptions.judge(line, at), shrunk_at)

    def _under(self, holds: Entitlements, shrunk_at: Instant | None) -> Rules:
        return Rules(holds.plan, holds.retention_days if holds.known else None, self._graces, shrunk_at)

    def _supposed(self, line: Timeline, plan: Supposed, at: Instant) -> Rules:
        shrunk_at = None
        if self._graces.after_shrink:
            before = self.subscriptions.judge(line, at - 1).retention_days
            shrinks = before is None or plan.days < before
            shrunk_at = at if shrinks else self._shrunk_at(line, at - 1)
        return Rules(plan.plan, plan.days, self._graces, shrunk_at)

    async def last_shrink(
        self, conn: AsyncConnection, tenant_id: str, at: Instant
    ) -> tuple[Instant, int | None] | None:
        """When the days last became fewer, up to `at`, and what they were before (None: not known, all was kept)."""
        shrunk_at = await self._last_shrink(conn, tenant_id, at)
        if shrunk_at is None:
            return None
        before = await self.subscriptions.entitlements_in(conn, tenant_id, shrunk_at - 1)
        return shrunk_at, before.retention_days

    async def changes_ahead(self, conn: AsyncConnection, tenant_id: str, now: Instant, most: int) -> list[Instant]:
        """The next instants at which the tenant's rules may change by themselves, as long as nothing happens."""
        line = await timelines.read(conn, tenant_id)
        return [period.effective_at for period in line.after(now)[:most]]

    async def _last_shrink(self, conn: AsyncConnection, tenant_id: str, at: Instant) -> Instant | None:
        return self._shrunk_at(await timelines.read(conn, tenant_id), at)

    def _shrunk_at(self, line: Timeline, at: Instant) -> Instant | None:
        """When the days last became fewer, up to `at`; a plan that is not known counts as keeping everything."""
        days: float | None = None
        shrunk_at: Instant | None = None
        for period in line.periods:
            moment = period.effective_at
            if moment > at:
                break
            holds = self.subscriptions.judge(line, moment)
            now_days = float("inf") if holds.retention_days is None else holds.retention_days
            if days is not None and now_days < days:
                shrunk_at = moment
            days = now_days
        return shrunk_at


async def removed_mailboxes(conn: AsyncConnection, tenant_id: str) -> Mapping[str, Instant]:
    """The tenant's removed mailboxes that still have copies, and when they were removed."""
    return (await removed_of(conn, [tenant_id])).get(tenant_id, {})


async def removed_of(conn: AsyncConnection, tenant_ids: Collection[str]) -> dict[str, dict[str, Instant]]:
    """The same of each of these tenants that has any, in one statement."""
    found: dict[str, dict[str, Instant]] = {}
    wanted = among(mailboxes.c.tenant_id, tenant_ids, sqlite=conn.dialect.name == "sqlite")
    for row in await conn.execute(_REMOVED.where(wanted)):
        found.setdefault(row.tenant_id, {})[row.id] = row.removed_at
    return found
