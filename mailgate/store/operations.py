"""The rows of operations: asked for, finished, read. Who changes the near side with them stands beside this module."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Row, bindparam, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from mailgate.actors import Actor
from mailgate.clock import Instant
from mailgate.errors import NotFoundError
from mailgate.ids import new_id
from mailgate.store.database import Database
from mailgate.store.paging import Page, page_by_id
from mailgate.store.schema import mailboxes, operations
from mailgate.store.sets import among
from mailgate.store.transaction import Transaction
from mailgate.sync.operations import Operation, OperationKind, OperationState

_O = operations.c
_OPEN = (
    select(operations)
    .where(_O.mailbox_id == bindparam("mailbox"), _O.finished_at.is_(None))
    .order_by(_O.seq)
    .limit(bindparam("most"))
)
_SENT = _OPEN.where(_O.state == OperationState.SENT.value)
_ANY_OPEN = select(_O.id).where(_O.mailbox_id == bindparam("mailbox"), _O.finished_at.is_(None)).limit(1)


@dataclass(frozen=True, slots=True)
class OperationRecord:
    """An operation as clients see it. `reason` and `code`: why it failed, or what it waits for."""

    id: str
    mailbox_id: str
    kind: OperationKind
    state: OperationState
    message_id: str | None
    folder_id: str | None
    attempts: int
    reason: str | None
    code: str | None
    requested_at: Instant
    requested_by: str
    finished_at: Instant | None


async def ask(
    tx: Transaction,
    *,
    tenant_id: str,
    mailbox_id: str,
    kind: OperationKind,
    now: Instant,
    actor: Actor,
    message_id: str | None = None,
    folder_id: str | None = None,
    from_folder_id: str | None = None,
    detail: Mapping[str, Any] | None = None,
) -> str:
    """Add an operation behind the mailbox's others; its id. The caller changes the near side in this transaction and
    holds the mailbox's row: lock order is tenant → mailbox → messages → heads.
    """
    count = update(mailboxes).where(mailboxes.c.id == mailbox_id).values(op_seq=mailboxes.c.op_seq + 1)
    seq: int = (await tx.conn.execute(count.returning(mailboxes.c.op_seq))).scalar_one()
    operation_id = new_id(now)
    await tx.conn.execute(
        insert(operations).values(
            id=operation_id,
            tenant_id=tenant_id,
            mailbox_id=mailbox_id,
            seq=seq,
            kind=kind.value,
            state=OperationState.PENDING.value,
            message_id=message_id,
            folder_id=folder_id,
            from_folder_id=from_folder_id,
            detail=dict(detail or {}),
            requested_at=now,
            requested_by=str(actor),
        )
    )
    return operation_id


async def ask_to_delete(
    tx: Transaction,
    *,
    tenant_id: str,
    mailbox_id: str,
    message_ids: Sequence[str],
    from_folder_id: str,
    now: Instant,
    actor: Actor,
) -> None:
    """Add a deletion of each of these messages, which stand in one folder, as `ask` does."""
    if not message_ids:
        return
    count = update(mailboxes).where(mailboxes.c.id == mailbox_id).values(op_seq=mailboxes.c.op_seq + len(message_ids))
    last: int = (await tx.conn.execute(count.returning(mailboxes.c.op_seq))).scalar_one()
    common = {
        "tenant_id": tenant_id,
        "mailbox_id": mailbox_id,
        "kind": OperationKind.DELETE.value,
        "state": OperationState.PENDING.value,
        "from_folder_id": from_folder_id,
        "detail": {},
        "requested_at": now,
        "requested_by": str(actor),
    }
    rows = [
        {"id": new_id(now), "seq": seq, "message_id": message_id, **common}
        for seq, message_id in enumerate(message_ids, start=last - len(message_ids) + 1)
    ]
    await tx.conn.execute(insert(operations), rows)


async def finish(
    tx: Transaction,
    tenant_id: str,
    operation: Operation,
    state: OperationState,
    now: Instant,
    *,
    reason: str | None = None,
    code: str | None = None,
) -> bool:
    """Write the end, `applied` or `failed`, with its event; False when it was finished before."""
    return bool(await finish_many(tx, tenant_id, [operation], state, now, reason=reason, code=code))


async def finish_many(
    tx: Transaction,
    tenant_id: str,
    ended: Sequence[Operation],
    state: OperationState,
    now: Instant,
    *,
    reason: str | None = None,
    code: str | None = None,
) -> list[Operation]:
    """The same for several that end alike; those that were not finished before."""
    if not ended:
        return []
    mine = among(_O.id, [operation.id for operation in ended], sqlite=tx.sqlite) & _O.finished_at.is_(None)
    values = {"state": state.value, "finished_at": now, "next_at": None, "code": code}
    values["reason"] = None if reason is None else reason[:500]
    found = set((await tx.conn.execute(update(operations).where(mine).values(values).returning(_O.id))).scalars())
    done = [operation for operation in ended if operation.id in found]
    for operation in done:
        tx.emit(
            tenant_id,
            f"operation.{state.value}",
            at=now,
            mailbox_id=operation.mailbox_id,
            message_id=operation.message_id,
            payload={"operation_id": operation.id, "kind": operation.kind.value, **({"code": code} if code else {})},
        )
    return done


async def any_open(conn: AsyncConnection, mailbox_id: str) -> bool:
    """Whether the mailbox has operations that are not finished."""
    return (await conn.execute(_ANY_OPEN, {"mailbox": mailbox_id})).first() is not None


async def open_of(conn: AsyncConnection, mailbox_id: str, limit: int, *, sent: bool = False) -> list[Operation]:
    """Operations of a mailbox that are not finished, in order; with `sent` only those that were sent."""
    wanted = {"mailbox": mailbox_id, "most": limit}
    return [operation_of(row) for row in await conn.execute(_SENT if sent else _OPEN, wanted)]


async def moves_of(conn: AsyncConnection, message_ids: Sequence[str], *, sqlite: bool) -> dict[str, list[Operation]]:
    """What is on its way from folder to folder: moves and appends that are not finished, in order, by message."""
    kinds = [OperationKind.MOVE.value, OperationKind.APPEND.value]
    query = select(operations).where(
        among(_O.message_id, message_ids, sqlite=sqlite), _O.finished_at.is_(None), _O.kind.in_(kinds)
    )
    found: dict[str, list[Operation]] = {}
    for row in await conn.execute(query.order_by(_O.seq)):
        found.setdefault(row.message_id, []).append(operation_of(row))
    return found


async def requested_by(conn: AsyncConnection, ids: Sequence[str], *, sqlite: bool) -> dict[str, Actor]:
    """Who asked for these operations, by id."""
    query = select(_O.id, _O.requested_by).where(among(_O.id, ids, sqlite=sqlite))
    return {row.id: Actor(*row.requested_by.split(":", 1)) for row in await conn.execute(query)}


def operation_of(row: Row[Any]) -> Operation:
    """A row as the sync engine takes it."""
    return Operation(
        id=row.id,
        mailbox_id=row.mailbox_id,
        seq=row.seq,
        kind=OperationKind(row.kind),
        state=OperationState(row.state),
        message_id=row.message_id,
        folder_id=row.folder_id,
        from_folder_id=row.from_folder_id,
        detail=row.detail,
        journal=row.journal,
        attempts=row.attempts,
        next_at=row.next_at,
    )


async def get(db: Database, tenant_id: str, operation_id: str) -> OperationRecord:
    """One operation. Raises NotFoundError."""
    query = select(operations).where(_O.id == operation_id, _O.tenant_id == tenant_id)
    async with db.read() as conn:
        row = (await conn.execute(query)).one_or_none()
    if row is None:
        raise NotFoundError(f"there is no operation {operation_id}", slug="operation_not_found")
    return _record(row)


async def list_page(
    db: Database,
    tenant_id: str,
    *,
    mailbox_id: str | None = None,
    message_id: str | None = None,
    state: OperationState | None = None,
    after: str | None = None,
    limit: int,
) -> Page[OperationRecord]:
    """The tenant's operations, newest first. `state` PENDING includes those that were sent. The page's key: the id."""
    query = select(operations).where(_O.tenant_id == tenant_id)
    if mailbox_id is not None:
        query = query.where(_O.mailbox_id == mailbox_id)
    if message_id is not None:
        query = query.where(_O.message_id == message_id)
    if state is OperationState.PENDING:
        query = query.where(_O.finished_at.is_(None))
    elif state is not None:
        query = query.where(_O.state == state.value)
    return await page_by_id(db, query, _O.id, _record, after=after, limit=limit)


def _record(row: Row[Any]) -> OperationRecord:
    return OperationRecord(
        id=row.id,
        mailbox_id=row.mailbox_id,
        kind=OperationKind(row.kind),
        state=OperationState(row.state),
        message_id=row.message_id,
        folder_id=row.folder_id,
        attempts=row.attempts,
        reason=row.reason,
        code=row.code,
        requested_at=row.requested_at,
        requested_by=row.requested_by,
        finished_at=row.finished_at,
    )
