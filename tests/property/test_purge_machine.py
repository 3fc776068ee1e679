"""Anything that can happen to copies, in any order, on a real store beside a model of a few lines: on SQLite, and with
fewer examples on PostgreSQL.

R1 no purge while a pin or hold stood · R2 none before due_at · R3 every eligible copy gone after a healthy run ·
R4 a live copy's blob is readable · R6 one entry per purge, one purge per entry · R7 a cut run converges · R8 a longer
plan never purges more · R13 the counts balance · R14 no tenant affects another.
"""

from __future__ import annotations

import asyncio
import atexit
import shutil
import tempfile
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from mailgate.actors import COMMAND, SYSTEM
from mailgate.blobs import BlobStore
from mailgate.clock import DAY, Instant
from mailgate.errors import ConflictError
from mailgate.ids import new_id
from mailgate.jobs.erase import EraseWorker
from mailgate.keys import KeyRing
from mailgate.store.check import doctor
from mailgate.store.database import Database
from mailgate.store.erasures import Erasures
from mailgate.store.log import LogPolicy, PurgeLog
from mailgate.store.log_reading import LogReader
from mailgate.store.mailboxes import Mailboxes
from mailgate.store.migrate import upgrade
from mailgate.store.purge_lease import TTL
from mailgate.store.retention import RetentionService
from mailgate.store.schema import hold_messages, holds
from mailgate.store.subscriptions import Subscriptions
from mailgate.store.witness import Witness
from mailgate.tenants.catalogue import parse_catalogue
from mailgate.tenants.timeline import SubscriptionRules
from retention.policy import Policy
from tests.postgres import Postgres
from tests.store.builder import Home, Seed
from tests.store.conftest import NOW, PLANS, Store
from tests.store.purging import Purging, make_purging

T = TypeVar("T")

AGES = (0, 1, 30, 31, 60, 61, 90, 120)
DAYS = {"free": 0, "crm_plus": 30, "standard": 60, "professional": 90}
POLICY = Policy(1, "ab" * 32)


@dataclass
class Model:
    """What should be there: anchors, records that pin, names of holds; and the plan's days."""

    anchors: dict[str, Instant] = field(default_factory=dict)
    pins: dict[str, set[str]] = field(default_factory=dict)
    holds: dict[str, set[str] | None] = field(default_factory=dict)  # None: on the tenant
    removed: dict[str, bool] = field(default_factory=dict)  # copies whose mailbox was removed
    gone: set[str] = field(default_factory=set)
    days: int = 30

    def kept(self, id_: str) -> bool:
        return bool(self.pins[id_]) or any(ids is None or id_ in ids for ids in self.holds.values())

    def eligible(self, id_: str, now: Instant) -> bool:
        due = now >= self.anchors[id_] + self.days * DAY or self.removed[id_]
        return due and not self.kept(id_)


class CutError(Exception):
    """The process dies here."""


