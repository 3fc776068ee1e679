"""What the CRM asks of folders: new ones, other names, and that they go.

The near side shows it at once: a new folder has a row (`on_its_way` is create), a renamed one its `wanted_name`, a
deleted one is hidden (`on_its_way` is delete). The server follows, in the order in which it was asked. A new
one may have the name of one that only holds others, and takes its row.

A folder goes when it is empty on both sides. With `permanent` what is in it is deleted for ever first, each message by
an operation of its own: so each is hidden, brought to the server and, when it refuses, back again, as any other.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from sqlalchemy import exists, func, insert, select, update

from connectors.model import Folder, Namespace, SpecialUse
from mailgate.actors import Actor
from mailgate.clock import Instant
from mailgate.errors import ConflictError, PreconditionError
from mailgate.ids import new_id
from mailgate.store import operations
from mailgate.store.database import Database
from mailgate.store.folders import AnyRow
from mailgate.store.listing import in_folder
from mailgate.store.near_folders import Renames, find_folder, renames
from mailgate.store.schema import folders, messages, origins
from mailgate.store.schema import operations as operations_table
from mailgate.store.sets import among
from mailgate.store.transaction import Transaction
from mailgate.store.wishes.locks import LockedMailbox, Locks
from mailgate.store.wishes.words import folder_name
from mailgate.sync.listing import NAME_LIMIT, Rules
from mailgate.sync.operations import OperationKind

DELETED_WITH_FOLDER = 5_000
"""Messages that a folder may hold when it is deleted with all that is in it."""

FOLDERS_MOST = 5_000
"""Folders that a client may bring a mailbox to."""

_F = folders.c
_M = messages.c


class FolderWishes:
    """The use cases. Each answers with the folder's id and its operation's, None when there is nothing to do."""

    def __init__(self, db: Database, locks: Locks) -> None:
        self._db = db
        self._locks = locks

    async def create(
        self, tenant_id: str, mailbox_id: str, name: str, now: Instant, actor: Actor
    ) -> tuple[str, str | None]:
        """A new folder. Raises NotFoundError, ConflictError (as any change; `folder_exists`, `too_many_folders`),
        PreconditionError `name_invalid`.
        """

        async def work(tx: Transaction) -> tuple[str, str | None]:
            mailbox = await self._locks.mailbox(tx, tenant_id, mailbox_id, now)
            mailbox.require_sync()
            return await _create(tx, mailbox, await _Known.read(tx, mailbox_id), name, None, now, actor)

        return await self._db.transact(work)

    async def rename(
        self, tenant_id: str, mailbox_id: str, folder_id: str, name: str, now: Instant, actor: Actor
    ) -> tuple[str, str | None]:
        """Another name; the folders below go along (RFC 9051 §6.3.6). Raises as `create` does, and ConflictError
        `folder_protected`.
        """

        async def work(tx: Transaction) -> tuple[str, str | None]:
            mailbox = await self._locks.mailbox(tx, tenant_id, mailbox_id, now)
            mailbox.require_sync()
            row = await find_folder(tx.conn, mailbox_id, folder_id, selectable=False)
            known = await _Known.read(tx, mailbox_id)
            wanted = known.full(folder_name(name, row.delimiter))
            old = known.name_of(row)
            if wanted == old:
                return folder_id, await _on_its_way(tx, mailbox_id, folder_id, OperationKind.FOLDER_RENAME)
            below = known.below(row)
            _protect(row, below, "renamed")
            if row.delimiter and wanted.startswith(old + row.delimiter):
                raise PreconditionError("a folder can't be moved below itself", slug="name_invalid")
            own_ids = {inner.id for inner in (row, *below)}
            for inner in (row, *below):
                await known.make_room(tx, wanted + known.name_of(inner)[len(old) :], own_ids, now)
            await tx.conn.execute(update(folders).where(_F.id == folder_id).values(wanted_name=wanted))
            _tell(tx, mailbox, "folder.renamed", folder_id, now)
            detail = {"name": wanted, "from": old}
            return folder_id, await _ask(tx, mailbox, OperationKind.FOLDER_RENAME, folder_id, detail, now, actor)

        return await self._db.transact(work)

    async def delete(
        self, tenant_id: str, mailbox_id: str, folder_id: str, *, permanent: bool, now: Instant, actor: Actor
    ) -> tuple[str, str | None]:
        """Delete a folder: an empty one, or with `permanent` one with its messages, for ever.

        Raises NotFoundError, ConflictError (as any change; `folder_protected`, `folder_not_empty`, `pinned`).
        """

        async def work(tx: Transaction) -> tuple[str, str | None]:
            mailbox = await self._locks.mailbox(tx, tenant_id, mailbox_id, now)
            mailbox.require_sync()
            row = await find_folder(tx.conn, mailbox_id, folder_id, selectable=False)
            below = (await _Known.read(tx, mailbox_id)).below(row)
            _protect(row, below, "deleted")
            if below:
                why = f"there are {len(below)} folders below this one; delete them first"
                raise ConflictError(why, slug="folder_not_empty", folders=len(below))
            inside = await self._lock_inside(tx, folder_id)
            exists_then = await _rest(tx, row)
            if (inside or exists_then) and not permanent:
                why = "there are messages in this folder; move them away, or delete them with it (permanent=true)"
                raise ConflictError(why, slug="folder_not_empty", exists=exists_then + len(inside))
            await self._delete_inside(tx, mailbox, folder_id, inside, now, actor)
            await tx.conn.execute(update(folders).where(_F.id == folder_id).values(on_its_way="delete"))
            _tell(tx, mailbox, "folder.deleted", folder_id, now)
            detail = {"name": row.wanted_name or row.name, "exists": exists_then}
            return folder_id, await _ask(tx, mailbox, OperationKind.FOLDER_DELETE, folder_id, detail, now, actor)

        return await self._db.transact(work)

    async def _lock_inside(self, tx: Transaction, folder_id: str) -> Sequence[AnyRow]:
        """The copies that the near side has in the folder, locked."""
        mailbox_id = select(folders.c.mailbox_id).where(folders.c.id == folder_id).scalar_subquery()
        inside = (_M.mailbox_id == mailbox_id, in_folder(folder_id), _M.deleted_at.is_(None))
        query = select(_M.id, _M.pins, _M.anchor_at).where(*inside).order_by(_M.id).limit(DELETED_WITH_FOLDER + 1)
        await tx.conn.execute(query.with_for_update(of=messages))
        return (await tx.conn.execute(query)).all()

    async def _delete_inside(
        self,
        tx: Transaction,
        mailbox: LockedMailbox,
        folder_id: str,
        inside: Sequence[AnyRow],
        now: Instant,
        actor: Actor,
    ) -> None:
        pinned = sum(row.pins > 0 for row in inside)
        if pinned:
            why = f"records refer to {pinned} messages in this folder; unpin them, or move them away first"
            raise ConflictError(why, slug="pinned", messages=pinned)
        if len(inside) > DELETED_WITH_FOLDER:
            why = f"more than {DELETED_WITH_FOLDER} messages are in this folder; delete or move some of them first"
            raise ConflictError(why, slug="folder_not_empty", exists=len(inside))
        ids = [row.id for row in inside]
        await tx.conn.execute(update(messages).where(among(_M.id, ids, sqlite=tx.sqlite)).values(deleted_at=now))
        for row in inside:
            ages = {"anchor_at": row.anchor_at}
            tx.emit(
                mailbox.tenant.id, "message.deleted", at=now, mailbox_id=mailbox.id, message_id=row.id, payload=ages
            )
        await operations.ask_to_delete(
            tx,
            tenant_id=mailbox.tenant.id,
            mailbox_id=mailbox.id,
            message_ids=ids,
            from_folder_id=folder_id,
            now=now,
            actor=actor,
        )


async def folder_for(tx: Transaction, mailbox_id: str, use: SpecialUse) -> str | None:
    """The folder with this use; None when there is none, or it is being deleted."""
    query = select(_F.id).where(
        _F.mailbox_id == mailbox_id,
        _F.special_use == use.value,
        _F.gone_at.is_(None),
        _F.selectable,
        _F.on_its_way.is_distinct_from("delete"),
    )
    found: str | None = (await tx.conn.execute(query.order_by(_F.name).limit(1))).scalar_one_or_none()
    return found


async def create_for(
    tx: Transaction, mailbox: LockedMailbox, use: SpecialUse, now: Instant, actor: Actor
) -> tuple[str, str | None]:
    """The folder for this use where none is marked as that: one of its usual name, or a new one and its operation's
    id.
    """
    known = await _Known.read(tx, mailbox.id)
    name = known.prefix() + use.value.title()
    for row in known.listed:
        if known.name_of(row).casefold() == name.casefold() and row.selectable and row.on_its_way != "delete":
            return str(row.id), None
    return await _create(tx, mailbox, known, name, use, now, actor)


class _Known:
    """The mailbox's folders that are listed, or on their way, and what the near side calls them."""

    def __init__(self, rows: Sequence[AnyRow], renamed: Renames) -> None:
        self._rows = rows
        self._renamed = renamed

    @classmethod
    async def read(cls, tx: Transaction, mailbox_id: str) -> _Known:
        """All of the mailbox."""
        query = select(folders).where(_F.mailbox_id == mailbox_id).order_by(_F.name)
        return cls((await tx.conn.execute(query)).all(), await renames(tx.conn, [mailbox_id]))

    @property
    def listed(self) -> Sequence[AnyRow]:
        """Those that are not gone."""
        return [row for row in self._rows if row.gone_at is None]

    def name_of(self, row: AnyRow) -> str:
        """What the near side calls it."""
        return self._renamed.name_of(row.id, row.mailbox_id, row.name)

    def below(self, row: AnyRow) -> list[AnyRow]:
        """The folders below it, on the near side."""
        if not row.delimiter:
            return []
        above = self.name_of(row) + row.delimiter
        return [
            inner for inner in self.listed if inner.on_its_way != "delete" and self.name_of(inner).startswith(above)
        ]

    def prefix(self) -> str:
        """What all names but INBOX begin with: some servers keep all folders below INBOX."""
        for row in self.listed:
            if row.special_use == SpecialUse.INBOX.value and row.delimiter:
                prefix = row.name + row.delimiter
                others = [other for other in self.listed if other.id != row.id]
                if others and all(other.name.startswith(prefix) for other in others):
                    return str(prefix)
        return ""

    def full(self, name: str) -> str:
        """The name with that, if it has been left out. Where there is only INBOX, the server is asked when the folder
        is made.
        """
        return Namespace(self.prefix(), self.delimiter()).full(name)

    def delimiter(self) -> str | None:
        """What separates the levels of names."""
        return next((str(row.delimiter) for row in self.listed if row.delimiter), None)

    def container(self, name: str) -> AnyRow | None:
        """What is called so and only holds others: such a name can become a folder (RFC 3501 §6.3.3)."""
        for row in self.listed:
            if not row.selectable and row.on_its_way is None and name == row.name == self.name_of(row):
                return row
        return None

    async def make_room(self, tx: Transaction, name: str, own_ids: Collection[str], now: Instant) -> None:
        """The name is free for one of these. Raises ConflictError `folder_exists` when another folder has it, here or
        at the server; one that went earlier and was called so makes room.
        """
        if len(name) > NAME_LIMIT:
            raise PreconditionError("the name of a folder below would be too long", slug="name_invalid")
        if name.upper() == "INBOX":
            raise ConflictError("INBOX is there, however it is written", slug="folder_exists")
        for row in self._rows:
            if row.id in own_ids or name not in (row.name, self.name_of(row)):
                continue
            if row.gone_at is None:
                state = ", which is being deleted" if row.on_its_way == "delete" else ""
                raise ConflictError(f"there is a folder {name!r}{state}", slug="folder_exists", folder_id=row.id)
            aside = f"{name[:NAME_LIMIT]} (gone {new_id(now)})"
            await tx.conn.execute(update(folders).where(_F.id == row.id).values(name=aside))


