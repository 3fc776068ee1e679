"""The sync machine (`reconcile_machine`), watched by a reader of the feed: after every step of every story its table is
what the gateway lists, and so is a table made anew from a snapshot.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import invariant, rule
from sqlalchemy import insert, update

from mailgate.actors import SYSTEM
from mailgate.clock import Instant, to_rfc3339
from mailgate.ids import new_id
from mailgate.settings import SyncSettings
from mailgate.store import tenants
from mailgate.store.expiry import Expiry
from mailgate.store.feed import BATCH, Publisher
from mailgate.store.feed_items import Feed, show_hold, show_state, show_terms
from mailgate.store.listing import MessageFilter
from mailgate.store.message_states import SnapshotPage
from mailgate.store.pins import Pins
from mailgate.store.reading import MessageReader, MessageView
from mailgate.store.schema import holds
from mailgate.store.transaction import Transaction
from retention.model import Graces
from retention.policy import ClockLimits
from tests.consumer import Consumer, of_state
from tests.property.reconcile_machine import ANY, template
from tests.property.reconcile_world import World
from tests.property.test_reconcile_machine import MemoryMachine, PlainMachine
from tests.soak import SOAK

LIMITS_OF_CLOCK = ClockLimits(max_forward=10**18)


class FeedWorld(World):
    """A world with a feed, and a reader of it."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        engine = self.engine
        expiry = Expiry(engine.subscriptions, Graces())
        self._pins = Pins(engine.db, engine.ring, engine.log, expiry)
        self._feed = Feed(engine.db, expiry, LIMITS_OF_CLOCK)
        self._publisher = Publisher(engine.db, "test")
        self._lister = MessageReader(
            engine.db,
            engine.ring,
            engine.blobs,
            expiry,
            self._pins,
            clock_limits=LIMITS_OF_CLOCK,
            parse_bytes=1,
            parses_at_once=1,
        )
        self.reader = Consumer(engine.tenant_id)

    def unpin(self, id_: str) -> bool:
        engine = self.engine
        gone = self._pins.remove(engine.tenant_id, id_, "deal", "D", now=engine.clock(), actor=SYSTEM)
        return self.run(gone)

    def hold(self) -> None:
        hold_id, now = new_id(self.engine.clock()), self.engine.clock()
        row = {"id": hold_id, "scope": "tenant", "matter": "M", "reason": "r", "placed_at": now, "placed_by": "x"}

        async def work(tx: Transaction) -> None:
            await tx.conn.execute(insert(holds).values(tenant_id=self.engine.tenant_id, **row))
            payload = {"hold_id": hold_id, "scope": "tenant"}
            tx.emit(self.engine.tenant_id, "hold.placed", at=now, payload=payload)

        self.run(self.engine.db.transact(work))

    def release(self) -> None:
        now = self.engine.clock()

        async def work(tx: Transaction) -> None:
            ended = update(holds).where(holds.c.released_at.is_(None)).returning(holds.c.id)
            values = {"released_at": now, "released_by": "x", "protects_until_at": now + 5 * 86_400_000_000}
            for hold_id in (await tx.conn.execute(ended.values(values))).scalars().all():
                payload = {"hold_id": hold_id, "scope": "tenant"}
                tx.emit(self.engine.tenant_id, "hold.released", at=now, payload=payload)

        self.run(self.engine.db.transact(work))

    async def _follow(self) -> None:
        now = self.engine.clock.now
        while await self._publisher.publish(now) == BATCH:
            pass
        reader = self._feed.reader
        head, at = await reader.start(self.reader.cursor)
        while True:
            page = await self._feed.page(head, at, tenant_id=None, types=None, limit=40, now=now)
            if not page.items:
                return
            self.reader.apply(page.items)
            at = page.position

    async def _snapshot(self) -> Consumer:
        made = Consumer(self.engine.tenant_id)
        page: SnapshotPage | None = None
        while page is None or page.next_key is not None:
            page = await self._feed.states.page(
                self.engine.tenant_id,
                after=None if page is None else page.next_key,
                limit=3,
                now=self.engine.clock.now,
            )
            made.begin(
                {
                    "event_cursor": None if page.terms is None else "x",
                    "retention": None if page.terms is None else show_terms(page.terms),
                    "holds": [show_hold(hold) for hold in page.holds],
                    "items": [show_state(state) for state in page.states],
                }
            )
        return made

    def compared(self) -> tuple[Instant, dict[str, Any], dict[str, Any], dict[str, Any]]:
        """What a reader of the feed has, what a new snapshot has, and what is listed; at this instant."""

        async def look() -> tuple[Instant, dict[str, Any], dict[str, Any], dict[str, Any]]:
            await self._follow()
            now = self.engine.clock.now
            tenant = await tenants.get(self.engine.db, self.engine.tenant_id)
            page = await self._lister.list_page(tenant, MessageFilter(), limit=10_000, now=now)
            tables = [self.reader, await self._snapshot()]
            mine, anew = ({id_: of_state(row) for id_, row in table.visible(now).items()} for table in tables)
            return now, mine, anew, {view.id: _of_view(view) for view in page.items}

        return self.run(look())


