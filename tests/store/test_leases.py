"""Leases: one owner, a number that only grows, and a stalled owner that finds out."""

from __future__ import annotations

import asyncio

import pytest

from mailgate.actors import SYSTEM
from mailgate.clock import DAY, SECOND
from mailgate.store import leases, tenants
from mailgate.store.fenced import LEASE_PREFIX
from mailgate.store.leases import LeaseLostError
from mailgate.store.mailboxes import MailboxSpec
from mailgate.store.subscriptions import SubscriptionChange
from tests.store.conftest import NOW, Store

TTL = 30 * SECOND


async def test_one_of_many_gets_it(store: Store) -> None:
    fences = await asyncio.gather(*(leases.acquire(store.db, "m", f"p{n}", TTL, NOW) for n in range(8)))
    assert sorted(fence for fence in fences if fence) == [1]


async def test_another_gets_it_when_it_ran_out_with_a_higher_number(store: Store) -> None:
    assert await leases.acquire(store.db, "m", "a", TTL, NOW) == 1
    assert await leases.acquire(store.db, "m", "b", TTL, NOW + TTL - 1) is None
    assert await leases.acquire(store.db, "m", "b", TTL, NOW + TTL) == 2
    assert not await leases.renew(store.db, "m", "a", 1, TTL, NOW + TTL)
    with pytest.raises(LeaseLostError):
        async with store.db.write() as tx:
            await leases.require(tx, "m", "a", 1, NOW + TTL)


async def test_the_owner_extends_and_keeps_its_number(store: Store) -> None:
    assert await leases.acquire(store.db, "m", "a", TTL, NOW) == 1
    assert await leases.acquire(store.db, "m", "a", TTL, NOW + SECOND) == 1
    assert await leases.renew(store.db, "m", "a", 1, TTL, NOW + TTL)
    async with store.db.write() as tx:
        await leases.require(tx, "m", "a", 1, NOW + TTL + SECOND)


async def test_a_released_lease_is_free_and_its_number_never_falls(store: Store) -> None:
    fence = await leases.acquire(store.db, "m", "a", TTL, NOW)
    assert fence is not None
    await leases.release(store.db, "m", "a", fence)
    assert await leases.acquire(store.db, "m", "b", TTL, NOW) == 2


async def test_an_owner_whose_time_ran_out_may_not_write(store: Store) -> None:
    await leases.acquire(store.db, "m", "a", TTL, NOW)
    with pytest.raises(LeaseLostError):
        async with store.db.write() as tx:
            await leases.require(tx, "m", "a", 1, NOW + TTL)


async def test_what_was_begun_before_another_had_it_may_not_be_written(store: Store) -> None:
    """Not by the same process either, though it has it again."""
    assert await leases.acquire(store.db, "m", "a", TTL, NOW) == 1
    assert await leases.acquire(store.db, "m", "b", TTL, NOW + TTL) == 2
    assert await leases.acquire(store.db, "m", "a", TTL, NOW + 2 * TTL) == 3
    with pytest.raises(LeaseLostError):
        async with store.db.write() as tx:
            await leases.require(tx, "m", "a", 1, NOW + 2 * TTL)
    async with store.db.write() as tx:
        await leases.require(tx, "m", "a", 3, NOW + 2 * TTL)


async def test_one_of_a_time_that_never_was_holds_nobody_up(store: Store) -> None:
    """The clock was ahead when somebody took it, and was set back."""
    ahead = NOW + 400 * DAY
    assert await leases.acquire(store.db, "m", "a", TTL, ahead) == 1
    assert await leases.acquire(store.db, "m", "b", TTL, NOW) == 2
    assert not await leases.renew(store.db, "m", "a", 1, TTL, NOW)
    assert await leases.acquire(store.db, "long", "a", leases.LONGEST, NOW + SECOND) == 1
    assert await leases.acquire(store.db, "long", "b", TTL, NOW + SECOND) is None


async def test_a_mailbox_is_connected_beside_many_that_are_owned(store: Store) -> None:
    """It is nobody's yet, whoever has the others."""
    await tenants.put(store.db, store.ring, store.log, "acme", "Acme", NOW, SYSTEM)
    await store.subscriptions.set_outright("acme", SubscriptionChange("professional"), NOW, SYSTEM)
    for number in range(3):
        imap = {"host": "mail.example", "port": 993, "security": "tls", "username": f"u{number}"}
        spec = MailboxSpec(f"u{number}@acme.example", imap, {"imap": {"password": "secret"}})
        made = await store.mailboxes.create("acme", spec, NOW, SYSTEM)
        assert made.owned_until_at == 0
        assert await leases.acquire(store.db, LEASE_PREFIX + made.id, "somebody", TTL, NOW) == 1
