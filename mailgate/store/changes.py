"""Writing what a pass over a folder decided: addresses, flags, disappearances, quarantine.

What a purge took meanwhile is skipped: every copy that an action names is locked and read anew first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import bindparam, delete, or_, select, update

from mailgate.clock import Instant
from mailgate.ids import new_id
from mailgate.store.expiry import COPY_COLUMNS, Horizon
from mailgate.store.folders import AnyRow
from mailgate.store.messages import chunks
from mailgate.store.schema import messages, origins, quarantine, tombstones
from mailgate.store.transaction import Transaction
from mailgate.sync.port import Applied, Aside, Batch, Owner
from mailgate.sync.reconcile import (
    Action,
    Forget,
    Link,
    MarkGone,
    Merge,
    Pull,
    Reappear,
    Rebury,
    Vanish,
)


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


async def vanish_renumbered(tx: Transaction, owner: Owner, account_ref: bytes, batch: Batch) -> None:
    """After a UIDVALIDITY change: what was not recognised under the new one has vanished, purged messages too."""
    left = (
        (origins.c.folder_id == batch.folder.id)
        & (origins.c.uidvalidity != batch.uidvalidity)
        & origins.c.vanished_at.is_(None)
    )
    await tx.conn.execute(update(origins).where(left).values(vanished_at=batch.now))
    buried = (
        (tombstones.c.tenant_id == owner.tenant_id)
        & (tombstones.c.account_ref == account_ref)
        & (tombstones.c.folder == batch.folder.name)
        & (tombstones.c.uidvalidity != batch.uidvalidity)
        & tombstones.c.gone_at.is_(None)
    )
    await tx.conn.execute(update(tombstones).where(buried).values(gone_at=batch.now))


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