def _of_view(view: MessageView) -> dict[str, Any]:
    return {
        "mailbox_id": view.mailbox_id,
        "folders": sorted(folder.id for folder in view.folders),
        "thread_id": view.thread_id,
        "flags": sorted(view.flags),
        "labels": sorted(view.labels),
        "pins": sorted((pin.entity_type, pin.entity_id) for pin in view.pins),
        "size": view.size,
        "anchor_at": to_rfc3339(view.anchor_at),
        "stored_at": to_rfc3339(view.stored_at),
        "expires_at": view.expires_at,
        "held": view.held,
        "origin_present": view.origin_present,
    }


class Watched(MemoryMachine):
    """The machine with a reader."""

    world: FeedWorld

    def make_world(self) -> FeedWorld:
        return FeedWorld(self.far, template(), self.clock, SyncSettings(batch_messages=3))

    @rule(which=ANY, on=st.booleans())
    def crm_unpins(self, which: int, on: bool) -> None:
        if on and (seen := self._message(which)) is not None and self.world.unpin(seen.id):
            self._tell("the CRM unpins it again")
            self.pinned.discard(seen.id)

    @invariant()
    def the_reader_has_what_is_listed(self) -> None:
        _, mine, anew, listed = self.world.compared()
        assert anew == listed
        assert mine == listed
        seen = self.world.reader.seen
        assert seen == list(range(1, len(seen) + 1))


class WatchedPlain(Watched, PlainMachine):
    """Neither CONDSTORE nor MOVE: messages stand in two folders for a while."""


@contextmanager
def story() -> Iterator[Watched]:
    """A machine that is played by hand, after its first pass."""
    machine = Watched()
    try:
        machine.begin()
        machine.sync()
        yield machine
    finally:
        machine.world.close()


@settings(max_examples=1)
@given(which=st.just(3))
def test_what_disappeared_is_there_until_that_is_believed(which: int) -> None:
    """It waits for a look at another folder, which the server refuses."""
    with story() as play:
        play.user_deletes_at_server(which=which)
        play.sync_with_a_folder_refused(folder=play.far.names().index("Archive"))
        assert any(row.vanished_at is not None for row in play.world.rows("origins"))
        play.the_reader_has_what_is_listed()


@settings(max_examples=1)
@given(which=st.just(3))
def test_a_folder_that_goes_with_what_is_on_its_way_out_of_it(which: int) -> None:
    with story() as play:
        play.user_moves_at_server(which=which, folder=play.far.names().index("Archive"))
        play.sync()
        folders = dict(play.world.crm_folders())
        (archived,) = [seen.id for seen in play.world.visible() if seen.folder == "Archive"]
        assert play.world.crm_move(archived, folders["Trash"])
        play.the_reader_has_what_is_listed()
        play.user_deletes_folder_at_server(name="Archive")
        play.sync_and_be_cut(steps=4)
        (folder,) = [row for row in play.world.rows("folders") if row.name == "Archive"]
        assert folder.gone_at is not None
        assert play.world.open_operations()
        play.the_reader_has_what_is_listed()


LIMITS = settings()
if not SOAK:
    LIMITS = settings(max_examples=8, stateful_step_count=20)

TestWatched = Watched.TestCase
TestWatched.settings = LIMITS
TestWatchedPlain = WatchedPlain.TestCase
TestWatchedPlain.settings = LIMITS
