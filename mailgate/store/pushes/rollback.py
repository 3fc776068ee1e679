"""Operations that failed: the near side goes back to what the server has, and is told so."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

from sqlalchemy import select, update

from mailgate.store import changes, operations, places
from mailgate.store.expiry import Horizon
from mailgate.store.folders import AnyRow, state_of
from mailgate.store.log import PurgeLog
from mailgate.store.messages import remove
from mailgate.store.pushes.ends import lock, settle_moving, tell
from mailgate.store.pushes.folders import unwished
from mailgate.store.schema import folders, messages, origins
from mailgate.store.schema import operations as operations_table
from mailgate.store.sets import among
from mailgate.store.transaction import Transaction
from mailgate.sync.actions import Merge
from mailgate.sync.incoming import Batch
from mailgate.sync.operations import Operation, OperationKind, OperationState
from mailgate.sync.push.model import Failed
from mailgate.sync.state import Owner

_F = folders.c

APPEND_REFUSED = "append_refused"
"""The reason in the purge log's `item.remove` when the server did not take the message."""


class Rollback:
    """The failures of one transaction."""

    def __init__(self, tx: Transaction, log: PurgeLog, owner: Owner, tenant_ref: str, horizon: Horizon) -> None:
        self._tx = tx
        self._log = log
        self._owner = owner
        self._tenant_ref = tenant_ref
        self._horizon = horizon

    async def run(self, failures: Sequence[tuple[Operation, Failed]]) -> None:
        """Finish them as failed and roll back."""
        ids = sorted({operation.message_id for operation, _ in failures if operation.message_id is not None})
        alive = await lock(self._tx, ids)
        ended: list[Operation] = []
        by_failure: dict[Failed, list[Operation]] = {}
        for operation, failure in failures:
            by_failure.setdefault(failure, []).append(operation)
        for failure, group in by_failure.items():
            ended += await operations.finish_many(
                self._tx,
                self._owner.tenant_id,
                group,
                OperationState.FAILED,
                self._horizon.now,
                reason=failure.reason,
                code=failure.code,
            )
        by_kind: dict[OperationKind, list[Operation]] = {}
        for operation in sorted(ended, key=lambda operation: operation.seq):
            by_kind.setdefault(operation.kind, []).append(operation)
        marks = [*by_kind.get(OperationKind.FLAGS, ()), *by_kind.get(OperationKind.LABELS, ())]
        await self._marks([operation.message_id or "" for operation in marks])
        await self._moves(by_kind.get(OperationKind.MOVE, []), alive)
        await self._deletes([item.message_id or "" for item in by_kind.get(OperationKind.DELETE, [])], alive)
        await self._appends([item.message_id or "" for item in by_kind.get(OperationKind.APPEND, [])], alive)
        for operation in by_kind.get(OperationKind.FOLDER_CREATE, []):
            mine = (_F.id == operation.folder_id) & (_F.on_its_way == "create")
            await self._folder(operation, mine, {"on_its_way": None, "gone_at": self._horizon.now}, "folder.deleted")
        for operation in by_kind.get(OperationKind.FOLDER_RENAME, []):
            mine = (_F.id == operation.folder_id) & (_F.wanted_name == operation.detail["name"]) & unwished(operation)
            await self._folder(operation, mine, {"wanted_name": None}, "folder.renamed")
        for operation in by_kind.get(OperationKind.FOLDER_DELETE, []):
            mine = (_F.id == operation.folder_id) & (_F.on_its_way == "delete")
            await self._folder(operation, mine, {"on_its_way": None}, "folder.created")

    async def _marks(self, message_ids: Sequence[str]) -> None:
        """Flags and labels become the base's again, with what is still wished."""
        for folder, rows in await self._standing(message_ids):
            batch = Batch(
                folder=state_of(folder),
                uidvalidity=rows[0].uidvalidity,
                now=self._horizon.now,
                actions=[
                    Merge(
                        row.uid,
                        row.message_id,
                        frozenset(row.flags),
                        None if row.labels is None else frozenset(row.labels),
                    )
                    for row in rows
                ],
            )
            await changes.apply_actions(self._tx, self._owner, batch, self._horizon)

    async def _standing(self, message_ids: Sequence[str]) -> list[tuple[AnyRow, list[AnyRow]]]:
        """One original of each message that has one, by folder and UIDVALIDITY."""
        if not message_ids:
            return []
        mine = among(origins.c.message_id, sorted(set(message_ids)), sqlite=self._tx.sqlite)
        query = select(origins).where(mine, origins.c.vanished_at.is_(None))
        one: dict[str, AnyRow] = {}
        for row in await self._tx.conn.execute(query.order_by(origins.c.folder_id, origins.c.uid)):
            one.setdefault(row.message_id, row)
        ids = sorted({row.folder_id for row in one.values()})
        named = select(folders).where(among(_F.id, ids, sqlite=self._tx.sqlite))
        rows = {row.id: row for row in await self._tx.conn.execute(named)}
        ordered = sorted(one.values(), key=lambda row: (row.folder_id, row.uidvalidity))
        return [
            (rows[folder_id], list(group))
            for (folder_id, _), group in groupby(ordered, key=lambda row: (row.folder_id, row.uidvalidity))
        ]

    async def _moves(self, failed: Sequence[Operation], alive: Mapping[str, AnyRow]) -> None:
        """The messages are shown where they stand; what moves them on from there begins where they stayed."""
        ids = sorted({operation.message_id or "" for operation in failed} & alive.keys())
        if not ids:
            return
        coming = await operations.moves_of(self._tx.conn, ids, sqlite=self._tx.sqlite)
        for operation in failed:
            for later in coming.get(operation.message_id or "", ())[:1]:
                if later.from_folder_id == operation.folder_id:
                    onward = update(operations_table).where(operations_table.c.id == later.id)
                    await self._tx.conn.execute(onward.values(from_folder_id=operation.from_folder_id))
        await settle_moving(self._tx, ids)
        stands = {
            row.message_id: row.folder_id
            for _, rows in await self._standing([id_ for id_ in ids if id_ not in coming])
            for row in rows
        }
        back = {
            id_: {"from_folder_id": operation.folder_id, "folder_id": stands[id_]}
            for operation, id_ in ((operation, operation.message_id or "") for operation in failed)
            if id_ in stands and stands[id_] != operation.folder_id
        }
        await tell(self._tx, self._owner, self._horizon, "message.moved", back, alive)
        nowhere = [id_ for id_ in ids if id_ not in coming and id_ not in stands]
        await places.tell_of(self._tx, self._owner.tenant_id, self._owner.mailbox_id, nowhere, self._horizon.now)

    async def _deletes(self, message_ids: Sequence[str], alive: Mapping[str, AnyRow]) -> None:
        """The messages are shown again."""
        hidden = [id_ for id_ in message_ids if id_ in alive and alive[id_].deleted_at is not None]
        if not hidden:
            return
        mine = among(messages.c.id, hidden, sqlite=self._tx.sqlite)
        await self._tx.conn.execute(update(messages).where(mine).values(deleted_at=None))
        payloads = {message_id: {"restored": True} for message_id in hidden}
        shown = await lock(self._tx, hidden)
        await tell(self._tx, self._owner, self._horizon, "message.updated", payloads, shown)

    async def _appends(self, message_ids: Sequence[str], alive: Mapping[str, AnyRow]) -> None:
        """What the server did not take goes; pinned or held it stays, without an original."""
        ids = [id_ for id_ in message_ids if id_ in alive]
        if not ids:
            return
        _, kept = await remove(
            self._tx,
            self._log,
            tenant_id=self._owner.tenant_id,
            tenant_ref=self._tenant_ref,
            mailbox_id=self._owner.mailbox_id,
            ids=ids,
            reason=APPEND_REFUSED,
            now=self._horizon.now,
        )
        if kept:
            mine = among(messages.c.id, kept, sqlite=self._tx.sqlite)
            await self._tx.conn.execute(update(messages).where(mine).values(moving_to=None))

    async def _folder(self, operation: Operation, mine: Any, values: Mapping[str, Any], type_: str) -> None:
        if (await self._tx.conn.execute(update(folders).where(mine).values(values))).rowcount:
            payload = {"folder_id": operation.folder_id}
            self._tx.emit(
                self._owner.tenant_id,
                type_,
                at=self._horizon.now,
                mailbox_id=self._owner.mailbox_id,
                payload=payload,
            )
