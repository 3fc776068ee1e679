"""A tenant leaves: no row in any table names it any more but its log's, whatever tables there are; others notice
nothing.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from itertools import count
from typing import Any

import pytest
from sqlalchemy import JSON, Boolean, Column, LargeBinary, String, Table, func, insert, select

from mailgate.actors import SYSTEM, Actor
from mailgate.clock import DAY
from mailgate.errors import ConflictError, NotFoundError
from mailgate.ids import new_id
from mailgate.jobs.erase import EraseWorker
from mailgate.keys import KeyMissingError
from mailgate.store import leftovers, tenants
from mailgate.store import runs as run_records
from mailgate.store.erasures import Erasures
from mailgate.store.latest_time import LatestTime
from mailgate.store.leases import acquire
from mailgate.store.legal_holds import LegalHolds, Scope
from mailgate.store.log import LogPolicy
from mailgate.store.schema import (
    blob_erasures,
    blobs,
    events,
    hold_messages,
    holds,
    idempotency_keys,
    leases,
    messages,
    metadata,
    submissions,
    tenant_heads,
    tokens,
    user_recovery_codes,
    user_sessions,
    users,
)
from mailgate.store.schema import tenants as tenants_table
from mailgate.store.tenant_erasure import KEPT, Reason, TenantErasures, TenantHeldError
from mailgate.store.transaction import GATEWAY
from retention.ledger.replay import replay_leaves
from retention.ledger.report import Verdict
from retention.model import Brake
from retention.policy import ClockLimits, Policy
from tests.store.builder import Home, Seed
from tests.store.conftest import NOW, Store
from tests.store.purging import Purging, make_purging

ADMIN = Actor("token", "T1")
_NUMBERS = count(1)
LATER = {hold_messages: holds, idempotency_keys: tokens, user_sessions: users, user_recovery_codes: users}
"""Tables that belong to a tenant by way of another one."""
OWNERS = ("hold_id", "token_id", "user_id")


def tables() -> list[Table]:
    """Every table whose rows belong to a tenant, those that others refer to first."""
    return [*(table for table in metadata.sorted_tables if "tenant_id" in table.c), *LATER]


def value_of(column: Column[Any]) -> Any:
    """Some value that the column takes."""
    number = next(_NUMBERS)
    if isinstance(column.type, JSON):
        return {}
    if isinstance(column.type, Boolean):
        return False
    if isinstance(column.type, LargeBinary):
        return b"%d" % number
    if isinstance(column.type, String):
        return new_id(NOW) if column.type.length == 26 else f"v{number}"[: column.type.length]
    return number


async def rows(store: Store, table: Table, tenant_id: str) -> Sequence[Any]:
    """The tenant's rows of a table."""
    async with store.db.read() as conn:
        if table in LATER:
            (owner,) = (column for column in table.c if column.name in OWNERS)
            mine = owner.in_(select(LATER[table].c.id).where(LATER[table].c.tenant_id == tenant_id))
        else:
            mine = table.c.tenant_id == tenant_id
        return (await conn.execute(select(table).where(mine).order_by(*table.primary_key.columns))).all()


async def fill(store: Store, tenant_id: str) -> None:
    """A row of the tenant in every table that has none yet, also in tables that are added one day."""
    for table in tables():
        if table in KEPT or await rows(store, table, tenant_id):
            continue
        values: dict[str, Any] = {}
        for column in table.columns:
            if column.name == "tenant_id":
                values[column.name] = tenant_id
            elif table in LATER and column.name in OWNERS:
                values[column.name] = (await rows(store, LATER[table], tenant_id))[0].id
            elif column.foreign_keys and not column.nullable:
                target = next(iter(column.foreign_keys)).column
                values[column.name] = getattr((await rows(store, target.table, tenant_id))[0], target.name)
            elif not (column.nullable or column.server_default is not None or column.autoincrement is True):
                values[column.name] = value_of(column)
        if table is submissions:
            values["state"] = "sent"
        if table is holds:
            values |= {"scope": "messages", "released_at": NOW - 60 * DAY, "protects_until_at": NOW - 30 * DAY}
        async with store.db.write() as tx:
            await tx.conn.execute(insert(table).values(values))


async def snapshot(store: Store, tenant_id: str) -> Mapping[str, Sequence[Any]]:
    return {table.name: await rows(store, table, tenant_id) for table in tables()}


