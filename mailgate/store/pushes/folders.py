"""Folders that the server created, renamed or deleted as the CRM wished. What lies in a deleted one ends with it."""

from __future__ import annotations

from collections.abc import Sequence, Set

from sqlalchemy import ColumnElement, delete, exists, select, update

from mailgate.clock import Instant
from mailgate.store.folders import AnyRow
from mailgate.store.near_folders import renames
from mailgate.store.schema import folders, origins, tombstones
from mailgate.store.schema import operations as operations_table
from mailgate.store.sets import among
from mailgate.store.transaction import Transaction
from mailgate.sync.operations import Operation, OperationKind
from mailgate.sync.state import Owner

_F = folders.c
_O = operations_table.c


async def made(tx: Transaction, owner: Owner, operation: Operation, name: str, now: Instant) -> None:
    """The folder is there, and called so: where the account's own folders stand, if the CRM named it without that. Its
    attributes come with the next list.
    """
    mine = (_F.id == operation.folder_id) & (_F.on_its_way == "create")
    row = (await tx.conn.execute(select(_F.name, _F.wanted_name).where(mine))).one_or_none()
    if row is not None and row.name != name:
        await _make_room(tx, owner, operation, name)
        if name != row.wanted_name:
            payload = {"folder_id": operation.folder_id}
            tx.emit(owner.tenant_id, "folder.renamed", at=now, mailbox_id=owner.mailbox_id, payload=payload)
        await tx.conn.execute(update(folders).where(mine).values(name=name))
        await tx.conn.execute(update(folders).where(mine, unwished(operation)).values(wanted_name=None))
    await tx.conn.execute(update(folders).where(mine).values(on_its_way=None))


def unwished(operation: Operation) -> ColumnElement[bool]:
    """Folders of which no rename is on its way but this one: what is wanted, or was given up, is not wished again."""
    asked = exists().where(
        _O.folder_id == _F.id,
        _O.kind == OperationKind.FOLDER_RENAME.value,
        _O.finished_at.is_(None),
        _O.id != operation.id,
    )
    return ~asked


async def _make_room(tx: Transaction, owner: Owner, operation: Operation, name: str) -> None:
    """What went earlier and was called so is called otherwise."""
    gone = (_F.mailbox_id == owner.mailbox_id) & (_F.name == name) & _F.gone_at.is_not(None)
    await tx.conn.execute(update(folders).where(gone).values(name=f"{name[:900]} (renamed {operation.id})"))


async def renamed(tx: Transaction, owner: Owner, account_ref: bytes, operation: Operation) -> None:
    """The folder and those below it are called otherwise (RFC 9051 §6.3.6); so are the places of tombstones.

    A folder that was renamed on, from a name that the CRM gave to a new one then, has that name at the server for a
    while: the new ones, which the server does not have yet, keep out of its way and get their names when it has left.
    """
    mine = select(_F.name, _F.delimiter).where(_F.id == operation.folder_id)
    row = (await tx.conn.execute(mine)).one()
    old, new, delimiter = row.name, operation.detail["name"], row.delimiter
    asked = await _asked(tx, owner)
    later = {found.folder_id for found in asked if found.seq > operation.seq}
    query = select(_F.id, _F.name).where(_F.mailbox_id == owner.mailbox_id, _F.gone_at.is_(None))
    rows = [found for found in await tx.conn.execute(query.order_by(_F.name)) if found.id not in later]
    names = {
        found.id: (found.name, new + found.name[len(old) :]) for found in rows if _within(found.name, old, delimiter)
    }
    await _keep_out(tx, owner, [found for found in asked if _within(found.name, new, delimiter)], later)
    taken = {found.name for found in rows if found.id not in names}
    # Above those below it: what is moved up takes the name that its parent leaves.
    for folder_id, (before, after) in names.items():
        if after in taken:
            continue  # a list showed it under this name already, as another: the next one says that the old one is gone
        await _make_room(tx, owner, operation, after)
        await tx.conn.execute(update(folders).where(_F.id == folder_id).values(name=after))
        buried = (
            (tombstones.c.tenant_id == owner.tenant_id)
            & (tombstones.c.account_ref == account_ref)
            & (tombstones.c.folder == before)
        )
        await tx.conn.execute(update(tombstones).where(buried).values(folder=after))
    for found in asked:
        if found.folder_id in names and found.name == found.detail["name"]:
            detail = {**found.detail, "name": names[found.folder_id][1]}
            await tx.conn.execute(update(operations_table).where(_O.id == found.id).values(detail=detail))
    wanted = (_F.id == operation.folder_id) & (_F.wanted_name == new)
    await tx.conn.execute(update(folders).where(wanted, unwished(operation)).values(wanted_name=None))
    await _come_back(tx, owner, operation)


def _within(name: str, above: str, delimiter: str | None) -> bool:
    """Whether it is this folder's name, or of one below it."""
    return name == above or (bool(delimiter) and name.startswith(f"{above}{delimiter}"))


async def _asked(tx: Transaction, owner: Owner) -> Sequence[AnyRow]:
    """The new folders that the server does not have yet, each with what asks for it, in order. `detail` has its name;
    one whose row has another keeps out of the way.
    """
    query = (
        select(_O.id, _O.seq, _O.detail, _O.folder_id, _F.name, _F.delimiter)
        .join(folders, _F.id == _O.folder_id)
        .where(_O.mailbox_id == owner.mailbox_id, _O.finished_at.is_(None), _F.gone_at.is_(None))
        .where(_O.kind == OperationKind.FOLDER_CREATE.value, _F.on_its_way.is_not(None))
    )
    return (await tx.conn.execute(query.order_by(_O.seq))).all()


async def _keep_out(tx: Transaction, owner: Owner, within: Sequence[AnyRow], later: Set[str]) -> None:
    """The new ones among these are called otherwise meanwhile, but not on the near side."""
    near = await renames(tx.conn, [owner.mailbox_id])
    for found in within:
        if found.folder_id in later:
            values = {
                "name": f"{found.name[:900]} (not yet {found.id})",
                "wanted_name": near.name_of(found.folder_id, owner.mailbox_id, found.name),
            }
            await tx.conn.execute(update(folders).where(_F.id == found.folder_id).values(values))


async def _come_back(tx: Transaction, owner: Owner, operation: Operation) -> None:
    """New ones that kept out of the way have their names again, where no other has it, or is to leave one above."""
    asked = await _asked(tx, owner)
    out = [found for found in asked if found.name != found.detail["name"]]
    if not out:
        return
    query = select(_F.id, _F.name, _F.delimiter, _F.wanted_name)
    rows = (await tx.conn.execute(query.where(_F.mailbox_id == owner.mailbox_id, _F.gone_at.is_(None)))).all()
    new = {found.folder_id for found in asked}
    others = [row for row in rows if row.id not in new]
    for found in out:
        mine, name = _F.id == found.folder_id, found.detail["name"]
        if any(row.name == name or (row.wanted_name and _within(name, row.name, row.delimiter)) for row in others):
            continue
        await _make_room(tx, owner, operation, name)
        await tx.conn.execute(update(folders).where(mine).values(name=name))
        await tx.conn.execute(update(folders).where(mine, unwished(operation)).values(wanted_name=None))


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