async def _create(
    tx: Transaction,
    mailbox: LockedMailbox,
    known: _Known,
    wanted: str,
    use: SpecialUse | None,
    now: Instant,
    actor: Actor,
) -> tuple[str, str]:
    delimiter = known.delimiter()
    name = known.full(folder_name(wanted, delimiter))
    if len(known.listed) >= FOLDERS_MOST:
        raise ConflictError(f"this mailbox has {len(known.listed)} folders already", slug="too_many_folders")
    container = known.container(name)
    if container is None:
        await known.make_room(tx, name, (), now)
    rules = mailbox.row.folder_rules or {}
    followed = Rules(tuple(rules.get("include") or ()), tuple(rules.get("exclude") or ())).follows(
        Folder(name, delimiter, frozenset(), use, selectable=True)
    )
    values = {
        "special_use": None if use is None else use.value,
        "selectable": True,
        "followed": followed,
        "on_its_way": "create",
    }
    if container is None:
        folder_id = new_id(now)
        values |= {"tenant_id": mailbox.tenant.id, "mailbox_id": mailbox.id, "name": name, "delimiter": delimiter}
        await tx.conn.execute(insert(folders).values(id=folder_id, **values))
    else:
        folder_id = container.id
        await tx.conn.execute(update(folders).where(_F.id == folder_id).values(values))
    _tell(tx, mailbox, "folder.created", folder_id, now)
    detail = {"name": name, "special_use": None if use is None else use.value}
    return folder_id, await _ask(tx, mailbox, OperationKind.FOLDER_CREATE, folder_id, detail, now, actor)


