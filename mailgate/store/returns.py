"""Bringing a purged copy back: the same id, the same name in the purge log, the same anchor, and one leaf.

The bytes came from the server again and lie in the blob store; here the rows are written, in one transaction with the
leaf, the event and whatever else belongs to it. Its tombstones go in that transaction: a copy is stored or purged,
never both, and who comes second finds nothing to bring back.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import delete, exists, select, update

from mailgate.actors import Actor
from mailgate.clock import Instant
from mailgate.store import messages as copies
from mailgate.store.expiry import COPY_COLUMNS, Horizon
from mailgate.store.folders import AnyRow
from mailgate.store.log import PurgeLog
from mailgate.store.schema import folders, messages, origins, tombstones
from mailgate.store.tombstones import RETURNABLE
from mailgate.store.transaction import Transaction
from mailgate.sync.incoming import PreparedMessage
from retention.ledger import leaves
from retention.model import AnchorSource

_M = messages.c
_T = tombstones.c


@dataclass(frozen=True, slots=True)
class Return:
    """Who asked for it. `keep_until_at`: it stays until then, whatever its age; None: for its age. `pins`: so many are
    made in this transaction, right after. `initial`: by a backfill.
    """

    actor: Actor
    keep_until_at: Instant | None = None
    pins: int = 0
    initial: bool = False


async def bring_back(
    tx: Transaction,
    log: PurgeLog,
    tenant_ref: str,
    place: copies.Place,
    message: PreparedMessage,
    asked: Return,
    horizon: Horizon,
) -> bool:
    """Write the copy that was purged, at this place. False, with nothing written, when that can't be any more: it was
    brought back meanwhile, or deleted for good, or another message is known at this address.
    """
    mine = (_T.tenant_id == place.tenant_id) & (_T.message_id == message.id)
    graves = (await tx.conn.execute(select(tombstones).where(mine).order_by(_T.id).with_for_update())).all()
    taken = exists().where(
        origins.c.folder_id == place.folder_id,
        origins.c.uid == message.uid,
        origins.c.uidvalidity == place.uidvalidity,
    )
    if not all(grave.reason in RETURNABLE for grave in graves) or not graves:
        return False
    if (await tx.conn.execute(select(taken))).scalar_one():
        return False
    await tx.conn.execute(delete(tombstones).where(mine))
    await copies.write(tx, place, [message], horizon.now)
    await _stand_elsewhere(tx, place, message, graves)
    if asked.keep_until_at is not None:
        message.anchor_source = AnchorSource.REHYDRATED.value
        values = {"keep_until_at": asked.keep_until_at, "anchor_source": message.anchor_source}
        await tx.conn.execute(update(messages).where(_M.id == message.id).values(values))
    log.write(
        tx,
        place.tenant_id,
        tenant_ref,
        leaves.rehydrate,
        at=horizon.now,
        actor=asked.actor,
        item_ref=message.item_ref,
        mailbox_ref=place.mailbox_id,
        content_commit=message.content_commit.hex(),
        msgid_commit=message.msgid_commit.hex(),
        anchor=leaves.Anchor(message.anchor_at, message.anchor_source),
        until=horizon.now if asked.keep_until_at is None else asked.keep_until_at,
        pins=asked.pins,
    )
    await _tell(tx, place, message, asked, horizon)
    return True


async def _stand_elsewhere(
    tx: Transaction, place: copies.Place, message: PreparedMessage, graves: Sequence[AnyRow]
) -> None:
    """The copy's other originals, as far as their addresses are valid; what the server says of them is seen later."""
    for grave in graves:
        if grave.folder is None or grave.gone_at is not None:
            continue
        query = select(folders.c.id, folders.c.uidvalidity).where(
            folders.c.mailbox_id == place.mailbox_id, folders.c.name == grave.folder, folders.c.gone_at.is_(None)
        )
        folder = (await tx.conn.execute(query)).one_or_none()
        if folder is None or folder.uidvalidity != grave.uidvalidity or folder.id == place.folder_id:
            continue
        statement = tx.insert(origins).values(
            folder_id=folder.id,
            uid=grave.uid,
            uidvalidity=grave.uidvalidity,
            tenant_id=place.tenant_id,
            mailbox_id=place.mailbox_id,
            message_id=message.id,
            flags=list(message.flags),
        )
        await tx.conn.execute(statement.on_conflict_do_nothing())


async def _tell(
    tx: Transaction, place: copies.Place, message: PreparedMessage, asked: Return, horizon: Horizon
) -> None:
    row = (await tx.conn.execute(select(*COPY_COLUMNS).where(_M.id == message.id))).one()
    holds = await horizon.holds.count(tx.conn, {row.id: row.mailbox_id}, sqlite=tx.sqlite)
    payload = {
        "anchor_at": message.anchor_at,
        "expires_at": None if asked.pins else horizon.expires_at(row, holds[row.id]),
        "folder_id": place.folder_id,
    }
    if asked.initial:
        payload["initial"] = True
    tx.emit(
        place.tenant_id,
        "message.rehydrated",
        at=horizon.now,
        mailbox_id=place.mailbox_id,
        message_id=message.id,
        payload=payload,
    )
