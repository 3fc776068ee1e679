"""The journal of deliveries: written before each request, and after it.

One process delivers at a time, by a lease; every write of it is refused once the lease is another's. A delivery has one
row, whatever its attempts; a row that is left in `sending` was cut, nobody knows whether the receiver has it, and it is
sent again, under the same `webhook-id`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final

from sqlalchemy import delete, select, update

from mailgate.clock import SECOND, Instant
from mailgate.events.types import parse_filter
from mailgate.ids import new_id
from mailgate.store import leases
from mailgate.store.database import Database
from mailgate.store.feed import FeedEvent, FeedPage, FeedReader, Head, Lane
from mailgate.store.hooks.endpoints import pausing
from mailgate.store.hooks.rows import Endpoint, endpoint_of
from mailgate.store.schema import leases as leases_table
from mailgate.store.schema import tenants, webhook_deliveries, webhook_lanes, webhooks
from mailgate.store.transaction import GATEWAY, Transaction
from mailgate.webhooks.model import Answer, DeliveryKind, DeliveryState, EndpointState, PauseReason
from mailgate.webhooks.signing import message_id
from mailgate.webhooks.window import Behind, Item

LEASE: Final = "webhooks"
LEASE_TTL: Final[Instant] = 30 * SECOND

_W = webhooks.c
_L = webhook_lanes.c
_D = webhook_deliveries.c


@dataclass(frozen=True, slots=True)
class Begun:
    """A delivery that stands in the journal as being sent."""

    id: str
    message_ref: str


class Refusal(Enum):
    """Why a delivery may not begin."""

    CHANGED = "changed"
    """The endpoint was changed meanwhile: look at it again."""
    ERASED = "erased"
    """The event's tenant is being erased: it is not told of any more."""


@dataclass(frozen=True, slots=True)
class Ended:
    """What a delivery came to: `next_at` None and not delivered: the endpoint is paused."""

    id: str
    answer: Answer
    next_at: Instant | None


@dataclass(frozen=True, slots=True)
class Place:
    """Where an endpoint is now: `position`, the lanes that changed, and why it is paused, if it is to be. `outcomes`:
    of the attempts that ended, in order, whether each was delivered.
    """

    endpoint: Endpoint
    position: int
    lanes: Mapping[str, Behind | None]
    pause: tuple[PauseReason, str] | None = None
    outcomes: Sequence[bool] = ()


