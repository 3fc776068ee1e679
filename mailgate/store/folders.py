"""Folders as the sync engine reads and writes them: views of their messages, what a pass did, the list of folders.

Reads come in an order that makes a purge beside them harmless: originals first, tombstones after. A purge turns one
into the other in one transaction, so whatever happens in between, a purged message is never taken for an unknown one
(S2).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

from sqlalchemy import Row, bindparam, delete, exists, insert, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from connectors.model import Folder, SpecialUse
from mailgate.clock import Instant
from mailgate.ids import new_id
from mailgate.store.expiry import COPY_COLUMNS, Horizon
from mailgate.store.messages import chunks
from mailgate.store.schema import folders, messages, origins, quarantine, tombstones
from mailgate.store.transaction import Transaction
from mailgate.sync.identity import Likeness
from mailgate.sync.port import Applied, Aside, Batch, FolderState, Known, ListingChanges, Owner, View
from mailgate.sync.reconcile import (
    Action,
    Base,
    Detached,
    Forget,
    Link,
    MarkGone,
    Merge,
    Present,
    Pull,
    Reappear,
    Rebury,
    SetAside,
    Tombstoned,
    Vanish,
)

AnyRow: TypeAlias = Row[*tuple[Any, ...]]


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
    )


async def listed(conn: AsyncConnection, mailbox_id: str) -> list[FolderState]:
    """The folders that the server lists, INBOX first, then by name."""
    query = select(folders).where(folders.c.mailbox_id == mailbox_id, folders.c.gone_at.is_(None))
    found = [state_of(row) for row in await conn.execute(query)]
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
    for chunk in chunks(uids):
        here = (origins.c.folder_id == folder.id) & (origins.c.uidvalidity == uidvalidity) & origins.c.uid.in_(chunk)
        query = (
            select(
                origins.c.uid,
                origins.c.flags.label("base_flags"),
                origins.c.vanished_at,
                messages.c.id,
                messages.c.flags.label("near_flags"),
            )
            .join(messages, messages.c.id == origins.c.message_id)
            .where(here)
        )
        for row in await conn.execute(query):
            base = Base(frozenset(row.base_flags), row.vanished_at is not None)
            found[row.uid] = View(base, Present(row.id, frozenset(row.near_flags)))
        rest = [uid for uid in chunk if uid not in found]
        if not rest:
            continue
        at = _buried_at(tenant_id, account_ref, folder.name, uidvalidity) & tombstones.c.uid.in_(rest)
        for grave in await conn.execute(select(tombstones.c.uid, tombstones.c.id).where(at)):
            found[grave.uid] = View(None, Tombstoned(grave.id))
        aside = (quarantine.c.folder_id == folder.id) & (quarantine.c.uidvalidity == uidvalidity)
        for row in await conn.execute(select(quarantine.c.uid).where(aside & quarantine.c.uid.in_(rest))):
            found.setdefault(row.uid, View(None, SetAside()))
    return found


async def standing(conn: AsyncConnection, folder_id: str, uidvalidity: int) -> list[int]:
    """UIDs of copies believed to stand in the folder, ascending."""
    query = (
        select(origins.c.uid)
        .where(origins.c.folder_id == folder_id, origins.c.uidvalidity == uidvalidity, origins.c.vanished_at.is_(None))
        .order_by(origins.c.uid)
    )
    return list((await conn.execute(query)).scalars())


async def marked(
    conn: AsyncConnection, account_ref: bytes, tenant_id: str, folder: FolderState, uidvalidity: int
) -> list[int]:
    """UIDs of tombstones whose original may stand, and of messages set aside, ascending."""
    at = _buried_at(tenant_id, account_ref, folder.name, uidvalidity)
    found = set((await conn.execute(select(tombstones.c.uid).where(at, tombstones.c.gone_at.is_(None)))).scalars())
    aside = select(quarantine.c.uid).where(quarantine.c.folder_id == folder.id, quarantine.c.uidvalidity == uidvalidity)
    found.update((await conn.execute(aside)).scalars())
    return sorted(found)


def _buried_at(tenant_id: str, account_ref: bytes, name: str, uidvalidity: int) -> Any:
    columns = tombstones.c
    return (
        (columns.tenant_id == tenant_id)
        & (columns.account_ref == account_ref)
        & (columns.folder == name)
        & (columns.uidvalidity == uidvalidity)
    )


async def has_free(
    conn: AsyncConnection, account_ref: bytes, tenant_id: str, mailbox_id: str, folder: FolderState, uidvalidity: int
) -> bool:
    """Whether anything of the mailbox waits to be recognised in this folder."""
    waiting = select(origins.c.uid).where(origins.c.mailbox_id == mailbox_id, origins.c.vanished_at.is_not(None))
    if (await conn.execute(waiting.limit(1))).first() is not None:
        return True
    renumbered = select(origins.c.uid).where(origins.c.folder_id == folder.id, origins.c.uidvalidity != uidvalidity)
    if (await conn.execute(renumbered.limit(1))).first() is not None:
        return True
    detached = select(messages.c.id).where(
        messages.c.mailbox_id == mailbox_id, ~exists().where(origins.c.message_id == messages.c.id)
    )
    if (await conn.execute(detached.limit(1))).first() is not None:
        return True
    stale = select(tombstones.c.id).where(
        tombstones.c.tenant_id == tenant_id,
        tombstones.c.account_ref == account_ref,
        or_(
            tombstones.c.gone_at.is_not(None),
            tombstones.c.folder.is_(None),
            (tombstones.c.folder == folder.name) & (tombstones.c.uidvalidity != uidvalidity),
            ~_stands_as(mailbox_id),
        ),
    )
    return (await conn.execute(stale.limit(1))).first() is not None


def _stands_as(mailbox_id: str) -> Any:
    """Whether a tombstone's address is valid: its folder is listed and has the same UIDVALIDITY (or none known yet)."""
    return exists().where(
        folders.c.mailbox_id == mailbox_id,
        folders.c.name == tombstones.c.folder,
        folders.c.gone_at.is_(None),
        or_(folders.c.uidvalidity == tombstones.c.uidvalidity, folders.c.uidvalidity.is_(None)),
    )


