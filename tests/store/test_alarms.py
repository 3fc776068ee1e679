"""Alarms over a real store: each is raised once, told of, and over when what it is about is over."""

from __future__ import annotations

import asyncio
import errno
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from sqlalchemy import delete, insert, update
from structlog.testing import capture_logs

from mailgate.actors import COMMAND, SCHEDULE
from mailgate.alarms import ERASE_ATTEMPTS, Facts, Kind
from mailgate.clock import DAY, HOUR, MINUTE
from mailgate.store import alarms as alarms_module
from mailgate.store import overview
from mailgate.store.alarms import Alarms
from mailgate.store.feed import FeedReader, Publisher
from mailgate.store.log_reading import LogDivergedError, LogReader
from mailgate.store.retention import RetentionService
from mailgate.store.schema import blob_erasures, log_checkpoints, log_leaves, search_leftovers, tenant_heads
from mailgate.store.witness import Witness
from retention.model import Brake
from retention.policy import Policy
from tests.store.builder import Seed
from tests.store.conftest import NOW, Store
from tests.store.purging import Purging, make_purging


@dataclass
class Watched:
    purging: Purging
    service: RetentionService
    alarms: Alarms
    reader: LogReader
    witness: Path

    async def look(self, *more: Alarms) -> list[tuple[Kind, str | None]]:
        """Look, and say what stands."""
        await asyncio.gather(*(each.look(self.purging.now) for each in (self.alarms, *more)))
        stands = [(found.kind, found.tenant_id) for found in await self.alarms.standing()]
        return sorted(stands, key=lambda key: (key[0], key[1] or ""))

    def another(self) -> Alarms:
        """What another process looks at them with."""
        store = self.purging.store
        return Alarms(store.db, self.service, store.subscriptions, self.reader, stamps=True)

    async def told(self) -> list[tuple[str, str, str]]:
        """The feed's events of alarms: type, tenant, kind."""
        db = self.purging.store.db
        await Publisher(db, "test").publish(self.purging.now)
        reader = FeedReader(db)
        page = await reader.page(await reader.head(), 0, tenant_id=None, types=None, limit=1_000)
        return [(e.type, e.tenant_id, e.data["kind"]) for e in page.events if e.type.startswith("alarm.")]


@pytest.fixture
async def watched(store: Store, tmp_path: Path) -> Watched:
    purging = await make_purging(store)
    await purging.lease.release(store.db)
    policy = Policy(1, "ab" * 32, brake=Brake(minimum=3, share=50))
    service = RetentionService(store.db, store.log, store.subscriptions, purging.expiry, policy, purging.clock, "one")
    witness = tmp_path / "witness"
    reader = LogReader(
        store.db, origin="mail.example", seed=store.ring.ledger_seed, witness=Witness(witness), owner="one"
    )
    alarms = Alarms(store.db, service, store.subscriptions, reader, stamps=True)
    return Watched(purging, service, alarms, reader, witness)


async def test_a_missed_purge_is_raised_once_and_over_with_the_next_run(watched: Watched) -> None:
    home = await watched.purging.builder.home("acme", "standard")
    await watched.reader.checkpoint(home.tenant, NOW)
    watched.purging.now += 26 * HOUR
    assert await watched.look() == []
    watched.purging.now += 1
    assert await watched.look(watched.another(), watched.another()) == [(Kind.NO_PURGE, None)]
    await watched.service.request_run(actor=COMMAND, tenant_id="acme")
    await watched.service.work()
    assert await watched.look() == [(Kind.NO_PURGE, None)]  # one tenant's run is not everybody's
    await watched.service.request_run(actor=SCHEDULE)
    await watched.service.work()
    assert await watched.look(watched.another()) == []
    assert await watched.told() == [("alarm.raised", "*", "no_purge"), ("alarm.cleared", "*", "no_purge")]
    (found,) = (await watched.alarms.page()).items
    assert (found.raised_at, found.cleared_at) == (watched.purging.now, watched.purging.now)


