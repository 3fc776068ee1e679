"""Writing what a pass over a folder decided: addresses, flags, disappearances, quarantine.

What a purge took meanwhile is skipped: every copy that an action names is locked and read anew first.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sqlalchemy import ColumnElement, bindparam, delete, null, or_, select, update

from mailgate.clock import Instant
from mailgate.store import places
from mailgate.store.expiry import COPY_COLUMNS, Horizon
from mailgate.store.folders import AnyRow
from mailgate.store.messages import chunks
from mailgate.store.quarantine import resolve
from mailgate.store.schema import folders, messages, operations, origins, tombstones
from mailgate.store.transaction import Transaction
from mailgate.sync.actions import Action, Forget, Link, MarkGone, Merge, Pull, Reappear, Rebury, Vanish
from mailgate.sync.incoming import Applied, Batch
from mailgate.sync.operations import OperationKind
from mailgate.sync.state import UNSURE, Owner
from mailgate.sync.views import wished


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
    changes = _Changes(tx, owner, batch, horizon, alive, holding, await _wishes(tx, alive))
    await changes.link([action for action in linked if action.message_id in alive])
    await changes.merge([action for action in merged if action.message_id in alive])
    vanished = [action.uid for action in by_kind.get(Vanish, [])]
    reappeared = [action.uid for action in by_kind.get(Reappear, [])]
    await _set_vanished(tx, batch, vanished, batch.now)
    await _set_vanished(tx, batch, reappeared, None)
    for chunk in chunks([*vanished, *reappeared]):
        # Of one original alone nothing shows: it is where it was until its disappearance is believed.
        among_several = _here(batch) & origins.c.uid.in_(chunk) & places.has_another()
        await places.tell(tx, owner.tenant_id, owner.mailbox_id, among_several, batch.now)
    settled = [*by_kind.get(Forget, []), *linked, *by_kind.get(Rebury, [])]
    await resolve(tx, batch, [action.uid for action in settled])
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
        query = select(*COPY_COLUMNS, columns.flags, columns.labels, columns.moving_to, columns.deleted_at)
        for row in await tx.conn.execute(query.where(columns.id.in_(chunk))):
            rows[row.id] = row
    return rows


async def _wishes(tx: Transaction, ids: Iterable[str]) -> dict[str, list[AnyRow]]:
    """What the CRM changed and the server did not yet, by message: flags and labels, in order."""
    found: dict[str, list[AnyRow]] = {}
    columns = operations.c
    for chunk in chunks(list(ids)):
        query = (
            select(columns.message_id, columns.kind, columns.detail)
            .where(columns.message_id.in_(chunk), columns.finished_at.is_(None))
            .where(columns.kind.in_([OperationKind.FLAGS.value, OperationKind.LABELS.value]))
            .order_by(columns.seq)
        )
        for row in await tx.conn.execute(query):
            found.setdefault(row.message_id, []).append(row)
    return found


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
        wishes: Mapping[str, Sequence[AnyRow]],
    ) -> None:
        self._tx = tx
        self._owner = owner
        self._batch = batch
        self._horizon = horizon
        self._alive = alive
        self._holding = holding
        self._wishes = wishes

    async def merge(self, actions: Sequence[Merge]) -> None:
        """The messages stand where they stood; base and near become what the server says and the CRM wishes."""
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
            .values(flags=bindparam("b_flags"), vanished_at=None)
        )
        for chunk in chunks([action.uid for action in actions]):
            back = _here(batch) & origins.c.uid.in_(chunk) & origins.c.vanished_at.is_not(None) & places.has_another()
            await places.tell(self._tx, self._owner.tenant_id, self._owner.mailbox_id, back, batch.now)
        bases: list[dict[str, Any]] = [{"b_uid": action.uid, "b_flags": sorted(action.flags)} for action in actions]
        if any(action.labels is not None for action in actions):
            statement = statement.values(labels=bindparam("b_labels"))
            for base, action in zip(bases, actions, strict=True):
                base["b_labels"] = sorted(action.labels or ())
        await self._tx.conn.execute(statement, bases)
        for message_id in await self._set_near(actions):
            self._emit("message.updated", message_id, {})

    async def link(self, actions: Sequence[Link]) -> None:
        """The copies stand at new addresses; the void ones go."""
        if not actions:
            return
        told = [action.message_id for action in actions if await self._link(action)]
        for message_id in await self._set_near(actions):
            if message_id not in told:
                self._emit("message.updated", message_id, {})

    async def _link(self, action: Link) -> bool:
        """Move one address; whether there was an event to tell of it."""
        batch, conn = self._batch, self._tx.conn
        mine = origins.c.message_id == action.message_id
        left = [
            (origins.c.folder_id == at.folder_id)
            & (origins.c.uidvalidity == at.uidvalidity)
            & (origins.c.uid == at.uid)
            for at in action.left
        ]
        void = or_(
            origins.c.vanished_at.is_not(None),
            (origins.c.folder_id == batch.folder.id) & (origins.c.uidvalidity != batch.uidvalidity),
            *left,
        )
        for folder_id in sorted({at.folder_id for at in action.left}):
            # Nothing proves that it went: that folder's next look counts anew, and reads what it knows nothing of.
            await conn.execute(update(folders).where(folders.c.id == folder_id).values(exists_count=UNSURE))
        left_there = select(origins.c.folder_id, folders.c.gone_at).join(folders, folders.c.id == origins.c.folder_id)
        rows = (await conn.execute(left_there.where(mine, void))).all()
        before = [row.folder_id for row in rows]
        await conn.execute(delete(origins).where(mine, void))
        statement = self._tx.insert(origins).values(
            folder_id=batch.folder.id,
            uid=action.uid,
            uidvalidity=batch.uidvalidity,
            tenant_id=self._owner.tenant_id,
            mailbox_id=self._owner.mailbox_id,
            message_id=action.message_id,
            flags=sorted(action.flags),
            labels=null() if action.labels is None else sorted(action.labels),
        )
        await conn.execute(statement.on_conflict_do_nothing())
        moving_to = self._alive[action.message_id].moving_to
        if moving_to == batch.folder.id:  # where the CRM has it already
            if any(row.gone_at is None for row in rows):
                return False
            self._emit("message.updated", action.message_id, {"origin_present": True})
        elif not before and moving_to is not None:  # appended, and moved on by somebody at once
            moved = {"from_folder_id": moving_to, "folder_id": batch.folder.id}
            self._emit("message.moved", action.message_id, moved)
        elif not before:
            self._emit("message.updated", action.message_id, {"origin_present": True})
        elif batch.folder.id not in before:
            moved = {"from_folder_id": before[0], "folder_id": batch.folder.id}
            self._emit("message.moved", action.message_id, moved)
        else:
            return False
        return True

    async def _set_near(self, actions: Sequence[Merge] | Sequence[Link]) -> list[str]:
        """Flags and labels of the near side; the ids of the messages of which they changed."""
        changed: dict[str, dict[str, Any]] = {}
        for action in actions:
            row = self._alive[action.message_id]
            wishes = self._wishes.get(action.message_id, ())
            flags = self._near(action.flags, wishes, OperationKind.FLAGS)
            labels = row.labels if action.labels is None else self._near(action.labels, wishes, OperationKind.LABELS)
            if (flags, labels) != (row.flags, row.labels):
                changed[action.message_id] = {
                    "b_id": action.message_id,
                    "b_flags": flags,
                    "b_seen": "\\Seen" in flags,
                    "b_flagged": "\\Flagged" in flags,
                    "b_labels": labels,
                }
        if changed:
            statement = (
                update(messages)
                .where(messages.c.id == bindparam("b_id"))
                .values(
                    flags=bindparam("b_flags"),
                    seen=bindparam("b_seen"),
                    flagged=bindparam("b_flagged"),
                    labels=bindparam("b_labels"),
                )
            )
            await self._tx.conn.execute(statement, list(changed.values()))
        return list(changed)

    @staticmethod
    def _near(base: frozenset[str], wishes: Sequence[AnyRow], kind: OperationKind) -> list[str]:
        mine = ((row.detail["add"], row.detail["remove"]) for row in wishes if row.kind == kind.value)
        return sorted(wished(base, mine))

    def _emit(self, type_: str, message_id: str, payload: dict[str, Any]) -> None:
        row = self._alive[message_id]
        if row.deleted_at is not None:
            return  # nobody sees it any more
        expires_at = self._horizon.expires_at(row, self._holding.get(message_id, 0))
        self._tx.emit(
            self._owner.tenant_id,
            type_,
            at=self._batch.now,
            mailbox_id=self._owner.mailbox_id,
            message_id=message_id,
            payload={"anchor_at": row.anchor_at, "expires_at": expires_at, **payload},
        )


def _here(batch: Batch) -> ColumnElement[bool]:
    return (origins.c.folder_id == batch.folder.id) & (origins.c.uidvalidity == batch.uidvalidity)


async def _set_vanished(tx: Transaction, batch: Batch, uids: Sequence[int], at: Instant | None) -> None:
    for chunk in chunks(uids):
        here = _here(batch) & origins.c.uid.in_(chunk)
        if at is not None:
            here &= origins.c.vanished_at.is_(None)
        await tx.conn.execute(update(origins).where(here).values(vanished_at=at))


async def vanish_renumbered(tx: Transaction, owner: Owner, account_ref: bytes, batch: Batch) -> None:
    """After a UIDVALIDITY change: what was not recognised under the new one has vanished, purged messages too."""
    left = (
        (origins.c.folder_id == batch.folder.id)
        & (origins.c.uidvalidity != batch.uidvalidity)
        & origins.c.vanished_at.is_(None)
    )
    await places.tell(tx, owner.tenant_id, owner.mailbox_id, left & places.has_another(), batch.now)
    await tx.conn.execute(update(origins).where(left).values(vanished_at=batch.now))
    buried = (
        (tombstones.c.tenant_id == owner.tenant_id)
        & (tombstones.c.account_ref == account_ref)
        & (tombstones.c.folder == batch.folder.name)
        & (tombstones.c.uidvalidity != batch.uidvalidity)
        & tombstones.c.gone_at.is_(None)
    )
    await tx.conn.execute(update(tombstones).where(buried).values(gone_at=batch.now))