async def recognisable(
    conn: AsyncConnection,
    account_ref: bytes,
    tenant_id: str,
    mailbox_id: str,
    folder: FolderState,
    uidvalidity: int,
    tokens: Iterable[bytes],
) -> list[Known]:
    """Copies of the mailbox and tombstones of its account with these header tokens, the waiting ones first."""
    wanted = sorted(set(tokens))
    copies: dict[str, AnyRow] = {}
    addresses: dict[str, list[AnyRow]] = {}
    buried: list[AnyRow] = []
    for chunk in chunks(wanted):
        query = (
            select(
                messages.c.id,
                messages.c.header_token,
                messages.c.size,
                messages.c.internal_date_at,
                messages.c.flags,
                origins.c.folder_id,
                origins.c.uidvalidity,
                origins.c.vanished_at,
            )
            .join(origins, origins.c.message_id == messages.c.id, isouter=True)
            .where(messages.c.mailbox_id == mailbox_id, messages.c.header_token.in_(chunk))
        )
        for row in await conn.execute(query):
            copies[row.id] = row
            if row.folder_id is not None:
                addresses.setdefault(row.id, []).append(row)
        query_buried = select(
            tombstones.c.id,
            tombstones.c.header_token,
            tombstones.c.folder,
            tombstones.c.uidvalidity,
            tombstones.c.gone_at,
        ).where(
            tombstones.c.tenant_id == tenant_id,
            tombstones.c.account_ref == account_ref,
            tombstones.c.header_token.in_(chunk),
        )
        buried.extend((await conn.execute(query_buried)).all())
    if not copies and not buried:
        return []
    current = {state.name: state for state in await listed(conn, mailbox_id)}
    known = [_known_copy(row, addresses.get(row.id, []), folder, uidvalidity) for row in copies.values()]
    known += [_known_tombstone(row, current, folder, uidvalidity) for row in buried]
    return sorted(known, key=lambda item: (not item.free, isinstance(item.near, Tombstoned), item.key))


def _known_copy(row: AnyRow, addresses: list[AnyRow], folder: FolderState, uidvalidity: int) -> Known:
    stands = [
        at
        for at in addresses
        if at.vanished_at is None and not (at.folder_id == folder.id and at.uidvalidity != uidvalidity)
    ]
    flags = frozenset(row.flags)
    near = Present(row.id, flags) if addresses else Detached(row.id, flags)
    likeness = Likeness(row.header_token, row.size, row.internal_date_at)
    return Known(near, row.id, likeness, not stands, tuple(sorted({at.folder_id for at in stands})))


