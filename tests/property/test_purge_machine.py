"""Anything that can happen to copies, in any order, on a real store beside a model of a few lines: on SQLite, and with
fewer examples on PostgreSQL.

After each step the auditor reads both logs (R1, R2, R6, R14): the past unchanged, each new entry allowed by those
before it, the tree's edge right; what is due is what the model says; and no command waits for a server (R10). Each run
leaves what the model says (R1, R2, R3, R7), equals its preview, which writes nothing (R12), balances, also in its
certificate (R13), and done again does nothing; it runs in another time zone each time (R15), its log is signed and
continues what was signed (R16), and a server that shows everything again brings nothing back (R11). A longer plan never
purges more (R8); plans are told late, ahead and again (R9); what is erased is looked for by a burglar (R5). At the end
the doctor reads every live copy (R4), the plans told backwards give the same timeline (R9), and the verifier alone
examines the exported logs, and that each signed state became the last one (R16).

What can't stand here, and where it does:

* R5 in PostgreSQL's files: what a row left behind goes when its server likes; `tests/sync/test_canary.py` makes it.
  That words of a body are sealed when sync stores them is seen there too: here a builder stores copies.
* R10 in whole: that retention can't reach a connector is a law of imports (`make check`); a machine only sees that
  nothing was asked for through the store.
* R11 with everything that sync does of itself: `reconcile_machine.py`, with a server that changes meanwhile.
* R12's "never changes a byte" on PostgreSQL, whose files change by themselves; its rows are compared.
* R16 against a database that was put back or forged: no rule of the product does that (`tests/unit/ledger`,
  `tests/store/test_restore.py`).
"""

from __future__ import annotations

import asyncio
import atexit
import os
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable
from pathlib import Path
from typing import Any, TypeVar

import pytest
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
from mailgate.clock import DAY, Instant
from mailgate.errors import ConflictError
from mailgate.jobs.erase import EraseWorker
from mailgate.store import tenants, timelines
from mailgate.store.check import doctor
from mailgate.store.erasures import Erasures
from mailgate.store.legal_holds import LegalHolds, Scope
from mailgate.store.migrate import upgrade
from mailgate.store.purge_lease import TTL
from mailgate.store.retention import RetentionService
from mailgate.store.runs import RunRecord
from mailgate.tenants.timeline import Event, EventType
from retention.engine import Preview, Step, no_step
from retention.ledger.schema import parse_leaf
from retention.policy import ClockLimits
from tests.postgres import Postgres
from tests.property.purge_world import (
    DAYS,
    POLICY,
    RELEASE_DAYS,
    Auditor,
    Burglar,
    CutError,
    Held,
    MailServer,
    Model,
    cut,
    open_store,
)
from tests.soak import examples
from tests.store.builder import Home, Seed
from tests.store.conftest import NOW
from tests.store.purging import Purging, make_purging

T = TypeVar("T")

AGES = (0, 1, 30, 31, 60, 61, 90, 120)
PLANS = st.sampled_from(sorted(DAYS))
ZONES = ("UTC0", "<+14>-14", "EST5EDT,M3.2.0,M11.1.0", "<+0545>-5:45")
ANY_CLOCK = ClockLimits(max_backward=10**17, max_forward=10**17)


