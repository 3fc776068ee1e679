"""What is known of open operations, in a few statements for hundreds of them."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from mailgate.messages.timed import untimed
from mailgate.store.folders import AnyRow, state_of
from mailgate.store.operations import open_of
from mailgate.store.schema import blobs, folders, messages, origins, tombstones
from mailgate.store.sets import among
from mailgate.store.tombstones import RETURNABLE, of_messages
from mailgate.sync.identity import Likeness
from mailgate.sync.operations import Operation, OperationKind
from mailgate.sync.push.model import (
    Buried,
    Copy,
    Facts,
    Original,
    Place,
    StoredBytes,
)
from mailgate.sync.push.port import Asked
from mailgate.sync.state import Owner


async def asked(conn: AsyncConnection, owner: Owner, limit: int, *, sent: bool, sqlite: bool) -> list[Asked]:
    """The open operations of a mailbox in order, each with what it is about."""
    found = await open_of(conn, owner.mailbox_id, limit, sent=sent)
    message_ids = sorted({operation.message_id for operation in found if operation.message_id is not None})
    standing = await _origins(conn, message_ids, sqlite=sqlite)
    places = await _places(conn, found, standing, sqlite=sqlite)
    copies = await _copies(conn, message_ids, standing, places, sqlite=sqlite)
    ended = [id_ for id_ in message_ids if id_ not in copies]
    purged = await _purged(conn, owner.tenant_id, ended, sqlite=sqlite)
    wanted = [item.message_id or "" for item in found if item.kind is OperationKind.REHYDRATE]
    buried = await _buried(conn, owner.tenant_id, [id_ for id_ in wanted if id_ in purged], sqlite=sqlite)
    return [
        Asked(
            operation,
            Facts(
                copy=copies.get(operation.message_id or ""),
                purged=operation.message_id in purged,
                place=places.get(operation.folder_id or ""),
                buried=buried.get(operation.message_id or ""),
            ),
        )
        for operation in found
    ]


async def _origins(conn: AsyncConnection, message_ids: Sequence[str], *, sqlite: bool) -> list[AnyRow]:
    if not message_ids:
        return []
    query = select(origins).where(among(origins.c.message_id, message_ids, sqlite=sqlite))
    return list((await conn.execute(query.order_by(origins.c.folder_id, origins.c.uid))).all())


async def _places(
    conn: AsyncConnection, found: Sequence[Operation], standing: Sequence[AnyRow], *, sqlite: bool
) -> dict[str, Place]:
    ids = {operation.folder_id for operation in found if operation.folder_id is not None}
    ids.update(row.folder_id for row in standing)
    if not ids:
        return {}
    query = select(folders).where(among(folders.c.id, sorted(ids), sqlite=sqlite))
    return {
        row.id: Place(state_of(row), gone=row.gone_at is not None, on_its_way=row.on_its_way)
        for row in await conn.execute(query)
    }


async def _copies(
    conn: AsyncConnection,
    message_ids: Sequence[str],
    standing: Sequence[AnyRow],
    places: dict[str, Place],
    *,
    sqlite: bool,
) -> dict[str, Copy]:
    if not message_ids:
        return {}
    addresses: dict[str, list[AnyRow]] = {}
    for row in standing:
        addresses.setdefault(row.message_id, []).append(row)
    query = (
        select(
            messages.c.id,
            messages.c.header_token,
            messages.c.msgid_token,
            messages.c.size,
            messages.c.internal_date_at,
            messages.c.pins,
            blobs.c.id.label("blob_id"),
            blobs.c.data_key,
            blobs.c.key_epoch,
        )
        .join(blobs, blobs.c.id == messages.c.blob_id)
        .where(among(messages.c.id, message_ids, sqlite=sqlite))
    )
    copies: dict[str, Copy] = {}
    for row in await conn.execute(query):
        mine = addresses.get(row.id, [])
        originals = tuple(at for at in (_original(address, places) for address in mine) if at is not None)
        copies[row.id] = Copy(
            message_id=row.id,
            originals=originals,
            missing=len(originals) < len(mine),
            pins=row.pins,
            likeness=Likeness(untimed(row.header_token), row.size, row.internal_date_at),
            msgid_token=row.msgid_token,
            stored=StoredBytes(row.blob_id, row.data_key, row.key_epoch, row.size),
        )
    return copies


def _original(row: AnyRow, places: dict[str, Place]) -> Original | None:
    """The original at this address, or None when it does not stand there any more as far as is known."""
    place = places[row.folder_id]
    if row.vanished_at is not None or place.gone or place.folder.uidvalidity not in (None, row.uidvalidity):
        return None
    labels = None if row.labels is None else frozenset(row.labels)
    return Original(place.folder, row.uidvalidity, row.uid, frozenset(row.flags), labels)


async def _purged(conn: AsyncConnection, tenant_id: str, message_ids: Sequence[str], *, sqlite: bool) -> set[str]:
    """Which of these copies, gone by now, left a tombstone."""
    if not message_ids:
        return set()
    left = among(tombstones.c.message_id, message_ids, sqlite=sqlite)
    query = select(tombstones.c.message_id).where(tombstones.c.tenant_id == tenant_id, left)
    return set((await conn.execute(query)).scalars())


async def _buried(
    conn: AsyncConnection, tenant_id: str, message_ids: Sequence[str], *, sqlite: bool
) -> dict[str, Buried]:
    """What is left of these purged copies, and where their originals were last known to stand."""
    left = await of_messages(conn, tenant_id, message_ids, sqlite=sqlite)
    return {
        id_: Buried(
            message_id=id_,
            item_ref=graves[0].item_ref,
            anchor_at=graves[0].anchor_at,
            header_mac=untimed(graves[0].header_token),
            addresses=tuple((g.folder, g.uidvalidity, g.uid) for g in graves if g.folder is not None),
            deleted=not all(grave.reason in RETURNABLE for grave in graves),
        )
        for id_, graves in left.items()
    }
