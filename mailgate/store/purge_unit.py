"""One batch of a purge: the port's unit of work (`retention.port.PurgeUnit`) over one open transaction.

It locks in the order that everything does: the tenant (shared), the copies (skipping what is locked), blobs by content
token, the tenant's head last. Log entries, events and usage go through the transaction's flush, so they commit with the
rows they tell of or not at all.

On PostgreSQL the next batch takes the first three of these locks while this one deletes and commits. The rows that both
write (the lease, the run, the head) it takes in its turn: before that nothing waits in the database for a batch that
waits here.

On PostgreSQL judging again after the locks means a new statement (READ COMMITTED); on SQLite the whole batch is the one
writer's.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Select, case, func, literal, literal_column, select, tuple_

from mailgate.actors import Actor
from mailgate.clock import Instant
from mailgate.errors import NotFoundError
from mailgate.ids import new_ids
from mailgate.store import runs, tenants, timelines
from mailgate.store.brake import load
from mailgate.store.bulk import AMONG, Insert, Step, ids_of, in_turn
from mailgate.store.discard import End, Freed, prepare_end
from mailgate.store.expiry import Expiry, Horizon, of_age
from mailgate.store.log import PurgeLog
from mailgate.store.schema import messages
from mailgate.store.subscriptions import Subscriptions
from mailgate.store.tenants import Tenant
from mailgate.store.tombstones import Places, copied, graves, read_places
from mailgate.store.transaction import Event, Leaf, Transaction
from retention.engine import APPROVED_BRAKE
from retention.ledger import leaves
from retention.ledger.purge_template import ItemPurgeTemplate
from retention.model import Brake, Copy, Counts, Cutoffs, KeptBy, Reason, Rules, Verdict
from retention.port import Load, Position, Progress, Run

METHOD = "data_key_destroyed"

_M = messages.c


class _Row(NamedTuple):
    """What a purge reads of a copy. A named tuple: its fields are looked at a dozen times for each copy."""

    id: str
    mailbox_id: str
    item_ref: str
    anchor_at: Instant
    anchor_source: str
    stored_at: Instant
    size: int
    header_token: bytes
    content_commit: bytes
    msgid_commit: bytes
    blob_id: str
    pins: int
    unpinned_at: Instant | None
    keep_until_at: Instant | None
    indexed: bool
    moving_to: str | None


_PURGED_COLUMNS: tuple[ColumnElement[Any], ...] = tuple(
    literal_column(f"messages.{name}") for name in _Row._fields
)  # as the driver gives them
_CANDIDATES: Mapping[bool, Select[Any]] = {True: select(*_PURGED_COLUMNS), False: select(_M.anchor_at, _M.id)}
"""By whether it is SQLite, which has one writer: what is read there stays so, and is read once."""
_TENANT_WANTED = """
SELECT EXISTS (
  SELECT 1 FROM pg_locks WHERE locktype = 'tuple' AND relation = 'tenants'::regclass
  AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
)
"""
"""Whoever waits for a row has a lock of this kind on it. Shared locks that overlap would keep them waiting for good."""
_READ = f"SELECT {', '.join(_Row._fields)} FROM messages WHERE id {AMONG[False]}"  # noqa: S608 - no values


class SqlPurgeUnit:
    """One transaction over one tenant. `lock_tenant` comes first."""

    def __init__(
        self,
        tx: Transaction,
        log: PurgeLog,
        subscriptions: Subscriptions,
        expiry: Expiry,
        run: Run,
        tenant_id: str,
        on_purged: Callable[[], None] | None,
        on_turn: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        """`on_turn`: this unit began ahead, and calls this before it changes anything."""
        self._tx = tx
        self._log = log
        self._subscriptions = subscriptions
        self._expiry = expiry
        self._run = run
        self._tenant_id = tenant_id
        self._on_purged = on_purged
        self._on_turn = on_turn
        self._end: tuple[Places, End] | None = None
        self._actor = Actor(run.actor.kind, run.actor.ref)
        self._rows: dict[str, _Row] = {}
        self._horizon: Horizon | None = None
        self._tenant: Tenant | None = None
        self._leaving = False
        self._at: Instant = run.started_at

    async def lock_tenant(self, at: Instant) -> Rules | None:
        """Lock the tenant shared; tell the log of a plan that came into force before judging by it."""
        try:
            self._tenant = await tenants.lock(self._tx, self._tenant_id, shared=True)
        except NotFoundError:
            self._tenant, self._leaving, self._at = await tenants.leaving(self._tx, self._tenant_id), True, at
            return None
        # A plan that was bought before the lock was had counts, also by a clock that is behind the buyer's.
        self._at = at = await timelines.heard_until(self._tx.conn, self._tenant_id, at)
        if self._on_turn is None:
            entitled = await self._subscriptions.announce(self._tx, self._tenant, at)
        else:  # what the unit before tells the log is not committed: this one tells in its turn
            entitled = await self._subscriptions.entitlements_in(self._tx.conn, self._tenant_id, at)
        rules = await self._expiry.rules_of(self._tx.conn, self._tenant_id, entitled, at)
        self._horizon = await Horizon.under(self._tx.conn, self._tenant_id, rules, self._run.now_at)
        return rules

    async def lock_candidates(self, bounds: Cutoffs, after: Position | None, limit: int) -> Sequence[Position]:
        """Lock copies of age that nothing keeps, the oldest first."""
        horizon = self._known_horizon()
        if horizon.holds.tenant:
            return []
        query = self._of_age(_CANDIDATES[self._tx.sqlite], bounds, after).where(_M.pins == 0)
        if not horizon.holds.none:
            query = query.where(~horizon.holds.held())
        query = query.order_by(_M.anchor_at, _M.id).limit(limit)
        if self._tx.sqlite:
            self._rows = {row[0]: _Row._make(row) for row in (await self._tx.conn.execute(query)).all()}
            return [(row.anchor_at, row.id) for row in self._rows.values()]
        query = query.with_for_update(skip_locked=True, of=messages)
        return [(anchor_at, id_) for anchor_at, id_ in (await self._tx.conn.execute(query)).all()]

    async def read(self, candidates: Sequence[Position]) -> Sequence[Copy]:
        """What the locked copies are now: a statement of its own, begun after the locks."""
        horizon = self._known_horizon()
        ids = [id_ for _, id_ in candidates]
        if not self._tx.sqlite:
            (found,) = await in_turn(self._tx.conn, [Step(_READ, (ids_of(ids, sqlite=False),))], sqlite=False)
            self._rows = {row[0]: _Row._make(row) for row in found}
        holds = await horizon.holds.count(
            self._tx.conn, {row.id: row.mailbox_id for row in self._rows.values()}, sqlite=self._tx.sqlite
        )
        return [horizon.copy(self._rows[id_], holds[id_]) for id_ in ids if id_ in self._rows]

    async def kept_between(
        self, bounds: Cutoffs, after: Position | None, through: Position | None, taken: Sequence[Position]
    ) -> Mapping[str, int]:
        """Count the other copies of age in this stretch of the walk: all of them, without those that were taken, which
        nothing keeps. What is left then of those is what another transaction has locked.
        """
        kept_by = case((self._known_horizon().holds.held(), "held"), (_M.pins > 0, "pinned"), else_="locked")
        stretch: list[ColumnElement[bool]] = []
        if through is not None:
            # SQLite ends its walk of the index by a bound of one column, and by whichever it likes: there is but one,
            # or it would read on to the last copy of age for each batch.
            stretch = [_M.anchor_at <= through[0], tuple_(_M.anchor_at, _M.id) <= _position(through)]
            if bounds.anchor_at is not None:
                bounds = replace(bounds, anchor_at=min(bounds.anchor_at, through[0]))
        query = self._of_age(select(kept_by, func.count()), bounds, after).where(*stretch).group_by(kept_by)
        found: dict[str, int] = {row[0]: row[1] for row in (await self._tx.conn.execute(query)).all()}
        found["locked"] = found.get("locked", 0) - len(taken)
        return {kept: count for kept, count in found.items() if count > 0}

    async def kept_after(self, after: Position | None) -> Mapping[str, int]:
        """Count all copies of the tenant after this position."""
        held = self._known_horizon().holds.held()
        kept_by = case((held, KeptBy.HELD), (_M.pins > 0, KeptBy.PINNED), else_=KeptBy.PLAN_UNKNOWN)
        query = select(kept_by, func.count()).where(_M.tenant_id == self._tenant_id).group_by(kept_by)
        if after is not None:
            query = query.where(tuple_(_M.anchor_at, _M.id) > _position(after))
        return {row[0]: row[1] for row in (await self._tx.conn.execute(query)).all()}

    async def prepare(self, due: Sequence[tuple[Copy, Verdict]]) -> None:
        """Read where the copies came from; lock their blobs, and see which lose their last reference."""
        rows = [self._rows[copy[0]] for copy, _ in due]
        places = await read_places(self._tx, rows)
        removed = self._known_horizon().removed
        moving = [row.id for row in rows if row.moving_to is not None or row.mailbox_id in removed]
        if moving:
            places = places._replace(twice=await copied(self._tx.conn, moving, sqlite=self._tx.sqlite))
        end = await prepare_end(self._tx, self._tenant_id, rows, now=self._at, run_id=self._run.id)
        self._end = places, end

    async def take_turn(self) -> None:
        """Prove the lease, and tell the log of a plan that came into force."""
        if self._on_turn is not None:
            await self._on_turn()
            if self._tenant is not None and not self._leaving:
                await self._subscriptions.announce(self._tx, self._tenant, self._at)

    async def may_be_followed(self) -> bool:
        """On PostgreSQL, unless somebody waits for a tenant's row. SQLite has one writer."""
        if self._tx.sqlite:
            return False
        ((wanted,),) = (await in_turn(self._tx.conn, [Step(_TENANT_WANTED)], sqlite=False))[0]
        return not wanted

    async def purge(self, due: Sequence[tuple[Copy, Verdict]], rules: Rules) -> int:
        """Tombstones, rows, blob references, log entries, events, usage. Entries are made while the database works."""
        if self._end is None:
            raise RuntimeError("prepare comes first")
        places, end = self._end
        rows = [self._rows[copy[0]] for copy, _ in due]
        reasons = [verdict.reason or Reason.AGE for _, verdict in due]
        at, run_id = self._at, self._run.id
        templates = {reason: self._template(rules, reason) for reason in set(reasons)}

        def write_down() -> list[Insert]:
            self._tell(templates, rows, due, end.freed)
            return [graves(self._tenant_id, rows, reasons, places, at=at, run_id=run_id)]

        await end.carry_out(write_down)
        size: int = sum([row.size for row in rows])
        self._tx.count(self._tenant_id, copies=-len(rows), storage_bytes=-size)
        if self._on_purged is not None:
            self._tx.after_commit(self._on_purged)
        return size

    async def defer(self, copy: Copy, reason: str) -> None:
        """Log that a copy stayed though it should have gone."""
        row = self._rows[copy.id]
        self._write(leaves.item_deferred, item_ref=row.item_ref, mailbox_ref=row.mailbox_id, reason=reason)

    async def load(self, bounds: Cutoffs, brake: Brake, taken: int, after: Position | None) -> Load | None:
        """What the run would take, by the horizon that `lock_tenant` made."""
        del bounds  # the horizon has them
        return await load(self._tx.conn, self._expiry, self._known_horizon(), brake, self._at, taken, after)

    async def open(self) -> None:
        """Log the run's opening."""
        run = self._run
        fields = {"now": run.now_at, "trigger": run.trigger, "approved": run.approved}
        self._write(leaves.run_open, **fields, approved_up_to=self._approved_up_to())

    async def close(self, counts: Counts, asked: Load | None) -> None:
        """Log the run's closing, and tell the feed."""
        self._write(
            leaves.run_close,
            candidates=counts.candidates,
            purged=counts.purged,
            kept=counts.kept,
            failed=counts.failed,
            bytes_=counts.bytes,
            **_passed(asked),
        )
        payload = {"run_id": self._run.id, "purged": counts.purged, "failed": counts.failed}
        self._tx.emit(self._tenant_id, "retention.run_completed", at=self._at, payload=payload)

    async def abort(self, counts: Counts, reason: str, asked: Load | None) -> None:
        """Log that the run stopped; a tenant that leaves has a log, and no feed any more."""
        if self._leaving and self._tenant is None:
            return
        self._write(
            leaves.run_abort,
            candidates=counts.candidates,
            purged=counts.purged,
            kept=counts.kept,
            failed=counts.failed,
            reason=reason,
            approved_up_to=self._approved_up_to() if reason == APPROVED_BRAKE else None,
            **_passed(asked),
        )
        if not self._leaving:
            payload = {"run_id": self._run.id, "reason": reason}
            self._tx.emit(self._tenant_id, "retention.run_halted", at=self._at, payload=payload)

    async def record(self, progress: Progress) -> None:
        """Move the run's row on."""
        await runs.change(self._tx, self._run.id, counts=runs.progress_to_json(progress))

    def _approved_up_to(self) -> int | None:
        return self._run.approved_of(self._tenant_id) if APPROVED_BRAKE in self._run.approved else None

    def _known_horizon(self) -> Horizon:
        if self._horizon is None:
            raise RuntimeError("lock_tenant comes first")
        return self._horizon

    def _of_age(self, query: Select[Any], bounds: Cutoffs, after: Position | None) -> Select[Any]:
        query = query.where(_M.tenant_id == self._tenant_id, of_age(bounds, self._known_horizon().removed))
        return query if after is None else query.where(tuple_(_M.anchor_at, _M.id) > _position(after))

    def _template(self, rules: Rules, reason: Reason) -> ItemPurgeTemplate:
        return ItemPurgeTemplate(
            self._common(), plan=rules.plan, days=rules.days or 0, reason=str(reason), method=METHOD
        )

    def _tell(
        self,
        templates: Mapping[Reason, ItemPurgeTemplate],
        rows: Sequence[_Row],
        due: Sequence[tuple[Copy, Verdict]],
        freed: Mapping[str, Freed],
    ) -> None:
        """The entries and events of some copies that go."""
        at, run_id = self._at, self._run.id
        entries: list[Leaf] = []
        events: list[Event] = []
        for id_, row, (_, verdict) in zip(new_ids(at, len(rows)), rows, due, strict=True):
            reason, gone = verdict.reason or Reason.AGE, freed[row.id]
            body = templates[reason].leaf(
                id_,
                item_ref=row.item_ref,
                mailbox_ref=row.mailbox_id,
                content_commit=row.content_commit,
                msgid_commit=row.msgid_commit,
                anchor=leaves.Anchor(row.anchor_at, row.anchor_source),
                due_at=verdict.due_at or 0,
                blobs=leaves.Blobs(1, gone.freed, gone.bytes),
            )
            entries.append(Leaf(body, "item.purge", at, run_id, row.item_ref))
            # as `emit` would write it: an instant, a word and an id need no escaping
            payload = f'{{"anchor_at":{row.anchor_at},"reason":"{reason}","run_id":"{run_id}"}}'
            events.append(Event("message.purged", at, row.mailbox_id, row.id, payload))
        self._tx.log_many(self._tenant_id, entries)
        self._tx.emit_many(self._tenant_id, events)

    def _common(self) -> leaves.Common:
        if self._tenant is None:
            raise RuntimeError("lock_tenant comes first")
        return self._log.common(self._tenant.ref, self._at, self._actor, self._run.id)

    def _write(self, make: Callable[..., bytes], **fields: Any) -> None:
        if self._tenant is None:
            raise RuntimeError("lock_tenant comes first")
        self._log.write(
            self._tx,
            self._tenant_id,
            self._tenant.ref,
            make,
            at=self._at,
            actor=self._actor,
            run=self._run.id,
            **fields,
        )


def _passed(asked: Load | None) -> dict[str, Any]:
    """What the log says of why the brake let a run pass."""
    if asked is None:
        return {}
    return {"copies": asked.copies, **({"explained": "plan"} if asked.explained else {})}


def _position(position: Position) -> Any:
    return tuple_(literal(position[0]), literal(position[1]))
