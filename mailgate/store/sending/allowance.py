"""How much a tenant may send: counted by day, limited by calendar month and day in UTC.

One message counts one, however many get it. It counts from the moment it is accepted into the queue, so that a burst
can't pass the limit before the first one left; one that is canceled, or fails without anybody having got it, is given
back. Of a month's messages a part is kept for the CRM's own mail (purpose `service`): user mail may use the rest.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from sqlalchemy import ColumnElement, func, select, update

from mailgate.clock import DAY, SECOND, Instant, to_rfc3339
from mailgate.errors import TooManyRequestsError
from mailgate.store.schema import sent_counts
from mailgate.store.transaction import Transaction
from mailgate.submissions.model import Purpose
from mailgate.tenants.calendar import day_start, month_start, next_month_start

_C = sent_counts.c


@dataclass(frozen=True, slots=True)
class SendingLimits:
    """Messages a calendar month and day; None: no limit. `service_reserve`: how many of a month users leave alone."""

    per_month: int | None = None
    per_day: int | None = None
    service_reserve: int = 0


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
        used_today = today.user_count + today.service_count
        if limits.per_day is not None and used_today > limits.per_day:
            raise _refused("day", limits.per_day, day_start(now) + DAY, now)
        if limits.per_month is None:
            return
        users, service = await used(tx, tenant_id, now)
        if users + service > limits.per_month:
            raise _refused("month", limits.per_month, next_month_start(now), now)
        for_users = max(limits.per_month - limits.service_reserve, 0)
        if purpose is Purpose.USER and users > for_users:
            raise _refused("month_without_reserve", for_users, next_month_start(now), now)

    async def give_back(
        self, tx: Transaction, tenant_id: str, purpose: Purpose, count: int, charged_at: Instant
    ) -> None:
        """See `Allowance.give_back`."""
        column = _column(purpose)
        day = (_C.tenant_id == tenant_id) & (_C.day_at == day_start(charged_at)) & (column >= count)
        await tx.conn.execute(update(sent_counts).where(day).values({column.name: column - count}))


async def used(tx: Transaction, tenant_id: str, now: Instant) -> tuple[int, int]:
    """What counts in the calendar month of `now`: of users, of the CRM itself."""
    sums = select(func.coalesce(func.sum(_C.user_count), 0), func.coalesce(func.sum(_C.service_count), 0))
    month = (_C.tenant_id == tenant_id) & (_C.day_at >= month_start(now)) & (_C.day_at < next_month_start(now))
    row = (await tx.conn.execute(sums.where(month))).one()
    return int(row[0]), int(row[1])


def _column(purpose: Purpose) -> ColumnElement[int]:
    found: ColumnElement[int] = _C.user_count if purpose is Purpose.USER else _C.service_count
    return found


_WORDS = {
    "day": "messages a day",
    "month": "messages a month",
    "month_without_reserve": "messages a month by users; the rest is kept for the CRM's own mail",
}


def _refused(limit: str, most: int, retry_at: Instant, now: Instant) -> TooManyRequestsError:
    return TooManyRequestsError(
        f"the plan allows {most} {_WORDS[limit]}; more from {to_rfc3339(retry_at)} on, or on a larger plan",
        slug="sending_limit",
        retry_after_s=-((now - retry_at) // SECOND),
        limit=limit,
        most=most,
        retry_at=to_rfc3339(retry_at),
    )
