"""The feed's order: every committed event gets a place, once, in its tenant's order, whoever commits, publishes, is
killed or reads at the same time.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator

import pytest

from mailgate.actors import SYSTEM
from mailgate.clock import DAY, Instant
from mailgate.errors import BadRequestError, GoneError
from mailgate.events.cursors import write_cursor
from mailgate.events.types import parse_filter
from mailgate.store import tenants
from mailgate.store.database import Database
from mailgate.store.feed import LEASE_TTL, FeedEvent, FeedReader, Publisher, prune
from mailgate.store.prune import prune as keep_house
from mailgate.store.transaction import Transaction
from tests.store.conftest import NOW, Store

TYPE = "mailbox.import_finished"


async def made(store: Store, *ids: str) -> None:
    for tenant_id in ids:
        await tenants.put(store.db, store.ring, store.log, tenant_id, tenant_id, NOW, SYSTEM)


async def emit(db: Database, tenant_id: str, count: int = 1, at: Instant = NOW, type_: str = TYPE) -> None:
    async def work(tx: Transaction) -> None:
        for _ in range(count):
            tx.emit(tenant_id, type_, at=at)

    await db.transact(work)


async def everything(db: Database, limit: int = 1_000) -> list[FeedEvent]:
    reader = FeedReader(db)
    head, at = await reader.start(None)
    found: list[FeedEvent] = []
    while events := (page := await reader.page(head, at, tenant_id=None, types=None, limit=limit)).events:
        found += events
        at = page.position
    return found


@pytest.fixture
async def other(store: Store, database_url: str) -> AsyncIterator[Database]:
    """The same database as another process has it."""
    db = Database(database_url)
    yield db
    await db.close()


async def test_nothing_is_seen_before_it_has_its_place(store: Store) -> None:
    await made(store, "acme")
    await emit(store.db, "acme", 3)
    assert await everything(store.db) == []
    assert (await FeedReader(store.db).backlog()).count == 3
    publisher = Publisher(store.db, "a")
    assert await publisher.publish(NOW) == 3
    assert await publisher.publish(NOW) == 0
    assert [(event.position, event.id) for event in await everything(store.db)] == [
        (1, "acme:1"),
        (2, "acme:2"),
        (3, "acme:3"),
    ]
    assert (await FeedReader(store.db).backlog()).count == 0


async def test_one_process_publishes_until_it_lets_go_or_dies(store: Store, other: Database) -> None:
    await made(store, "acme")
    first, second = Publisher(store.db, "first"), Publisher(other, "second")
    await emit(store.db, "acme")
    assert await first.publish(NOW) == 1
    await emit(store.db, "acme")
    assert await second.publish(NOW + 1) is None
    assert await second.publish(NOW + LEASE_TTL) == 1  # the first one was killed
    await emit(store.db, "acme")
    assert await first.publish(NOW + LEASE_TTL) is None
    await second.release()
    assert await first.publish(NOW + LEASE_TTL) == 1
    assert [event.seq for event in await everything(store.db)] == [1, 2, 3]


async def test_a_tenant_with_ever_more_events_keeps_nobody_waiting(store: Store) -> None:
    await made(store, "a", "b", "c")
    publisher = Publisher(store.db, "p")
    for tenant_id in ("a", "b", "c"):
        await emit(store.db, tenant_id, 5)
    for _ in range(3):
        await emit(store.db, "a", 5)
        assert await publisher.publish(NOW, limit=5) == 5
    placed = await everything(store.db)
    assert {event.tenant_id for event in placed} == {"a", "b", "c"}


async def test_commits_publishers_and_readers_at_the_same_time(store: Store, other: Database) -> None:
    names = ["a", "b", "c"]
    await made(store, *names)
    chance = random.Random(5)
    counts = {(name, number): chance.randint(1, 4) for name in names for number in range(12)}
    writing = [emit(chance.choice([store.db, other]), name, count) for (name, _), count in counts.items()]
    total, ended = sum(counts.values()), asyncio.Event()
    seen: list[list[FeedEvent]] = [[], []]

    async def publish(db: Database, owner: str) -> None:
        publisher, now = Publisher(db, owner), NOW
        while not ended.is_set():
            now += LEASE_TTL  # as if each lost its lease all the time
            await publisher.publish(now, limit=chance.randint(1, 6))
            await asyncio.sleep(0)

    async def read(db: Database, found: list[FeedEvent]) -> None:
        reader = FeedReader(db)
        head, at = await reader.start(None)
        while len(found) < total:
            page = await reader.page(head, at, tenant_id=None, types=None, limit=chance.randint(1, 9))
            found += page.events
            at = page.position

    publishing = [asyncio.create_task(publish(db, f"p{n}")) for n, db in enumerate([store.db, other])]
    reading = [asyncio.create_task(read(db, found)) for db, found in zip([store.db, other], seen, strict=True)]
    await asyncio.gather(*writing)
    await asyncio.gather(*reading)
    ended.set()
    await asyncio.gather(*publishing)
    for found in seen:
        assert [event.position for event in found] == list(range(1, total + 1))
        for name in names:
            mine = [event.seq for event in found if event.tenant_id == name]
            assert mine == list(range(1, len(mine) + 1))


async def test_readers_see_what_they_ask_for_and_move_on(store: Store) -> None:
    await made(store, "acme", "other")
    for tenant_id in ("acme", "other", "acme"):
        await emit(store.db, tenant_id)
        await emit(store.db, tenant_id, type_="folder.created")
    await Publisher(store.db, "p").publish(NOW)
    reader = FeedReader(store.db)
    head, at = await reader.start(None)
    page = await reader.page(head, at, tenant_id="other", types=None, limit=9)
    assert [event.id for event in page.events] == ["other:1", "other:2"]
    assert page.position == head.position  # what is behind them is none of theirs: nothing to read again
    folders = await reader.page(head, at, tenant_id="acme", types=parse_filter(["folder.*"]), limit=1)
    assert [event.id for event in folders.events] == ["acme:2"]
    rest = await reader.page(head, folders.position, tenant_id="acme", types=parse_filter(["folder.*"]), limit=1)
    assert [event.id for event in rest.events] == ["acme:4"]


async def test_few_events_are_found_among_many(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mailgate.store.feed._WINDOW", 2)
    await made(store, "a", "z")
    await emit(store.db, "a", 9)
    await emit(store.db, "z")
    await Publisher(store.db, "p").publish(NOW)
    reader = FeedReader(store.db)
    head, at = await reader.start(None)
    page = await reader.page(head, at, tenant_id="z", types=None, limit=5)
    assert [event.id for event in page.events] == ["z:1"]


async def test_cursors(store: Store) -> None:
    await made(store, "acme")
    await emit(store.db, "acme", 3)
    await Publisher(store.db, "p").publish(NOW)
    reader = FeedReader(store.db)
    head, _ = await reader.start(None)
    assert (await reader.start("latest"))[1] == 3
    assert (await reader.start(write_cursor(head.ref, 2)))[1] == 2
    for wrong in ("", "nonsense", "Zm9v", "\u00e9", write_cursor("another", 2), write_cursor(head.ref, 2)[:-1]):
        with pytest.raises(BadRequestError, match="no cursor of this feed") as refused:
            await reader.start(wrong)
        assert refused.value.slug == "bad_cursor"
    with pytest.raises(BadRequestError, match="ahead of the feed"):
        await reader.start(write_cursor(head.ref, 4))


async def test_old_events_are_pruned_as_a_prefix(store: Store) -> None:
    await made(store, "acme")
    for at in (NOW - 40 * DAY, NOW - 35 * DAY, NOW - DAY, NOW - 33 * DAY):
        await emit(store.db, "acme", at=at)
    await Publisher(store.db, "p").publish(NOW)
    await emit(store.db, "acme", at=NOW - 50 * DAY)  # committed, and not in order yet: stays
    reader = FeedReader(store.db)
    head, _ = await reader.start(None)
    assert (await keep_house(store.db, NOW, longest_days=90, idempotency_hours=24, event_days=30)).events == 2
    assert (await keep_house(store.db, NOW, longest_days=90, idempotency_hours=24, event_days=30)).events == 0
    assert [event.seq for event in await everything(store.db)] == [3, 4]
    assert (await reader.start(write_cursor(head.ref, 2)))[1] == 2  # nothing is missing behind it
    with pytest.raises(GoneError) as gone:
        await reader.start(write_cursor(head.ref, 1))
    assert gone.value.slug == "cursor_expired"
    with pytest.raises(GoneError):  # a reader that began before
        await reader.page(head, 1, tenant_id=None, types=None, limit=5)
    # A feed that is empty goes on counting where it was.
    await store.db.transact(lambda tx: prune(tx, NOW + DAY, 10))
    await Publisher(store.db, "p").publish(NOW)
    assert [event.position for event in await everything(store.db)] == [5]


async def test_what_rolls_back_was_never_there(store: Store) -> None:
    await made(store, "acme")

    async def work(tx: Transaction) -> None:
        tx.emit("acme", TYPE, at=NOW)
        raise GoneError("no")

    told: list[int] = []
    store.db.on_events = lambda: told.append(1)
    with pytest.raises(GoneError):
        await store.db.transact(work)
    assert told == []
    await emit(store.db, "acme")
    assert told == [1]
    await Publisher(store.db, "p").publish(NOW)
    assert [event.seq for event in await everything(store.db)] == [1]
