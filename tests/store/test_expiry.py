"""The reading side equals the policy: what SQL calls expired is what `judge` calls due, for every copy and rule."""

from __future__ import annotations

import itertools
import random
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import select, text

from mailgate.actors import SYSTEM
from mailgate.clock import DAY, Instant
from mailgate.ids import new_id
from mailgate.store.expiry import COPY_COLUMNS, Horizon, removed_mailboxes
from mailgate.store.holds import ActiveHolds, active
from mailgate.store.installation import CLOCK_MARK
from mailgate.store.retention import RetentionService
from mailgate.store.schema import hold_messages, holds, installation, mailboxes, messages
from mailgate.store.subscriptions import SubscriptionChange
from retention.model import Graces, Rules
from retention.policy import ClockLimits, Policy, judge
from tests.store.builder import Seed
from tests.store.conftest import NOW, Store
from tests.store.purging import Purging, make_purging

AGES = (0, 1, 7, 29, 30, 31, 60, 61, 90, 91, 120, 400)
GRACES = (0, 3, 45)


@pytest.fixture
async def purging(store: Store) -> Purging:
    return await make_purging(store)


def around(rng: random.Random) -> Instant:
    """An instant at a boundary, a microsecond beside one, or anywhere."""
    return NOW - rng.choice(AGES) * DAY + rng.choice([0, 0, 1, -1, rng.randrange(-DAY, DAY)])


