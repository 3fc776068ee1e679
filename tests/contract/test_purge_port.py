"""What a purge may rely on, whatever keeps the copies: the store in memory and both databases, one suite."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import pytest
from sqlalchemy import text

from mailgate.actors import SYSTEM
from mailgate.blobs import BlobStore
from mailgate.keys import KeyRing
from mailgate.store.database import Database
from mailgate.store.log import LogPolicy, PurgeLog
from mailgate.store.log_reading import LogReader
from mailgate.store.mailboxes import Mailboxes
from mailgate.store.subscriptions import Subscriptions
from mailgate.store.witness import Witness
from mailgate.tenants.catalogue import parse_catalogue
from mailgate.tenants.timeline import SubscriptionRules
from retention.engine import Engine
from retention.model import DAY, SCHEDULER, Copy, Counts, Cutoffs, Reason, Rules, Supposed, Verdict
from retention.policy import cutoffs, judge
from retention.port import BatchFailedError, Position, Progress, PurgeStore, PurgeUnit, Run
from tests.contract.memory_purge_store import MemoryStore, pinned
from tests.store.builder import Home, Seed
from tests.store.conftest import NOW, PLANS, Store
from tests.store.purging import Purging, make_purging

RULES = Rules("crm_plus", 30)
BOUNDS = cutoffs(RULES, NOW)
assert BOUNDS is not None


class Subject(Protocol):
    """A store to be examined, with one tenant `acme` on 30 days, and what the suite needs to prepare and look at it."""

    port: PurgeStore

    async def add(self, *ages: float) -> list[str]:
        """Copies of these ages in days; their ids."""

    async def pin(self, id_: str) -> None:
        """Pin a copy."""

    async def break_purge_of(self, id_: str) -> None:
        """Make the store refuse to let this copy go."""

    async def ids(self) -> set[str]:
        """The copies that are there."""

    async def log(self) -> list[str]:
        """The types of the tenant's entries about purges."""


class InMemory:
    def __init__(self) -> None:
        self.port = self._store = MemoryStore()
        self._store.state.rules["acme"] = RULES

    async def add(self, *ages: float) -> list[str]:
        first = len(self._store.state.sizes)
        ids = [f"id{first + number:03}" for number in range(len(ages))]
        for id_, age in zip(ids, ages, strict=True):
            at = NOW - int(age * DAY)
            self._store.add("acme", Copy(id_, at, at), size=10)
        return ids

    async def pin(self, id_: str) -> None:
        self._store.state.copies["acme"][id_] = pinned(self._store.state.copies["acme"][id_])

    async def break_purge_of(self, id_: str) -> None:
        self._store.refused.add(id_)

    async def ids(self) -> set[str]:
        return set(self._store.state.copies.get("acme", {}))

    async def log(self) -> list[str]:
        return [entry[1] for entry in self._store.state.log if entry[0] == "acme"]


class InDatabase:
    def __init__(self, purging: Purging, home: Home) -> None:
        self.port = purging.purges
        self._purging, self._home = purging, home

    async def add(self, *ages: float) -> list[str]:
        return await self._purging.builder.copies(self._home, [Seed(NOW - int(age * DAY)) for age in ages])

    async def pin(self, id_: str) -> None:
        await self._purging.pins.put("acme", id_, "deal", "D", note=None, now=NOW, actor=SYSTEM)

    async def break_purge_of(self, id_: str) -> None:
        await self.pin(id_)  # and lose count of it: then the foreign key refuses
        async with self._purging.store.db.write() as tx:
            await tx.conn.execute(text("UPDATE messages SET pins = 0 WHERE id = :id"), {"id": id_})

    async def ids(self) -> set[str]:
        return await self._purging.ids()

    async def log(self) -> list[str]:
        leaves = await self._purging.leaves()
        return [leaf["type"] for leaf in leaves if leaf["type"].startswith(("run.", "item."))]


async def _in_database(url: str, tmp_path: Path) -> InDatabase:
    db = Database(url)
    ring = KeyRing.open(f"file://{tmp_path}/keys", create=True)
    blobs = BlobStore.open(f"file://{tmp_path}/blobs")
    log = PurgeLog(origin="mail.example", policy=LogPolicy(1, {"days": 30}), version="1", commit="test")
    subscriptions = Subscriptions(db, log, parse_catalogue(PLANS.read_bytes()), SubscriptionRules())
    reader = LogReader(db, origin="mail.example", seed=ring.ledger_seed, witness=Witness(tmp_path / "w"), owner="test")
    store = Store(db, ring, blobs, log, reader, subscriptions, Mailboxes(db, ring, subscriptions))
    purging = await make_purging(store)
    return InDatabase(purging, await purging.builder.home())


