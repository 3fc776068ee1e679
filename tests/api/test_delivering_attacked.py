"""Delivering beside receivers that mean harm, and by clocks that are put right."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from mailgate.clock import DAY, HOUR
from mailgate.webhooks.model import Answer
from tests.api.conftest import Gateway
from tests.api.hooks import MAILBOXES, Delivering, Got, delivering

ONE, TWO = MAILBOXES


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    """What is tested here does not hang on the database."""
    return sqlite_url


@pytest.fixture
async def hooks(gateway: Gateway) -> AsyncIterator[Delivering]:
    async with delivering(gateway) as made:
        yield made


async def test_slow_receivers_leave_room_for_the_others(hooks: Delivering) -> None:
    """Two endpoints of a tenant that answer, but slowly, with more waiting than there are places: of what they leave,
    another tenant's endpoint gets the first one.
    """
    await hooks.gateway.tenant("other")
    at_once = hooks.gateway.core.settings.webhooks.at_once
    for name in ("slow", "slower"):
        await hooks.make(url=f"https://{name}.example/", tenant_id="acme")
    await hooks.make(url="https://quick.example/", tenant_id="other", types=["mailbox.*"])
    asked: list[str] = []
    came, places = asyncio.Event(), asyncio.Semaphore(0)

    async def call(url: str, _headers: object, _body: bytes) -> Answer:
        asked.append(url)
        came.set()
        if "slow" in url:
            await places.acquire()
        return Answer(204)

    async def until(count: int) -> None:
        while len(asked) < count:
            came.clear()
            await came.wait()

    hooks.deliverer._call = call
    await hooks.emit(*[f"{ONE[:-3]}{n:03d}" for n in range(3 * at_once)])
    await hooks.deliverer.work()
    await until(at_once)
    await hooks.emit(TWO, tenant_id="other")
    await hooks.deliverer.work()
    assert len(asked) == at_once  # every place is taken, by the slow ones
    places.release()
    before = set(hooks.deliverer._state.tasks)
    await asyncio.wait(before, return_when=asyncio.FIRST_COMPLETED)
    await hooks.deliverer.work()
    await until(at_once + 1)
    assert "quick" in asked[at_once]
    for _ in range(10 * at_once):
        places.release()
    await hooks.deliverer.idle()


async def test_a_clock_that_is_put_back_does_not_put_off(hooks: Delivering) -> None:
    """A failure by a clock that was a month ahead is tried again when the clock is right, not a month later."""
    await hooks.make()
    hooks.gateway.clock.forward(30 * DAY)
    hooks.receiver.answer = lambda _got: Answer(500, retry_after=str(6 * 3600))
    await hooks.emit(ONE)
    await hooks.settle()
    assert len(hooks.receiver.got) == 1
    hooks.gateway.clock.forward(HOUR)
    await hooks.settle()
    assert len(hooks.receiver.got) == 1  # it is not due yet
    hooks.gateway.clock.forward(-30 * DAY)
    hooks.receiver.answer = lambda _got: Answer(204)
    await hooks.settle()
    assert len(hooks.receiver.got) == 2
    await hooks.emit(ONE)
    await hooks.settle()
    assert hooks.receiver.numbers(ONE) == [hooks.receiver.got[0].number] * 2 + [hooks.receiver.got[2].number]


async def test_replayed_while_paused_it_begins_there_when_it_is_enabled(hooks: Delivering) -> None:
    made = await hooks.make()
    await hooks.emit(ONE, TWO)
    await hooks.settle()
    assert len(hooks.receiver.got) == 2
    path = f"/v1/webhooks/{made['id']}"
    client = hooks.gateway.client
    assert (await client.patch(path, json={"state": "paused"})).status_code == 200
    first = (await client.get("/v1/events", params={"types": "mailbox.import_finished"})).json()["items"][0]
    assert (await client.post(f"{path}/replay", json={"after": first["cursor"]})).status_code == 202
    await hooks.emit(ONE)
    await hooks.settle()
    assert len(hooks.receiver.got) == 2
    assert (await client.patch(path, json={"state": "enabled"})).status_code == 200
    await hooks.settle()
    came = {got.number: got.headers["webhook-id"] for got in hooks.receiver.got[:2]}
    again = {got.number: got.headers["webhook-id"] for got in hooks.receiver.got[2:]}
    assert len(again) == len(hooks.receiver.got) - 2 == 2
    assert again.pop(max(came)) == came[max(came)]  # what was replayed comes under the id that it had
    assert min(again) > max(came)


async def test_many_that_wait_are_few_in_memory_and_come_in_order(hooks: Delivering) -> None:
    """A receiver that was away while hundreds of events of one mailbox gathered."""
    made = await hooks.make()
    hooks.receiver.answer = lambda _got: Answer(503)
    for _ in range(6):
        await hooks.emit(*[ONE] * 50)
        await hooks.settle()
    (seat,) = hooks.deliverer._state.seats.values()
    assert sum(map(len, seat.window._waiting.values())) <= 100
    hooks.receiver.got.clear()
    hooks.receiver.answer = takes_all
    hooks.gateway.clock.forward(HOUR)
    await hooks.settle()
    numbers = hooks.receiver.numbers(ONE)
    assert numbers == sorted(numbers)
    assert len(set(numbers)) == 300
    assert (await hooks.look(made["id"]))["state"] == "enabled"


def takes_all(_got: Got) -> Answer:
    return Answer(204)