class PurgeMachine(RuleBasedStateMachine):
    copies = Bundle("copies")
    standing_holds = Bundle("standing_holds")

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.folder = Path(tempfile.mkdtemp(prefix="purge-machine-"))
        self.url = self.make_database()
        self.model = Model()
        self.owners = 0
        self.bystander: list[dict[str, Any]] = []

    def make_database(self) -> str:
        """The URL of a migrated, empty database."""
        shutil.copyfile(_template(), self.folder / "mailgate.db")
        return f"sqlite:///{self.folder}/mailgate.db"

    def drop_database(self) -> None:
        """Nobody is connected any more; the folder goes anyhow."""

    def do(self, work: Awaitable[T]) -> T:
        async def go() -> T:
            return await work

        return self.runner.run(go())

    @initialize()
    def begin(self) -> None:
        self.do(self._begin())

    async def _begin(self) -> None:
        db = Database(self.url)
        ring = KeyRing.open(f"file://{self.folder}/keys", create=True)
        blobs = BlobStore.open(f"file://{self.folder}/blobs")
        log = PurgeLog(origin="mail.example", policy=LogPolicy(1, POLICY.document), version="1", commit="test")
        subscriptions = Subscriptions(db, log, parse_catalogue(PLANS.read_bytes()), SubscriptionRules())
        reader = LogReader(
            db, origin="mail.example", seed=ring.ledger_seed, witness=Witness(self.folder / "w"), owner="test"
        )
        mailboxes = Mailboxes(db, ring, subscriptions)
        self.store = Store(db, ring, blobs, log, reader, subscriptions, mailboxes)
        self.purging: Purging = await make_purging(self.store)
        await self.purging.lease.release(db)
        self.home: Home = await self.purging.builder.home("acme", "crm_plus")
        other = await self.purging.builder.home("other", "professional")
        await self.purging.builder.copies(other, [Seed(NOW - day * DAY, content=b"shared %d" % day) for day in (1, 50)])
        self.bystander = await self.purging.leaves("other")

    @rule(target=copies, age=st.sampled_from(AGES), content=st.integers(0, 3), micros=st.integers(-1, 1))
    def store_copy(self, age: int, content: int, micros: int) -> str:
        """A copy arrives; four contents, so that blobs are shared. Its age is around the boundaries now and then."""
        now = self.purging.now
        anchor = min(now, now - age * DAY + micros)
        self.purging.builder.now = now
        (id_,) = self.do(self.purging.builder.copies(self.home, [Seed(anchor, content=b"shared %d" % content)]))
        self.model.anchors[id_] = anchor
        self.model.pins[id_] = set()
        self.model.removed[id_] = False
        return id_

    @rule(id_=copies, record=st.sampled_from("AB"))
    def pin(self, id_: str, record: str) -> None:
        async def put() -> str:
            try:
                await self.purging.pins.put("acme", id_, "deal", record, note="why", now=self.purging.now, actor=SYSTEM)
            except ConflictError as refused:
                return refused.slug
            return "accepted"

        outcome = self.do(put())
        if id_ in self.model.gone:
            assert outcome in ("purged", "mailbox_removed")
        elif self.model.removed[id_] and record not in self.model.pins[id_]:
            assert outcome == "mailbox_removed"
        else:
            assert outcome == "accepted"
            self.model.pins[id_].add(record)

    @rule(id_=copies, record=st.sampled_from("AB"))
    def unpin(self, id_: str, record: str) -> None:
        found = self.do(self.purging.pins.remove("acme", id_, "deal", record, now=self.purging.now, actor=SYSTEM))
        assert found == (record in self.model.pins[id_])
        self.model.pins[id_].discard(record)

    @rule(record=st.sampled_from("AB"))
    def delete_record(self, record: str) -> None:
        had = [id_ for id_, records in self.model.pins.items() if record in records]
        removed = self.do(self.purging.pins.remove_record("acme", "deal", record, now=self.purging.now, actor=SYSTEM))
        assert removed == len(had)
        for id_ in had:
            self.model.pins[id_].discard(record)

    @rule(target=standing_holds, named=st.none() | st.lists(copies, max_size=3))
    def hold(self, named: list[str] | None) -> str:
        hold_id = new_id(self.purging.now)

        async def place() -> None:
            async with self.store.db.write() as tx:
                await tx.conn.execute(
                    holds.insert().values(
                        id=hold_id,
                        tenant_id="acme",
                        scope="tenant" if named is None else "messages",
                        matter="M",
                        reason="r",
                        placed_at=self.purging.now,
                        placed_by="x",
                    )
                )
                if named:
                    rows = [{"hold_id": hold_id, "message_id": id_} for id_ in set(named)]
                    await tx.conn.execute(hold_messages.insert(), rows)

        self.do(place())
        self.model.holds[hold_id] = None if named is None else set(named)
        return hold_id

    @rule(hold_id=standing_holds)
    def release(self, hold_id: str) -> None:
        async def go() -> None:
            async with self.store.db.write() as tx:
                at = self.purging.now
                values = {"released_at": at, "protects_until_at": at}
                await tx.conn.execute(holds.update().where(holds.c.id == hold_id).values(values))

        self.do(go())
        self.model.holds.pop(hold_id, None)

    @rule(plan=st.sampled_from(sorted(DAYS)))
    def change_plan(self, plan: str) -> None:
        """R8: what a longer plan would purge, a shorter one would purge too."""
        self.purging.now += 1
        before, days = self.due_now(), self.model.days
        self.do(self.purging.builder.plan("acme", plan, self.purging.now))
        self.model.days = DAYS[plan]
        after = self.due_now()
        assert after <= before if self.model.days >= days else after >= before

    def due_now(self) -> int:
        return self.do(self.purging.engine().preview("acme", self.purging.now)).counts.purged

    @rule(days=st.sampled_from((0, 1, 29, 30)), micros=st.integers(-1, 1))
    def wait(self, days: int, micros: int) -> None:
        self.purging.now += max(0, days * DAY + micros)

    @precondition(lambda self: self.model.anchors)
    @rule()
    def remove_mailbox(self) -> None:
        """All copies so far lose their mailbox; what comes later goes to a new one."""
        self.do(self.store.mailboxes.remove("acme", self.home.mailbox_id, self.purging.now, SYSTEM))
        self.model.removed = dict.fromkeys(self.model.removed, True)
        self.home = self.do(self.purging.builder.mailbox(self.home.tenant))

    @rule(batch=st.integers(1, 5), cut_at=st.none() | st.integers(1, 30))
    def purge(self, batch: int, cut_at: int | None) -> None:
        """A run, cut somewhere or not; then all that is eligible is gone and nothing else is."""
        model, now = self.model, self.purging.now
        eligible = {id_ for id_ in model.anchors if id_ not in model.gone and model.eligible(id_, now)}
        assert self.due_now() == len(eligible)
        counts = self.do(self._run(batch, cut_at))
        model.gone |= eligible
        assert self.do(self.purging.ids()) == set(model.anchors) - model.gone
        assert counts["candidates"] == counts["purged"] + sum(counts["kept"].values()) + counts["failed"]
        assert counts["purged"] == len(eligible)

    async def _run(self, batch: int, cut_at: int | None) -> dict[str, Any]:
        service = self._service(batch, _cut(cut_at))
        known = {run.id for run in (await service.list_page(limit=200)).items}
        try:
            await service.run(actor=COMMAND, tenant_id="acme")
        except CutError:
            self.purging.now += TTL  # the dead process's lease runs out
            service = self._service(batch, _cut(None))
            if not await service.work():  # it died before anything was written
                await service.run(actor=COMMAND, tenant_id="acme")
        (run,) = [run for run in (await service.list_page(limit=200)).items if run.id not in known]
        return dict(run.counts)

    def _service(self, batch: int, step: Callable[[str], None]) -> RetentionService:
        self.owners += 1
        store = self.store
        return RetentionService(
            store.db,
            store.log,
            store.subscriptions,
            self.purging.expiry,
            POLICY,
            self.purging.clock,
            f"owner {self.owners}",
            batch=batch,
            step=step,
        )

    @rule()
    def erase(self) -> None:
        store = self.store
        worker = EraseWorker(Erasures(store.db, store.log), store.blobs, self.purging.clock, "eraser")
        assert self.do(worker.work())[1] == 0

    @invariant()
    def nobody_else_is_touched(self) -> None:
        if self.bystander:
            assert self.do(self.purging.leaves("other")) == self.bystander

    def teardown(self) -> None:
        if hasattr(self, "purging"):
            self.do(self._finish())
        self.runner.close()
        self.drop_database()
        shutil.rmtree(self.folder)

    async def _finish(self) -> None:
        purges = [leaf for leaf in await self.purging.leaves() if leaf["type"] == "item.purge"]
        assert len({leaf["item_ref"] for leaf in purges}) == len(purges) == len(self.model.gone)
        assert all(leaf["checks"] == {"pins": 0, "holds": 0} for leaf in purges)
        report = await doctor(self.store.db, self.store.blobs, self.store.ring, deep=True)
        await self.store.db.close()
        assert report.healthy, report.findings


