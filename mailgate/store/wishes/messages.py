"""What the CRM asks of a message: other flags, labels or folder, or that it be deleted.

The near side changes at once, in the transaction that writes the operation; the mail server follows. Invariants:

1. Nothing is asked twice: what makes no difference writes nothing, and answers with the operation that is on its way
   to do it, if there is one.
2. A pinned message is not deleted: pins and deletions lock the message, and who comes second sees what the first did.
3. A copy that a user deleted is hidden from that moment on (`deleted_at`), whatever becomes of its original.
4. Where nothing can be brought to the server (no synchronization in the plan, mailbox switched off), a deletion ends
   the copy with a tombstone, and is never brought there later; everything else is refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import update

from connectors.model import SpecialUse
from mailgate.actors import Actor
from mailgate.clock import Instant
from mailgate.errors import ConflictError
from mailgate.store import messages as copies
from mailgate.store import operations
from mailgate.store.database import Database
from mailgate.store.near_folders import find_folder
from mailgate.store.reading import expired, not_there
from mailgate.store.schema import messages
from mailgate.store.tombstones import bury_unseen, copied
from mailgate.store.transaction import Transaction
from mailgate.store.wishes.folders import create_for, folder_for
from mailgate.store.wishes.locks import LockedMessage, Locks, open_operations
from mailgate.store.wishes.words import Words, check_number
from mailgate.sync.operations import OperationKind, OperationState

SCOPE_BOTH = "both"
SCOPE_COPY = "copy"


@dataclass(frozen=True, slots=True)
class MessageChange:
    """What to change; None leaves as it is. All of it, or nothing."""

    flags: Words | None = None
    labels: Words | None = None
    folder_id: str | None = None


@dataclass(frozen=True, slots=True)
class Asked:
    """What became of a wish. `operation_ids`: what must reach the server, in order; none when the near side, or the
    state of things, is all that it is about. `scope`: `both` sides, or the `copy` only.
    """

    mailbox_id: str
    operation_ids: tuple[str, ...] = ()
    scope: str = SCOPE_BOTH


class MessageWishes:
    """The use cases."""

    def __init__(self, db: Database, locks: Locks) -> None:
        self._db = db
        self._locks = locks

    async def change(self, tenant_id: str, message_id: str, wanted: MessageChange, now: Instant, actor: Actor) -> Asked:
        """Change flags, labels and folder, in this order.

        Flags of a copy without an original change on the near side only. Raises NotFoundError (also
        `folder_not_found`), GoneError, ConflictError (`mailbox_removed`, `mailbox_disabled`, `not_entitled`,
        `no_original`, `no_labels`, `folder_not_followed`), PreconditionError.
        """

        async def work(tx: Transaction) -> Asked:
            message = await self._locks.message(tx, tenant_id, message_id, now)
            if message.row.deleted_at is not None:
                raise not_there(message_id)
            message.mailbox.require_sync()
            if message.over:
                raise expired(message_id)
            asking = _Asking(tx, message, await open_operations(tx, message_id), now, actor)
            scope = SCOPE_BOTH
            if wanted.flags is not None:
                await asking.flags(wanted.flags)
                scope = SCOPE_COPY if message.folder_id is None else SCOPE_BOTH
            if wanted.labels is not None:
                await asking.labels(wanted.labels)
            if wanted.folder_id is not None:
                await asking.move(wanted.folder_id)
            return Asked(message.mailbox.id, tuple(asking.ids), scope)

        return await self._db.transact(work)

    async def delete(
        self, tenant_id: str, message_id: str, *, permanent: bool = False, now: Instant, actor: Actor
    ) -> Asked:
        """Delete a message: into Trash, or for ever when it stands there already or `permanent` says so.

        Repeated while it is on its way, the answer is the same. Where only the copy can be deleted, it may be one whose
        time is over: on a plan without synchronization all are that nothing keeps. Raises NotFoundError, GoneError,
        ConflictError `pinned`.
        """

        async def work(tx: Transaction) -> Asked:
            message = await self._locks.message(tx, tenant_id, message_id, now)
            asked = await open_operations(tx, message_id)
            if message.row.deleted_at is not None:
                again = tuple(op.id for op in asked if op.kind == OperationKind.DELETE.value)
                if not again:
                    raise not_there(message_id)
                return Asked(message.mailbox.id, again[-1:])
            if message.row.pins:
                raise ConflictError(
                    f"{message.row.pins} records refer to this message; unpin it first",
                    slug="pinned",
                    message_id=message_id,
                    pins=message.row.pins,
                )
            if message.over and message.mailbox.refusal is None:
                raise expired(message_id)
            if message.mailbox.refusal is not None or message.folder_id is None:
                await self._end_copy(tx, message, asked, now, actor)
                return Asked(message.mailbox.id, (), SCOPE_COPY)
            asking = _Asking(tx, message, asked, now, actor)
            await asking.delete(permanent=permanent)
            return Asked(message.mailbox.id, tuple(asking.ids))

        return await self._db.transact(work)

    async def _end_copy(
        self, tx: Transaction, message: LockedMessage, asked: Sequence[Any], now: Instant, actor: Actor
    ) -> None:
        """The copy ends now, or is hidden while it is held; nothing about it is brought to the server any more."""
        tenant = message.mailbox.tenant
        twice = bool(asked) and await copied(tx.conn, [message.id], sqlite=tx.sqlite)
        for row in asked:
            operation = operations.operation_of(row)
            why = {"code": "deleted", "reason": "the copy was deleted before this was brought to the server"}
            await operations.finish(tx, tenant.id, operation, OperationState.FAILED, now, **why)
        if message.holds:
            await hide(tx, message, now)
            await tx.conn.execute(update(messages).where(messages.c.id == message.id).values(moving_to=None))
            return
        off = message.mailbox.refusal is not None
        if off and twice:
            await bury_unseen(tx, tenant.id, message.row, copies.USER_DELETED, at=now)
        await copies.remove(
            tx,
            self._locks.log,
            tenant_id=tenant.id,
            tenant_ref=tenant.ref,
            mailbox_id=message.mailbox.id,
            ids=[message.id],
            reason=copies.USER_DELETED,
            now=now,
            actor=actor,
            original="untouched",
            # What may be brought to the server again is let in again when it comes back there.
            tombstone=off,
        )


async def hide(tx: Transaction, message: LockedMessage, now: Instant) -> None:
    """A user deleted it: from now on it is there for compliance only."""
    await tx.conn.execute(update(messages).where(messages.c.id == message.id).values(deleted_at=now))
    message.emit(tx, "message.deleted", now, message.ages)


class _Asking:
    """The wishes of one request about one locked message; `ids` of the operations, in order."""

    def __init__(
        self, tx: Transaction, message: LockedMessage, asked: Sequence[Any], now: Instant, actor: Actor
    ) -> None:
        self._tx = tx
        self._message = message
        self._open = asked
        self._now = now
        self._actor = actor
        self.ids: list[str] = []

    async def flags(self, wanted: Words) -> None:
        flags, change = wanted.applied_to(self._message.row.flags)
        if change.nothing:
            self._join_words(OperationKind.FLAGS, wanted)
            return
        check_number(flags)
        values = {"flags": flags, "seen": "\\Seen" in flags, "flagged": "\\Flagged" in flags}
        await self._update(values)
        if self._message.folder_id is not None:
            await self._ask(OperationKind.FLAGS, detail=_detail(change))

    async def labels(self, wanted: Words) -> None:
        message = self._message
        if not any(stand.labelled for stand in message.stands):
            raise ConflictError("this mail server has no labels beside its folders", slug="no_labels")
        labels, change = wanted.applied_to(message.row.labels)
        if change.nothing:
            self._join_words(OperationKind.LABELS, wanted)
            return
        check_number(labels)
        await self._update({"labels": labels})
        await self._ask(OperationKind.LABELS, detail=_detail(change))

    async def move(self, folder_id: str) -> None:
        message = self._message
        to = await find_folder(self._tx.conn, message.mailbox.id, folder_id)
        if message.folder_id is None:
            raise ConflictError(
                "the original of this message is gone from the mail server, so it can't be moved there",
                slug="no_original",
                message_id=message.id,
            )
        if not to.followed:
            raise ConflictError(
                "this folder is left out by the mailbox's rules: what is moved there would be lost from sight",
                slug="folder_not_followed",
                folder_id=folder_id,
            )
        if message.folder_id == folder_id:
            self._join(OperationKind.MOVE)
        else:
            await self._move(folder_id)

    async def delete(self, *, permanent: bool) -> None:
        """Into Trash, or for ever."""
        message = self._message
        trash = await folder_for(self._tx, message.mailbox.id, SpecialUse.TRASH)
        if not permanent and trash is not None and message.row.moving_to == trash:
            self._join(
                OperationKind.MOVE
            )  # it is on its way there: a request that is repeated deletes nothing for ever
            return
        if permanent or (trash is not None and message.folder_id == trash):
            if trash is not None and self._is_labelled:
                await self._move(trash)  # elsewhere Gmail takes a label away, if anything, and keeps the message
            await hide(self._tx, message, self._now)
            await self._ask(OperationKind.DELETE)
            return
        if trash is None:
            trash, operation_id = await create_for(self._tx, message.mailbox, SpecialUse.TRASH, self._now, self._actor)
            self.ids += [] if operation_id is None else [operation_id]
        await self._move(trash)

    @property
    def _is_labelled(self) -> bool:
        """Whether it stands where each folder is but a label of it (X-GM-EXT-1): anywhere but in Trash and Junk."""
        here = next((stand for stand in self._message.stands if stand.folder_id == self._message.folder_id), None)
        return here is not None and here.labelled and here.special_use not in (SpecialUse.TRASH, SpecialUse.JUNK)

    async def _move(self, folder_id: str) -> None:
        message, from_folder_id = self._message, self._message.folder_id
        standing = update(messages).where(messages.c.id == message.id)
        await self._tx.conn.execute(standing.values(moving_to=folder_id))
        payload = {**message.ages, "from_folder_id": from_folder_id, "folder_id": folder_id}
        message.emit(self._tx, "message.moved", self._now, payload)
        await self._ask(OperationKind.MOVE, folder_id=folder_id)

    async def _update(self, values: Mapping[str, Any]) -> None:
        message = self._message
        await self._tx.conn.execute(update(messages).where(messages.c.id == message.id).values(**values))
        message.emit(self._tx, "message.updated", self._now, message.ages)

    async def _ask(
        self, kind: OperationKind, *, folder_id: str | None = None, detail: Mapping[str, Any] | None = None
    ) -> None:
        message = self._message
        operation_id = await operations.ask(
            self._tx,
            tenant_id=message.mailbox.tenant.id,
            mailbox_id=message.mailbox.id,
            kind=kind,
            now=self._now,
            actor=self._actor,
            message_id=message.id,
            folder_id=folder_id,
            from_folder_id=message.folder_id,
            detail=detail,
        )
        self.ids.append(operation_id)

    def _join(self, kind: OperationKind) -> None:
        """It is asked for already, or done: answer with the last operation of this kind that is on its way."""
        self.ids += [row.id for row in self._open if row.kind == kind.value][-1:]

    def _join_words(self, kind: OperationKind, wanted: Words) -> None:
        words = {word.lower() for word in (*wanted.add, *wanted.remove)}
        mine = [row for row in self._open if row.kind == kind.value]
        same = [
            row.id for row in mine if words & {word.lower() for word in (*row.detail["add"], *row.detail["remove"])}
        ]
        self.ids += same[-1:]


def _detail(change: Words) -> dict[str, list[str]]:
    return {"add": list(change.add), "remove": list(change.remove)}
