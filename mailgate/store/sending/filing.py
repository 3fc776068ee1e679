"""The copy of what was sent: made in the commit that knows of it, put into Sent by the server or by us, once.

1. The server took the message. In that commit the copy is made, with the id that the submission named from the start,
   pinned as its parent is if that was asked for.
2. A server that files what is sent through it is waited for (`file_at`). Else the copy is on its way to Sent at once,
   by the same operation as any message that the CRM puts into a folder.
3. Whatever appears in Sent meanwhile is paired with a copy that stands nowhere: by Message-ID, else by likeness within
   ten minutes. Paired, the copy gets the bytes that the server has (`mailgate.store.drafts`), and an operation that
   waits finds it there.
4. What the server filed before its answer was known, or in place of it, is the copy: no other is made.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

from sqlalchemy import ColumnElement, FromClause, Row, Select, exists, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from connectors.model import SpecialUse
from mailgate.actors import Actor
from mailgate.clock import DAY, MINUTE, SECOND, Instant
from mailgate.store import messages as copies
from mailgate.store import operations, threads
from mailgate.store.discard import prepare_end
from mailgate.store.expiry import Expiry
from mailgate.store.pins import Pins
from mailgate.store.schema import blobs, folders, messages, origins, submissions
from mailgate.store.sending.records import open_prepared
from mailgate.store.sets import among
from mailgate.store.transaction import Transaction
from mailgate.store.wishes.folders import create_for, folder_for
from mailgate.store.wishes.locks import LockedMailbox
from mailgate.sync.incoming import FILED_IN, Draft, PreparedBlob, SentToken
from mailgate.sync.operations import OperationKind
from retention.model import AnchorFrom

PAIRED_WITHIN: Final[Instant] = 10 * MINUTE
"""So far apart may sending and filing be for likeness to be believed."""

LOOKED_FOR: Final[Instant] = 7 * DAY
"""A copy that stood nowhere for so long after it was sent is not looked for any more."""

FOLDERS_PAUSE: Final[Instant] = MINUTE
"""While the account's folders are not known, or nothing may be brought to it, filing waits so long."""

_S = submissions.c
_M = messages.c


