"""What the end of an operation does to its message: where it is on its way to, and the end of what was deleted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import bindparam, delete, select, update

from mailgate.store import operations
from mailgate.store.expiry import COPY_COLUMNS, Horizon
from mailgate.store.folders import AnyRow
from mailgate.store.log import PurgeLog
from mailgate.store.messages import USER_DELETED, remove
from mailgate.store.schema import messages, origins
from mailgate.store.sets import among
from mailgate.store.transaction import Transaction
from mailgate.sync.operations import Operation
from mailgate.sync.push.model import Original
from mailgate.sync.state import Owner

_M = messages.c


async def lock(tx: Transaction, message_ids: Sequence[str]) -> dict[str, AnyRow]:
    """The rows of these copies, locked in order of their ids; those that are gone by now are missing."""
    ids = among(_M.id, message_ids, sqlite=tx.sqlite)
    await tx.conn.execute(select(_M.id).where(ids).order_by(_M.id).with_for_update())
    query = select(*COPY_COLUMNS, _M.moving_to, _M.deleted_at).where(ids)
    return {row.id: row for row in await tx.conn.execute(query)}


async def tell(
    tx: Transaction,
    owner: Owner,
    horizon: Horizon,
    type_: str,
    payloads: Mapping[str, Mapping[str, Any]],
    alive: Mapping[str, AnyRow],
) -> None:
    """An event for each of these locked copies that anybody can see."""
    holding = await horizon.holds.count(tx.conn, dict.fromkeys(payloads, owner.mailbox_id), sqlite=tx.sqlite)
    for message_id, payload in payloads.items():
        row = alive.get(message_id)
        if row is None or row.deleted_at is not None:
            continue
        expires_at = horizon.expires_at(row, holding.get(message_id, 0))
        tx.emit(
            owner.tenant_id,
            type_,
            at=horizon.now,
            mailbox_id=owner.mailbox_id,
            message_id=message_id,
            payload={"anchor_at": row.anchor_at, "expires_at": expires_at, **payload},
        )


async def settle_moving(tx: Transaction, message_ids: Sequence[str]) -> None:
    """After a move or append ended: the copies are on their way to where the next one brings them, or arrived."""
    coming = await operations.moves_of(tx.conn, message_ids, sqlite=tx.sqlite)
    there = [id_ for id_ in message_ids if id_ not in coming]
    if there:
        await tx.conn.execute(update(messages).where(among(_M.id, there, sqlite=tx.sqlite)).values(moving_to=None))
    if coming:
        to = update(messages).where(_M.id == bindparam("b_id")).values(moving_to=bindparam("b_to"))
        rows = [{"b_id": message_id, "b_to": moves[-1].folder_id} for message_id, moves in coming.items()]
        await tx.conn.execute(to, rows)


async def drop_originals(tx: Transaction, gone: Sequence[Original]) -> None:
    """These addresses are void."""
    if not gone:
        return
    at = delete(origins).where(
        origins.c.folder_id == bindparam("b_folder"),
        origins.c.uidvalidity == bindparam("b_uidvalidity"),
        origins.c.uid == bindparam("b_uid"),
    )
    rows = [{"b_folder": o.folder.id, "b_uidvalidity": o.uidvalidity, "b_uid": o.uid} for o in gone]
    await tx.conn.execute(at, rows)


async def end_deleted(
    tx: Transaction,
    log: PurgeLog,
    owner: Owner,
    tenant_ref: str,
    horizon: Horizon,
    deleted: Mapping[str, Operation],
) -> None:
    """End the copies, by message id, that users deleted and whose originals are gone. One that a hold keeps stays and
    stays hidden; one that was pinned after all is shown again, without an original.
    """
    await lock(tx, sorted(deleted))
    actors = await operations.requested_by(tx.conn, [item.id for item in deleted.values()], sqlite=tx.sqlite)
    kept: list[str] = []
    for actor in sorted(set(actors.values()), key=str):
        ids = [message_id for message_id, item in deleted.items() if actors[item.id] == actor]
        _, stay = await remove(
            tx,
            log,
            tenant_id=owner.tenant_id,
            tenant_ref=tenant_ref,
            mailbox_id=owner.mailbox_id,
            ids=ids,
            reason=USER_DELETED,
            now=horizon.now,
            actor=actor,
        )
        kept += stay
    if kept:
        await _show_pinned(tx, owner, horizon, kept)


async def _show_pinned(tx: Transaction, owner: Owner, horizon: Horizon, kept: Sequence[str]) -> None:
    pinned = among(_M.id, kept, sqlite=tx.sqlite) & (_M.pins > 0) & _M.deleted_at.is_not(None)
    shown = list(
        (await tx.conn.execute(update(messages).where(pinned).values(deleted_at=None).returning(_M.id))).scalars()
    )
    payload = {"restored": True, "origin_present": False}
    await tell(tx, owner, horizon, "message.updated", dict.fromkeys(shown, payload), await lock(tx, shown))
