"""R12: on a store that nobody else changes, a preview says what the purge that follows does: to a copy, to a byte and
with its reasons; for any copies, plans, graces, holds and times, for one tenant and for all, on both databases.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import TypeVar

from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import func, select, update

from mailgate.actors import COMMAND, SYSTEM
from mailgate.blobs import BlobStore
from mailgate.clock import DAY, Instant
from mailgate.ids import new_id
from mailgate.keys import KeyRing
from mailgate.store.database import Database
from mailgate.store.expiry import Expiry, Horizon
from mailgate.store.log import LogPolicy, PurgeLog
from mailgate.store.log_reading import LogReader
from mailgate.store.mailboxes import Mailboxes
from mailgate.store.preview import Days, ahead, surveys
from mailgate.store.retention import RetentionService
from mailgate.store.schema import hold_messages, holds, messages
from mailgate.store.subscriptions import Subscriptions
from mailgate.store.witness import Witness
from mailgate.tenants.catalogue import parse_catalogue
from mailgate.tenants.timeline import SubscriptionRules
from retention.engine import Preview
from retention.model import Graces, Sum, Supposed
from retention.policy import ClockLimits, Policy
from tests.soak import examples
from tests.store.builder import Home, Seed
from tests.store.conftest import NOW, PLANS, Store
from tests.store.purging import Purging, make_purging

T = TypeVar("T")

NAMES = st.sampled_from(("free", "crm_plus", "standard", "professional"))
GRACE = st.sampled_from((0, 0, 7))
ANY_CLOCK = ClockLimits(max_backward=10**17, max_forward=10**17)


@dataclass(frozen=True)
class Mail:
    """One copy: its age around a boundary, whether of the second mailbox, its size, whether pinned (or unpinned so many
    days ago) and whether the hold names it.
    """

    age: int
    micros: int
    second: bool
    size: int
    pinned: bool
    unpinned: int | None
    named: bool

    @property
    def anchor_at(self) -> Instant:
        return min(NOW, NOW - self.age * DAY + self.micros)


@dataclass(frozen=True)
class World:
    """One tenant. `hold` None: none; `released` days from now until it protects no more, None: it stands."""

    plan: str
    mail: tuple[Mail, ...]
    hold: str | None
    released: int | None
    removed: bool


MAIL = st.builds(
    Mail,
    age=st.sampled_from((0, 1, 23, 29, 30, 31, 53, 59, 60, 61, 90, 91, 120)),
    micros=st.integers(-1, 1),
    second=st.booleans(),
    size=st.integers(1, 50),
    pinned=st.sampled_from((False, False, True)),
    unpinned=st.none() | st.sampled_from((0, 1, 7, 30)),
    named=st.booleans(),
)
WORLDS = st.builds(
    World,
    plan=NAMES,
    mail=st.lists(MAIL, max_size=8).map(tuple),
    hold=st.sampled_from((None, None, "tenant", "mailbox", "messages")),
    released=st.sampled_from((None, 0, 1, 30)),
    removed=st.sampled_from((False, False, True)),
)


class Bench:
    """One database for all examples; each makes tenants of its own, so none sees another's (R14)."""

    def __init__(self, url: str, folder: Path) -> None:
        self.runner = asyncio.Runner()
        self.folder = folder
        self._names, self._owners = count(), count()
        self.purging = self.do(self._open(url))

    def do(self, work: Awaitable[T]) -> T:
        async def go() -> T:
            return await work

        return self.runner.run(go())

    async def _open(self, url: str) -> Purging:
        db = Database(url)
        ring = KeyRing.open(f"file://{self.folder}/keys", create=True)
        blobs = BlobStore.open(f"file://{self.folder}/blobs")
        log = PurgeLog(origin="mail.example", policy=LogPolicy(1, {"days": 30}), version="1", commit="test")
        subscriptions = Subscriptions(db, log, parse_catalogue(PLANS.read_bytes()), SubscriptionRules())
        witness = Witness(self.folder / "w")
        reader = LogReader(db, origin="mail.example", seed=ring.ledger_seed, witness=witness, owner="test")
        purging = await make_purging(
            Store(db, ring, blobs, log, reader, subscriptions, Mailboxes(db, ring, subscriptions))
        )
        purging.builder.blobs = None
        await purging.lease.release(db)
        return purging

    def service(self, graces: Graces) -> RetentionService:
        store, policy = self.purging.store, Policy(1, "ab" * 32, graces=graces)
        return RetentionService(
            store.db,
            store.log,
            store.subscriptions,
            Expiry(store.subscriptions, graces),
            policy,
            self.purging.clock,
            f"owner {next(self._owners)}",
            batch=3,
            limits=ANY_CLOCK,
        )

    async def tenant(self, world: World) -> str:
        builder, store = self.purging.builder, self.purging.store
        tenant_id = f"t{next(self._names)}"
        home = await builder.home(tenant_id, world.plan)
        homes = (home, await builder.mailbox(home.tenant))
        ids = dict[int, str]()
        for second in (False, True):
            of_box = {number: mail for number, mail in enumerate(world.mail) if mail.second is second}
            seeds = [Seed(mail.anchor_at, content=b"%d" % number + b"x" * mail.size) for number, mail in of_box.items()]
            if seeds:
                ids |= dict(zip(of_box, await builder.copies(homes[second], seeds), strict=True))
        named = [ids[number] for number, mail in enumerate(world.mail) if mail.named]
        for number, mail in enumerate(world.mail):
            if mail.pinned:
                await self.purging.pins.put(tenant_id, ids[number], "deal", "D", note=None, now=NOW, actor=SYSTEM)
            elif mail.unpinned is not None:
                async with store.db.write() as tx:
                    at = {"unpinned_at": NOW - mail.unpinned * DAY}
                    await tx.conn.execute(update(messages).where(messages.c.id == ids[number]).values(at))
        if world.hold is not None:
            await self._hold(world, homes, named)
        if world.removed:
            await store.mailboxes.remove(tenant_id, homes[1].mailbox_id, NOW, SYSTEM)
        return tenant_id

    async def _hold(self, world: World, homes: tuple[Home, Home], named: list[str]) -> None:
        hold_id, released = new_id(NOW), world.released
        until = None if released is None else NOW + released * DAY
        row = {
            "id": hold_id,
            "tenant_id": homes[0].tenant.id,
            "scope": world.hold,
            "mailbox_id": homes[0].mailbox_id if world.hold == "mailbox" else None,
            "matter": "M",
            "reason": "r",
            "placed_at": NOW,
            "placed_by": "x",
            "released_at": None if until is None else NOW,
            "protects_until_at": until,
        }
        async with self.purging.store.db.write() as tx:
            await tx.conn.execute(holds.insert().values(row))
            if world.hold == "messages" and named:
                rows = [{"hold_id": hold_id, "message_id": id_} for id_ in named]
                await tx.conn.execute(hold_messages.insert(), rows)

    async def sums(self, tenant_id: str) -> tuple[int, int]:
        query = select(func.count(), func.coalesce(func.sum(messages.c.size), 0)).where(
            messages.c.tenant_id == tenant_id
        )
        async with self.purging.store.db.read() as conn:
            row = (await conn.execute(query)).one()
        return row[0], int(row[1])

    async def reasons(self, tenant_id: str) -> Counter[str]:
        leaves = await self.purging.leaves(tenant_id)
        return Counter(leaf["reason"] for leaf in leaves if leaf["type"] == "item.purge")

    def close(self) -> None:
        self.do(self.purging.store.db.close())
        self.runner.close()


