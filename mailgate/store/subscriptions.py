"""Subscriptions: what happened to a tenant's plan, what holds of it, and what the purge log and the feed were told.

Events are recorded (`mailgate.store.timelines`); what holds at an instant is computed from them. The log gets a
`plan.effective` leaf whenever plan or days differ from what it last heard, also when a period merely ran out, or when
the past turned out otherwise: `announce` is called by each change, by the scheduler's tick and before a purge judges,
so that the log alone shows under which plan each copy was judged. The feed hears of every change of the subscription,
and mailboxes beyond a new plan's limits are switched off in the same transaction.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import takewhile

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from mailgate.actors import SYSTEM, Actor
from mailgate.clock import DAY, Instant
from mailgate.errors import PreconditionError
from mailgate.ids import new_id
from mailgate.store import installation, plan_limits, tenants, timelines
from mailgate.store.database import Database
from mailgate.store.log import PurgeLog
from mailgate.store.schema import subscription_events, tenant_heads
from mailgate.store.schema import tenants as tenants_table
from mailgate.store.tenants import Tenant
from mailgate.store.timelines import RecordedPeriod
from mailgate.store.transaction import Transaction
from mailgate.tenants import commands
from mailgate.tenants.catalogue import FREE, Catalogue, Plan
from mailgate.tenants.commands import Option, Situation, Wish
from mailgate.tenants.entitlements import Entitlements, entitled, entitlements
from mailgate.tenants.quote import Quote, quote
from mailgate.tenants.timeline import (
    Event,
    EventType,
    Period,
    Status,
    SubscriptionRules,
    Timeline,
    timeline,
)
from retention.ledger import leaves
from retention.ledger.schema import REF

_E = subscription_events.c


@dataclass(frozen=True, slots=True)
class SubscriptionChange:
    """What `set_outright` sets; the period begins now."""

    plan: str
    status: Status = Status.ACTIVE
    period_end: Instant | None = None
    auto_renew: bool = False
    seats: int | None = None


@dataclass(frozen=True, slots=True)
class Recorded:
    """What came of events: what holds at `at`, when they were recorded, how many of them were new, and whether they
    changed what was thought of the past.
    """

    holds: Entitlements
    line: Timeline
    new: int
    changed_past: bool
    at: Instant


class Subscriptions:
    """The use cases around timelines, with the catalogue and rules that one process works by."""

    def __init__(self, db: Database, log: PurgeLog, catalogue: Catalogue, rules: SubscriptionRules) -> None:
        self._db = db
        self._log = log
        self._numbers = rules
        self.catalogue = catalogue
        """The plans that are in force; replaced as a whole when the file was changed (then: `compute_anew`)."""

    @property
    def _rules(self) -> SubscriptionRules:
        """With the order of the plans that are in force."""
        return replace(self._numbers, ranks={plan.name: plan.rank for plan in self.catalogue.plans.values()})

    # What holds.

    async def entitlements(self, tenant_id: str, now: Instant) -> Entitlements:
        """What the tenant may do at `now`; a tenant to which nothing happened, or an unknown one, is on Free."""
        return await self._db.query(lambda conn: self.entitlements_in(conn, tenant_id, now))

    async def entitlements_in(self, conn: AsyncConnection, tenant_id: str, now: Instant) -> Entitlements:
        """The same on a connection, inside a transaction that holds the tenant's lock."""
        return self.judge(await timelines.read(conn, tenant_id), now)

    async def all_entitlements(self, now: Instant) -> Mapping[str, Entitlements]:
        """For every tenant; two queries, one row a tenant each."""
        async with self._db.read() as conn:
            held = await timelines.current(conn, now)
            ids = (await conn.execute(select(tenants_table.c.id).where(tenants.LIVING))).scalars().all()
        free = self.judge(timeline(()), now)
        return {id_: entitled(*held[id_], self.catalogue) if id_ in held else free for id_ in ids}

    # What it may do, also while the clock is wrong: one that was set to before a plan began must not end its sync.

    async def allowed(self, tenant_id: str, now: Instant) -> Entitlements:
        """What the tenant may do at `now`, or could at the latest time on record if that is later and had sync."""
        return await self._db.query(lambda conn: self.allowed_in(conn, tenant_id, now))

    async def allowed_in(self, conn: AsyncConnection, tenant_id: str, now: Instant) -> Entitlements:
        """The same on a connection, inside a transaction that holds the tenant's lock."""
        line = await timelines.read(conn, tenant_id)
        holds = self.judge(line, now)
        if holds.sync or (latest := await installation.latest_time(conn)) is None or latest <= now:
            return holds
        held = self.judge(line, latest)
        return held if held.sync else holds

    async def all_allowed(self, now: Instant) -> Mapping[str, Entitlements]:
        """The same for every tenant."""
        holds = await self.all_entitlements(now)
        latest = await self._db.query(installation.latest_time)
        if latest is None or latest <= now:
            return holds
        held = await self.all_entitlements(latest)
        return {
            id_: held[id_] if not own.sync and id_ in held and held[id_].sync else own for id_, own in holds.items()
        }

    def judge(self, line: Timeline, now: Instant) -> Entitlements:
        """The pure function with this process's catalogue."""
        return entitlements(line, self.catalogue, now)

    def plan(self, name: str) -> Plan:
        """The catalogue's plan of that name. Raises PreconditionError (plan_unknown)."""
        found = self.catalogue.plan(name)
        if found is None:
            known = ", ".join(sorted(self.catalogue.plans))
            raise PreconditionError(f"there is no plan {name!r}; the plans are {known}", slug="plan_unknown")
        return found

    async def timeline(self, tenant_id: str) -> Timeline:
        """The tenant's periods, those to come too."""
        async with self._db.read() as conn:
            return await timelines.read(conn, tenant_id)

    # What happens.

    async def set_outright(
        self, tenant_id: str, change: SubscriptionChange, now: Instant, actor: Actor
    ) -> Entitlements:
        """Begin a new period now, whatever went before. Raises PreconditionError (plan_unknown, period_end_invalid),
        NotFoundError.
        """
        self.plan(change.plan)

        def make(situation: Situation, event_id: str) -> Event:
            over = change.period_end is not None and change.period_end <= situation.now
            if over and change.plan != FREE and change.status is not Status.PAST_DUE:
                raise PreconditionError(
                    "`period_end` must lie ahead; set plan free to end it", slug="period_end_invalid"
                )
            return Event(event_id, EventType.SET, situation.now, **asdict(change))

        return (await self._decide(tenant_id, make, "set", now, actor)).holds

    async def command(self, tenant_id: str, wish: Wish, now: Instant, actor: Actor) -> Recorded:
        """Do what was asked for, if the rules allow it. Raises ConflictError with a slug for each refusal (and
        `allowed_at` where time will allow it), PreconditionError, NotFoundError.
        """

        def make(situation: Situation, event_id: str) -> Event:
            return commands.decide(wish, situation, event_id)

        return await self._decide(tenant_id, make, "command", now, actor)

    async def tell(
        self, tenant_id: str, events: Sequence[Event], now: Instant, actor: Actor, *, told_by: str = "billing"
    ) -> Recorded:
        """Record what another system knows, in any order, as often as it likes. Raises PreconditionError
        (plan_unknown, period_end_missing), ConflictError (event_id_reused), NotFoundError.
        """

        async def work(tx: Transaction) -> Recorded:
            tenant = await tenants.lock(tx, tenant_id)
            known = {event.id: event for event in await timelines.read_events(tx.conn, tenant_id)}
            told = [self._by_the_plans(event, known.get(event.id)) for event in events]
            return await self.record(tx, tenant, told, told_by, now, actor)

        return await self._db.transact(work)

    def _by_the_plans(self, event: Event, known: Event | None) -> Event:
        """The event with what the catalogue says of it, once: what the plans say later changes nothing of what was told
        before, nor makes its repetition another event.
        """
        plan = None if event.plan is None or known is not None else self.plan(event.plan)
        if event.type is not EventType.TRIAL_STARTED or event.period_end is not None or event.term_months is not None:
            return event
        if known is not None:
            return replace(event, period_end=known.period_end)
        if plan is None or plan.trial_days is None:
            raise PreconditionError(
                "this plan has no `trial_days`: say when the trial ends, `period_end`", slug="period_end_missing"
            )
        return replace(event, period_end=event.effective_at + plan.trial_days * DAY)

    async def _decide(
        self,
        tenant_id: str,
        make: Callable[[Situation, str], Event],
        told_by: str,
        now: Instant,
        actor: Actor,
    ) -> Recorded:
        async def work(tx: Transaction) -> Recorded:
            tenant = await tenants.lock(tx, tenant_id)
            heard = await timelines.heard_until(tx.conn, tenant_id, now)
            # Decided upon what was recorded before, it counts from after that.
            at = heard + 1 if heard > now else now
            situation = await self._situation(tx.conn, tenant_id, at)
            known = len(await timelines.read_events(tx.conn, tenant_id))
            # Counted along, so that of two at the same instant the later one counts.
            event = make(situation, f"{known:06d}-{new_id(at)}")
            return await self.record(tx, tenant, [event], told_by, at, actor)

        return await self._db.transact(work)

    async def record(
        self, tx: Transaction, tenant: Tenant, events: Sequence[Event], told_by: str, now: Instant, actor: Actor
    ) -> Recorded:
        """The same within a transaction that holds the tenant's lock alone, of events whose plans are known."""
        now = await timelines.heard_until(tx.conn, tenant.id, now)
        before = await timelines.read(tx.conn, tenant.id)
        added = await timelines.add(tx, tenant.id, events, told_by=told_by, now=now, actor=actor)
        if not added:
            return Recorded(self.judge(before, now), before, 0, changed_past=False, at=now)
        line = await timelines.compute(tx.conn, tenant.id, self._rules)
        await timelines.write(tx, tenant.id, line)
        changed_past = timelines.changed_before(before, line, now)
        holds = await self.announce(
            tx, tenant, now, actor=actor, cause=added[-1].type.value, event_ref=added[-1].id, before=before
        )
        await self._tell_feed(tx, tenant, line, now, changed_past=changed_past)
        return Recorded(holds, line, len(added), changed_past, now)

    # What could happen.

    async def quote(self, tenant_id: str, wish: Wish, now: Instant) -> Quote:
        """What the command would cost. Raises as `command` does, and ConflictError (no_price); changes nothing."""
        async with self._db.read() as conn:
            situation = await self._situation(conn, tenant_id, now)
            told = await timelines.read_events(conn, tenant_id)
        event = commands.decide(wish, situation, "quote")
        after = timeline([*told, event], self._rules)
        return quote(wish.command, event, situation.period, after, self.catalogue, situation.seats_used)

    async def options(self, tenant_id: str, now: Instant) -> list[Option]:
        """What the rules allow now, and from when they will allow the rest."""
        async with self._db.read() as conn:
            return commands.options(await self._situation(conn, tenant_id, now))

    async def _situation(self, conn: AsyncConnection, tenant_id: str, now: Instant) -> Situation:
        line = await timelines.read(conn, tenant_id)
        return Situation(line, self.catalogue, now, await plan_limits.users(conn, tenant_id))

    # Who hears of it.

    async def announce(
        self,
        tx: Transaction,
        tenant: Tenant,
        now: Instant,
        *,
        actor: Actor = SYSTEM,
        cause: str = "time",
        event_ref: str = "none",
        before: Timeline | None = None,
    ) -> Entitlements:
        """What holds at `now`; told to the log with whatever led there, as far as it has not heard of it. `before`: the
        timeline that it heard of. The caller holds the tenant's lock, shared is enough.
        """
        line = await timelines.read(tx.conn, tenant.id)
        holds = self.judge(line, now)
        if not holds.known or holds.retention_days is None:
            return holds  # nothing can be purged under it, so there is nothing to prove
        query = select(tenant_heads.c.log_plan).where(tenant_heads.c.tenant_id == tenant.id)
        heard = (await tx.conn.execute(query)).scalar_one()
        if before is None and heard == _log_mark(holds):
            return holds
        untold = _untold(heard, self._steps(before or line, now), self._steps(line, now))
        for step in untold:
            self._log.write(
                tx,
                tenant.id,
                tenant.ref,
                leaves.plan_effective,
                at=now,
                actor=actor,
                plan=step.plan,
                days=step.retention_days,
                effective_at=step.since,
                cause=cause,
                event_ref=_log_ref(event_ref),
            )
        if untold:
            tx.set_head(tenant.id, log_plan=_log_mark(holds))
        return holds

    def _steps(self, line: Timeline, now: Instant) -> list[Entitlements]:
        """What each plan up to now entitled to when it began, of the plans that are known."""
        begun = [
            period.effective_at
            for before, period in zip((None, *line.periods), line.periods, strict=False)
            if period.effective_at <= now and (before is None or before.plan != period.plan)
        ]
        return [holds for at in begun if (holds := self.judge(line, at)).known]

    async def recover(
        self, tx: Transaction, tenant_id: str, plan: str, days: int, *, since: Instant, at: Instant, event_id: str
    ) -> bool:
        """What the log knows of a plan and a restored database does not; whether anything was new. The billing system
        tells the rest. Writes nothing to the log, which has it; the caller holds the tenant's lock.
        """
        tx.set_head(tenant_id, log_plan=f"{plan}:{days}:{since}")
        holds = await self.entitlements_in(tx.conn, tenant_id, at)
        if (holds.plan, holds.retention_days) == (plan, days):
            return False
        event = Event(event_id, EventType.SET, since, plan=plan)
        await timelines.add(tx, tenant_id, [event], told_by="set", now=at, actor=SYSTEM)
        await timelines.write(tx, tenant_id, await timelines.compute(tx.conn, tenant_id, self._rules))
        return True

    async def announce_lapses(self, now: Instant) -> int:
        """The scheduler's tick: announce what changed by mere passing of time. Returns for how many tenants."""
        async with self._db.read() as conn:
            held = await timelines.current(conn, now)
            columns = (tenant_heads.c.tenant_id, tenant_heads.c.log_plan, tenant_heads.c.feed_plan)
            living = select(*columns).join(tenants_table, tenants_table.c.id == tenant_heads.c.tenant_id)
            heads = (await conn.execute(living.where(tenants.LIVING).order_by(tenant_heads.c.tenant_id))).all()
        free = timeline(()).at(now)
        changed = 0
        for tenant_id, log_plan, feed_plan in heads:
            period, since = held.get(tenant_id, (free, 0))
            holds = entitled(period, since, self.catalogue)
            if feed_plan == self._feed_mark(period) and (not holds.known or log_plan == _log_mark(holds)):
                continue

            async def work(tx: Transaction, tenant_id: str = tenant_id) -> None:
                tenant = await tenants.lock(tx, tenant_id)
                at = await timelines.heard_until(tx.conn, tenant_id, now)
                await self.announce(tx, tenant, at)
                await self._tell_feed(tx, tenant, await timelines.read(tx.conn, tenant_id), at)

            await self._db.transact(work)
            changed += 1
        return changed

    async def _tell_feed(
        self, tx: Transaction, tenant: Tenant, line: Timeline, now: Instant, *, changed_past: bool = False
    ) -> None:
        """The event, and the limits that a change of plan brings. The caller holds the tenant's lock alone."""
        period = line.at(now)
        mark = self._feed_mark(period)
        heard = select(tenant_heads.c.feed_plan).where(tenant_heads.c.tenant_id == tenant.id)
        if (await tx.conn.execute(heard)).scalar_one() == mark and not changed_past:
            return
        holds = self.judge(line, now)
        off = await plan_limits.switch_off_surplus(tx, tenant.id, holds, now)
        payload = {
            "plan": period.plan,
            "status": period.status.value,
            "effective_at": period.effective_at,
            "period_end": period.period_end,
            "auto_renew": period.auto_renew,
            "seats": period.seats,
            "sync": holds.sync,
            "retention_days": holds.retention_days,
            "cause": period.cause_type,
            "changed_past": changed_past,
            "mailboxes_switched_off": off,
        }
        tx.emit(tenant.id, "subscription.changed", at=now, payload=payload)
        tx.set_head(tenant.id, feed_plan=mark)

    def _feed_mark(self, period: Period) -> str:
        """A digest of all that the feed's readers are told of, the plan's own values included."""
        shown = replace(period, effective_at=0, until_at=None, cause=None, cause_type=None)
        plan = self.catalogue.plan(period.plan)
        told = [asdict(shown), None if plan is None else asdict(plan)]
        return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()

    # The past.

    async def history(self, tenant_id: str, now: Instant) -> list[RecordedPeriod]:
        """Every period up to now with its event, the latest first."""
        async with self._db.read() as conn:
            return await timelines.history(conn, tenant_id, now)

    async def compute_anew(self) -> int:
        """At start, and with other plans: compute every timeline again if the rules, how they are read, or the order of
        the plans are others than the last time. Returns how many.
        """
        wanted = timelines.mark_of(self._rules)
        async with self._db.read() as conn:
            if await installation.read(conn, installation.SUBSCRIPTION_RULES) == wanted:
                return 0
            told = select(_E.tenant_id).join(tenants_table, tenants_table.c.id == _E.tenant_id).where(tenants.LIVING)
            ids = (await conn.execute(told.distinct().order_by(_E.tenant_id))).scalars().all()
        for tenant_id in ids:

            async def work(tx: Transaction, tenant_id: str = tenant_id) -> None:
                await tenants.lock(tx, tenant_id)
                await timelines.write(tx, tenant_id, await timelines.compute(tx.conn, tenant_id, self._rules))

            await self._db.transact(work)
        await installation.put(self._db, installation.SUBSCRIPTION_RULES, wanted)
        return len(ids)


def _log_ref(event_id: str) -> str:
    """An event's id as the log can have it: another system's may be of any letters and long, or even hold an address.
    Whoever knows it finds it by its hash.
    """
    return event_id if REF(event_id) else f"sha256:{hashlib.sha256(event_id.encode()).hexdigest()[:56]}"


def _untold(heard: str | None, before: Sequence[Entitlements], now: Sequence[Entitlements]) -> Sequence[Entitlements]:
    """Which steps the log is to be told, whose last word was `heard`, a step of `before`. A step takes back those that
    began then or later; where nothing new begins so early, the last step that was right is said once more.
    """
    marks = [_log_mark(step) for step in before]
    if heard not in marks:  # nothing yet, or by plans that had other days
        return [] if heard == _log_mark(now[-1]) else now[-1:]
    told = marks[: marks.index(heard) + 1]
    same = len(list(takewhile(lambda pair: pair[0] == _log_mark(pair[1]), zip(told, now, strict=False))))
    takes_back = same == len(told) or (same < len(now) and now[same].since <= before[same].since)
    return now[same:] if takes_back else now[max(same - 1, 0) :]


def _log_mark(holds: Entitlements) -> str:
    return f"{holds.plan}:{holds.retention_days}:{holds.since}"