class Leaving:
    """Two tenants with copies of every kind and a row in every table; one leaves."""

    def __init__(self, purging: Purging, home: Home) -> None:
        self.purging = purging
        self.store = purging.store
        self.home = home
        self.erasures = self.process()

    def process(self, **more: Any) -> TenantErasures:
        store = self.store
        return TenantErasures(
            store.db, store.ring, store.log, store.subscriptions, self.purging.clock, "test", **{"batch": 2} | more
        )

    async def erase_blobs(self) -> tuple[int, int]:
        """What the workers do behind: words go too."""
        store = self.store
        await leftovers.sweep(store.db)
        return await EraseWorker(Erasures(store.db, store.log), store.blobs, self.purging.clock, "test").work()

    async def bodies(self) -> list[bytes]:
        found = await rows(self.store, metadata.tables["log_leaves"], "acme")
        return [row.body for row in sorted(found, key=lambda row: row.idx)]

    async def is_gone(self, purged: int) -> None:
        """Nothing is left but the log, and the log says what happened."""
        left = {name: found for name, found in (await snapshot(self.store, "acme")).items() if found}
        assert set(left) == {table.name for table in KEPT if "tenant_id" in table.c and left.get(table.name)}
        assert "log_leaves" in left
        async with self.store.db.read() as conn:
            names = select(func.count()).where(leases.c.name == f"mailbox:{self.home.mailbox_id}")
            assert (await conn.execute(names)).scalar_one() == 0
            (row,) = (await conn.execute(select(tenants_table).where(tenants_table.c.id == "acme"))).all()
            (head,) = (await conn.execute(select(tenant_heads).where(tenant_heads.c.tenant_id == "acme"))).all()
        assert (row.name, row.erased_at) == ("", NOW)
        assert (head.copies, head.storage_bytes) == (0, 0)
        with pytest.raises(KeyMissingError):
            self.store.ring.tenant(row.ref)

        report = replay_leaves(await self.bodies())
        assert report.verdict is Verdict.OK, report.lines()
        assert report.facts["open_runs"] == 0
        told = await self.purging.leaves()
        purges = [leaf for leaf in told if leaf["type"] == "item.purge"]
        assert len({leaf["item_ref"] for leaf in purges}) == len(purges) == purged
        assert {leaf["reason"] for leaf in purges} == {"erasure_request"}
        assert sum(leaf["checks"]["pins"] for leaf in purges) == 1
        (close,) = [leaf for leaf in told if leaf["type"] == "run.close"]
        assert (close["candidates"], close["purged"]) == (purged, purged)
        assert [leaf["new"] for leaf in told if leaf["type"] == "key.rotate"] == ["destroyed"]
        tenant = await tenants.get(self.store.db, "acme", erased=True)
        signed = await self.store.reader.checkpoint(tenant, NOW)
        assert signed.size == len(told)


async def make(purging: Purging, tenant_id: str) -> Home:
    home = await purging.builder.home(tenant_id)
    shared = b"Subject: shared\r\n\r\nshared by two\r\n"
    seeds = [
        Seed(NOW - DAY, shared),
        Seed(NOW - DAY, shared),
        Seed(NOW - 2 * DAY, indexed=True),
        Seed(NOW, originals=2),
    ]
    ids = await purging.builder.copies(home, seeds)
    await purging.pins.put(tenant_id, ids[0], "deal", "D", note="n", now=NOW, actor=SYSTEM)
    await acquire(purging.store.db, f"mailbox:{home.mailbox_id}", "another", DAY, NOW)
    await fill(purging.store, tenant_id)
    return home


@pytest.fixture
async def leaving(store: Store) -> AsyncIterator[Leaving]:
    purging = await make_purging(store)
    await make(purging, "other")
    made = Leaving(purging, await make(purging, "acme"))
    yield made
    # What was made up contradicts itself here and there: it goes, by the same way, before the store checks itself.
    purging.now += 90 * DAY
    for tenant_id in ("acme", "other"):
        await made.erasures.begin(tenant_id, Reason.OFFBOARDING, ADMIN)
    await made.erasures.work()
    await made.erase_blobs()
    assert await made.erasures.work() in (1, 2)


async def test_nothing_is_left_but_the_log_and_another_tenant_is_as_it_was(leaving: Leaving) -> None:
    filled = await snapshot(leaving.store, "acme")
    assert all(filled[table.name] for table in tables() if table not in KEPT), "the test fills every table"
    assert await leaving.erase_blobs() == (2, 0)  # what was made up is no object
    before = await snapshot(leaving.store, "other")
    begun = await leaving.erasures.begin("acme", Reason.ERASURE_REQUEST, ADMIN)
    assert (begun.purged, begun.erased_at) == (0, None)
    assert await tenants.find(leaving.store.db, "acme") is None
    with pytest.raises(NotFoundError):
        await leaving.purging.builder.plan("acme", "professional")

    assert await leaving.erasures.work() == 0  # bytes wait to be erased, and words
    assert await leaving.erase_blobs() == (3, 0)
    assert await leaving.erasures.work() == 1
    await leaving.is_gone(4)
    assert await snapshot(leaving.store, "other") == before