def _cut(at: int | None) -> Callable[[str], None]:
    left = at

    def step(_name: str) -> None:
        nonlocal left
        if left is not None:
            left -= 1
            if left == 0:
                raise CutError

    return step


_TEMPLATES: list[Path] = []


def _template() -> Path:
    """A migrated, empty database, made once."""
    if not _TEMPLATES:
        folder = Path(tempfile.mkdtemp(prefix="purge-machine-template-"))
        atexit.register(shutil.rmtree, folder)
        path = folder / "mailgate.db"
        upgrade(f"sqlite:///{path}")
        _TEMPLATES.append(path)
    return _TEMPLATES[0]


TestPurgeMachine = PurgeMachine.TestCase
TestPurgeMachine.settings = settings(max_examples=20, stateful_step_count=30, deadline=None)


@pytest.mark.postgresql
def test_the_machine_on_postgresql(postgres: Postgres, postgres_template: str) -> None:
    class OnPostgres(PurgeMachine):
        """The same rules; each example on a database of its own."""

        def make_database(self) -> str:
            self.name = postgres.lend(postgres_template)
            return postgres.url(self.name)

        def drop_database(self) -> None:
            postgres.returned(self.name)

    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        OnPostgres, settings=settings(max_examples=4, stateful_step_count=25, deadline=None)
    )