class Filing:
    """Makes copies of what was sent, and sees to their place in Sent."""

    def __init__(self, expiry: Expiry, pins: Pins, anchor_from: AnchorFrom) -> None:
        self._expiry = expiry
        self._pins = pins
        self._anchor_from = anchor_from

    async def make_copy(
        self, tx: Transaction, mailbox: LockedMailbox, row: Row[Any], key: bytes, now: Instant, wait: Instant
    ) -> dict[str, Any]:
        """The server took it: make the copy, unless the server has filed one already. `key`: the submission's data key;
        `wait`: for so long the server may file it itself. Returns the submission's columns that say what the copy is.
        """
        filed = await tx.conn.execute(filed_of(submissions).where(_S.id == row.id).limit(1))
        message_id = filed.scalar_one_or_none()
        if message_id is None:
            message_id = row.message_id
            file_at = await self._make(tx, mailbox, row, key, now, wait)
        else:
            file_at = None
        if row.parent_id is not None:  # which may have no Message-ID by which the headers could name it
            await threads.join(tx, row.tenant_id, [row.parent_id, message_id], now)
        if row.parent_id is not None and row.pin_to_parent:
            actor = Actor(*row.requested_by.split(":", 1))
            await self._pins.inherit(tx, mailbox.tenant, row.parent_id, message_id, now=now, actor=actor)
        return {"message_id": message_id, "file_at": file_at}

    async def _make(
        self, tx: Transaction, mailbox: LockedMailbox, row: Row[Any], key: bytes, now: Instant, wait: Instant
    ) -> Instant | None:
        blob = await self._blob(tx, row.blob_id)
        received_at = now - now % SECOND
        message = open_prepared(
            key, row.id, row.prepared, blob, now=now, received_at=received_at, anchor_from=self._anchor_from
        )
        horizon = await self._expiry.horizon(tx.conn, row.tenant_id, now)
        folder_id = None if wait or mailbox.refusal is not None else await _sent_folder(tx, mailbox, now)
        place = copies.Place(row.tenant_id, row.mailbox_id, folder_id, None)
        await copies.add(tx, place, [message], horizon=horizon, initial=False)
        if folder_id is not None:
            await _ask(tx, row, folder_id, received_at, now, Actor(*row.requested_by.split(":", 1)))
            return None
        return now + (wait or FOLDERS_PAUSE)

    async def file(self, tx: Transaction, mailbox: LockedMailbox, row: Row[Any], now: Instant) -> Instant | None:
        """The wait is over: put the copy into Sent unless it stands somewhere or is gone. Returns the new `file_at`."""
        mine = _M.id == row.message_id
        await tx.conn.execute(select(_M.id).where(mine).with_for_update())
        copy = (await tx.conn.execute(select(_M.moving_to, _M.deleted_at).where(mine))).one_or_none()
        stands = select(origins.c.uid).where(origins.c.message_id == row.message_id).limit(1)
        if copy is None or copy.deleted_at is not None or copy.moving_to is not None:
            return None
        if (await tx.conn.execute(stands)).first() is not None:
            return None
        filed = filed_of(submissions).where(_S.id == row.id).limit(1)
        if (await tx.conn.execute(filed)).first() is not None:
            return None  # it came in the moment of the answer, too early to be paired: one in Sent is enough
        if mailbox.refusal is not None:
            return now + FOLDERS_PAUSE if mailbox.refusal.slug != "mailbox_removed" else None
        folder_id = await _sent_folder(tx, mailbox, now)
        if folder_id is None:
            known = select(folders.c.id).where(folders.c.mailbox_id == mailbox.id, folders.c.gone_at.is_(None))
            return now + FOLDERS_PAUSE if (await tx.conn.execute(known.limit(1))).first() is None else None
        await tx.conn.execute(update(messages).where(mine).values(moving_to=folder_id))
        actor = Actor(*row.requested_by.split(":", 1))
        await _ask(tx, row, folder_id, row.sent_at - row.sent_at % SECOND, now, actor)
        return None

    @staticmethod
    async def _blob(tx: Transaction, blob_id: str) -> PreparedBlob:
        row = (await tx.conn.execute(select(blobs).where(blobs.c.id == blob_id))).one()
        return PreparedBlob(row.id, row.content_token, row.size, row.stored_size, row.data_key, row.key_epoch)


async def drop_bytes(tx: Transaction, row: Row[Any], now: Instant) -> None:
    """Nobody will send the submission's bytes any more: its reference to them goes, and what prepared the copy."""
    if row.blob_id is None:
        return
    end = await prepare_end(tx, row.tenant_id, [_Reference(row)], now=now)
    await tx.conn.execute(update(submissions).where(_S.id == row.id).values(blob_id=None, prepared=None))
    await end.drop_references()


class _Reference:
    """A submission, as the end of a reference to a blob sees it."""

    def __init__(self, row: Row[Any]) -> None:
        self.id: str = row.id
        self.item_ref = row.message_id
        self.blob_id: str = row.blob_id
        self.indexed = False


async def _sent_folder(tx: Transaction, mailbox: LockedMailbox, now: Instant) -> str | None:
    """The folder for what was sent, made if the account has none. None while no folder is known, and where the one
    there is is left out by the mailbox's rules: then the copy is here only.
    """
    folder_id = await folder_for(tx, mailbox.id, SpecialUse.SENT)
    if folder_id is None:
        known = select(folders.c.id).where(folders.c.mailbox_id == mailbox.id, folders.c.gone_at.is_(None))
        if (await tx.conn.execute(known.limit(1))).first() is None:
            return None
        folder_id, _ = await create_for(tx, mailbox, SpecialUse.SENT, now, Actor("system", "sending"))
    followed = select(folders.c.followed).where(folders.c.id == folder_id)
    return folder_id if (await tx.conn.execute(followed)).scalar_one() else None


