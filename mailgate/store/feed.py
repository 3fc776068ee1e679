"""The change feed's rows: committed events get their place in one order, are read in it, and are forgotten in it.

Theory. Transactions number their events within the tenant, under the lock of the tenant's head, and commit in that
order; between tenants they commit in any. A publisher gives what is committed its global `position`: in one
transaction, under the lock of the feed's only row, from the last position on. Invariants:

1. Positions are given once, without gaps, and become visible in their order: who sees one sees all before it.
2. Within a tenant the order of positions is that of the numbers: a statement sees a prefix of a tenant's numbers, since
   a number is taken under a lock that is held until the commit, and what it takes it takes in order of the numbers.
3. What is pruned is a prefix of the positions, and `feed.pruned` says how far, in the transaction that deletes.

Readers see positioned events only. So a cursor, a position, is never overtaken by an event that turns up behind it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Row, delete, func, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from mailgate.clock import SECOND, Instant
from mailgate.errors import BadRequestError, GoneError
from mailgate.events.cursors import LATEST, read_cursor, write_cursor
from mailgate.events.types import TypeFilter
from mailgate.ids import new_ref
from mailgate.store import leases
from mailgate.store.database import Database
from mailgate.store.schema import events, feed
from mailgate.store.schema import leases as leases_table
from mailgate.store.transaction import Transaction

BATCH: Final = 2_000
"""Events that one transaction puts in order at most."""

LEASE: Final = "publisher"
LEASE_TTL: Final[Instant] = 10 * SECOND
"""How long events may wait after the process that published was killed."""

_WINDOW: Final = 20_000
"""Positions that one statement looks through for a reader who wants few of them."""

_E = events.c


@dataclass(frozen=True, slots=True)
class FeedEvent:
    """One event at its place. `seq` is its number within the tenant, `data` what it was written with."""

    position: int
    tenant_id: str
    seq: int
    type: str
    at: Instant
    mailbox_id: str | None
    message_id: str | None
    data: Mapping[str, Any]

    @property
    def id(self) -> str:
        """The same for ever, however often the event is delivered."""
        return f"{self.tenant_id}:{self.seq}"


@dataclass(frozen=True, slots=True)
class Lane:
    """What a webhook delivers in order: the events of a mailbox, or (None) those of a tenant that have none."""

    tenant_id: str
    mailbox_id: str | None


@dataclass(frozen=True, slots=True)
class FeedPage:
    """`events` in order; a reader goes on after `position`, which is beyond them when nothing else was wanted."""

    events: Sequence[FeedEvent]
    position: int


@dataclass(frozen=True, slots=True)
class Head:
    """The feed's row: its `ref` in cursors, the last position given, and up to where events are not kept any more."""

    ref: str
    position: int
    pruned: int


@dataclass(frozen=True, slots=True)
class Backlog:
    """Committed events without a position: how many, and the time of the oldest (None: none)."""

    count: int
    oldest_at: Instant | None