class PurgeMachine(RuleBasedStateMachine):
    copies = Bundle("copies")
    placed_holds = Bundle("placed_holds")

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.folder = Path(tempfile.mkdtemp(prefix="purge-machine-"))
        self.url = self.make_database()
        self.model = Model()
        self.owners = 0
        self.told: list[Event] = []
        self.zone = os.environ.get("TZ")

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
        self.store = store = open_store(self.url, self.folder)
        self.purging: Purging = await make_purging(store)
        await self.purging.lease.release(store.db)
        self.holds = LegalHolds(store.db, store.ring, store.log, self.purging.expiry, release_days=RELEASE_DAYS)
        self.auditor = Auditor(store, "acme", self.folder)
        self.burglar = Burglar(store, self.folder)
        self.server = MailServer(store)
        self.home: Home = await self.purging.builder.home("acme", "crm_plus")
        self.model.plans[NOW] = "crm_plus"
        await self.server.connect(self.home)
        other = await self.purging.builder.home("other", "professional")
        seeds = [Seed(NOW - day * DAY, content=b"shared %d" % day) for day in (1, 50)]
        for id_ in await self.purging.builder.copies(other, seeds):
            await self.burglar.note(id_)
        self.bystander = Auditor(store, "other", self.folder)
        await self.bystander.follow()
        self.others = list(self.bystander.bodies)

    @rule(target=copies, age=st.sampled_from(AGES), content=st.integers(0, 3), micros=st.integers(-1, 1))
    def store_copy(self, age: int, content: int, micros: int) -> str:
        """A copy arrives; four contents, so that blobs are shared. Its age is around the boundaries now and then."""
        now = self.purging.now
        anchor = min(now, now - age * DAY + micros)
        self.purging.builder.now = now
        words = f"{self.burglar.words['content']} {content}".encode()
        (id_,) = self.do(self.purging.builder.copies(self.home, [Seed(anchor, content=words)]))
        self.do(self.burglar.note(id_))
        self.model.anchors[id_] = anchor
        self.model.pins[id_] = set()
        self.model.mailbox[id_] = self.home.mailbox_id
        self.model.removed[id_] = False
        return id_

    @rule(id_=copies, record=st.sampled_from("AB"))
    def pin(self, id_: str, record: str) -> None:
        async def put() -> str:
            note, now = self.burglar.words["note"], self.purging.now
            try:
                await self.purging.pins.put("acme", id_, "deal", record, note=note, now=now, actor=SYSTEM)
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

    @rule(target=placed_holds, named=st.sampled_from(("tenant", "mailbox")) | st.lists(copies, min_size=1, max_size=3))
    def hold(self, named: str | list[str]) -> str | None:
        """On all, on the mailbox that stands, or on copies; on one that is gone it comes too late, and says so."""
        ids = frozenset(named) if isinstance(named, list) else None
        mailbox_id = self.home.mailbox_id if named == "mailbox" else None
        scope, now = Scope(mailbox_id, tuple(ids or ())), self.purging.now

        async def place() -> str:
            hold = await self.holds.place("acme", scope, matter="M", reason="r", now=now, actor=SYSTEM)
            return hold.id

        if ids is not None and ids & self.model.gone:
            with pytest.raises(ConflictError, match="purged"):
                self.do(place())
            return None
        hold_id = self.do(place())
        self.model.holds[hold_id] = Held(ids, mailbox_id)
        return hold_id

    @rule(hold_id=placed_holds)
    def release(self, hold_id: str | None) -> None:
        """It protects a day more; once only."""
        if hold_id is None:
            return
        held, now = self.model.holds[hold_id], self.purging.now
        releasing = self.holds.release("acme", hold_id, reason="r", now=now, actor=SYSTEM)
        if held.until is None:
            until = self.do(releasing).protects_until_at
            assert until is not None
            assert until >= now + RELEASE_DAYS * DAY
            self.model.holds[hold_id] = held._replace(until=until)
        else:
            with pytest.raises(ConflictError, match="released"):
                self.do(releasing)

    @rule(plan=PLANS)
    def change_plan(self, plan: str) -> None:
        """R8: what a longer plan would purge, a shorter one would purge too."""
        self.purging.now += 1
        now = self.purging.now
        before, days = self.due_now(), self.model.days(now)
        self.do(self.purging.builder.plan("acme", plan, now))
        self.model.plans[now] = plan
        after = self.due_now()
        assert after <= before if DAYS[plan] >= days else after >= before

    @rule(plan=PLANS, days=st.sampled_from((-40, -1, 1, 30)))
    def tell_plan(self, plan: str, days: int) -> None:
        """R9: told late or ahead, a plan counts from when it takes effect, and undoes nothing that followed."""
        at = self.purging.now + days * DAY
        while at in self.model.plans:
            at += 1
        self.told.insert(0, Event(f"told-{len(self.told):03d}", EventType.SET, at, plan=plan))
        for new in (1, 0):  # all that was told before once more, the last one first
            assert self.do(self.store.subscriptions.tell("acme", self.told, self.purging.now, SYSTEM)).new == new
        self.model.plans[at] = plan

    def due_now(self) -> int:
        return self.preview().counts.purged

    def preview(self, at: Instant | None = None, plan: str | None = None) -> Preview:
        """R12: it changes nothing, not a byte of SQLite's files."""

        def state() -> object:
            if self.store.db.sqlite:
                return [(self.folder / f"mailgate.db{end}").read_bytes() for end in ("", "-wal")]
            return self.do(self.purging.ids()), self.do(self.purging.leaves())

        before = state()
        preview = self.do(self._service(500, no_step).preview("acme", at, plan))
        assert state() == before, "a preview wrote"
        return preview

    @rule(id_=copies, micros=st.integers(-1, 1), plan=st.none() | PLANS)
    def look_ahead(self, id_: str, micros: int, plan: str | None) -> None:
        """R12: a preview of a later time, by any plan, is what the model says of it; aimed at when a copy is due."""
        days = self.model.days(self.purging.now) if plan is None else DAYS[plan]
        at = max(self.purging.now, self.model.anchors[id_] + days * DAY + micros)
        assert self.preview(at, plan).going.copies == len(self.model.eligible(at, plan))

    @rule(days=st.sampled_from((0, 1, 29, 30)), micros=st.integers(-1, 1))
    def wait(self, days: int, micros: int) -> None:
        self.purging.now += max(0, days * DAY + micros)

    @rule(id_=copies, micros=st.integers(-1, 1))
    def wait_for(self, id_: str, micros: int) -> None:
        """Until a copy is due, or the microsecond before or after."""
        due_at = self.model.anchors[id_] + self.model.days(self.purging.now) * DAY
        self.purging.now = max(self.purging.now, due_at + micros)

    @precondition(lambda self: self.model.anchors)
    @rule()
    def remove_mailbox(self) -> None:
        """All copies so far lose their mailbox; what comes later goes to a new one."""
        self.do(self.store.mailboxes.remove("acme", self.home.mailbox_id, self.purging.now, SYSTEM))
        self.model.removed = dict.fromkeys(self.model.removed, True)
        self.home = self.do(self.purging.builder.mailbox(self.home.tenant))
        self.do(self.server.connect(self.home))

    @rule(batch=st.integers(1, 5), cut_at=st.none() | st.integers(1, 30), zone=st.sampled_from(ZONES))
    def purge(self, batch: int, cut_at: int | None, zone: str) -> None:
        """A run, cut somewhere or not; then all that is eligible is gone and nothing else is. R15: wherever it is."""
        os.environ["TZ"] = zone
        time.tzset()
        model = self.model
        eligible = model.eligible(self.purging.now)
        preview = self.preview()
        assert preview.going.copies == len(eligible)
        run = self.do(self._run(batch, cut_at))
        model.gone |= eligible
        assert self.do(self.purging.ids()) == set(model.anchors) - model.gone
        counts = run.counts
        assert counts["candidates"] == counts["purged"] + sum(counts["kept"].values()) + counts["failed"]
        assert counts == preview.counts.to_json() | {"tenants": 1, "halted": [], "stopped": {}}
        self.do(self._certified(run, preview))
        self.do(self._again(batch))
        self.do(self.server.shows_again(model, self.burglar, self.purging.now))

    async def _run(self, batch: int, cut_at: int | None) -> RunRecord:
        service = self._service(batch, cut(cut_at))
        known = {run.id for run in (await service.list_page(limit=200)).items}

        async def begun() -> list[RunRecord]:
            return [run for run in (await service.list_page(limit=200)).items if run.id not in known]

        try:
            await service.run(actor=COMMAND, tenant_id="acme")
        except CutError:
            self.purging.now += TTL  # the dead process's lease runs out
            service = self._service(batch, no_step)
            await service.work()
            if not await begun():  # it died before anything was written
                await service.run(actor=COMMAND, tenant_id="acme")
        (run,) = await begun()
        return run

    async def _certified(self, run: RunRecord, preview: Preview) -> None:
        """R6, R13: an entry for each copy, for the reasons that were foretold; and a certificate of just that."""
        await self.auditor.sign(self.purging.now)
        reasons = Counter(leaf["reason"] for leaf in self.auditor.purges(run.id))
        assert reasons == {str(reason): sum_.copies for reason, sum_ in preview.due.items()}
        await self.auditor.certify(run, preview.due, self.purging.now)

    async def _again(self, batch: int) -> None:
        """Nothing that a run decided is decided anew: the next one finds nothing to do."""
        before, ids = len(self.auditor.bodies), await self.purging.ids()
        run = await self._run(batch, None)
        await self.auditor.follow()
        assert (run.counts["purged"], await self.purging.ids()) == (0, ids)
        told = [parse_leaf(body)["type"] for body in self.auditor.bodies[before:]]
        assert told in ([], ["run.open", "run.close"])

    def _service(self, batch: int, step: Step) -> RetentionService:
        self.owners += 1
        store, owner = self.store, f"owner {self.owners}"
        return RetentionService(
            store.db, store.log, store.subscriptions, self.purging.expiry, POLICY, self.purging.clock, owner,
            batch=batch, limits=ANY_CLOCK, step=step,
        )  # fmt: skip

    @rule()
    def erase(self) -> None:
        """R5."""
        self.do(self._erase())

    async def _erase(self) -> None:
        store = self.store
        worker = EraseWorker(Erasures(store.db, store.log), store.blobs, self.purging.clock, "eraser")
        assert (await worker.work())[1] == 0
        await self.burglar.look(self.model.gone)

    def check_invariants(self, settings: Any, output: Any, runtimes: Any) -> None:
        """The story of a failure is what was done, without this between any two steps."""
        del output
        super().check_invariants(settings, lambda _line: None, runtimes)

    @invariant()
    def all_is_accounted_for(self) -> None:
        if hasattr(self, "others"):
            self.do(self._look())

    async def _look(self) -> None:
        await self.auditor.follow()
        await self.bystander.follow()
        assert self.bystander.bodies == self.others, "another tenant was touched"
        assert len(self.auditor.purges()) == len(self.model.gone)
        await self.server.hears_nothing()
        preview = await self.purging.engine().preview("acme", self.purging.now)
        assert preview.going.copies == len(self.model.eligible(self.purging.now)), "other copies are due"

    def teardown(self) -> None:
        try:
            if hasattr(self, "others"):
                self.do(self._finish())
        finally:
            if self.zone is None:
                os.environ.pop("TZ", None)
            else:
                os.environ["TZ"] = self.zone
            time.tzset()
            self.runner.close()
            self.drop_database()
            shutil.rmtree(self.folder)

    async def _finish(self) -> None:
        try:
            purges = self.auditor.purges()
            assert len({leaf["item_ref"] for leaf in purges}) == len(purges) == len(self.model.gone)
            assert all(leaf["checks"] == {"pins": 0, "holds": 0} for leaf in purges)
            await self.server.shows_again(self.model, self.burglar, self.purging.now)
            await self._erase()
            for auditor in (self.auditor, self.bystander):
                await auditor.examine(self.purging.now)
            await self._told_backwards()
            report = await doctor(self.store.db, self.store.blobs, self.store.ring, deep=True)
            assert report.healthy, report.findings
        finally:
            await self.store.db.close()

    async def _told_backwards(self) -> None:
        """R9: another tenant hears the same events, the last one first and each twice."""
        store, now = self.store, self.purging.now
        await tenants.put(store.db, store.ring, store.log, "echo", "echo", now, SYSTEM)
        async with store.db.read() as conn:
            events = await timelines.read_events(conn, "acme")
        for event in reversed(events):
            await store.subscriptions.tell("echo", [event, event], now, SYSTEM)
        assert await store.subscriptions.timeline("echo") == await store.subscriptions.timeline("acme")


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
TestPurgeMachine.settings = examples(20, stateful_step_count=30, deadline=None)


@pytest.mark.postgresql
def test_the_machine_on_postgresql(postgres: Postgres, postgres_template: str) -> None:
    class OnPostgres(PurgeMachine):
        """The same rules; each example on a database of its own."""

        def make_database(self) -> str:
            self.name = postgres.lend(postgres_template)
            return postgres.url(self.name)

        def drop_database(self) -> None:
            postgres.returned(self.name)

    run_state_machine_as_test(OnPostgres, settings=examples(4, stateful_step_count=25, deadline=None))