async def test_a_run_that_halted_stands_until_one_of_the_tenant_passes(watched: Watched) -> None:
    home = await watched.purging.builder.home("acme", "crm_plus")
    await watched.purging.builder.copies(home, [Seed(NOW - 40 * DAY - n) for n in range(5)])
    await watched.reader.checkpoint(home.tenant, NOW)
    run = await watched.service.run(actor=SCHEDULE)
    assert run.state == "halted"
    assert [found.kind for found in await watched.alarms.standing()] == [Kind.PURGE_HALTED]  # before anybody looks
    await watched.reader.checkpoint(home.tenant, NOW)
    assert await watched.look() == [(Kind.PURGE_HALTED, "acme")]
    (found,) = (await watched.alarms.page(kind=Kind.PURGE_HALTED)).items
    assert found.detail == f"run {run.id} halted, 5 of 5 copies would go"
    assert "approve_brake" in found.alarm.remedy
    watched.purging.now += HOUR
    await watched.service.run(actor=COMMAND, tenant_id="acme", approve_brake=True)
    assert await watched.look() == []
    assert await watched.told() == [("alarm.raised", "acme", "purge_halted"), ("alarm.cleared", "acme", "purge_halted")]


async def test_whoever_reads_that_a_run_halted_finds_its_alarm(watched: Watched) -> None:
    """It is raised with the run's end, and says what the last run would have taken; once."""
    home = await watched.purging.builder.home("acme", "crm_plus")
    await watched.purging.builder.copies(home, [Seed(NOW - 40 * DAY - n) for n in range(5)])
    for due in (5, 6):
        run = await watched.service.run(actor=SCHEDULE)
        (found,) = (await watched.alarms.page(tenant_id="acme", standing=True)).items
        assert (run.state, found.detail) == ("halted", f"run {run.id} halted, {due} of {due} copies would go")
        watched.purging.now += HOUR
        await watched.purging.builder.copies(home, [Seed(NOW - 40 * DAY)])
    assert await watched.told() == [("alarm.raised", "acme", "purge_halted")]


@pytest.mark.parametrize(("trigger", "lines"), [("schedule", 1), ("command", 0)])
async def test_who_waits_for_a_run_in_a_terminal_is_not_told_twice(watched: Watched, trigger: str, lines: int) -> None:
    home = await watched.purging.builder.home("acme", "crm_plus")
    await watched.purging.builder.copies(home, [Seed(NOW - 40 * DAY - n) for n in range(5)])
    with capture_logs() as logged:
        assert (await watched.service.run(actor=SCHEDULE, trigger=trigger)).state == "halted"
        assert [found.kind for found in await watched.alarms.standing()] == [Kind.PURGE_HALTED]
    assert [line["event"] for line in logged].count("alarm_raised") == lines


async def test_a_run_that_the_clock_halted_finds_its_alarm_too(watched: Watched) -> None:
    await watched.purging.builder.home("acme", "crm_plus")
    await watched.service.note_time(NOW)
    watched.purging.now += 200 * DAY
    run = await watched.service.run(actor=SCHEDULE)
    (found,) = await watched.alarms.standing()
    assert run.detail is not None
    assert (run.state, found.kind, run.detail.startswith(found.detail)) == ("halted", Kind.CLOCK_ANOMALY, True)
    assert (Kind.CLOCK_ANOMALY, None) in await watched.look()
    assert [kind for _, _, kind in await watched.told()].count("clock_anomaly") == 1


