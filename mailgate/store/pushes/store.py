"""Operations on their way to the server: the journal, and what the server's answers change.

Each write is one fenced transaction. Lock order: the lease (shared) → the mailbox → messages by id → heads. What the
server said becomes the base, by the same statements as after a pass (`mailgate.store.changes`). Near is the base with
the operations that are still open carried out; so an operation is finished first, and what it did is written after.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import bindparam, case, select, update
from sqlalchemy.exc import DataError, IntegrityError

from mailgate.clock import Instant
from mailgate.keys import KeyRing
from mailgate.store import changes, operations, places
from mailgate.store.database import Database
from mailgate.store.expiry import Expiry, Horizon
from mailgate.store.fenced import Fenced
from mailgate.store.log import PurgeLog
from mailgate.store.pushes import folders as folder_ends
from mailgate.store.pushes.ends import drop_originals, end_deleted, lock, settle_moving
from mailgate.store.pushes.facts import asked
from mailgate.store.pushes.returns import Returns
from mailgate.store.pushes.rollback import Rollback
from mailgate.store.schema import folders, origins, tombstones
from mailgate.store.schema import operations as operations_table
from mailgate.store.sets import among
from mailgate.store.transaction import Transaction
from mailgate.sync.actions import Merge
from mailgate.sync.incoming import Batch
from mailgate.sync.operations import Operation, OperationKind, OperationState
from mailgate.sync.port import BatchRefusedError
from mailgate.sync.push.model import Failed, Original
from mailgate.sync.push.port import Asked, Delay, Expunged, Marked, Put, Returned, counted_out
from mailgate.sync.state import UNSURE, Owner

_O = operations_table.c
_ON_THE_WAY = frozenset({OperationKind.MOVE, OperationKind.APPEND})


class SqlPushStore(Fenced):
    """Implements `mailgate.sync.push.port.PushStore`."""

    def __init__(self, db: Database, log: PurgeLog, expiry: Expiry, ring: KeyRing) -> None:
        super().__init__(db, log)
        self._expiry = expiry
        self._returns = Returns(db, ring, log, expiry)

    async def open(self, owner: Owner, limit: int, *, sent: bool = False) -> list[Asked]:
        """The mailbox's operations that are not finished, in order; with `sent` only those that were sent."""
        return await self._db.query(lambda conn: asked(conn, owner, limit, sent=sent, sqlite=self._db.sqlite))

    # Before a command, and instead of one.

    async def journal(self, owner: Owner, entries: Mapping[str, Mapping[str, Any]], now: Instant) -> None:
        """Before a command: these operations may have reached the server from now on, by these addresses."""

        async def work(tx: Transaction) -> None:
            sent = update(operations_table).where(_O.id == bindparam("b_id"), _O.finished_at.is_(None))
            values = {"state": OperationState.SENT.value, "reason": None, "code": None, "next_at": None}
            rows = [{"b_id": id_, "b_journal": dict(journal)} for id_, journal in entries.items()]
            await tx.conn.execute(sent.values(**values, journal=bindparam("b_journal")), rows)

        await self._owned(owner, now, work)

    async def again(self, owner: Owner, operations: Sequence[Operation], now: Instant) -> None:
        """They were not done: back to pending."""

        async def work(tx: Transaction) -> None:
            mine = among(_O.id, [item.id for item in operations], sqlite=tx.sqlite) & _O.finished_at.is_(None)
            values = {"state": OperationState.PENDING.value, "journal": None}
            await tx.conn.execute(update(operations_table).where(mine).values(values))

        await self._owned(owner, now, work)

    async def delay(self, owner: Owner, delays: Sequence[Delay], now: Instant) -> None:
        """They wait, visibly."""

        async def work(tx: Transaction) -> None:
            waits = update(operations_table).where(_O.id == bindparam("b_id"), _O.finished_at.is_(None))
            rows = [
                {"b_id": d.operation.id, "b_reason": d.reason[:500], "b_until": d.until, "b_attempts": d.attempts}
                for d in delays
            ]
            names = {"reason": "b_reason", "next_at": "b_until", "attempts": "b_attempts"}
            await tx.conn.execute(waits.values({name: bindparam(key) for name, key in names.items()}), rows)

        await self._owned(owner, now, work)

    # What the server did.

    async def marked(self, owner: Owner, marks: Sequence[Marked], now: Instant) -> None:
        """Flags or labels of originals in one folder: base is what the server says, near what is still wished."""
        tenant_ref, _ = await self._account(owner.mailbox_id)

        async def work(tx: Transaction) -> None:
            horizon = await self._expiry.horizon(tx.conn, owner.tenant_id, now)
            await lock(tx, sorted({mark.operation.message_id or "" for mark in marks}))
            done = [mark.operation for mark in marks if mark.ends and mark.failed is None]
            arrived = await self._finish(tx, owner, done, now)
            await places.tell_arrived(tx, owner.tenant_id, owner.mailbox_id, arrived, now)
            await self._write_marks(tx, owner, horizon, [(mark.operation, mark.original) for mark in marks])
            failures = [(mark.operation, mark.failed) for mark in marks if mark.failed is not None]
            if failures:
                await Rollback(tx, self._log, owner, tenant_ref, horizon).run(failures)

        await self._owned(owner, now, work)

    async def copied(self, owner: Owner, puts: Sequence[Put], now: Instant) -> None:
        """The first half of moves into one folder is done: the messages stand in both folders."""

        async def work(tx: Transaction) -> None:
            horizon = await self._expiry.horizon(tx.conn, owner.tenant_id, now)
            await self._place(tx, owner, horizon, puts)

        await self._owned(owner, now, work)

    async def uncopied(self, owner: Owner, copies: Sequence[Original], now: Instant) -> None:
        """First halves of moves were taken back: the messages do not stand there any more."""
        await self._owned(owner, now, lambda tx: drop_originals(tx, copies))

    async def put(self, owner: Owner, puts: Sequence[Put], now: Instant) -> None:
        """Moved or appended, into one folder: applied."""

        async def work(tx: Transaction) -> None:
            horizon = await self._expiry.horizon(tx.conn, owner.tenant_id, now)
            await lock(tx, sorted(put.message_id for put in puts))
            arrived = await self._finish(tx, owner, [put.operation for put in puts], now)
            left = [put.original for put in puts if put.original is not None]
            await drop_originals(tx, left)
            await _count_out(tx, left)
            await self._place(tx, owner, horizon, puts)
            await places.tell_arrived(tx, owner.tenant_id, owner.mailbox_id, arrived, now)

        await self._owned(owner, now, work)

    async def expunged(self, owner: Owner, gone: Sequence[Expunged], now: Instant) -> None:
        """Deleted for ever: a copy that has no other original ends, and its operation is applied."""
        tenant_ref, _ = await self._account(owner.mailbox_id)

        async def work(tx: Transaction) -> None:
            horizon = await self._expiry.horizon(tx.conn, owner.tenant_id, now)
            ids = sorted(item.message_id for item in gone)
            await lock(tx, ids)
            left = [item.original for item in gone if item.original is not None]
            await drop_originals(tx, left)
            await _count_out(tx, left)
            others = select(origins.c.message_id).where(among(origins.c.message_id, ids, sqlite=tx.sqlite))
            standing = set((await tx.conn.execute(others)).scalars())
            ended = {item.message_id: item.operation for item in gone if item.message_id not in standing}
            await self._finish(tx, owner, list(ended.values()), now)
            await end_deleted(tx, self._log, owner, tenant_ref, horizon, ended)

        await self._owned(owner, now, work)

    async def applied(self, owner: Owner, operations: Sequence[Operation], now: Instant) -> None:
        """Both sides agree already."""

        async def work(tx: Transaction) -> None:
            arrived = await self._finish(tx, owner, operations, now)
            await places.tell_arrived(tx, owner.tenant_id, owner.mailbox_id, arrived, now)

        await self._owned(owner, now, work)

    async def fail(self, owner: Owner, failures: Sequence[tuple[Operation, Failed]], now: Instant) -> None:
        """They will not be done: the near side is rolled back."""
        tenant_ref, _ = await self._account(owner.mailbox_id)

        async def work(tx: Transaction) -> None:
            horizon = await self._expiry.horizon(tx.conn, owner.tenant_id, now)
            await Rollback(tx, self._log, owner, tenant_ref, horizon).run(failures)

        await self._owned(owner, now, work)

    # Purged copies.

    async def brought_back(self, owner: Owner, operation: Operation, returned: Returned | None, now: Instant) -> None:
        """The copy is here again, with the pins that were asked for: logged, and applied. None: it was here already."""
        tenant_ref, _ = await self._account(owner.mailbox_id)

        async def work(tx: Transaction) -> None:
            horizon = await self._expiry.horizon(tx.conn, owner.tenant_id, now)
            failure = await self._returns.write(tx, owner, tenant_ref, operation, returned, horizon)
            if failure is None:
                await self._finish(tx, owner, [operation], now)
            else:
                await Rollback(tx, self._log, owner, tenant_ref, horizon).run([(operation, failure)])

        try:
            await self._owned(owner, now, work)
        except (DataError, IntegrityError) as error:
            raise BatchRefusedError(type(error).__name__) from error

    async def not_found(self, owner: Owner, failures: Sequence[tuple[Operation, Failed]], now: Instant) -> None:
        """The originals of purged copies stand nowhere: failed, and known to be gone."""
        tenant_ref, _ = await self._account(owner.mailbox_id)
        ids = [operation.message_id or "" for operation, _ in failures]

        async def work(tx: Transaction) -> None:
            horizon = await self._expiry.horizon(tx.conn, owner.tenant_id, now)
            left = (tombstones.c.tenant_id == owner.tenant_id) & among(tombstones.c.message_id, ids, sqlite=tx.sqlite)
            await tx.conn.execute(update(tombstones).where(left, tombstones.c.gone_at.is_(None)).values(gone_at=now))
            await Rollback(tx, self._log, owner, tenant_ref, horizon).run(failures)

        await self._owned(owner, now, work)

    # Folders.

    async def folder_made(self, owner: Owner, operation: Operation, name: str, now: Instant) -> None:
        """The folder is there, under this name: applied."""

        async def work(tx: Transaction) -> None:
            await folder_ends.made(tx, owner, operation, name, now)
            await self._finish(tx, owner, [operation], now)

        await self._owned(owner, now, work)

    async def folder_renamed(self, owner: Owner, operation: Operation, now: Instant) -> None:
        """The folder, with what is below it, is called as wanted: applied."""
        _, account_ref = await self._account(owner.mailbox_id)

        async def work(tx: Transaction) -> None:
            await folder_ends.renamed(tx, owner, account_ref, operation)
            await self._finish(tx, owner, [operation], now)

        await self._owned(owner, now, work)

    async def folder_deleted(self, owner: Owner, operation: Operation, limit: int, now: Instant) -> bool:
        """The folder is gone; ends so many of the copies that stood in it. True when none is left: applied."""
        tenant_ref, _ = await self._account(owner.mailbox_id)

        async def work(tx: Transaction) -> bool:
            ids = await folder_ends.deleted(tx, operation, limit, now)
            if not ids:
                await self._finish(tx, owner, [operation], now)
                return True
            horizon = await self._expiry.horizon(tx.conn, owner.tenant_id, now)
            await folder_ends.leave(tx, operation, ids)
            others = select(origins.c.message_id).where(among(origins.c.message_id, ids, sqlite=tx.sqlite))
            standing = set((await tx.conn.execute(others)).scalars())
            await places.tell_of(tx, owner.tenant_id, owner.mailbox_id, standing, now)
            ended = dict.fromkeys((id_ for id_ in ids if id_ not in standing), operation)
            await end_deleted(tx, self._log, owner, tenant_ref, horizon, ended)
            return False

        return await self._owned(owner, now, work)

    # What these have in common.

    @staticmethod
    async def _finish(tx: Transaction, owner: Owner, ended: Sequence[Operation], now: Instant) -> dict[str, str]:
        """Applied; the messages that were on their way, and where to."""
        await operations.finish_many(tx, owner.tenant_id, ended, OperationState.APPLIED, now)
        moved = sorted({item.message_id or "" for item in ended if item.kind in _ON_THE_WAY})
        if moved:
            rows = await lock(tx, moved)
            await settle_moving(tx, moved)
            return {id_: row.moving_to for id_, row in rows.items() if row.moving_to is not None}
        return {}

    async def _place(self, tx: Transaction, owner: Owner, horizon: Horizon, puts: Sequence[Put]) -> None:
        """The messages stand at new addresses, all in one folder. Of those purged meanwhile the tombstones do."""
        alive = await lock(tx, sorted(put.message_id for put in puts))
        statement = tx.insert(origins).on_conflict_do_nothing()
        rows = [
            {
                "folder_id": put.to.id,
                "uid": put.at.uid,
                "uidvalidity": put.at.uidvalidity,
                "tenant_id": owner.tenant_id,
                "mailbox_id": owner.mailbox_id,
                "message_id": put.message_id,
                "flags": sorted(put.flags),
                "labels": None if put.labels is None else sorted(put.labels),
            }
            for put in puts
            if put.message_id in alive
        ]
        if rows:
            await tx.conn.execute(statement, rows)
            of_several = among(origins.c.message_id, alive, sqlite=tx.sqlite) & places.has_another()
            await places.tell(tx, owner.tenant_id, owner.mailbox_id, of_several, horizon.now)
        there = [
            (put.operation, Original(put.to, put.at.uidvalidity, put.at.uid, put.flags, put.labels))
            for put in puts
            if put.message_id in alive
        ]
        await self._write_marks(tx, owner, horizon, there)
        for put in puts:
            if put.message_id not in alive:
                buried = (tombstones.c.tenant_id == owner.tenant_id) & (tombstones.c.message_id == put.message_id)
                address = {"folder": put.to.name, "uidvalidity": put.at.uidvalidity, "uid": put.at.uid}
                await tx.conn.execute(update(tombstones).where(buried).values(**address, gone_at=None))

    @staticmethod
    async def _write_marks(
        tx: Transaction, owner: Owner, horizon: Horizon, there: Sequence[tuple[Operation, Original]]
    ) -> None:
        by_folder: dict[tuple[str, int], list[tuple[Operation, Original]]] = {}
        for item in there:
            by_folder.setdefault((item[1].folder.id, item[1].uidvalidity), []).append(item)
        for group in by_folder.values():
            first = group[0][1]
            actions = [Merge(at.uid, item.message_id or "", at.flags, at.labels) for item, at in group]
            batch = Batch(folder=first.folder, uidvalidity=first.uidvalidity, now=horizon.now, actions=actions)
            await changes.apply_actions(tx, owner, batch, horizon)


async def _count_out(tx: Transaction, gone: Sequence[Original]) -> None:
    """The checkpoints that counted these messages count them no more."""
    for folder_id, count in counted_out(gone).items():
        fewer = folders.c.exists_count - count
        # Where no count is vouched for (UNSURE), none is after this either.
        values = {"exists_count": case((folders.c.exists_count < 0, UNSURE), (fewer < 0, 0), else_=fewer)}
        await tx.conn.execute(update(folders).where(folders.c.id == folder_id).values(values))