async def test_a_tenant_is_not_gone_before_its_words_are(leaving: Leaving) -> None:
    await leaving.erasures.begin("acme", Reason.ERASURE_REQUEST, ADMIN)
    await leaving.erasures.work()
    store = leaving.store
    await EraseWorker(Erasures(store.db, store.log), store.blobs, leaving.purging.clock, "test").work()
    assert await leaving.erasures.work() == 0
    await leftovers.sweep(store.db)
    assert await leaving.erasures.work() == 1
    async with leaving.store.db.read() as conn:
        query = select(events.c.type, events.c.payload).where(events.c.tenant_id == GATEWAY).order_by(events.c.seq)
        told = [tuple(row) for row in (await conn.execute(query)).all()]
    closing = {"tenant": "acme", "reason": "erasure_request"}
    assert told == [("tenant.erasure_begun", closing), ("tenant.erased", closing)]

    done = await leaving.erasures.begin("acme", Reason.OFFBOARDING, ADMIN)
    assert (done.reason, done.purged, done.erased_at) == (Reason.ERASURE_REQUEST, 4, NOW)
    size = len(await leaving.bodies())
    assert await leaving.erasures.work() == 0
    assert len(await leaving.bodies()) == size
    with pytest.raises(ConflictError, match="was erased"):
        await tenants.put(leaving.store.db, leaving.store.ring, leaving.store.log, "acme", "Acme", NOW, SYSTEM)


@pytest.mark.parametrize("where", ["candidates locked", "batch"])
async def test_a_purge_that_it_overtakes_ends_in_the_log(leaving: Leaving, where: str) -> None:
    """Its entries would else belong to a run that never ended."""
    purging = leaving.purging
    purging.now += 400 * DAY  # pinned copies stay, the others are due
    run = purging.run(tenant_id="acme")

    def cut(name: str) -> None:
        if name == where:
            raise Cut

    with pytest.raises(Cut):
        await purging.engine(batch=1, step=cut, brake=Brake(1_000, 100)).run(run)
    await leaving.erasures.begin("acme", Reason.OFFBOARDING, ADMIN)
    assert await purging.engine().resume(run.policy_sha256) is not None
    told = await purging.leaves("acme")
    purged = sum(leaf["type"] == "item.purge" for leaf in told)
    (ended,) = (leaf for leaf in told if leaf["type"] == "run.abort")
    assert (ended["run"], ended["reason"], ended["purged"]) == (run.id, "tenant_erased", purged)
    assert purged == (where == "batch")
    record = await run_records.get(leaving.store.db, run.id)
    assert (record.state, record.detail, record.counts["purged"]) == ("failed", "tenant_erased", purged)


async def test_a_hold_forbids_it_and_so_does_its_delay(leaving: Leaving) -> None:
    purging, db = leaving.purging, leaving.store.db
    legal = LegalHolds(db, leaving.store.ring, leaving.store.log, purging.expiry, release_days=30)
    hold = await legal.place(
        "acme", Scope(mailbox_id=leaving.home.mailbox_id), matter="m", reason="r", now=NOW, actor=ADMIN
    )
    before = await snapshot(leaving.store, "acme")
    with pytest.raises(TenantHeldError):
        await leaving.erasures.begin("acme", Reason.OFFBOARDING, ADMIN)
    assert await snapshot(leaving.store, "acme") == before
    await legal.release("acme", hold.id, reason="r", now=NOW, actor=ADMIN)
    with pytest.raises(TenantHeldError):
        await leaving.erasures.begin("acme", Reason.OFFBOARDING, ADMIN)
    purging.now += 30 * DAY
    await leaving.erasures.begin("acme", Reason.OFFBOARDING, ADMIN)
    with pytest.raises(NotFoundError):
        await legal.place("acme", Scope(), matter="m", reason="r", now=purging.now, actor=ADMIN)