def check_whole(preview: Preview, copies: int, size: int) -> None:
    """Every copy has one fate."""
    fates = [*preview.due.values(), *preview.kept.values()]
    assert (sum(each.copies for each in fates), sum(each.bytes for each in fates)) == (copies, size)
    assert (preview.counts.purged, preview.counts.bytes) == (preview.going.copies, preview.going.bytes)
    assert preview.counts.balanced


def test_a_preview_equals_the_purge_that_follows(database_url: str, tmp_path: Path) -> None:
    bench = Bench(database_url, tmp_path)

    @examples(40)
    @given(
        world=WORLDS,
        graces=st.builds(Graces, after_storing=GRACE, after_shrink=GRACE, after_unpin=GRACE),
        days=st.sampled_from((0, 1, 29, 30, 31, 60, 90)),
        micros=st.integers(0, 1),
        supposed=st.none() | NAMES,
    )
    def equals(world: World, graces: Graces, days: int, micros: int, supposed: str | None) -> None:
        bench.purging.now = NOW
        bench.do(one(world, graces, NOW + days * DAY + micros, supposed))

    async def one(world: World, graces: Graces, at: Instant, supposed: str | None) -> None:
        service = bench.service(graces)
        tenant_id = await bench.tenant(world)
        preview = await service.preview(tenant_id, at, supposed)
        items = await service.examples(tenant_id, at, supposed, limit=3)
        check_whole(preview, *await bench.sums(tenant_id))
        ids = await bench.purging.ids(tenant_id)

        bench.purging.now = at
        if supposed is not None:
            await bench.purging.builder.plan(tenant_id, supposed, at)
        run = await service.run(actor=COMMAND, tenant_id=tenant_id)
        assert preview.counts.to_json() | {"tenants": 1, "halted": [], "stopped": {}} == run.counts
        assert {str(reason): sum_.copies for reason, sum_ in preview.due.items()} == await bench.reasons(tenant_id)
        gone = ids - await bench.purging.ids(tenant_id)
        of_due = [each for each in items if each.verdict.due]
        assert {each.message_id for each in of_due} <= gone
        assert len(of_due) == min(3, len(gone))
        assert not {each.message_id for each in items if not each.verdict.due} & gone
        assert (await service.preview(tenant_id, at)).going.copies == 0

    try:
        equals()
    finally:
        bench.close()