@pytest.fixture(params=["memory", "sqlite", pytest.param("postgresql", marks=pytest.mark.postgresql)])
async def subject(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Subject]:
    if request.param == "memory":
        yield InMemory()
        return
    made = await _in_database(request.getfixturevalue(f"{request.param}_url"), tmp_path)
    yield made
    await made._purging.store.db.close()


def a_run(number: int = 1, tenant_id: str | None = "acme") -> Run:
    return Run(f"{number:026d}", tenant_id, NOW, NOW, "request", SCHEDULER, 1, "ab" * 32)


def bounds() -> Cutoffs:
    assert BOUNDS is not None
    return BOUNDS


async def begun(subject: Subject) -> Run:
    run = a_run()
    await subject.port.begin(run)
    return run


async def test_candidates_come_oldest_first_in_stretches(subject: Subject) -> None:
    ids = await subject.add(31, 50, 40, 29, 60)
    run = await begun(subject)

    async def work(unit: PurgeUnit) -> list[Sequence[Position]]:
        assert await unit.lock_tenant(NOW) is not None
        first = await unit.lock_candidates(bounds(), None, 3)
        return [first, await unit.lock_candidates(bounds(), first[-1], 3)]

    first, second = await subject.port.transact(run, "acme", work)
    assert [id_ for _, id_ in first] == [ids[4], ids[1], ids[2]]
    assert [id_ for _, id_ in second] == [ids[0]]


async def test_pinned_copies_are_no_candidates_but_counted(subject: Subject) -> None:
    ids = await subject.add(40, 50, 60)
    await subject.pin(ids[1])
    run = await begun(subject)

    async def work(unit: PurgeUnit) -> tuple[Any, ...]:
        await unit.lock_tenant(NOW)
        taken = await unit.lock_candidates(bounds(), None, 10)
        read = await unit.read(taken)
        whole = await unit.kept_between(bounds(), None, None, taken)
        before = await unit.kept_between(bounds(), None, taken[0], taken)
        after = await unit.kept_between(bounds(), taken[-1], None, taken)
        return [id_ for _, id_ in taken], [copy.id for copy in read], whole, before, after

    taken, read, whole, before, after = await subject.port.transact(run, "acme", work)
    assert taken == read == [ids[2], ids[0]]
    assert (dict(whole), dict(before), dict(after)) == ({"pinned": 1}, {}, {})


async def test_a_unit_that_raises_leaves_no_trace(subject: Subject) -> None:
    ids = await subject.add(40, 50)
    run = await begun(subject)
    log = await subject.log()

    async def work(unit: PurgeUnit) -> None:
        rules = await unit.lock_tenant(NOW)
        assert rules is not None
        await unit.open()
        taken = await unit.read(await unit.lock_candidates(bounds(), None, 10))
        due = [(copy, judge(copy, rules, NOW)) for copy in taken]
        await unit.prepare(due)
        await unit.purge(due, rules)
        await unit.record(Progress(tenants=7))
        raise RuntimeError("cut")

    with pytest.raises(RuntimeError, match="cut"):
        await subject.port.transact(run, "acme", work)
    assert await subject.ids() == set(ids)
    assert await subject.log() == log
    found = await subject.port.unfinished()
    assert found is not None
    assert found[1].tenants == 0


async def test_a_purge_takes_the_copies_and_leaves_one_entry_each(subject: Subject) -> None:
    ids = await subject.add(40, 50, 3)
    run = await begun(subject)

    async def work(unit: PurgeUnit) -> int:
        rules = await unit.lock_tenant(NOW)
        assert rules is not None
        taken = await unit.read(await unit.lock_candidates(bounds(), None, 10))
        due: list[tuple[Copy, Verdict]] = [(copy, judge(copy, rules, NOW)) for copy in taken]
        await unit.prepare(due)
        return await unit.purge(due, rules)

    assert await subject.port.transact(run, "acme", work) > 0
    assert await subject.ids() == {ids[2]}
    assert await subject.log() == ["item.purge", "item.purge"]