class Publisher:
    """Puts committed events in order. Any number of processes may have one; a lease lets one of them work."""

    def __init__(self, db: Database, owner: str) -> None:
        self._db = db
        self._owner = owner
        self._after = ""
        self._had_lease = False

    async def publish(self, now: Instant, *, limit: int = BATCH) -> int | None:
        """Give positions to so many events at most; how many got one. None: another process publishes.

        Writes nothing, not even the lease, when nothing waits or another process has the lease.
        """
        lease = leases_table.c
        others = select(lease.owner).where(lease.name == LEASE, lease.owner != self._owner, leases.living(now))
        async with self._db.read() as conn:
            if (await conn.execute(select(_E.seq).where(_E.position.is_(None)).limit(1))).first() is None:
                return 0
            if (await conn.execute(others)).first() is not None:
                return None
        return await self._db.transact(lambda tx: self._publish(tx, now, limit))

    async def release(self) -> None:
        """Let another process publish at once."""
        if not self._had_lease:
            return

        async def work(tx: Transaction) -> None:
            mine = (leases_table.c.name == LEASE) & (leases_table.c.owner == self._owner)
            await tx.conn.execute(update(leases_table).where(mine).values(expires_at=0))

        await self._db.transact(work)

    async def _publish(self, tx: Transaction, now: Instant, limit: int) -> int | None:
        if await leases.acquire_in(tx, LEASE, self._owner, LEASE_TTL, now) is None:
            return None
        self._had_lease = True
        # A publisher that lost its lease in the middle of this waits here, and goes on where the other one ended.
        await _begin(tx)
        base = (await tx.conn.execute(select(feed.c.position).with_for_update())).scalar_one()
        given = await self._give(tx, base, limit, _E.tenant_id > self._after)
        if given < limit:  # round again: no tenant's events wait behind those of another that has ever more of them
            self._after = ""
            given += await self._give(tx, base + given, limit - given, _E.tenant_id > "")
        if given:
            await tx.conn.execute(update(feed).values(position=base + given))
        return given

    async def _give(self, tx: Transaction, base: int, limit: int, where: Any) -> int:
        """Number so many waiting events from `base` on, tenant by tenant, each tenant's in order."""
        if limit <= 0:
            return 0
        order = (_E.tenant_id, _E.seq)
        waiting = (
            select(*order, func.row_number().over(order_by=order).label("number"))
            .where(_E.position.is_(None), where)
            .order_by(*order)
            .limit(limit)
            .subquery()
        )
        placed = (
            update(events)
            .where(_E.tenant_id == waiting.c.tenant_id, _E.seq == waiting.c.seq)
            .values(position=base + waiting.c.number)
        )
        given = (await tx.conn.execute(placed)).rowcount
        if given == limit:
            last = select(_E.tenant_id).where(_E.position == base + given)
            self._after = (await tx.conn.execute(last)).scalar_one()
        return given


class FeedReader:
    """Reads the feed in order."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def head(self) -> Head:
        """How far the feed is; it begins when it is first asked for."""
        async with self._db.read() as conn:
            head = await _find_head(conn)
        if head is not None:
            return head

        async def work(tx: Transaction) -> Head:
            await _begin(tx)
            return await read_head(tx.conn)

        return await self._db.transact(work)

    async def start(self, after: str | None) -> tuple[Head, int]:
        """The feed's head, and the position that a reader's `after` means: None is the oldest that is kept, `latest`
        the last one given.

        Raises BadRequestError `bad_cursor` for what this feed did not write, GoneError `cursor_expired` for a position
        behind which events are not kept any more.
        """
        head = await self.head()
        return head, resume(head, after)

    async def page(
        self,
        head: Head,
        after: int,
        *,
        tenant_id: str | None,
        types: TypeFilter | None,
        limit: int,
        lane: Lane | None = None,
        through: int | None = None,
    ) -> FeedPage:
        """Up to `limit` events behind `after`, of one lane only, and none behind `through`, if these are given. Raises
        GoneError when what comes next was pruned meanwhile.
        """
        wanted = [] if tenant_id is None else [_E.tenant_id == tenant_id]
        if lane is not None:
            wanted += [_E.tenant_id == lane.tenant_id, _E.mailbox_id.is_not_distinct_from(lane.mailbox_id)]
        if types is not None:
            wanted.append(_E.type.in_(sorted(types.names)))
        found: list[FeedEvent] = []
        at = after
        async with self._db.read() as conn:
            end = (await read_head(conn)).position
            end = end if through is None else min(end, through)
            while at < end and len(found) < limit:
                through = min(end, at + _WINDOW)
                query = select(events).where(_E.position > at, _E.position <= through, *wanted)
                rows = (await conn.execute(query.order_by(_E.position).limit(limit - len(found)))).all()
                found += map(event_of, rows)
                at = found[-1].position if len(found) == limit else through
            # Asked last: what was pruned while this read is noticed.
            refuse_pruned(await read_head(conn), after)
        return FeedPage(found, at)

    async def find(self, event_id: str) -> FeedEvent | None:
        """The event with this id (`tenant:number`), if it has its place and is kept."""
        tenant_id, _, seq = event_id.rpartition(":")
        query = select(events).where(_E.tenant_id == tenant_id, _E.seq == int(seq), _E.position.is_not(None))
        async with self._db.read() as conn:
            row = (await conn.execute(query)).one_or_none()
        return None if row is None else event_of(row)

    async def before(self, at: Instant) -> int:
        """The position behind which every event of `at` or later stands."""
        async with self._db.read() as conn:
            head = await read_head(conn)
            query = select(func.min(_E.position)).where(_E.position > head.pruned, _E.at >= at)
            first: int | None = (await conn.execute(query)).scalar_one()
        return head.position if first is None else first - 1

    async def backlog(self) -> Backlog:
        """What waits for a position."""
        query = select(func.count(), func.min(_E.at)).where(_E.position.is_(None))
        async with self._db.read() as conn:
            count, oldest_at = (await conn.execute(query)).one()
        return Backlog(count, oldest_at)


async def read_head(conn: AsyncConnection) -> Head:
    """The row of a feed that has begun."""
    head = await _find_head(conn)
    if head is None:
        raise LookupError("the feed has not begun")
    return head


async def _find_head(conn: AsyncConnection) -> Head | None:
    row = (await conn.execute(select(feed.c.ref, feed.c.position, feed.c.pruned))).one_or_none()
    return None if row is None else Head(row.ref, row.position, row.pruned)


async def _begin(tx: Transaction) -> None:
    """Make the feed's row, unless it is there."""
    first = tx.insert(feed).values(id=1, ref=new_ref(), position=0, pruned=0)
    await tx.conn.execute(first.on_conflict_do_nothing())