def test_a_preview_of_all_tenants_equals_the_purge_of_all(database_url: str, tmp_path: Path) -> None:
    bench = Bench(database_url, tmp_path)
    tenants: list[str] = []

    @examples(10)
    @given(
        worlds=st.lists(WORLDS, min_size=1, max_size=3),
        days=st.sampled_from((0, 1, 30, 60)),
        supposed=st.none() | NAMES,
    )
    def equals(worlds: list[World], days: int, supposed: str | None) -> None:
        bench.purging.now = NOW
        # No two plans begin at the same instant.
        bench.do(all_of(worlds, NOW + days * DAY + len(tenants), supposed))

    async def all_of(worlds: list[World], at: Instant, supposed: str | None) -> None:
        service = bench.service(Graces())
        tenants.extend([await bench.tenant(world) for world in worlds])
        whole = await service.preview(None, at, supposed)
        alone = [await service.preview(id_, at, supposed) for id_ in tenants]
        before = Counter({id_: (await bench.reasons(id_)).total() for id_ in tenants})
        bench.purging.now = at
        for id_ in tenants if supposed is not None else ():
            await bench.purging.builder.plan(id_, str(supposed), at)
        run = await service.run(actor=COMMAND)
        assert whole.counts.to_json() | {"tenants": run.counts["tenants"], "halted": [], "stopped": {}} == run.counts
        assert whole.going == sum((one.going for one in alone), Sum())
        assert sum((*whole.kept.values(),), Sum()) == sum((sum_ for one in alone for sum_ in one.kept.values()), Sum())
        for id_, preview in zip(tenants, alone, strict=True):
            assert (await bench.reasons(id_)).total() - before[id_] == preview.going.copies

    try:
        equals()
    finally:
        bench.close()


def test_what_becomes_due_is_what_previews_of_those_instants_say(database_url: str, tmp_path: Path) -> None:
    """For several tenants at once as for each; what was due once is gone."""
    bench = Bench(database_url, tmp_path)

    @examples(15)
    @given(
        worlds=st.lists(WORLDS, min_size=1, max_size=3),
        graces=st.builds(Graces, after_storing=GRACE, after_shrink=GRACE, after_unpin=GRACE),
        then=st.none() | st.tuples(st.integers(1, 60), NAMES),
        step=st.sampled_from((1, 7)),
        supposed=st.none() | NAMES,
    )
    def equals(
        worlds: list[World], graces: Graces, then: tuple[int, str] | None, step: int, supposed: str | None
    ) -> None:
        bench.purging.now = NOW
        bench.do(all_of(worlds, graces, then, step, supposed))

    async def all_of(
        worlds: list[World], graces: Graces, then: tuple[int, str] | None, step: int, supposed: str | None
    ) -> None:
        service, store = bench.service(graces), bench.purging.store
        tenants = [await bench.tenant(world) for world in worlds]
        if then is not None:
            await bench.purging.builder.plan(tenants[0], then[1], NOW + then[0] * DAY)
        days = Days(NOW, NOW + DAY // 3, step * DAY, 12)
        plan = None
        if supposed is not None:
            found = store.subscriptions.plan(supposed)
            plan = Supposed(found.name, found.retention_days)
        whole = await ahead(store.db, Expiry(store.subscriptions, graces), tenants, days, plan)
        expected = [Sum()] * (days.count + 1)
        for id_ in tenants:
            seen = Sum()
            for number, at in enumerate(days.instants):
                async with store.db.read() as conn:
                    expiry = Expiry(store.subscriptions, graces)
                    rules = await (
                        expiry.rules(conn, id_, at) if plan is None else expiry.supposed(conn, id_, plan, NOW)
                    )
                    survey = (await surveys(conn, [await Horizon.under(conn, id_, rules, at)]))[id_]
                due = sum(survey.due.values(), Sum())
                more = Sum(max(0, due.copies - seen.copies), max(0, due.bytes - seen.bytes))
                expected[number], seen = expected[number] + more, seen + more
        assert whole == expected
        assert whole[0] == sum([(await service.preview(id_, NOW, supposed)).going for id_ in tenants], Sum())

    try:
        equals()
    finally:
        bench.close()