def _protect(row: AnyRow, below: Sequence[AnyRow], what: str) -> None:
    """Raise ConflictError `folder_protected` when the folder, or one below it, has a use of its own."""
    for protected in (row, *below):
        if protected.special_use is not None or protected.name.upper() == "INBOX":
            use = protected.special_use or SpecialUse.INBOX.value
            why = f"{protected.name!r} is the account's folder for {use}: it can't be {what}"
            raise ConflictError(why, slug="folder_protected", folder_id=protected.id)


async def _rest(tx: Transaction, row: AnyRow) -> int:
    """How many messages will be in the folder at the server once everything that was asked for was done: those that
    the gateway has no copies of, and those of which a user deleted the copy only.
    """
    here = (origins.c.folder_id == row.id) & origins.c.vanished_at.is_(None)
    going = exists().where(
        operations_table.c.message_id == _M.id,
        operations_table.c.finished_at.is_(None),
        operations_table.c.kind == OperationKind.DELETE.value,
    )
    standing = select(func.count()).select_from(origins).join(messages, _M.id == origins.c.message_id).where(here)
    copied = (await tx.conn.execute(standing)).scalar_one()
    left = (await tx.conn.execute(standing.where(_M.deleted_at.is_not(None), ~going))).scalar_one()
    return max(0, int(row.exists_count) - int(copied)) + int(left)


async def _on_its_way(tx: Transaction, mailbox_id: str, folder_id: str, kind: OperationKind) -> str | None:
    """The last operation of this kind about the folder that is not finished."""
    columns = operations_table.c
    query = (
        select(columns.id)
        .where(columns.mailbox_id == mailbox_id, columns.finished_at.is_(None))
        .where(columns.folder_id == folder_id, columns.kind == kind.value)
        .order_by(columns.seq.desc())
        .limit(1)
    )
    found: str | None = (await tx.conn.execute(query)).scalar_one_or_none()
    return found


def _tell(tx: Transaction, mailbox: LockedMailbox, type_: str, folder_id: str, now: Instant) -> None:
    tx.emit(mailbox.tenant.id, type_, at=now, mailbox_id=mailbox.id, payload={"folder_id": folder_id})


async def _ask(
    tx: Transaction,
    mailbox: LockedMailbox,
    kind: OperationKind,
    folder_id: str,
    detail: Mapping[str, Any],
    now: Instant,
    actor: Actor,
) -> str:
    return await operations.ask(
        tx,
        tenant_id=mailbox.tenant.id,
        mailbox_id=mailbox.id,
        kind=kind,
        now=now,
        actor=actor,
        folder_id=folder_id,
        detail=detail,
    )