async def many_copies(purging: Purging, rng: random.Random, number: int) -> None:
    """Copies of all ages; some pinned, some unpinned lately, some held, some in removed mailboxes."""
    here = await purging.builder.home()
    homes = [here, *[await purging.builder.mailbox(here.tenant) for _ in range(3)]]
    ids: list[str] = []
    for home in homes:
        anchors = [min(around(rng), NOW) for _ in range(number // 4)]
        ids += await purging.builder.copies(
            home, [Seed(at, stored_at=max(at, min(around(rng), NOW))) for at in anchors]
        )
    async with purging.store.db.write() as tx:
        for id_ in ids:
            values: dict[str, Any] = {
                "unpinned_at": around(rng) if rng.random() < 0.3 else None,
                "keep_until_at": around(rng) if rng.random() < 0.3 else None,
            }
            await tx.conn.execute(messages.update().where(messages.c.id == id_).values(values))
        for home, at in zip(homes[1:3], (NOW - 5 * DAY, NOW), strict=True):
            await tx.conn.execute(mailboxes.update().where(mailboxes.c.id == home.mailbox_id).values(removed_at=at))
        for scope, mailbox_id, released_at in (
            ("messages", None, None),
            ("messages", None, NOW - DAY),
            ("mailbox", homes[3].mailbox_id, None),
            ("messages", None, NOW - 31 * DAY),
        ):
            hold_id = new_id(NOW)
            await tx.conn.execute(
                holds.insert().values(
                    id=hold_id,
                    tenant_id="acme",
                    scope=scope,
                    mailbox_id=mailbox_id,
                    matter="M",
                    reason="r",
                    placed_at=NOW - 40 * DAY,
                    placed_by="x",
                    released_at=released_at,
                    protects_until_at=None if released_at is None else released_at + 30 * DAY,
                )
            )
            if scope == "messages":
                named = [{"hold_id": hold_id, "message_id": id_} for id_ in rng.sample(ids, 6)]
                await tx.conn.execute(hold_messages.insert(), named)
    for id_ in rng.sample(ids[: number // 4], number // 20):
        await purging.pins.put("acme", id_, "deal", "D", note=None, now=NOW, actor=SYSTEM)


def all_rules() -> list[Rules]:
    return [
        Rules("plan", days, Graces(*graces), shrunk_at, fault)
        for days, graces, shrunk_at, fault in itertools.product(
            (None, 0, 30, 60, 90), itertools.product(GRACES, repeat=3), (None, NOW - 3 * DAY, NOW - 45 * DAY), (None,)
        )
    ] + [Rules("plan", 30, clock_fault="back")]


async def test_what_is_expired_in_sql_is_what_the_policy_calls_due(purging: Purging) -> None:
    await many_copies(purging, random.Random(7), 120)
    async with purging.store.db.read() as conn:
        standing = await active(conn, "acme", NOW)
        removed = await removed_mailboxes(conn, "acme")
        rows = (await conn.execute(select(*COPY_COLUMNS))).all()
        for given in (standing, replace(standing, tenant=1), ActiveHolds()):
            counted = await given.count(conn, {row.id: row.mailbox_id for row in rows}, sqlite=purging.store.db.sqlite)
            for rules in all_rules():
                horizon = Horizon("acme", NOW, rules, given, removed)
                expired = set((await conn.execute(select(messages.c.id).where(horizon.expired()))).scalars())
                visible = set((await conn.execute(select(messages.c.id).where(horizon.visible()))).scalars())
                verdicts = {row.id: judge(horizon.copy(row, counted[row.id]), rules, NOW) for row in rows}
                due = {id_ for id_, verdict in verdicts.items() if verdict.due}
                assert expired == due, rules
                assert visible == set(verdicts) - due, rules
                for row in rows:
                    if verdicts[row.id].due:
                        at = horizon.expires_at(row, counted[row.id])
                        assert at is not None
                        assert at <= NOW


@pytest.mark.parametrize("graces", [Graces(), Graces(3, 0, 0), Graces(0, 45, 0), Graces(45, 3, 45)], ids=str)
async def test_the_purge_takes_exactly_what_was_expired(store: Store, graces: Graces) -> None:
    purging = await make_purging(store, graces)
    await many_copies(purging, random.Random(11), 120)
    async with store.db.read() as conn:
        horizon = await purging.expiry.horizon(conn, "acme", NOW)
        visible = set((await conn.execute(select(messages.c.id).where(horizon.visible()))).scalars())
    counts = await purging.purge(tenant_id="acme", batch=7)
    assert await purging.ids() == visible
    assert counts.balanced


async def test_the_next_due_instant_is_when_something_expires(store: Store) -> None:
    graces = Graces(after_storing=3, after_unpin=45)
    purging = await make_purging(store, graces)
    await many_copies(purging, random.Random(13), 120)
    service = RetentionService(
        store.db, store.log, store.subscriptions, purging.expiry, Policy(1, "a", graces=graces), purging.clock, "x"
    )
    before = await service.status("acme")
    assert before.next_due_at is not None
    purging.now = before.next_due_at - 1
    assert (await service.status("acme")).due_now == before.due_now
    purging.now = before.next_due_at
    assert (await service.status("acme")).due_now > before.due_now


async def test_a_grace_after_a_plan_shrinks_counts_from_the_shrinking(store: Store) -> None:
    purging = await make_purging(store, Graces(after_shrink=14))
    home = await purging.builder.home("acme", "professional")
    await purging.builder.copy(home, age_days=40)
    subscribe = store.subscriptions.set_outright
    await subscribe("acme", SubscriptionChange("standard"), NOW + 1 * DAY, SYSTEM)  # 90 → 60 days
    await subscribe("acme", SubscriptionChange("professional"), NOW + 2 * DAY, SYSTEM)
    await subscribe("acme", SubscriptionChange("crm_plus", period_end=NOW + 5 * DAY), NOW + 3 * DAY, SYSTEM)
    await subscribe("acme", SubscriptionChange("demo", period_end=NOW + 5 * DAY), NOW + 4 * DAY, SYSTEM)  # as many
    async with store.db.read() as conn:
        found = [(await purging.expiry.rules(conn, "acme", NOW + day * DAY)).shrunk_at for day in (0, 1, 2, 3, 4, 5)]
    day = [None if at is None else (at - NOW) // DAY for at in found]
    assert day == [None, 1, 1, 3, 3, 5]  # at day 5 the period runs out: free
    for at, left in ((19 * DAY - 1, 1), (19 * DAY, 0)):
        purging.now = NOW + at
        await purging.purge(1 + left, "acme")
        assert len(await purging.ids()) == left


async def test_a_clock_that_is_not_sane_expires_nothing(purging: Purging) -> None:
    home = await purging.builder.home()
    old = await purging.builder.copy(home, age_days=400)
    async with purging.store.db.read() as conn:
        horizon = await purging.expiry.horizon(conn, "acme", NOW, clock_fault="forward")
        query = select(messages.c.id).where(horizon.visible())
        assert (await conn.execute(query)).scalars().all() == [old]


async def test_nothing_stops_being_served_by_a_clock_that_jumped(purging: Purging) -> None:
    home = await purging.builder.home()
    young, old = [await purging.builder.copy(home, age_days=age) for age in (1, 400)]
    limits = ClockLimits()
    served = dict[Instant, set[str]]()
    async with purging.store.db.write() as tx:
        await tx.conn.execute(installation.insert().values(key=CLOCK_MARK, value=str(NOW)))
    async with purging.store.db.read() as conn:
        for now in (NOW - limits.max_backward - 1, NOW, NOW + limits.max_forward, NOW + limits.max_forward + 1):
            horizon = await purging.expiry.served(conn, "acme", now, limits)
            query = select(messages.c.id).where(horizon.visible())
            served[now - NOW] = set((await conn.execute(query)).scalars())
    assert list(served.values()) == [{young, old}, {young}, set(), {young, old}]


@pytest.mark.parametrize("days", [0, 30])
async def test_a_list_of_the_newest_uses_the_index_by_age(purging: Purging, days: int) -> None:
    await purging.builder.home()
    if not purging.store.db.sqlite:
        pytest.skip("SQLite explains itself without statistics")
    horizon = Horizon("acme", NOW, Rules("p", days), ActiveHolds(), {})
    query = select(messages.c.id).where(messages.c.tenant_id == "acme", horizon.visible())
    query = query.order_by(messages.c.anchor_at.desc(), messages.c.id.desc()).limit(50)
    plan = str(query.compile(compile_kwargs={"literal_binds": True}))
    async with purging.store.db.read() as conn:
        steps = " ".join(str(row) for row in (await conn.execute(text(f"EXPLAIN QUERY PLAN {plan}"))).all())
    assert "ix_messages_tenant_id_anchor_at" in steps
    assert "TEMP B-TREE" not in steps