def resume(head: Head, after: str | None) -> int:
    """The position that `after` means; see `FeedReader.start`."""
    if after is None:
        return head.pruned
    if after == LATEST:
        return head.position
    position = read_cursor(head.ref, after)
    if position is None:
        raise BadRequestError(
            "this is no cursor of this feed; take `cursor` or `next_cursor` as it came, `latest`, or leave `after` out",
            slug="bad_cursor",
        )
    if position > head.position:
        raise BadRequestError(
            "this cursor is ahead of the feed: the gateway's database was restored from a backup. Take a new snapshot "
            "(GET /v1/snapshot), and go on from its event cursor",
            slug="bad_cursor",
        )
    refuse_pruned(head, position)
    return position


def refuse_pruned(head: Head, position: int) -> None:
    """Raise GoneError `cursor_expired` when events behind this position are not kept any more."""
    if position < head.pruned:
        raise GoneError(
            "events after this cursor are not kept any more (events.keep_days). Take a new snapshot (GET "
            "/v1/snapshot), replace what you have by it, and go on from its event cursor",
            slug="cursor_expired",
            oldest_cursor=write_cursor(head.ref, head.pruned),
        )


async def prune(tx: Transaction, before: Instant, limit: int) -> int:
    """Forget the oldest events, as long as they are from before then; how many went. A prefix: one that is younger
    keeps all behind it.
    """
    await _begin(tx)
    head = (await tx.conn.execute(select(feed.c.pruned).with_for_update())).scalar_one()
    query = select(_E.position, _E.at).where(_E.position > head).order_by(_E.position).limit(limit)
    through, count = head, 0
    for row in (await tx.conn.execute(query)).all():
        if row.at >= before:
            break
        through, count = row.position, count + 1
    if count:
        await tx.conn.execute(delete(events).where(_E.position <= through))
        await tx.conn.execute(update(feed).values(pruned=through))
    return count


def event_of(row: Row[Any]) -> FeedEvent:
    """The event that a row with a position is."""
    return FeedEvent(
        row.position, row.tenant_id, row.seq, row.type, row.at, row.mailbox_id, row.message_id, row.payload
    )