def _known_tombstone(row: AnyRow, current: dict[str, FolderState], folder: FolderState, uidvalidity: int) -> Known:
    at = current.get(row.folder) if row.folder is not None else None
    if at is None:
        valid = False
    elif at.id == folder.id:
        valid = row.uidvalidity == uidvalidity
    else:
        valid = at.uidvalidity is None or at.uidvalidity == row.uidvalidity
    free = row.gone_at is not None or not valid
    places = () if free or at is None else (at.id,)
    return Known(Tombstoned(row.id, elsewhere=True), row.id, Likeness(row.header_token), free, places)


async def sample(conn: AsyncConnection, folder_id: str, uidvalidity: int, limit: int) -> dict[int, bytes]:
    """Header tokens of a few copies that stand in the folder, newest first."""
    query = (
        select(origins.c.uid, messages.c.header_token)
        .join(messages, messages.c.id == origins.c.message_id)
        .where(origins.c.folder_id == folder_id, origins.c.uidvalidity == uidvalidity, origins.c.vanished_at.is_(None))
        .order_by(origins.c.uid.desc())
        .limit(limit)
    )
    return {row.uid: row.header_token for row in await conn.execute(query)}


async def apply_actions(tx: Transaction, owner: Owner, batch: Batch, horizon: Horizon) -> Applied:
    """Write what a pass decided. Copies that a purge took meanwhile are skipped: their rows are read under lock."""
    by_kind: dict[type[Action], list[Any]] = {}
    for action in batch.actions:
        by_kind.setdefault(type(action), []).append(action)
    linked: list[Link] = by_kind.get(Link, [])
    merged: list[Merge] = by_kind.get(Merge, [])
    touched: list[Link | Merge] = [*linked, *merged]
    alive = await _lock(tx, sorted({action.message_id for action in touched}))
    mailbox_of = dict.fromkeys(alive, owner.mailbox_id)
    holding = await horizon.holds.count(tx.conn, mailbox_of, sqlite=tx.sqlite)
    changes = _Changes(tx, owner, batch, horizon, alive, holding)
    await changes.link([action for action in linked if action.message_id in alive])
    await changes.merge([action for action in merged if action.message_id in alive])
    vanished = [action.uid for action in by_kind.get(Vanish, [])]
    await _set_vanished(tx, batch, vanished, batch.now)
    await _set_vanished(tx, batch, [action.uid for action in by_kind.get(Reappear, [])], None)
    await _forget_aside(tx, batch, [action.uid for action in by_kind.get(Forget, [])])
    for action in by_kind.get(Rebury, []):
        values = {"folder": batch.folder.name, "uidvalidity": batch.uidvalidity, "uid": action.uid, "gone_at": None}
        await tx.conn.execute(update(tombstones).where(tombstones.c.id == action.tombstone_id).values(values))
    for ids in chunks([action.tombstone_id for action in by_kind.get(MarkGone, [])]):
        await tx.conn.execute(update(tombstones).where(tombstones.c.id.in_(ids)).values(gone_at=batch.now))
    if by_kind.get(Pull):
        raise ValueError("a pull is no change to write: its message is")
    return Applied(changed=len(linked) + len(merged), vanished=len(vanished))


async def _lock(tx: Transaction, ids: Sequence[str]) -> dict[str, AnyRow]:
    rows: dict[str, AnyRow] = {}
    columns = messages.c
    for chunk in chunks(ids):
        await tx.conn.execute(select(columns.id).where(columns.id.in_(chunk)).order_by(columns.id).with_for_update())
        query = select(*COPY_COLUMNS, columns.flags)
        for row in await tx.conn.execute(query.where(columns.id.in_(chunk))):
            rows[row.id] = row
    return rows


