"""How much a tenant may send: counted by day, limited by calendar month and day in UTC.

One message counts one, however many get it. It counts from the moment it is accepted into the queue, so that a burst
can't pass the limit before the first one left; one that is canceled, or fails without anybody having got it, is given
back. Of a month's messages a part is kept for the CRM's own mail (purpose `service`): user mail may use the rest.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol, TypeAlias

from sqlalchemy import ColumnElement, func, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from mailgate.clock import SECOND, Instant, to_rfc3339
from mailgate.errors import TooManyRequestsError
from mailgate.store.schema import sent_counts
from mailgate.store.subscriptions import Subscriptions
from mailgate.store.transaction import Transaction
from mailgate.tenants.calendar import day_start, month_start, next_month_start
from mailgate.tenants.limits import Purpose, SendingLimits, SendingRefusal, Sent, sending_limits, sending_refusal

_C = sent_counts.c


LimitsOf: TypeAlias = Callable[[Transaction, str, Instant], Awaitable[SendingLimits]]
"""(transaction, tenant_id, now) → what its plan allows."""


async def unlimited(_tx: Transaction, _tenant_id: str, _now: Instant) -> SendingLimits:
    """No limit at all."""
    return SendingLimits()


class Allowance(Protocol):
    """Counts what is sent."""

    async def charge(self, tx: Transaction, tenant_id: str, purpose: Purpose, count: int, now: Instant) -> None:
        """Count so many messages. Raises TooManyRequestsError `sending_limit`; the caller then rolls back."""
        ...

    async def give_back(
        self, tx: Transaction, tenant_id: str, purpose: Purpose, count: int, charged_at: Instant
    ) -> None:
        """They were not sent after all."""
        ...


class CountedAllowance:
    """Counts in `sent_counts`. Whoever counts holds the row of the day, so two at once can't both be the last."""

    def __init__(self, limits: LimitsOf = unlimited) -> None:
        self.limits = limits

    async def charge(self, tx: Transaction, tenant_id: str, purpose: Purpose, count: int, now: Instant) -> None:
        """See `Allowance.charge`."""
        column = _column(purpose)
        statement = tx.insert(sent_counts).values(
            {"tenant_id": tenant_id, "day_at": day_start(now), column.name: count}
        )
        counted = statement.on_conflict_do_update(
            index_elements=[_C.tenant_id, _C.day_at], set_={column.name: column + count}
        ).returning(_C.user_count, _C.service_count)
        today = (await tx.conn.execute(counted)).one()
        limits = await self.limits(tx, tenant_id, now)
        users, service = await used(tx.conn, tenant_id, now) if limits.per_month is not None else (0, 0)
        sent = Sent(users, service, today.user_count + today.service_count)
        refusal = sending_refusal(limits, sent, purpose, now)
        if refusal is not None:
            raise _refused(refusal, now)

    async def give_back(
        self, tx: Transaction, tenant_id: str, purpose: Purpose, count: int, charged_at: Instant
    ) -> None:
        """See `Allowance.give_back`."""
        column = _column(purpose)
        day = (_C.tenant_id == tenant_id) & (_C.day_at == day_start(charged_at)) & (column >= count)
        await tx.conn.execute(update(sent_counts).where(day).values({column.name: column - count}))


def by_plan(subscriptions: Subscriptions) -> LimitsOf:
    """The limits of the plan that holds; of a plan that is not known none."""

    async def limits(tx: Transaction, tenant_id: str, now: Instant) -> SendingLimits:
        holds = await subscriptions.allowed_in(tx.conn, tenant_id, now)
        return SendingLimits() if holds.limits is None else sending_limits(holds.limits)

    return limits


async def used(conn: AsyncConnection, tenant_id: str, now: Instant) -> tuple[int, int]:
    """What counts in the calendar month of `now`: of users, of the CRM itself."""
    sums = select(func.coalesce(func.sum(_C.user_count), 0), func.coalesce(func.sum(_C.service_count), 0))
    month = (_C.tenant_id == tenant_id) & (_C.day_at >= month_start(now)) & (_C.day_at < next_month_start(now))
    row = (await conn.execute(sums.where(month))).one()
    return int(row[0]), int(row[1])


def _column(purpose: Purpose) -> ColumnElement[int]:
    found: ColumnElement[int] = _C.user_count if purpose is Purpose.USER else _C.service_count
    return found


_WORDS = {
    "day": "messages a day",
    "month": "messages a month",
    "month_without_reserve": "messages a month by users; the rest is kept for the CRM's own mail",
}


def _refused(refusal: SendingRefusal, now: Instant) -> TooManyRequestsError:
    most, retry_at = refusal.most, refusal.retry_at
    return TooManyRequestsError(
        f"the plan allows {most} {_WORDS[refusal.limit]}; more from {to_rfc3339(retry_at)} on, or on a larger plan",
        slug="sending_limit",
        retry_after_s=-((now - retry_at) // SECOND),
        limit=refusal.limit,
        most=most,
        retry_at=to_rfc3339(retry_at),
    )
