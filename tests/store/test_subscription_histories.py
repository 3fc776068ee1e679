"""Whole years of random subscriptions, told to the store in any order, beside a reference model built otherwise."""

from __future__ import annotations

import random

import pytest

from mailgate.actors import SYSTEM
from mailgate.clock import DAY, HOUR, Instant
from mailgate.store import tenants
from mailgate.tenants.timeline import Event, EventType
from tests.property.subscription_world import holds
from tests.store.conftest import NOW, Store

PLANS = ("crm_plus", "standard", "professional")
YEARS = 3 * 365 * DAY
KINDS = [kind for kind in EventType if kind not in (EventType.SET, EventType.PURCHASED)]


def history(chance: random.Random) -> list[Event]:
    """A trial or a purchase, then whatever happens within three years, some of it at the ends of periods."""
    first = chance.choice([EventType.TRIAL_STARTED, EventType.PURCHASED])
    end = NOW + 14 * DAY if first is EventType.TRIAL_STARTED else None
    events = [Event("first", first, NOW, plan=chance.choice(PLANS), period_end=end, term_months=1)]
    for number in range(chance.randrange(4, 16)):
        kind = chance.choice([EventType.PURCHASED, *KINDS, EventType.RENEWED, EventType.RENEWAL_FAILED])
        at = NOW + chance.randrange(0, YEARS, HOUR)
        events.append(
            Event(
                f"e{number}",
                kind,
                at,
                plan=None if kind is EventType.RENEWED else chance.choice(PLANS),
                term_months=chance.choice([None, 1, 3, 12]) if kind is not EventType.PURCHASED else 3,
                period_end=at + 14 * DAY if kind is EventType.TRIAL_STARTED else None,
                seats=chance.choice([None, 2, 5]) if kind is not EventType.SEATS_CHANGED else 4,
                at_end=chance.random() < 0.3,
                contract=chance.choice([None, None, "one", "two"]),
            )
        )
    return events


def moments(events: list[Event], chance: random.Random) -> list[Instant]:
    """A moment of each month, and those around the events."""
    months = [NOW + month * 30 * DAY + chance.randrange(30 * DAY) for month in range(40)]
    return sorted({*months, *(event.effective_at + shift for event in events for shift in (-1, 0, 1))})


@pytest.mark.parametrize("seed", range(6))
async def test_whole_years_agree_with_the_reference_model_however_they_are_told(store: Store, seed: int) -> None:
    chance = random.Random(seed)
    for number in range(3):
        tenant_id = f"t{number}"
        await tenants.put(store.db, store.ring, store.log, tenant_id, "T", NOW, SYSTEM)
        events = history(chance)
        told = [*events, *chance.choices(events, k=4)]
        chance.shuffle(told)
        for event in told:
            await store.subscriptions.tell(tenant_id, [event], NOW + YEARS, SYSTEM)
        line = await store.subscriptions.timeline(tenant_id)
        order = {plan.name: plan.rank for plan in store.subscriptions.catalogue.plans.values()}
        async with store.db.read() as conn:
            for now in moments(events, chance):
                found = await store.subscriptions.entitlements_in(conn, tenant_id, now)
                plan, status, _, end, auto_renew, seats, _ = holds(events, now, order=order)
                assert (found.plan, found.status.value, found.period_end, found.seats) == (plan, status, end, seats)
                assert line.at(now).auto_renew == auto_renew
                assert found.retention_days == {"free": 0, "crm_plus": 30, "standard": 60, "professional": 90}[plan]


async def test_all_tenants_at_once_are_as_each_alone(store: Store) -> None:
    chance = random.Random(99)
    for number in range(8):
        await tenants.put(store.db, store.ring, store.log, f"t{number}", "T", NOW, SYSTEM)
        if number:
            await store.subscriptions.tell(f"t{number}", history(chance), NOW, SYSTEM)
    for now in (NOW - 1, NOW, NOW + 100 * DAY, NOW + YEARS, NOW + 2 * YEARS):
        alone = {f"t{number}": await store.subscriptions.entitlements(f"t{number}", now) for number in range(8)}
        assert await store.subscriptions.all_entitlements(now) == alone