class _Changes:
    """Links and merges of one transaction."""

    def __init__(
        self,
        tx: Transaction,
        owner: Owner,
        batch: Batch,
        horizon: Horizon,
        alive: dict[str, AnyRow],
        holding: Mapping[str, int],
    ) -> None:
        self._tx = tx
        self._owner = owner
        self._batch = batch
        self._horizon = horizon
        self._alive = alive
        self._holding = holding

    async def merge(self, actions: Sequence[Merge]) -> None:
        """Base and near flags become what the actions say."""
        if not actions:
            return
        batch = self._batch
        statement = (
            update(origins)
            .where(
                origins.c.folder_id == batch.folder.id,
                origins.c.uidvalidity == batch.uidvalidity,
                origins.c.uid == bindparam("b_uid"),
            )
            .values(flags=bindparam("b_flags"))
        )
        await self._tx.conn.execute(
            statement, [{"b_uid": action.uid, "b_flags": sorted(action.base_flags)} for action in actions]
        )
        await self._set_flags(actions)
        for action in actions:
            self._emit("message.updated", action.message_id, {})

    async def link(self, actions: Sequence[Link]) -> None:
        """The copies stand at new addresses; the void ones go."""
        for action in actions:
            await self._link(action)
        await self._set_flags(actions)

    async def _link(self, action: Link) -> None:
        batch, conn = self._batch, self._tx.conn
        mine = origins.c.message_id == action.message_id
        void = or_(
            origins.c.vanished_at.is_not(None),
            (origins.c.folder_id == batch.folder.id) & (origins.c.uidvalidity != batch.uidvalidity),
        )
        before = (await conn.execute(select(origins.c.folder_id).where(mine, void))).scalars().all()
        await conn.execute(delete(origins).where(mine, void))
        statement = self._tx.insert(origins).values(
            folder_id=batch.folder.id,
            uid=action.uid,
            uidvalidity=batch.uidvalidity,
            tenant_id=self._owner.tenant_id,
            mailbox_id=self._owner.mailbox_id,
            message_id=action.message_id,
            flags=sorted(action.base_flags),
        )
        await conn.execute(statement.on_conflict_do_nothing())
        if not before:
            self._emit("message.updated", action.message_id, {"origin_present": True})
        elif batch.folder.id not in before:
            self._emit(
                "message.moved",
                action.message_id,
                {"from_folder_id": before[0], "folder_id": batch.folder.id},
            )
        elif sorted(action.near_flags) != self._alive[action.message_id].flags:
            self._emit("message.updated", action.message_id, {})

    async def _set_flags(self, actions: Sequence[Merge] | Sequence[Link]) -> None:
        if not actions:
            return
        statement = (
            update(messages)
            .where(messages.c.id == bindparam("b_id"))
            .values(flags=bindparam("b_flags"), seen=bindparam("b_seen"), flagged=bindparam("b_flagged"))
        )
        rows = [
            {
                "b_id": action.message_id,
                "b_flags": sorted(action.near_flags),
                "b_seen": "\\Seen" in action.near_flags,
                "b_flagged": "\\Flagged" in action.near_flags,
            }
            for action in actions
        ]
        await self._tx.conn.execute(statement, rows)

    def _emit(self, type_: str, message_id: str, payload: dict[str, Any]) -> None:
        row = self._alive[message_id]
        expires_at = self._horizon.expires_at(row, self._holding.get(message_id, 0))
        self._tx.emit(
            self._owner.tenant_id,
            type_,
            at=self._batch.now,
            mailbox_id=self._owner.mailbox_id,
            message_id=message_id,
            payload={"anchor_at": row.anchor_at, "expires_at": expires_at, **payload},
        )


async def _set_vanished(tx: Transaction, batch: Batch, uids: Sequence[int], at: Instant | None) -> None:
    for chunk in chunks(uids):
        here = (
            (origins.c.folder_id == batch.folder.id)
            & (origins.c.uidvalidity == batch.uidvalidity)
            & origins.c.uid.in_(chunk)
        )
        if at is not None:
            here &= origins.c.vanished_at.is_(None)
        await tx.conn.execute(update(origins).where(here).values(vanished_at=at))


async def vanish_renumbered(tx: Transaction, folder_id: str, uidvalidity: int, now: Instant) -> None:
    """After a UIDVALIDITY change was worked through: what was not recognised under the new one has vanished."""
    left = (origins.c.folder_id == folder_id) & (origins.c.uidvalidity != uidvalidity) & origins.c.vanished_at.is_(None)
    await tx.conn.execute(update(origins).where(left).values(vanished_at=now))


async def _forget_aside(tx: Transaction, batch: Batch, uids: Sequence[int]) -> None:
    for chunk in chunks(uids):
        await tx.conn.execute(
            delete(quarantine).where(
                quarantine.c.folder_id == batch.folder.id,
                quarantine.c.uidvalidity == batch.uidvalidity,
                quarantine.c.uid.in_(chunk),
            )
        )


