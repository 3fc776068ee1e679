"""Alarms as rows: raised once, told of, reworded, cleared. What should stand is decided elsewhere (`mailgate.alarms`).

A run that halts raises its own, in the transaction that says so: whoever reads of the one looks for the other.
"""

from __future__ import annotations

from collections.abc import Callable

import structlog
from sqlalchemy import ColumnElement, and_, select, text, update

from mailgate.alarms import LONGEST_DETAIL, Alarm, Key, Kind
from mailgate.clock import Instant
from mailgate.ids import new_id
from mailgate.store.schema import alarms, tenant_heads
from mailgate.store.transaction import Transaction

_log = structlog.get_logger("mailgate.alarms")

_A = alarms.c

Tell = Callable[[], None]
"""Says it in the log of the gateway, once it is committed."""


async def put(tx: Transaction, alarm: Alarm, now: Instant) -> list[Tell]:
    """Put it on record and into the feed, unless another process did; what to say then."""
    if not await _may_tell(tx, alarm.tenant_id):
        return []
    id_ = new_id(now)
    new = tx.insert(alarms).values(
        id=id_,
        kind=alarm.kind,
        tenant_id=alarm.tenant_id,
        key=_key(alarm.key),
        detail=alarm.detail,
        raised_at=now,
    )
    once = new.on_conflict_do_nothing(index_elements=[_A.key], index_where=text("cleared_at IS NULL"))
    if not (await tx.conn.execute(once)).rowcount:
        return []
    _emit(tx, "alarm.raised", id_, alarm, now)
    return [lambda: say(alarm)]


async def reword(tx: Transaction, alarm: Alarm) -> None:
    """It stands on, and says this from now on."""
    await tx.conn.execute(update(alarms).where(_standing(alarm.key)).values(detail=alarm.detail))


async def clear(tx: Transaction, alarm: Alarm, now: Instant) -> list[Tell]:
    """It is over, unless it says something else by now: that is a newer one."""
    same = and_(_standing(alarm.key), _A.detail == alarm.detail)
    over = update(alarms).where(same).values(cleared_at=now).returning(_A.id)
    id_ = (await tx.conn.execute(over)).scalar_one_or_none()
    if id_ is None:
        return []
    if await _may_tell(tx, alarm.tenant_id):
        _emit(tx, "alarm.cleared", id_, alarm, now)
    return [lambda: _log.info("alarm_cleared", kind=alarm.kind, tenant=alarm.tenant_id)]


async def halted(tx: Transaction, found: list[Alarm], now: Instant, *, told: bool) -> None:
    """These stand because of a run that halts in this transaction, whether they stood before or not. `told`: somebody
    waits for its end, and hears it there.
    """
    for alarm in found:
        await reword(tx, alarm)
        for tell in await put(tx, alarm, now):
            if not told:
                tx.after_commit(tell)


def of_halted(run_id: str, why: str) -> Alarm:
    """The alarm of a run that the brake halted for a tenant; `why` as the run's counts have it, the tenant first."""
    tenant_id, _, what = why.partition(": ")
    return Alarm(Kind.PURGE_HALTED, tenant_id, f"run {run_id} halted, {what}"[:LONGEST_DETAIL])


def say(alarm: Alarm) -> None:
    """Into the log of the gateway."""
    _log.error("alarm_raised", kind=alarm.kind, tenant=alarm.tenant_id, detail=alarm.detail, remedy=alarm.remedy)


async def _may_tell(tx: Transaction, tenant_id: str | None) -> bool:
    """Whether there is a feed for it: a tenant may have been erased in the meantime."""
    if tenant_id is None:
        return True
    head = select(tenant_heads.c.tenant_id).where(tenant_heads.c.tenant_id == tenant_id)
    return (await tx.conn.execute(head)).one_or_none() is not None


def _emit(tx: Transaction, type_: str, id_: str, alarm: Alarm, now: Instant) -> None:
    payload = {"alarm_id": id_, "kind": str(alarm.kind), "detail": alarm.detail, "remedy": alarm.remedy}
    tx.emit(alarm.tenant_id, type_, at=now, payload=payload)


def _key(key: Key) -> str:
    return f"{key[0]}:{key[1] or ''}"


def _standing(key: Key) -> ColumnElement[bool]:
    return and_(_A.key == _key(key), _A.cleared_at.is_(None))
