"""The lease as its owner knows it: what may still be sent, by both clocks."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from connectors.memory import MemoryAccount
from mailgate.clock import SECOND
from mailgate.errors import ConflictError
from mailgate.store.fenced import lease_name
from mailgate.store.schema import leases as leases_table
from mailgate.sync import ownership
from mailgate.sync.context import Context
from mailgate.sync.ownership import MARGIN_S, Lease, Leases, OwnershipLostError
from mailgate.sync.run import Session
from tests.sync.engine import Engine

LEASE_S = 30


@pytest.fixture
def seconds(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The monotonic clock."""
    seconds = [1_000.0]
    monkeypatch.setattr(ownership, "monotonic_s", lambda: seconds[0])
    return seconds


async def held(engine: Engine, process: str = "one") -> tuple[Leases, Lease]:
    leases = Leases(engine.store, process, LEASE_S, engine.clock)
    lease = await leases.take(engine.mailbox_id, engine.tenant_id)
    assert lease is not None
    return leases, lease


def later(engine: Engine, seconds: list[float], by_s: float) -> None:
    engine.clock.advance(by_s)
    seconds[0] += by_s


async def test_a_lease_that_lasts_is_not_renewed(engine: Engine, seconds: list[float]) -> None:
    _, lease = await held(engine)
    before = await expires_at(engine)
    await lease.hold(LEASE_S - MARGIN_S - 1)
    assert await expires_at(engine) == before


async def test_a_command_may_be_waited_for_longer_than_a_lease_takes(engine: Engine, seconds: list[float]) -> None:
    leases, lease = await held(engine)
    await lease.hold(60)
    assert lease.lasts(60 + MARGIN_S)
    assert await expires_at(engine) >= engine.clock() + 60 * SECOND
    # Renewed with the others meanwhile, it still outlasts the command.
    later(engine, seconds, 20)
    assert await leases.renew([lease]) == []
    assert lease.lasts(40 + MARGIN_S)
    # Long after the command it is as short as ever.
    later(engine, seconds, 60)
    assert await leases.renew([lease]) == []
    assert await expires_at(engine) <= engine.clock() + LEASE_S * SECOND


async def expires_at(engine: Engine) -> int:
    async with engine.db.read() as conn:
        query = leases_table.select().where(leases_table.c.name == lease_name(engine.mailbox_id))
        return int((await conn.execute(query)).one().expires_at)


async def test_commands_that_follow_each_other_cost_no_write_each(
    engine: Engine, seconds: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, lease = await held(engine)
    calls = 0
    renewed = engine.store.renew

    async def counted(*args: Any) -> Any:
        nonlocal calls
        calls += 1
        return await renewed(*args)

    monkeypatch.setattr(engine.store, "renew", counted)
    for _ in range(20):
        await lease.hold(60)
        later(engine, seconds, 1)
        assert lease.lasts(59 + MARGIN_S)
        lease.answered()
        assert not lease.is_long(LEASE_S)
    assert calls == 2


async def test_a_lease_is_short_again_once_its_commands_are_answered(engine: Engine, seconds: list[float]) -> None:
    leases, lease = await held(engine)
    await lease.hold(60)
    later(engine, seconds, 3)
    assert await leases.trim([lease]) == []
    assert await expires_at(engine) > engine.clock() + 60 * SECOND  # not answered: it may be carried out still
    lease.answered()
    assert await leases.trim([lease]) == []
    assert await expires_at(engine) > engine.clock() + 60 * SECOND  # the next command may follow at once
    later(engine, seconds, 3)
    assert await leases.trim([lease]) == []
    assert await expires_at(engine) <= engine.clock() + LEASE_S * SECOND
    assert await leases.free_in_s(engine.mailbox_id) == LEASE_S / 3
    later(engine, seconds, 25)
    assert await leases.free_in_s(engine.mailbox_id) == pytest.approx(5.5, abs=0.01)


async def test_what_is_held_while_a_lease_becomes_short_waits_until_it_is_long(
    engine: Engine, seconds: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    leases, lease = await held(engine)
    await lease.hold(60)
    lease.answered()
    later(engine, seconds, 3)
    writing, go = asyncio.Event(), asyncio.Event()
    renewed = engine.store.renew

    async def slow(*args: Any) -> Any:
        writing.set()
        await go.wait()
        return await renewed(*args)

    monkeypatch.setattr(engine.store, "renew", slow)
    trim = asyncio.create_task(leases.trim([lease]))
    await writing.wait()
    holding = asyncio.create_task(lease.hold(60))
    await asyncio.sleep(0)
    assert not holding.done()  # what it was told before is about to be untrue
    go.set()
    await asyncio.gather(trim, holding)
    assert lease.lasts(60 + MARGIN_S)
    assert await expires_at(engine) >= engine.clock() + 65 * SECOND


@pytest.mark.parametrize("clock", ["wall", "monotonic"])
async def test_either_clock_ends_a_lease(engine: Engine, seconds: list[float], clock: str) -> None:
    _, lease = await held(engine)
    if clock == "wall":
        engine.clock.advance(LEASE_S)  # the machine slept, which its monotonic clock did not count
    else:
        seconds[0] += LEASE_S  # somebody set the wall clock back
    assert not lease.lasts(0)
    await lease.hold(10)  # nobody took it
    assert lease.lasts(10)


async def test_who_lost_the_lease_sends_nothing_and_has_no_connection(engine: Engine, seconds: list[float]) -> None:
    _, lease = await held(engine, "stalled")
    later(engine, seconds, LEASE_S + 1)
    others, taken = await held(engine, "other")
    source = await engine.account.connect()
    context = object.__new__(Context)
    context.lease, context.source = lease, source
    with pytest.raises(OwnershipLostError) as refused:
        await context.own_for(1)
    assert isinstance(refused.value, ConflictError)
    assert refused.value.slug == "lease_lost"
    assert engine.account.connections == []
    await taken.hold(60)
    await others.give_back(taken)


async def test_a_renewal_that_took_too_long_is_not_believed(
    engine: Engine, seconds: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, lease = await held(engine)
    renewed = engine.store.renew

    async def slow(*args: Any) -> Any:
        result = await renewed(*args)
        later(engine, seconds, LEASE_S + 1)
        return result

    monkeypatch.setattr(engine.store, "renew", slow)
    with pytest.raises(OwnershipLostError):
        await lease.hold(60)


async def test_a_session_owns_its_mailbox(
    engine: Engine, account: MemoryAccount, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[bool] = []
    poll = Session.poll

    async def owning(self: Session) -> None:
        await self._context.own_for(engine.settings.command_timeout_s)
        asked.append(self._context.lease.lasts(engine.settings.command_timeout_s))
        await poll(self)

    monkeypatch.setattr(Session, "poll", owning)
    await engine.sync()
    assert asked == [True]
