"""Folders and what is known of their messages: the list of folders, and the views of the sync engine.

Reads come in an order that makes a purge beside them harmless: originals first, tombstones after. A purge turns one
into the other in one transaction, so whatever happens in between, a purged message is never taken for an unknown one
(S2).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import replace
from typing import Any, TypeAlias

from sqlalchemy import BindParameter, Row, bindparam, case, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from connectors.model import Folder, SpecialUse
from mailgate.clock import Instant
from mailgate.ids import new_id
from mailgate.store import places
from mailgate.store.messages import chunks
from mailgate.store.quarantine import forget_folder
from mailgate.store.schema import folders, messages, origins, quarantine, tombstones
from mailgate.store.tombstones import purged_of
from mailgate.store.transaction import Transaction
from mailgate.sync.incoming import View
from mailgate.sync.state import FolderState, ListingChanges, Owner
from mailgate.sync.views import Base, Deleting, Moving, Near, Present, SetAside, Tombstoned

AnyRow: TypeAlias = Row[*tuple[Any, ...]]


def buried_at(tenant_id: Any, account_ref: Any, name: Any, uidvalidity: Any) -> Any:
    columns = tombstones.c
    return (
        (columns.tenant_id == tenant_id)
        & (columns.account_ref == account_ref)
        & (columns.folder == name)
        & (columns.uidvalidity == uidvalidity)
    )


def _aside_in(folder_id: Any, uidvalidity: Any) -> Any:
    """What is set aside there and has no copy."""
    columns = quarantine.c
    here = (columns.folder_id == folder_id) & (columns.uidvalidity == uidvalidity)
    return here & columns.message_id.is_(None)


# What is asked about each new message, made once: making a statement takes SQLAlchemy longer than carrying it out.
_UIDS: BindParameter[int] = bindparam("uids", expanding=True)
_HERE = (
    (origins.c.folder_id == bindparam("folder_id"))
    & (origins.c.uidvalidity == bindparam("uidvalidity"))
    & origins.c.uid.in_(_UIDS)
)
_GRAVES = buried_at(
    bindparam("tenant"), bindparam("account"), bindparam("folder"), bindparam("uidvalidity")
) & tombstones.c.uid.in_(_UIDS)
_VIEWS = (
    select(
        origins.c.uid,
        origins.c.flags,
        origins.c.labels,
        origins.c.vanished_at,
        messages.c.id,
        messages.c.moving_to,
        messages.c.deleted_at,
    )
    .join(messages, messages.c.id == origins.c.message_id)
    .where(_HERE)
)
_BURIED = select(
    tombstones.c.uid,
    tombstones.c.id,
    tombstones.c.message_id,
    tombstones.c.item_ref,
    tombstones.c.anchor_at,
    tombstones.c.reason,
).where(_GRAVES)
_ASIDE = select(quarantine.c.uid).where(
    _aside_in(bindparam("folder_id"), bindparam("uidvalidity")) & quarantine.c.uid.in_(_UIDS)
)
_LISTED = select(folders).where(
    folders.c.mailbox_id == bindparam("mailbox"),
    folders.c.gone_at.is_(None),
    folders.c.on_its_way.is_distinct_from("create"),
)
_KNOWN = select(origins.c.uid).where(_HERE).union_all(select(tombstones.c.uid).where(_GRAVES))


def _place(account_ref: bytes, tenant_id: str, folder: FolderState, uidvalidity: int) -> dict[str, Any]:
    """What all of these statements are about."""
    return {
        "folder_id": folder.id,
        "folder": folder.name,
        "uidvalidity": uidvalidity,
        "tenant": tenant_id,
        "account": account_ref,
    }


def state_of(row: AnyRow) -> FolderState:
    """A row of `folders`."""
    return FolderState(
        id=row.id,
        name=row.name,
        special_use=None if row.special_use is None else SpecialUse(row.special_use),
        selectable=row.selectable,
        followed=row.followed,
        uidvalidity=row.uidvalidity,
        uidnext=row.uidnext,
        highestmodseq=row.highestmodseq,
        exists=row.exists_count,
        delimiter=row.delimiter,
        last_error=row.last_error,
        unreadable_at=row.unreadable_at,
        progress_done=row.progress_done,
        progress_total=row.progress_total,
        object_id=row.object_id,
    )


async def listed(conn: AsyncConnection, mailbox_id: str) -> list[FolderState]:
    """The folders that the server lists, INBOX first, then by name. One that the CRM created and the server did not yet
    is none of them.
    """
    found = [state_of(row) for row in await conn.execute(_LISTED, {"mailbox": mailbox_id})]
    return sorted(found, key=lambda folder: (folder.special_use is not SpecialUse.INBOX, folder.name))


async def views(
    conn: AsyncConnection,
    account_ref: bytes,
    tenant_id: str,
    folder: FolderState,
    uidvalidity: int,
    uids: Sequence[int],
) -> dict[int, View]:
    """What is known of these UIDs."""
    found: dict[int, View] = {}
    place = _place(account_ref, tenant_id, folder, uidvalidity)
    for chunk in chunks(uids):
        for row in await conn.execute(_VIEWS, {**place, "uids": chunk}):
            labels = None if row.labels is None else frozenset(row.labels)
            found[row.uid] = View(Base(frozenset(row.flags), row.vanished_at is not None, labels), near_of(row))
        rest = [uid for uid in chunk if uid not in found]
        if not rest:
            continue
        for grave in await conn.execute(_BURIED, {**place, "uids": rest}):
            found[grave.uid] = View(None, Tombstoned(grave.id, purged=purged_of(grave)))
        for row in await conn.execute(_ASIDE, {**place, "uids": rest}):
            found.setdefault(row.uid, View(None, SetAside()))
    return found


def near_of(row: AnyRow) -> Near:
    """The near side of a copy that has, or had, an original. The row: id, moving_to, deleted_at."""
    if row.deleted_at is not None:
        return Deleting(row.id)
    return Present(row.id) if row.moving_to is None else Moving(row.id, row.moving_to)


async def standing(conn: AsyncConnection, folder_id: str, uidvalidity: int, above: int, limit: int) -> list[int]:
    """UIDs above that of copies believed to stand in the folder, ascending."""
    here = (origins.c.folder_id == folder_id) & (origins.c.uidvalidity == uidvalidity) & (origins.c.uid > above)
    query = select(origins.c.uid).where(here, origins.c.vanished_at.is_(None)).order_by(origins.c.uid).limit(limit)
    return list((await conn.execute(query)).scalars())


async def marked(
    conn: AsyncConnection, account_ref: bytes, tenant_id: str, folder: FolderState, uidvalidity: int
) -> list[int]:
    """UIDs of tombstones whose original may stand, and of messages set aside, ascending."""
    at = buried_at(tenant_id, account_ref, folder.name, uidvalidity)
    found = set((await conn.execute(select(tombstones.c.uid).where(at, tombstones.c.gone_at.is_(None)))).scalars())
    aside = select(quarantine.c.uid).where(_aside_in(folder.id, uidvalidity))
    found.update((await conn.execute(aside)).scalars())
    return sorted(found)


async def known_among(
    tx: Transaction, account_ref: bytes, owner: Owner, folder: FolderState, uidvalidity: int, uids: Sequence[int]
) -> set[int]:
    """Which of these UIDs have a copy or a tombstone by now."""
    found: set[int] = set()
    place = _place(account_ref, owner.tenant_id, folder, uidvalidity)
    for chunk in chunks(uids):
        # One statement, one snapshot: a purge that turns one into the other is seen as before it or as after it.
        found.update((await tx.conn.execute(_KNOWN, {**place, "uids": chunk})).scalars())
    return found


async def save_listing(
    tx: Transaction, owner: Owner, account_ref: bytes, changes: ListingChanges, now: Instant
) -> None:
    """Write what changed in the list of folders, with an event each."""

    def tell(type_: str, folder_id: str) -> None:
        tx.emit(owner.tenant_id, type_, at=now, mailbox_id=owner.mailbox_id, payload={"folder_id": folder_id})

    # Those that swap their names make room for each other first, with what is buried in them.
    swapped = await _names(tx, set(changes.renamed), {folder.name for folder in changes.renamed.values()})
    for folder_id, name in swapped.items():
        await _rename(tx, owner, account_ref, folder_id, {"name": f"(renamed {folder_id})"}, name)
    for folder_id, folder in changes.renamed.items():
        # A folder of that name that went: its row makes room, its originals vanished with it.
        await _rename_away(tx, owner, account_ref, folder.name, now)
        # Whoever renamed it: a name that the CRM wanted and it has now is no wish any more.
        wanted = case((folders.c.wanted_name == folder.name, None), else_=folders.c.wanted_name)
        old = (await tx.conn.execute(select(folders.c.name).where(folders.c.id == folder_id))).scalar_one()
        await _rename(tx, owner, account_ref, folder_id, {**_listed_values(folder), "wanted_name": wanted}, old)
        tell("folder.renamed", folder_id)
    stood = await _standing(tx, owner, [folder.name for folder, _ in changes.created])
    rows: list[dict[str, Any]] = []
    for folder, followed in changes.created:
        revived = stood.get(folder.name)
        if revived is not None and revived.on_its_way == "create" and not folder.selectable:
            continue  # it only holds others still: the CRM asked for it to become a folder
        folder_id = new_id(now) if revived is None else revived.id
        # A folder that comes back is read as if for the first time: what vanished with it may have come back too.
        values = {
            **_listed_values(folder),
            "followed": followed,
            "gone_at": None,
            "on_its_way": None,
            "uidnext": None,
            "highestmodseq": None,
        }
        if revived is None:
            rows.append(values | {"id": folder_id, "tenant_id": owner.tenant_id, "mailbox_id": owner.mailbox_id})
        else:
            await tx.conn.execute(update(folders).where(folders.c.id == folder_id).values(values))
            # What vanished with it is shown in it again, until it is known where it is.
            inside = origins.c.folder_id == folder_id
            await places.tell(tx, owner.tenant_id, owner.mailbox_id, inside, now, moving=True)
        if revived is None or revived.on_its_way != "create":  # the CRM has it already
            tell("folder.created", folder_id)
    if rows:
        await tx.conn.execute(insert(folders), rows)
    for folder_id, (folder, followed) in changes.updated.items():
        await tx.conn.execute(
            update(folders).where(folders.c.id == folder_id).values({**_listed_values(folder), "followed": followed})
        )
    for folder_id in changes.gone:
        await tx.conn.execute(update(folders).where(folders.c.id == folder_id).values(gone_at=now))
        inside = origins.c.folder_id == folder_id
        await tx.conn.execute(update(origins).where(inside, origins.c.vanished_at.is_(None)).values(vanished_at=now))
        await places.tell(tx, owner.tenant_id, owner.mailbox_id, inside, now, moving=True)
        await forget_folder(tx, folder_id)
        tell("folder.deleted", folder_id)


async def distrust(tx: Transaction, owner: Owner, account_ref: bytes, folder: FolderState, now: Instant) -> FolderState:
    """What is known by UID gets a UIDVALIDITY that no server has: it is recognised by content, or has vanished."""
    void, uidvalidity = -now, folder.uidvalidity or 0
    for table in (origins, quarantine):
        mine = (table.c.folder_id == folder.id) & (table.c.uidvalidity == uidvalidity)
        await tx.conn.execute(update(table).where(mine).values(uidvalidity=void))
    graves = buried_at(owner.tenant_id, account_ref, folder.name, uidvalidity)
    await tx.conn.execute(update(tombstones).where(graves).values(uidvalidity=void))
    await tx.conn.execute(update(folders).where(folders.c.id == folder.id).values(uidvalidity=void))
    return replace(folder, uidvalidity=void)


async def _standing(tx: Transaction, owner: Owner, names: Sequence[str]) -> dict[str, AnyRow]:
    """Rows that have these names: of folders that went, or that the CRM asked for."""
    found: dict[str, AnyRow] = {}
    columns = folders.c
    for chunk in chunks(names):
        query = select(columns.id, columns.name, columns.on_its_way).where(
            columns.mailbox_id == owner.mailbox_id, columns.name.in_(chunk)
        )
        found.update((row.name, row) for row in await tx.conn.execute(query))
    return found


async def _names(tx: Transaction, folder_ids: Set[str], among: Set[str]) -> dict[str, str]:
    """Those of the folders that have one of these names, by id."""
    found: dict[str, str] = {}
    for chunk in chunks(sorted(folder_ids)):
        rows = await tx.conn.execute(select(folders.c.id, folders.c.name).where(folders.c.id.in_(chunk)))
        found.update((row.id, row.name) for row in rows if row.name in among)
    return found


async def _rename(
    tx: Transaction, owner: Owner, account_ref: bytes, folder_id: str, values: Mapping[str, Any], old: str
) -> None:
    """The folder, and the places of the tombstones in it, which know it by name."""
    await tx.conn.execute(update(folders).where(folders.c.id == folder_id).values(values))
    buried = (tombstones.c.tenant_id == owner.tenant_id) & (tombstones.c.account_ref == account_ref)
    await tx.conn.execute(update(tombstones).where(buried, tombstones.c.folder == old).values(folder=values["name"]))


async def _rename_away(tx: Transaction, owner: Owner, account_ref: bytes, name: str, now: Instant) -> None:
    gone = select(folders.c.id).where(folders.c.mailbox_id == owner.mailbox_id, folders.c.name == name)
    for folder_id in (await tx.conn.execute(gone)).scalars().all():
        values = {"name": f"{name[:900]} (gone {new_id(now)})"}
        await _rename(tx, owner, account_ref, folder_id, values, name)


def _listed_values(folder: Folder) -> dict[str, Any]:
    return {
        "name": folder.name,
        "delimiter": folder.delimiter,
        "special_use": None if folder.special_use is None else str(folder.special_use),
        "selectable": folder.selectable,
    }
