"""The plan's limits where they act: which mailboxes may be switched on, which are switched off."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from sqlalchemy import func, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from mailgate.clock import Instant
from mailgate.errors import ConflictError
from mailgate.store.schema import mailboxes
from mailgate.store.transaction import Transaction
from mailgate.tenants.catalogue import Plan
from mailgate.tenants.entitlements import Entitlements
from mailgate.tenants.limits import Connected, MailboxLimit, over_limit, refusal

_C = mailboxes.c


async def connected(conn: AsyncConnection, tenant_id: str) -> list[Connected]:
    """The tenant's mailboxes that are switched on."""
    query = select(_C.id, _C.owner, _C.shared, _C.created_at).where(
        _C.tenant_id == tenant_id, _C.removed_at.is_(None), _C.enabled
    )
    return [Connected(row.id, row.owner, row.shared, row.created_at) for row in await conn.execute(query)]


async def users(conn: AsyncConnection, tenant_id: str) -> int:
    """How many seats are in use: owners of mailboxes that are connected, switched on or not; one without owner is its
    own user.
    """
    user = func.coalesce(_C.owner, "=" + _C.id)
    query = select(func.count(user.distinct())).where(_C.tenant_id == tenant_id, _C.removed_at.is_(None), ~_C.shared)
    return int((await conn.execute(query)).scalar_one())


async def require_room(conn: AsyncConnection, tenant_id: str, new: Connected, holds: Entitlements) -> None:
    """Raise ConflictError when the plan does not allow `new` to be switched on beside the others: mailbox_limit,
    shared_mailbox_limit, seat_limit. The caller holds the tenant's lock.
    """
    plan = holds.limits
    if plan is None:
        return
    limit = refusal(new, await connected(conn, tenant_id), plan, seats_of(holds))
    if limit is not None:
        raise ConflictError(_why(limit, plan, holds), slug=limit.value, plan=plan.name)


def seats_of(holds: Entitlements) -> int | None:
    """How many users there may be; None: no limit."""
    if holds.seats is not None:
        return holds.seats
    return None if holds.limits is None else holds.limits.seats


def surplus_of(boxes: Iterable[Connected], holds: Entitlements) -> dict[str, MailboxLimit]:
    """The mailboxes that the plan and the number of its seats do not allow, those connected last.

    A plan without synchronization switches nothing off: its mailboxes only rest, and go on with the next paid plan.
    """
    if holds.limits is None or not holds.sync:
        return {}
    return over_limit(boxes, holds.limits, seats_of(holds))


async def switch_off_surplus(tx: Transaction, tenant_id: str, holds: Entitlements, now: Instant) -> dict[str, str]:
    """Switch off the mailboxes that are over a limit, those connected last; the limit by mailbox id. Nothing is
    forgotten: they can be switched on again once there is room. The caller holds the tenant's lock alone.
    """
    if holds.limits is None:
        return {}
    surplus = surplus_of(await connected(tx.conn, tenant_id), holds)
    for mailbox_id in sorted(surplus):
        limit = surplus[mailbox_id]
        values: dict[str, Any] = {
            "enabled": False,
            "limited_by": limit.value,
            "state": "disabled",
            "state_reason": f"switched off: {_why(limit, holds.limits, holds)}"[:500],
            "state_changed_at": now,
            "config_version": _C.config_version + 1,
        }
        await tx.conn.execute(update(mailboxes).where(_C.id == mailbox_id, _C.enabled).values(values))
        payload = {"state": "disabled", "reason": values["state_reason"], "limited_by": limit.value}
        tx.emit(tenant_id, "mailbox.state_changed", at=now, mailbox_id=mailbox_id, payload=payload)
    return {mailbox_id: surplus[mailbox_id].value for mailbox_id in sorted(surplus)}


def _why(limit: MailboxLimit, plan: Plan, holds: Entitlements) -> str:
    if limit is MailboxLimit.PER_USER:
        most = plan.mailboxes_per_user
        return f"plan {plan.name} allows {most} mailboxes for each user; switch another one off, or upgrade"
    if limit is MailboxLimit.SHARED:
        return f"plan {plan.name} allows {plan.shared_mailboxes} shared mailboxes; switch another one off, or upgrade"
    return f"all {seats_of(holds)} seats are in use; add seats, or disconnect the mailboxes of another user"
