"""How much may be sent: the day, the month, the CRM's reserve, what is given back; on both databases."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from mailgate.clock import DAY, HOUR, from_rfc3339
from mailgate.errors import TooManyRequestsError
from mailgate.store.schema import sent_counts
from mailgate.store.sending.allowance import CountedAllowance, unlimited, used
from mailgate.store.transaction import Transaction
from mailgate.tenants.limits import Purpose, SendingLimits
from tests.api.conftest import Gateway
from tests.api.conftest import gateway as gateway
from tests.api.sending import Office, office

NOW = from_rfc3339("2026-05-31T22:00:00Z")
USER, SERVICE = Purpose.USER, Purpose.SERVICE


def allowance(**limits: int) -> CountedAllowance:
    async def of(_tx: Transaction, _tenant_id: str, _now: int) -> SendingLimits:
        return SendingLimits(**limits)

    return CountedAllowance(of)


@pytest.fixture
async def acme(gateway: Gateway) -> AsyncIterator[Office]:
    async with office(gateway) as made:
        yield made


@pytest.fixture
async def counts(gateway: Gateway) -> AsyncIterator[None]:
    """For tests that count what nobody sends: at the end the doctor would say so."""
    yield
    async with gateway.core.db.write() as tx:
        await tx.conn.execute(sent_counts.delete())


async def charge(gateway: Gateway, counted: CountedAllowance, purpose: Purpose = USER, at: int = NOW) -> str | None:
    """Count one message: None, or the limit that refused it."""
    try:
        await gateway.core.db.transact(lambda tx: counted.charge(tx, "acme", purpose, 1, at))
    except TooManyRequestsError as error:
        return f"{error.extra['limit']} {error.extra['most']} {error.extra['retry_at']}"
    return None


@pytest.mark.usefixtures("counts")
async def test_the_day_is_a_day_in_utc(acme: Office) -> None:
    counted = allowance(per_day=2)
    assert await charge(acme.gateway, counted) is None
    assert await charge(acme.gateway, counted, SERVICE) is None
    assert await charge(acme.gateway, counted) == "day 2 2026-06-01T00:00:00Z"
    assert await charge(acme.gateway, counted, at=NOW + 2 * HOUR) is None


@pytest.mark.usefixtures("counts")
async def test_the_month_keeps_a_reserve_for_the_crm(acme: Office) -> None:
    counted = allowance(per_month=3, service_reserve=1)
    assert await charge(acme.gateway, counted, at=NOW - 20 * DAY) is None
    assert await charge(acme.gateway, counted) is None
    assert await charge(acme.gateway, counted) == "month_without_reserve 2 2026-06-01T00:00:00Z"
    assert await charge(acme.gateway, counted, SERVICE) is None
    assert await charge(acme.gateway, counted, SERVICE) == "month 3 2026-06-01T00:00:00Z"
    assert await charge(acme.gateway, counted, at=NOW + 2 * HOUR) is None


@pytest.mark.usefixtures("counts")
async def test_what_was_refused_or_given_back_does_not_count(acme: Office) -> None:
    counted, db = allowance(per_day=1), acme.gateway.core.db
    assert await charge(acme.gateway, counted) is None
    assert await charge(acme.gateway, counted) is not None
    await db.transact(lambda tx: counted.give_back(tx, "acme", USER, 1, NOW))
    await db.transact(lambda tx: counted.give_back(tx, "acme", USER, 1, NOW))
    assert await db.transact(lambda tx: used(tx.conn, "acme", NOW)) == (0, 0)
    assert await charge(acme.gateway, counted) is None


@pytest.mark.usefixtures("counts")
async def test_of_many_at_once_no_more_pass_than_may(acme: Office) -> None:
    counted = allowance(per_month=3)
    answers = await asyncio.gather(*(charge(acme.gateway, counted) for _ in range(8)))
    assert answers.count(None) == 3


@pytest.mark.usefixtures("counts")
async def test_without_limits_everything_passes(acme: Office) -> None:
    counted = CountedAllowance(unlimited)
    assert [await charge(acme.gateway, counted) for _ in range(3)] == [None] * 3


async def test_the_limit_answers_429_and_cancellation_gives_back(acme: Office) -> None:
    core = acme.gateway.core
    core.allowance.limits = allowance(per_day=1).limits
    made = await acme.submit()
    refused = await acme.gateway.client.post(acme.base, json={"to": ["bob@other.example"]})
    assert (refused.status_code, refused.json()["type"]) == (429, "sending_limit")
    assert refused.headers["retry-after"] == str(24 * 3600)
    assert refused.json()["retry_at"]
    await acme.gateway.client.delete(f"{acme.base}/{made['id']}")
    acme.server.script["content"] = ["552 5.2.2 full", ""]
    failed = await acme.send()
    assert failed["state"] == "failed"
    assert (await acme.submit(subject="another"))["state"] == "queued"
    again = await acme.gateway.client.post(f"{acme.base}/{failed['id']}/retry")
    assert (again.status_code, again.json()["type"]) == (429, "sending_limit")