async def test_a_run_that_halts_while_somebody_looks_keeps_its_alarm(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who looked before it ended knows nothing of it, or that the one before it was approved."""
    home = await watched.purging.builder.home("acme", "crm_plus")
    gather = watched.alarms._gather
    halts: list[str] = []

    async def overtaken(now: int) -> Facts:
        facts = await gather(now)
        await watched.purging.builder.copies(home, [Seed(NOW - 40 * DAY - n) for n in range(5)])
        halts.append((await watched.service.run(actor=SCHEDULE)).id)
        return facts

    for _ in range(2):
        monkeypatch.setattr(watched.alarms, "_gather", overtaken)
        await watched.alarms.look(watched.purging.now)
        monkeypatch.undo()
        (found,) = (await watched.alarms.page(tenant_id="acme", standing=True)).items
        assert halts[-1] in found.detail
        await watched.service.run(actor=COMMAND, approve_brake=True)  # so that who looks next finds it over
        watched.purging.now += HOUR


async def test_erasures_that_keep_failing(watched: Watched) -> None:
    await watched.purging.builder.home("acme", "crm_plus")
    db = watched.purging.store.db
    async with db.write() as tx:
        for number, (tenant_id, attempts) in enumerate([("acme", 5), ("acme", 4), ("gone", 9), ("left", 5)]):
            row = {"blob_id": f"b{number}", "tenant_id": tenant_id, "queued_at": NOW + number, "next_at": NOW + HOUR}
            await tx.conn.execute(insert(blob_erasures).values(row | {"attempts": attempts, "last_error": "no space"}))
    assert ERASE_ATTEMPTS == 5
    assert await watched.look() == [(Kind.ERASE_FAILING, None), (Kind.ERASE_FAILING, "acme")]
    found = {record.tenant_id: record.detail for record in await watched.alarms.standing()}
    assert found["acme"].startswith("1 blob can't")
    assert found[None].startswith("2 blobs can't")
    async with db.write() as tx:
        await tx.conn.execute(update(blob_erasures).values(attempts=6))
    await watched.look()
    assert {record.detail[:7] for record in await watched.alarms.standing()} == {"2 blobs"}  # reworded, not raised anew
    async with db.write() as tx:
        await tx.conn.execute(delete(blob_erasures))
    assert await watched.look() == []
    assert len(await watched.told()) == 4


async def test_the_clock_the_witness_and_a_plan_that_nobody_knows(watched: Watched) -> None:
    home = await watched.purging.builder.home("acme", "standard")
    watched.purging.now += DAY
    await watched.service.note_time(watched.purging.now)
    await watched.reader.checkpoint(home.tenant, NOW)
    watched.purging.now -= HOUR
    away = watched.witness.rename(watched.witness.with_name("away"))
    store = watched.purging.store
    known = store.subscriptions.catalogue
    store.subscriptions.catalogue = replace(known, plans={n: p for n, p in known.plans.items() if n != "standard"})
    stands = [(Kind.CLOCK_ANOMALY, None), (Kind.PLAN_UNKNOWN, "acme"), (Kind.WITNESS_MISSING, None)]
    assert await watched.look() == stands
    store.subscriptions.catalogue = known
    away.rename(watched.witness)
    watched.purging.now += HOUR
    assert await watched.look() == []
    (checkpoint,) = watched.witness.glob("*.checkpoint")
    kept = checkpoint.rename(watched.witness / "taken")
    assert await watched.look() == [(Kind.LOG_DIVERGED, "acme")]  # also while the log does not grow
    kept.rename(checkpoint)
    assert await watched.look() == []


async def test_a_purge_that_can_not_go_on(watched: Watched) -> None:
    """As one does that found no space: its record says that it is under way, and nobody has it."""
    purging = watched.purging
    home = await purging.builder.home()
    await purging.builder.copies(home, [Seed(NOW - 40 * DAY)])

    def cut(name: str) -> None:
        if name == "candidates locked":
            raise OSError(errno.ENOSPC, "no space")

    await watched.service.run(actor=COMMAND)
    purging.now += MINUTE
    await purging.builder.copies(home, [Seed(NOW - 40 * DAY)])
    assert await purging.lease.acquire(purging.store.db, purging.now)
    with pytest.raises(OSError, match="no space"):
        await purging.purge(9, step=cut)
    purging.now += 16 * MINUTE - purging.now % MINUTE
    assert await purging.lease.acquire(purging.store.db, purging.now)
    assert await watched.look() == []  # somebody works on it
    await purging.lease.release(purging.store.db)
    assert await watched.look() == [(Kind.NO_PURGE, None)]
    assert await purging.lease.acquire(purging.store.db, purging.now)
    assert await purging.engine().resume("ab" * 32) is not None
    await purging.lease.release(purging.store.db)
    assert await watched.look() == []


async def test_words_of_purged_mail_that_stay_in_the_index(watched: Watched) -> None:
    """For as long as nothing takes them out, whoever looks; not while they become fewer."""
    db = watched.purging.store.db

    async def left(*docs: int) -> None:
        async with db.write() as tx:
            await tx.conn.execute(delete(search_leftovers))
            if docs:
                await tx.conn.execute(insert(search_leftovers), [{"doc": doc, "tenant_id": "acme"} for doc in docs])

    await watched.purging.builder.home()
    await watched.service.run(actor=COMMAND)
    await left(1, 2, 3)
    stands = (Kind.WORDS_LEFT, None)
    for later, docs, long in ((0, (1, 2, 3), False), (6, (2, 3), False), (6, (2, 3), False), (1, (2, 3, 4), True)):
        watched.purging.now += later * HOUR
        await left(*docs)
        assert (stands in await watched.look()) is long
    other = watched.another()
    await other.look(watched.purging.now)  # it did not see for how long nothing moves
    assert stands in await watched.look(other)
    await left(3, 4)
    assert stands not in await watched.look()
    await left()
    assert stands not in await watched.look()


async def test_a_log_that_is_not_signed_and_one_that_diverged(watched: Watched) -> None:
    home = await watched.purging.builder.home("acme", "standard")
    watched.purging.now += 4 * HOUR
    assert await watched.look() == [(Kind.LOG_UNSIGNED, "acme")]
    watched.alarms.signing({"acme": "100 entries, but 300 were signed"})
    assert await watched.look() == [(Kind.LOG_DIVERGED, "acme")]
    other = watched.another()  # knows nothing of it, and leaves it
    await other.look(watched.purging.now)
    watched.alarms.signing({})
    assert await watched.look() == [(Kind.LOG_DIVERGED, "acme")]
    await watched.reader.checkpoint(home.tenant, watched.purging.now)
    assert await watched.look() == []
    async with watched.purging.store.db.write() as tx:
        await tx.conn.execute(update(log_checkpoints).values(stamp_error="the authority does not answer"))
    assert await watched.look() == [(Kind.TIMESTAMP_FAILING, "acme")]
    assert (await watched.alarms.standing())[0].detail.endswith("the authority does not answer")


async def test_rows_of_the_log_that_somebody_removed_or_added_hide_nothing(watched: Watched) -> None:
    home = await watched.purging.builder.home("acme", "standard")
    db = watched.purging.store.db
    await watched.reader.checkpoint(home.tenant, watched.purging.now)
    watched.purging.now += 4 * HOUR
    async with db.write() as tx:  # a checkpoint of more entries than there are: nothing would have to be signed
        signed = (await tx.conn.execute(log_checkpoints.select())).one()
        await tx.conn.execute(insert(log_checkpoints).values(signed._asdict() | {"size": 1_000}))
    assert await overview.unsigned_logs(db) == ["acme"]
    with pytest.raises(LogDivergedError) as refused:
        await watched.reader.checkpoint(home.tenant, watched.purging.now)
    watched.alarms.signing({"acme": refused.value.detail})
    assert await watched.look() == [(Kind.LOG_DIVERGED, "acme")]
    async with db.write() as tx:
        await tx.conn.execute(delete(log_checkpoints).where(log_checkpoints.c.size == 1_000))
        await tx.conn.execute(delete(log_checkpoints))
        first = (await tx.conn.execute(log_leaves.select().where(log_leaves.c.idx == 0))).one()
        await tx.conn.execute(delete(log_leaves).where(log_leaves.c.idx == 0))
    watched.alarms.signing({})
    assert await watched.look() != []  # the first entry that is to be signed is away
    async with db.write() as tx:
        await tx.conn.execute(insert(log_leaves).values(first._asdict()))


async def test_what_can_not_be_written_stands_in_memory_and_goes_on_record_later(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = await watched.purging.builder.home("acme", "standard")
    await watched.reader.checkpoint(home.tenant, NOW)
    failing = True

    async def unwritable(*_: object) -> str | None:
        return "nothing can be written: disk full" if failing else None

    monkeypatch.setattr(alarms_module, "unwritable", unwritable)
    assert await watched.look() == [(Kind.LOG_UNWRITABLE, None)]
    watched.purging.now += HOUR
    assert await watched.look() == [(Kind.LOG_UNWRITABLE, None)]
    assert (await watched.alarms.page()).items == []
    failing = False
    assert await watched.look() == []
    (found,) = (await watched.alarms.page()).items
    assert (found.kind, found.raised_at, found.cleared_at) == (Kind.LOG_UNWRITABLE, NOW, watched.purging.now)
    assert await watched.told() == [("alarm.raised", "*", "log_unwritable"), ("alarm.cleared", "*", "log_unwritable")]


async def test_an_alarm_of_a_tenant_that_was_erased_is_over_without_a_word(watched: Watched) -> None:
    await watched.purging.builder.home("acme", "standard")
    watched.alarms.signing({"acme": "diverged"})
    assert await watched.look() == [(Kind.LOG_DIVERGED, "acme")]
    db = watched.purging.store.db
    async with db.write() as tx:
        kept = (await tx.conn.execute(tenant_heads.select())).mappings().one()
        await tx.conn.execute(delete(tenant_heads))
    assert await watched.look() == []
    async with db.write() as tx:
        await tx.conn.execute(insert(tenant_heads).values(dict(kept)))
    assert await watched.told() == [("alarm.raised", "acme", "log_diverged")]