async def test_a_clock_that_jumped_ends_no_delay_of_a_hold(leaving: Leaving) -> None:
    purging, db = leaving.purging, leaving.store.db
    legal = LegalHolds(db, leaving.store.ring, leaving.store.log, purging.expiry, release_days=30)
    time = LatestTime(db, ClockLimits())
    hold = await legal.place("acme", Scope(), matter="m", reason="r", now=NOW, actor=ADMIN)
    await legal.release("acme", hold.id, reason="r", now=NOW, actor=ADMIN)
    await time.mark(NOW)
    purging.now += 400 * DAY
    with pytest.raises(TenantHeldError):
        await leaving.erasures.begin("acme", Reason.OFFBOARDING, ADMIN)
    await time.mark(purging.now)  # somebody approved it
    await leaving.erasures.begin("acme", Reason.OFFBOARDING, ADMIN)


async def test_what_is_being_sent_is_waited_for(leaving: Leaving) -> None:
    """The server may have it already: the copies stay until the sender has written down its answer, or is gone."""
    await acquire(leaving.store.db, "sender:p1", "p1", DAY, NOW)
    async with leaving.store.db.write() as tx:
        mine = submissions.c.tenant_id == "acme"
        await tx.conn.execute(submissions.update().where(mine).values(state="sending", claimed_by="p1"))
    await leaving.erasures.begin("acme", Reason.OFFBOARDING, ADMIN)
    assert await leaving.erasures.work() == 0
    assert len(await rows(leaving.store, messages, "acme")) == 4
    leaving.purging.now += DAY
    await leaving.erasures.work()
    assert await rows(leaving.store, messages, "acme") == []
    assert await rows(leaving.store, blobs, "acme") == []


async def test_bytes_that_were_never_sent_go_too(leaving: Leaving) -> None:
    store = leaving.store
    (one, *_) = await rows(store, blobs, "acme")
    refers = submissions.update().where(submissions.c.tenant_id == "acme").values(state="queued", blob_id=one.id)
    async with store.db.write() as tx:
        await tx.conn.execute(refers)
        await tx.conn.execute(blobs.update().where(blobs.c.id == one.id).values(refs=one.refs + 1))
    await leaving.erasures.begin("acme", Reason.ERASURE_REQUEST, ADMIN)
    await leaving.erasures.work()
    told = [leaf["blobs"]["freed"] for leaf in await leaving.purging.leaves() if leaf["type"] == "item.purge"]
    assert sum(told) == 2  # of three: the last reference to the other is the submission's
    assert one.id in {row.blob_id for row in await rows(store, blob_erasures, "acme")}
    await leaving.erase_blobs()
    assert one.id not in set(store.blobs.list_ids())


class Cut(BaseException):
    """What a kill is to the code: nothing after it runs."""


async def test_cut_at_any_step_it_ends_as_if_it_had_not_been(leaving: Leaving) -> None:
    await leaving.erasures.begin("acme", Reason.ERASURE_REQUEST, ADMIN)
    cuts = list[str]()

    def step(name: str) -> None:
        if name not in cuts:
            cuts.append(name)
            raise Cut

    while await tenants.find(leaving.store.db, "acme", erased=True) is not None:
        try:
            ended = await leaving.process(step=step).work()
        except Cut:
            continue
        if ended:
            break
        assert await leaving.erase_blobs() != (0, 0)
    assert cuts == ["copies", "keys", "keys gone", "keys told", "rows gone"]
    await leaving.is_gone(4)


async def test_its_log_hears_of_settings_that_change_before_all_is_told(leaving: Leaving) -> None:
    """Purges under a policy that the log never heard of would be nobody's; so would an export after the end."""
    store, heard = leaving.store, set[str]()

    async def change(brake: int) -> None:
        policy = Policy(1, "0" * 64, brake=Brake(brake))
        await store.log.adopt(store.db, LogPolicy(1, policy.document), at=NOW, actor=SYSTEM)

    def cut(name: str) -> None:
        raise Cut(name)

    await leaving.erasures.begin("acme", Reason.ERASURE_REQUEST, ADMIN)
    with pytest.raises(Cut, match="copies"):
        await leaving.process(step=cut).work()
    await change(1)
    assert await leaving.erasures.work() == 0
    await change(2)
    await leaving.erase_blobs()
    assert await leaving.erasures.work() == 1
    await change(3)
    tenant = await tenants.get(store.db, "acme", erased=True)
    signed = await store.reader.checkpoint(tenant, NOW)
    await store.log.note_export(store.db, tenant, "csv", signed.size, signed.root, at=NOW, actor=ADMIN)
    await leaving.is_gone(4)
    for leaf in await leaving.purging.leaves():
        if leaf["type"] == "policy.set":
            heard.add(leaf["policy"]["sha256"])
        assert leaf["policy"]["sha256"] in heard, leaf["type"]
    assert len(heard) == 4
