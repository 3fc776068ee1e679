"""Folders that the server created, renamed or deleted as the CRM wished. What lies in a deleted one ends with it."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import delete, select, update

from mailgate.clock import Instant
from mailgate.store.schema import folders, origins, tombstones
from mailgate.store.sets import among
from mailgate.store.transaction import Transaction
from mailgate.sync.operations import Operation
from mailgate.sync.state import Owner

_F = folders.c


async def made(tx: Transaction, owner: Owner, operation: Operation, name: str, now: Instant) -> None:
    """The folder is there, and called so: where the account's own folders stand, if the CRM named it without that. Its
    attributes come with the next list.
    """
    mine = (_F.id == operation.folder_id) & (_F.on_its_way == "create")
    before = (await tx.conn.execute(select(_F.name).where(mine))).scalar_one_or_none()
    if before is not None and before != name:
        await _make_room(tx, owner, operation, name)
        payload = {"folder_id": operation.folder_id}
        tx.emit(owner.tenant_id, "folder.renamed", at=now, mailbox_id=owner.mailbox_id, payload=payload)
        await tx.conn.execute(update(folders).where(mine).values(name=name))
    await tx.conn.execute(update(folders).where(mine).values(on_its_way=None))


async def _make_room(tx: Transaction, owner: Owner, operation: Operation, name: str) -> None:
    """What went earlier and was called so is called otherwise."""
    gone = (_F.mailbox_id == owner.mailbox_id) & (_F.name == name) & _F.gone_at.is_not(None)
    await tx.conn.execute(update(folders).where(gone).values(name=f"{name[:900]} (renamed {operation.id})"))


async def renamed(tx: Transaction, owner: Owner, account_ref: bytes, operation: Operation) -> None:
    """The folder and those below it are called otherwise (RFC 9051 §6.3.6); so are the places of tombstones."""
    mine = select(_F.name, _F.delimiter).where(_F.id == operation.folder_id)
    row = (await tx.conn.execute(mine)).one()
    old, new = row.name, operation.detail["name"]
    below = f"{old}{row.delimiter}" if row.delimiter else None
    query = select(_F.id, _F.name).where(_F.mailbox_id == owner.mailbox_id, _F.gone_at.is_(None))
    names = {
        found.id: (found.name, new + found.name[len(old) :])
        for found in await tx.conn.execute(query)
        if found.name == old or (below is not None and found.name.startswith(below))
    }
    for _, name in names.values():
        await _make_room(tx, owner, operation, name)
    for folder_id, (before, after) in names.items():
        await tx.conn.execute(update(folders).where(_F.id == folder_id).values(name=after))
        buried = (
            (tombstones.c.tenant_id == owner.tenant_id)
            & (tombstones.c.account_ref == account_ref)
            & (tombstones.c.folder == before)
        )
        await tx.conn.execute(update(tombstones).where(buried).values(folder=after))
    wanted = (_F.id == operation.folder_id) & (_F.wanted_name == new)
    await tx.conn.execute(update(folders).where(wanted).values(wanted_name=None))


async def deleted(tx: Transaction, operation: Operation, limit: int, now: Instant) -> list[str]:
    """The folder is gone. Ids of some copies that stood in it when it went, to be ended with it."""
    mine = (_F.id == operation.folder_id) & _F.gone_at.is_(None)
    await tx.conn.execute(update(folders).where(mine).values(gone_at=now))
    await tx.conn.execute(update(folders).where(_F.id == operation.folder_id).values(on_its_way=None))
    stood = (origins.c.folder_id == operation.folder_id) & origins.c.vanished_at.is_(None)
    query = select(origins.c.message_id).where(stood).distinct().order_by(origins.c.message_id).limit(limit)
    return list((await tx.conn.execute(query)).scalars())


async def leave(tx: Transaction, operation: Operation, message_ids: Sequence[str]) -> None:
    """These messages do not stand in it any more."""
    stood = (origins.c.folder_id == operation.folder_id) & among(origins.c.message_id, message_ids, sqlite=tx.sqlite)
    await tx.conn.execute(delete(origins).where(stood))
