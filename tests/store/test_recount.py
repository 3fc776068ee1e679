"""The doctor counts again what is counted along: stored bytes, copies, messages sent, since when a plan holds."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from sqlalchemy import insert, select, update

from mailgate.clock import DAY
from mailgate.store.check import doctor
from mailgate.store.prune import SUBMISSIONS_KEPT, prune
from mailgate.store.schema import blobs, messages, sent_counts, submissions, subscription_periods, tenant_heads
from mailgate.tenants.calendar import day_start
from tests.api.conftest import START, Gateway
from tests.api.conftest import gateway as gateway
from tests.api.mail import letter
from tests.api.sending import Office, office

SENT = "what counts as sent was accepted for sending"
STORED = "usage is what is stored"
PERIODS = "a subscription's periods follow from its events"


@pytest.fixture
async def acme(gateway: Gateway) -> AsyncIterator[Office]:
    async with office(gateway) as made:
        yield made


async def found(gateway: Gateway) -> list[tuple[str, str | None, str]]:
    """What the doctor finds."""
    core = gateway.core
    report = await doctor(core.db, core.blobs, core.ring)
    return [(finding.check, finding.tenant_id, finding.detail) for finding in report.findings]


async def change(gateway: Gateway, *statements: Any) -> None:
    async with gateway.core.db.write() as tx:
        for statement in statements:
            await tx.conn.execute(statement)


def sent(users: int, service: int, sent_by_users: int, sent_by_service: int, day: str = "2026-05-27") -> Any:
    counted = f"{users} of users and {service} of the service are counted"
    return [(SENT, "acme", f"{day}: {counted}, but {sent_by_users} and {sent_by_service} were accepted")]


async def test_what_refers_to_a_blob_has_one(acme: Office) -> None:
    gateway = acme.gateway
    await acme.send(subject="sent")  # has a copy
    waiting = await acme.submit(subject="waits")
    async with gateway.core.db.read() as conn:
        kept = [dict(row) for row in (await conn.execute(select(blobs))).mappings()]
        (copy_id,) = (await conn.execute(select(messages.c.id))).scalars()
    await change(gateway, blobs.delete())
    assert {finding for finding in await found(gateway) if "blob" in finding[0]} == {
        ("a copy has a blob of its tenant", "acme", f"{copy_id}, None"),
        ("a submission's blob is there", "acme", waiting["id"]),
    }
    await change(gateway, insert(blobs).values(kept))


async def test_messages_sent_are_counted_again(acme: Office) -> None:
    gateway = acme.gateway
    await acme.send(subject="one")
    two = await acme.submit(subject="two", purpose="service")
    await acme.submit(subject="three", purpose="service")
    gone = await acme.submit(subject="never")
    await gateway.client.delete(f"{acme.base}/{gone['id']}")  # given back
    assert await found(gateway) == []

    users = sent_counts.update().values(user_count=sent_counts.c.user_count + 1)
    await change(gateway, users)
    assert await found(gateway) == sent(2, 2, 1, 2)
    await change(gateway, users.values(user_count=sent_counts.c.user_count - 1))

    service = sent_counts.update().values(service_count=sent_counts.c.service_count - 1)
    await change(gateway, service)
    assert await found(gateway) == sent(1, 1, 1, 2)
    await change(gateway, service.values(service_count=sent_counts.c.service_count + 1))

    # Neither purpose nor day may differ, although the sum is right.
    this = update(submissions).where(submissions.c.id == two["id"])
    await change(gateway, this.values(purpose="user"))
    assert await found(gateway) == sent(1, 2, 2, 1)
    await change(gateway, this.values(purpose="service", charged_at=START - 1))
    assert await found(gateway) == sent(0, 0, 0, 1, "2026-05-26") + sent(1, 2, 1, 1)
    await change(gateway, this.values(charged_at=None))
    assert await found(gateway) == sent(1, 2, 1, 1)
    await change(gateway, this.values(charged_at=START + DAY - 1))
    assert await found(gateway) == []


async def test_a_day_without_a_count_and_a_count_without_messages_are_found(acme: Office) -> None:
    gateway = acme.gateway
    await acme.submit()
    await change(gateway, sent_counts.delete())
    assert await found(gateway) == sent(0, 0, 1, 0)
    row = {"tenant_id": "acme", "user_count": 1}
    await change(gateway, insert(sent_counts).values(row | {"day_at": day_start(START)}))
    assert await found(gateway) == []
    await change(gateway, insert(sent_counts).values(row | {"day_at": day_start(START) + 3 * DAY}))
    assert await found(gateway) == sent(1, 0, 0, 0, "2026-05-30")
    await change(gateway, sent_counts.delete().where(sent_counts.c.day_at > START))


async def test_days_whose_messages_are_pruned_are_not_compared_and_all_others_are(acme: Office) -> None:
    gateway, db = acme.gateway, acme.gateway.core.db
    gateway.clock.forward(DAY // 2)
    await acme.send(subject="old")
    gateway.clock.forward(DAY)
    await acme.send(subject="young")
    await change(gateway, update(submissions).values(file_at=None))  # nothing is to be filed any more
    wrong = update(sent_counts).values(user_count=5)
    await change(gateway, wrong)
    assert await found(gateway) == sent(5, 0, 1, 0) + sent(5, 0, 1, 0, "2026-05-28")
    await change(gateway, wrong.values(user_count=1))

    gone = await prune(db, START + SUBMISSIONS_KEPT + DAY, longest_days=90, idempotency_hours=24)
    assert gone.submissions == 1
    assert await found(gateway) == []  # the count of the first day is kept, its message is not
    await change(gateway, wrong)
    assert await found(gateway) == sent(5, 0, 1, 0, "2026-05-28")
    # A clock that went back brings no message back.
    await prune(db, START, longest_days=90, idempotency_hours=24)
    assert await found(gateway) == sent(5, 0, 1, 0, "2026-05-28")
    # From a part of a day some messages may be gone: it is not compared any more.
    await prune(db, START + SUBMISSIONS_KEPT + DAY + 1, longest_days=90, idempotency_hours=24)
    assert await found(gateway) == []
    await change(gateway, wrong.values(user_count=1))


async def test_bytes_and_copies_are_counted_again(acme: Office) -> None:
    await acme.post.deliver(letter())
    assert await found(acme.gateway) == []
    for column in (tenant_heads.c.storage_bytes, tenant_heads.c.copies):
        await change(acme.gateway, tenant_heads.update().values({column.name: column + 1}))
        assert [check for check, *_ in await found(acme.gateway)] == [STORED]
        await change(acme.gateway, tenant_heads.update().values({column.name: column - 1}))


async def test_since_when_a_plan_holds_is_computed_again(acme: Office) -> None:
    since = subscription_periods.c.plan_since
    await change(acme.gateway, subscription_periods.update().values(plan_since=since + 1))
    assert await found(acme.gateway) == [(PERIODS, "acme", "a plan is said to hold since another instant")]
    await change(acme.gateway, subscription_periods.update().values(plan_since=since - 1))