class Journal:
    """The deliverer's side of the store. `owner` names the process in the lease."""

    def __init__(self, db: Database, reader: FeedReader, owner: str) -> None:
        self._db = db
        self._reader = reader
        self._owner = owner
        self._fence: int | None = None

    async def enabled(self) -> list[Endpoint]:
        """Endpoints to deliver to, in the order in which they were made."""
        query = select(webhooks).where(_W.state == EndpointState.ENABLED.value).order_by(_W.id)
        async with self._db.read() as conn:
            return [endpoint_of(row) for row in (await conn.execute(query)).all()]

    async def lead(self, now: Instant) -> bool | None:
        """Take the lease, or take it again. None: another process delivers. True: it is new here, and what was cut is
        waiting again.
        """

        lease = leases_table.c
        others = select(lease.owner).where(lease.name == LEASE, lease.owner != self._owner, leases.living(now))
        async with self._db.read() as conn:  # who does not deliver writes nothing
            if (await conn.execute(others)).first() is not None:
                self._fence = None
                return None

        async def work(tx: Transaction) -> int | None:
            fence = await leases.acquire_in(tx, LEASE, self._owner, LEASE_TTL, now)
            if fence is not None and fence != self._fence:
                cut = update(webhook_deliveries).where(
                    _D.state == DeliveryState.SENDING.value, _D.kind == DeliveryKind.EVENT.value
                )
                why = {"state": DeliveryState.WAITING.value, "error": "cut: the process ended meanwhile"}
                await tx.conn.execute(cut.values(why))
            return fence

        fence = await self._db.transact(work)
        fresh = fence is not None and fence != self._fence
        self._fence = fence
        return None if fence is None else fresh

    async def release(self) -> None:
        """Let another process deliver at once."""
        if self._fence is not None:
            await leases.release(self._db, LEASE, self._owner, self._fence)
            self._fence = None

    async def lanes(self, webhook_id: str) -> dict[str, Behind]:
        """The lanes that are behind."""
        async with self._db.read() as conn:
            rows = (await conn.execute(select(webhook_lanes).where(_L.webhook_id == webhook_id))).all()
        return {row.lane: Behind(row.position, row.attempts, row.since_at, row.next_at) for row in rows}

    async def read(
        self, endpoint: Endpoint, after: int, limit: int, *, lane: str | None = None, through: int | None = None
    ) -> tuple[Head, FeedPage]:
        """The next events for the endpoint; see `FeedReader.page`. Raises GoneError."""
        head = await self._reader.head()
        types = parse_filter(endpoint.types) if endpoint.types else None
        page = await self._reader.page(
            head,
            after,
            tenant_id=endpoint.tenant_id,
            types=types,
            limit=limit,
            lane=None if lane is None else lane_of(lane),
            through=through,
        )
        return head, page

    async def delivered(self, endpoint: Endpoint, positions: Collection[int]) -> set[int]:
        """Which of these the receiver has since the last replay."""
        if not positions:
            return set()
        query = select(_D.position).where(
            _D.webhook_id == endpoint.id,
            _D.generation == endpoint.generation,
            _D.position >= min(positions),
            _D.position <= max(positions),
            _D.state == DeliveryState.DELIVERED.value,
        )
        async with self._db.read() as conn:
            return set((await conn.execute(query)).scalars())

    async def begin(self, starts: Sequence[tuple[Endpoint, Item[FeedEvent]]], now: Instant) -> list[Begun | Refusal]:
        """Write down that these are being sent, unless they may not be. Raises LeaseLostError."""

        async def work(tx: Transaction) -> list[Begun | Refusal]:
            await self._require(tx, now)
            named = sorted({item.event.tenant_id for _, item in starts} - {GATEWAY})
            here = select(tenants.c.id).where(tenants.c.id.in_(named), tenants.c.erasing_at.is_(None))
            locked = here.order_by(tenants.c.id).with_for_update(read=True)
            living = {GATEWAY, *(await tx.conn.execute(locked)).scalars()}
            ids = sorted({endpoint.id for endpoint, _ in starts})
            current = select(_W.id, _W.version).where(_W.id.in_(ids), _W.state == EndpointState.ENABLED.value)
            rows = (await tx.conn.execute(current.order_by(_W.id).with_for_update(read=True))).all()
            versions = {row.id: row.version for row in rows}
            found: list[Begun | Refusal] = []
            for endpoint, item in starts:
                if versions.get(endpoint.id) != endpoint.version:
                    found.append(Refusal.CHANGED)
                elif item.event.tenant_id not in living:
                    found.append(Refusal.ERASED)
                else:
                    found.append(await self._begin(tx, endpoint, item, now))
            return found

        return await self._db.transact(work)

    async def finish(self, ended: Sequence[Ended], places: Sequence[Place], now: Instant) -> list[str]:
        """Write down what became of deliveries, and where their endpoints are; the ids of those that were paused by it.
        Raises LeaseLostError.
        """

        async def work(tx: Transaction) -> list[str]:
            await self._require(tx, now)
            in_order = sorted(places, key=lambda place: place.endpoint.id)
            paused = [place.endpoint.id for place in in_order if await self._put(tx, place, now)]
            for each in ended:
                await tx.conn.execute(update(webhook_deliveries).where(_D.id == each.id).values(_result(each, now)))
            return paused

        return await self._db.transact(work)

    async def _require(self, tx: Transaction, now: Instant) -> None:
        if self._fence is None:
            raise leases.LeaseLostError("another process delivers webhooks by now")
        await leases.require(tx, LEASE, self._owner, self._fence, now)

    async def _begin(self, tx: Transaction, endpoint: Endpoint, item: Item[FeedEvent], now: Instant) -> Begun:
        event = item.event
        values = {
            "id": new_id(now),
            "webhook_id": endpoint.id,
            "tenant_id": event.tenant_id,
            "kind": DeliveryKind.EVENT.value,
            "generation": endpoint.generation,
            "position": event.position,
            "event_id": event.id,
            "message_ref": message_id(event.id, event.at),
            "event_type": event.type,
            "mailbox_id": event.mailbox_id,
            "created_at": now,
        }
        going = {"state": DeliveryState.SENDING.value, "started_at": now, "next_at": None, "finished_at": None}
        insert = tx.insert(webhook_deliveries).values(**values, **going, attempts=1)
        same = [_D.webhook_id, _D.generation, _D.position]
        upsert = insert.on_conflict_do_update(index_elements=same, set_={**going, "attempts": _D.attempts + 1})
        row = (await tx.conn.execute(upsert.returning(_D.id, _D.message_ref))).one()
        return Begun(row.id, row.message_ref)

    async def _put(self, tx: Transaction, place: Place, now: Instant) -> bool:
        """Where the endpoint is, unless it was replayed or removed meanwhile; whether it was paused by this."""
        endpoint = place.endpoint
        same = (_W.id == endpoint.id) & (_W.generation == endpoint.generation)
        row = (await tx.conn.execute(select(_W.state, _W.position).where(same).with_for_update())).one_or_none()
        if row is None:
            return False
        values: dict[str, Any] = {}
        if place.position > row.position:
            values["position"] = place.position
        values |= _counted(place.outcomes, now)
        paused = place.pause is not None and row.state == EndpointState.ENABLED.value
        if place.pause is not None and paused:
            values |= pausing(place.pause[0], place.pause[1][:500], now) | {"version": _W.version + 1}
        if values:
            await tx.conn.execute(update(webhooks).where(_W.id == endpoint.id).values(values))
        for lane, state in place.lanes.items():
            await self._put_lane(tx, endpoint.id, lane, state)
        return paused

    async def _put_lane(self, tx: Transaction, webhook_id: str, lane: str, state: Behind | None) -> None:
        if state is None:
            await tx.conn.execute(delete(webhook_lanes).where(_L.webhook_id == webhook_id, _L.lane == lane))
            return
        values = {
            "position": state.position,
            "attempts": state.attempts,
            "since_at": state.since_at,
            "next_at": state.next_at,
        }
        key = {"webhook_id": webhook_id, "lane": lane, "tenant_id": lane_of(lane).tenant_id}
        insert = tx.insert(webhook_lanes).values(**key, **values)
        await tx.conn.execute(insert.on_conflict_do_update(index_elements=[_L.webhook_id, _L.lane], set_=values))


def _counted(outcomes: Sequence[bool], now: Instant) -> dict[str, Any]:
    """When it was last delivered to, and how often it failed since."""
    if True not in outcomes:
        return {"failures": _W.failures + len(outcomes)} if outcomes else {}
    return {"delivered_at": now, "failures": [*reversed(outcomes)].index(True)}


def lane_name(event: FeedEvent) -> str:
    """The lane of an event: no tenant has a slash in its name."""
    return f"{event.tenant_id}/{event.mailbox_id or ''}"


def lane_of(name: str) -> Lane:
    """What a lane's name says."""
    tenant_id, _, mailbox_id = name.partition("/")
    return Lane(tenant_id, mailbox_id or None)


def answered(answer: Answer) -> dict[str, Any]:
    """The columns of an answer."""
    return {"status": answer.status, "error": answer.error, "response": answer.text}


def _result(ended: Ended, now: Instant) -> dict[str, Any]:
    if ended.answer.delivered:
        state, over = DeliveryState.DELIVERED, True
    else:  # of a paused endpoint it waits as well: enabled again, it goes on with it
        state, over = DeliveryState.WAITING, False
    return {
        **answered(ended.answer),
        "state": state.value,
        "next_at": ended.next_at,
        "finished_at": now if over else None,
    }