async def set_aside(tx: Transaction, owner: Owner, batch: Batch, items: Sequence[Aside]) -> None:
    """Put messages into quarantine, or count another attempt."""
    for item in items:
        statement = tx.insert(quarantine).values(
            id=new_id(batch.now),
            tenant_id=owner.tenant_id,
            mailbox_id=owner.mailbox_id,
            folder_id=batch.folder.id,
            uidvalidity=batch.uidvalidity,
            uid=item.uid,
            reason=item.reason[:500],
            attempts=1,
            first_seen_at=batch.now,
            last_seen_at=batch.now,
        )
        await tx.conn.execute(
            statement.on_conflict_do_update(
                index_elements=[quarantine.c.folder_id, quarantine.c.uidvalidity, quarantine.c.uid],
                set_={
                    "reason": statement.excluded.reason,
                    "attempts": quarantine.c.attempts + 1,
                    "last_seen_at": batch.now,
                },
            )
        )


async def known_among(
    tx: Transaction, account_ref: bytes, owner: Owner, folder: FolderState, uidvalidity: int, uids: Sequence[int]
) -> set[int]:
    """Which of these UIDs have a copy or a tombstone by now."""
    found: set[int] = set()
    for chunk in chunks(uids):
        here = (origins.c.folder_id == folder.id) & (origins.c.uidvalidity == uidvalidity) & origins.c.uid.in_(chunk)
        found.update((await tx.conn.execute(select(origins.c.uid).where(here))).scalars())
        at = _buried_at(owner.tenant_id, account_ref, folder.name, uidvalidity) & tombstones.c.uid.in_(chunk)
        found.update((await tx.conn.execute(select(tombstones.c.uid).where(at))).scalars())
    return found


async def save_listing(
    tx: Transaction, owner: Owner, account_ref: bytes, changes: ListingChanges, now: Instant
) -> None:
    """Write what changed in the list of folders, with an event each."""

    def tell(type_: str, folder_id: str) -> None:
        tx.emit(owner.tenant_id, type_, at=now, mailbox_id=owner.mailbox_id, payload={"folder_id": folder_id})

    mine = folders.c.mailbox_id == owner.mailbox_id
    for folder_id, folder in changes.renamed.items():
        old = (await tx.conn.execute(select(folders.c.name).where(folders.c.id == folder_id))).scalar_one()
        # A folder of that name that went earlier: its row makes room, its originals vanished with it.
        await _rename_away(tx, owner, folder.name, now)
        await tx.conn.execute(update(folders).where(folders.c.id == folder_id).values(_listed_values(folder)))
        await tx.conn.execute(
            update(tombstones)
            .where(
                tombstones.c.tenant_id == owner.tenant_id,
                tombstones.c.account_ref == account_ref,
                tombstones.c.folder == old,
            )
            .values(folder=folder.name)
        )
        tell("folder.renamed", folder_id)
    for folder, followed in changes.created:
        revived = (
            await tx.conn.execute(select(folders.c.id).where(mine, folders.c.name == folder.name))
        ).scalar_one_or_none()
        folder_id = revived or new_id(now)
        # A folder that comes back is read as if for the first time: what vanished with it may have come back too.
        values = {
            **_listed_values(folder),
            "followed": followed,
            "gone_at": None,
            "uidnext": None,
            "highestmodseq": None,
        }
        if revived is None:
            values |= {"id": folder_id, "tenant_id": owner.tenant_id, "mailbox_id": owner.mailbox_id}
            await tx.conn.execute(insert(folders).values(values))
        else:
            await tx.conn.execute(update(folders).where(folders.c.id == revived).values(values))
        tell("folder.created", folder_id)
    for folder_id, (folder, followed) in changes.updated.items():
        await tx.conn.execute(
            update(folders).where(folders.c.id == folder_id).values({**_listed_values(folder), "followed": followed})
        )
    for folder_id in changes.gone:
        await tx.conn.execute(update(folders).where(folders.c.id == folder_id).values(gone_at=now))
        left = (origins.c.folder_id == folder_id) & origins.c.vanished_at.is_(None)
        await tx.conn.execute(update(origins).where(left).values(vanished_at=now))
        tell("folder.deleted", folder_id)


async def _rename_away(tx: Transaction, owner: Owner, name: str, now: Instant) -> None:
    gone = (folders.c.mailbox_id == owner.mailbox_id) & (folders.c.name == name)
    await tx.conn.execute(update(folders).where(gone).values(name=f"{name[:900]} (gone {new_id(now)})"))


def _listed_values(folder: Folder) -> dict[str, Any]:
    return {
        "name": folder.name,
        "delimiter": folder.delimiter,
        "special_use": None if folder.special_use is None else str(folder.special_use),
        "selectable": folder.selectable,
    }
