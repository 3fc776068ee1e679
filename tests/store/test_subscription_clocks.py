"""What is decided about a subscription by a clock that is behind another's, or was read before the lock was had."""

from __future__ import annotations

from dataclasses import replace

from sqlalchemy import update

from mailgate.actors import SYSTEM
from mailgate.clock import DAY, HOUR, MINUTE, SECOND
from mailgate.errors import ConflictError
from mailgate.store import installation
from mailgate.store.check import doctor
from mailgate.store.schema import subscription_periods
from mailgate.tenants.commands import Command, Wish
from mailgate.tenants.timeline import Event, EventType
from tests.store.conftest import NOW, Store
from tests.store.purging import Purging, make_purging

PURCHASE = Wish(Command.PURCHASE, "standard", 1)


async def _do(purging: Purging, command: Wish, at: int) -> str:
    """The refusal's slug, or `done`."""
    try:
        await purging.store.subscriptions.command("acme", command, at, SYSTEM)
    except ConflictError as refused:
        return refused.slug
    return "done"


async def test_of_two_purchases_at_once_one_is_refused_whichever_clock_was_read_first(store: Store) -> None:
    purging = await make_purging(store)
    await purging.builder.home(plan=None)
    assert await _do(purging, PURCHASE, NOW + SECOND) == "done"
    assert await _do(purging, PURCHASE, NOW) == "already_subscribed"
    assert len((await store.subscriptions.timeline("acme")).periods) == 4  # free, standard, its grace, free again


async def test_the_command_that_came_later_counts_although_its_clock_is_behind(store: Store) -> None:
    purging = await make_purging(store)
    await purging.builder.home(plan=None)
    for command, at in ((PURCHASE, NOW), (Wish(Command.CANCEL), NOW + SECOND), (Wish(Command.RESUME), NOW + 2)):
        assert await _do(purging, command, at) == "done"
    assert await _do(purging, Wish(Command.CANCEL), NOW + 1) == "done"
    period = (await store.subscriptions.timeline("acme")).at(NOW + MINUTE)
    assert (period.status, period.auto_renew) == ("canceled", False)
    # A clock that was once far ahead holds nothing up.
    assert await _do(purging, Wish(Command.RESUME), NOW + 40 * DAY) == "not_canceled"
    await store.subscriptions.tell("acme", [Event("e", EventType.RESUMED, NOW + HOUR)], NOW + DAY, SYSTEM)
    assert await _do(purging, Wish(Command.RESUME), NOW + MINUTE) == "done"
    assert (await store.subscriptions.timeline("acme")).at(NOW + MINUTE).auto_renew


async def test_no_purge_overlooks_a_plan_that_was_bought_by_a_clock_ahead(store: Store) -> None:
    purging = await make_purging(store)
    await purging.builder.copy(await purging.builder.home(plan=None), age_days=1)
    assert await _do(purging, PURCHASE, NOW + 2 * SECOND) == "done"
    assert (await purging.purge()).purged == 0
    assert len(await purging.ids()) == 1


async def test_a_tick_behind_does_not_tell_of_the_plan_before(store: Store) -> None:
    purging = await make_purging(store)
    await purging.builder.home(plan=None)
    assert await _do(purging, PURCHASE, NOW + 2 * SECOND) == "done"
    before = await purging.leaves()
    await store.subscriptions.announce_lapses(NOW)
    assert await purging.leaves() == before


async def test_timelines_of_another_version_are_made_anew_at_the_start(store: Store) -> None:
    purging = await make_purging(store)
    await purging.builder.home(plan=None)
    assert await store.subscriptions.compute_anew() == 0
    assert await _do(purging, PURCHASE, NOW) == "done"
    right = await store.subscriptions.timeline("acme")
    async with store.db.read() as conn:
        mark = await installation.read(conn, installation.SUBSCRIPTION_RULES)

    async def spoil(tx: object) -> None:
        await tx.conn.execute(update(subscription_periods).values(plan="professional"))  # type: ignore[attr-defined]

    await store.db.transact(spoil)
    assert not (await doctor(store.db, store.blobs, store.ring)).healthy
    await installation.put(store.db, installation.SUBSCRIPTION_RULES, '{"grace_days": 10}')
    assert (await doctor(store.db, store.blobs, store.ring)).healthy  # by the rules of before
    assert await store.subscriptions.compute_anew() == 1
    assert await store.subscriptions.timeline("acme") == right
    async with store.db.read() as conn:
        assert await installation.read(conn, installation.SUBSCRIPTION_RULES) == mark


async def test_the_order_of_the_plans_decides_which_of_two_contracts_holds_and_another_order_decides_anew(
    store: Store,
) -> None:
    purging = await make_purging(store)
    await purging.builder.home(plan=None)
    assert await store.subscriptions.compute_anew() == 0
    high = Event("1", EventType.PURCHASED, NOW, plan="professional", term_months=1, contract="sub_1")
    low = Event("2", EventType.PURCHASED, NOW + MINUTE, plan="standard", term_months=1, contract="sub_2")
    for event in (low, high):
        await store.subscriptions.tell("acme", [event], NOW, SYSTEM)

    async def plan() -> str:
        return (await store.subscriptions.entitlements("acme", NOW + MINUTE)).plan

    assert await plan() == "professional"
    catalogue = store.subscriptions.catalogue
    lower = replace(catalogue.plans["professional"], rank=1)
    store.subscriptions.catalogue = replace(catalogue, plans={**catalogue.plans, "professional": lower})
    assert (await doctor(store.db, store.blobs, store.ring)).healthy  # by the order of before
    assert await store.subscriptions.compute_anew() == 1
    assert await plan() == "standard"
    assert (await doctor(store.db, store.blobs, store.ring)).healthy
    assert await store.subscriptions.compute_anew() == 0