async def test_what_the_store_refuses_is_said_so(subject: Subject) -> None:
    (id_,) = await subject.add(40)
    await subject.break_purge_of(id_)
    run = await begun(subject)

    async def work(unit: PurgeUnit) -> None:
        rules = await unit.lock_tenant(NOW)
        assert rules is not None
        taken = await unit.read(await unit.lock_candidates(bounds(), None, 10))
        due = [(copy, judge(copy, rules, NOW)) for copy in taken]
        await unit.prepare(due)
        await unit.purge(due, rules)

    with pytest.raises(BatchFailedError):
        await subject.port.transact(run, "acme", work)
    assert await subject.ids() == {id_}


async def test_a_run_is_unfinished_until_it_is_finished(subject: Subject) -> None:
    await subject.add(40)
    assert await subject.port.unfinished() is None
    run = await begun(subject)
    position = (NOW - 40 * DAY, "X")
    progress = Progress(Counts(1, 1, 0, 10), 1, "aaa", "acme", Counts(3, 1, 0, 5, {"pinned": 2}), position, 9)

    async def work(unit: PurgeUnit) -> None:
        await unit.lock_tenant(NOW)
        await unit.record(progress)

    await subject.port.transact(run, "acme", work)
    assert await subject.port.unfinished() == (run, progress)
    await subject.port.finish(run, progress, "completed")
    assert await subject.port.unfinished() is None


async def test_a_tenant_that_is_not_there_has_no_rules(subject: Subject) -> None:
    run = await begun(subject)

    async def work(unit: PurgeUnit) -> Rules | None:
        return await unit.lock_tenant(NOW)

    assert await subject.port.transact(run, "nobody", work) is None
    assert await subject.port.rules("nobody", NOW) is None
    assert await subject.port.rules("acme", NOW) == RULES


async def test_only_tenants_with_something_to_purge_are_due(subject: Subject) -> None:
    (id_, _) = await subject.add(40, 1)
    assert await subject.port.tenants_due(NOW, NOW) == ["acme"]
    assert await subject.port.tenants_due(NOW - 11 * DAY, NOW) == []
    await subject.pin(id_)
    assert await subject.port.tenants_due(NOW, NOW) == []


async def test_a_survey_counts_what_a_run_then_does(subject: Subject) -> None:
    ids = await subject.add(40, 50, 60, 2)
    await subject.pin(ids[0])
    survey = await subject.port.survey("acme", RULES, NOW)
    assert {reason: sum_.copies for reason, sum_ in survey.due.items()} == {"age": 2}
    assert {kept_by: sum_.copies for kept_by, sum_ in survey.kept.items()} == {"pinned": 1, "not_due": 1}
    assert dict(survey.candidates) == {"pinned": 1}
    counts = await Engine(subject.port, lambda: NOW, batch=1).run(a_run())
    going = survey.due[Reason.AGE]
    assert (counts.purged, counts.bytes, counts.kept) == (going.copies, going.bytes, dict(survey.candidates))


async def test_a_survey_of_an_unknown_plan_lets_nothing_go(subject: Subject) -> None:
    ids = await subject.add(40, 50, 2)
    await subject.pin(ids[0])
    survey = await subject.port.survey("acme", Rules("unheard", None), NOW)
    assert survey.due == {}
    assert {fate: sum_.copies for fate, sum_ in survey.kept.items()} == {"pinned": 1, "plan_unknown": 2}
    assert dict(survey.candidates) == {"pinned": 1, "plan_unknown": 2}


async def test_a_supposed_plan_gives_the_days(subject: Subject) -> None:
    await subject.add(40, 61)
    supposed = Supposed("standard", 60)
    assert await subject.port.rules("acme", NOW, supposed) == Rules("standard", 60)
    assert await subject.port.rules("nobody", NOW, supposed) is None
    everybody = await subject.port.surveys(NOW, supposed)
    assert everybody == {"acme": (Rules("standard", 60), await subject.port.survey("acme", Rules("standard", 60), NOW))}
    assert await subject.port.tenants_due(NOW, NOW, supposed) == ["acme"]
    assert await subject.port.tenants_due(NOW - 2 * DAY, NOW, supposed) == []


async def test_all_copies_are_counted_after_a_position(subject: Subject) -> None:
    ids = await subject.add(40, 50, 1)
    await subject.pin(ids[0])
    run = await begun(subject)

    async def work(unit: PurgeUnit) -> list[dict[str, int]]:
        await unit.lock_tenant(NOW)
        return [dict(await unit.kept_after(after)) for after in (None, (NOW - 50 * DAY, ids[1]), (NOW, "Z"))]

    assert await subject.port.transact(run, "acme", work) == [
        {"pinned": 1, "plan_unknown": 2},
        {"pinned": 1, "plan_unknown": 1},
        {},
    ]