async def _ask(
    tx: Transaction, row: Row[Any], folder_id: str, received_at: Instant, now: Instant, actor: Actor
) -> None:
    await operations.ask(
        tx,
        tenant_id=row.tenant_id,
        mailbox_id=row.mailbox_id,
        kind=OperationKind.APPEND,
        now=now,
        actor=actor,
        message_id=row.message_id,
        folder_id=folder_id,
        detail={"flags": ["\\Seen"], "received_at": received_at},
    )


# Pairing.


def filed_of(of: FromClause) -> Select[Any]:
    """Ids of messages in Sent that are what a server filed of a submission (`of`: its table) which has no copy yet: of
    the same Message-ID, come since it was asked for, and no other submission's.
    """
    other = submissions.alias("other")
    theirs = exists().where(other.c.message_id == _M.id)
    return (
        select(_M.id)
        .join(origins, origins.c.message_id == _M.id)
        .join(folders, folders.c.id == origins.c.folder_id)
        .where(
            _M.tenant_id == of.c.tenant_id,
            _M.msgid_token == of.c.msgid_token,
            _M.mailbox_id == of.c.mailbox_id,
            _M.deleted_at.is_(None),
            _M.stored_at >= of.c.requested_at,
            origins.c.vanished_at.is_(None),
            folders.c.special_use.in_(sorted(FILED_IN)),
            ~theirs,
        )
    )


def _unfiled(mailbox_id: str, now: Instant) -> ColumnElement[bool]:
    """Submissions of the mailbox whose copies stand nowhere yet."""
    stands = exists().where(origins.c.message_id == _S.message_id)
    copy = messages.alias("copy")  # who joins the copies asks of them as well
    there = exists().where(copy.c.id == _S.message_id, copy.c.deleted_at.is_(None))
    return (_S.mailbox_id == mailbox_id) & (_S.sent_at > now - LOOKED_FOR) & there & ~stands


async def any_unfiled(conn: AsyncConnection, mailbox_id: str, now: Instant) -> bool:
    """Whether anything that was sent stands nowhere yet."""
    return (await conn.execute(select(_S.id).where(_unfiled(mailbox_id, now)).limit(1))).first() is not None


async def pair_sent(
    conn: AsyncConnection, mailbox_id: str, tokens: Iterable[SentToken], now: Instant
) -> dict[int, Draft]:
    """Which copy each of these new messages is, by UID: one to one, by Message-ID first."""
    listed = list(tokens)
    wanted = [token.msgid for token in listed if token.msgid is not None]
    alike = [token.likeness for token in listed]
    same = or_(_S.msgid_token.in_(wanted), _S.likeness_token.in_(alike))
    query = (
        select(_S.msgid_token, _S.likeness_token, _S.sent_at, _S.message_id, _M.item_ref)
        .join(messages, _M.id == _S.message_id)
        .where(_unfiled(mailbox_id, now), same)
        .order_by(_S.sent_at, _S.id)
    )
    free: dict[str, Any] = {row.message_id: row for row in await conn.execute(query)}
    found: dict[int, Draft] = {}

    def take(token: SentToken, rows: Sequence[Any]) -> None:
        if rows:
            found[token.uid] = Draft(rows[0].message_id, rows[0].item_ref)
            del free[rows[0].message_id]

    for token in listed:
        take(token, [row for row in free.values() if token.msgid is not None and row.msgid_token == token.msgid])
    for token in listed:
        if token.uid not in found:
            take(token, [row for row in free.values() if _alike(row, token, now)])
    return found


def _alike(row: Any, token: SentToken, now: Instant) -> bool:
    at = now if token.internal_date is None else token.internal_date
    near = abs(at - row.sent_at) <= PAIRED_WITHIN
    return bool(near and row.likeness_token == token.likeness)


async def settled(tx: Transaction, message_ids: Sequence[str]) -> None:
    """These copies stand at the server: nothing of them waits to be filed."""
    if message_ids:
        mine = among(_S.message_id, message_ids, sqlite=tx.sqlite) & _S.file_at.is_not(None)
        await tx.conn.execute(update(submissions).where(mine).values(file_at=None))
