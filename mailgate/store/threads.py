"""Threads of messages that come: looked up by their names, and joined where one comes that belongs to several.

The rule is `mailgate.messages.threads`. A message's own id is `messages.msgid_token`, those that it refers to are rows
of `message_links`, which go with the copy: those who stay keep their thread. All who share a name are in one thread
(but for what `MOVED` keeps apart), so one of them is looked at, however many they are.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Any

from sqlalchemy import delete, func, select, update

from mailgate.clock import Instant
from mailgate.messages.threads import MOVED, Arriving, Threading, bounded, groups, thread
from mailgate.store.bulk import Insert, Step, in_turn
from mailgate.store.schema import message_links, messages
from mailgate.store.sets import among
from mailgate.store.transaction import Transaction
from mailgate.sync.incoming import Mended, PreparedMessage

_M = messages.c
_COLUMNS = ("tenant_id", "token", "message_id")
_TOKEN = 32  # octets, of HMAC-SHA256

_LOCK = "SELECT pg_advisory_xact_lock(hashtextextended('mailgate threads ' || $1, 0))"
_LOOK = """
SELECT token,
  (SELECT thread_id FROM messages WHERE tenant_id = {tenant} AND msgid_token = token LIMIT 1),
  (SELECT m.thread_id FROM message_links AS l JOIN messages AS m ON m.id = l.message_id
   WHERE l.tenant_id = {tenant} AND l.token = names.token LIMIT 1)
FROM {names}
"""
_NAMES = f"""(
  WITH RECURSIVE each(n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM each WHERE n + 1 < ?2)
  SELECT substr(?3, 1 + {_TOKEN} * n, {_TOKEN}) AS token FROM each
) AS names"""  # noqa: S608 - no values
_LOOK_UP = {
    True: _LOOK.format(tenant="?1", names=_NAMES),
    False: _LOOK.format(tenant="$1::varchar", names="unnest($2::bytea[]) AS names(token)"),
}


async def lock(tx: Transaction, tenant_id: str) -> None:
    """Keep others from putting messages of the tenant into threads until the end of the transaction: of two messages
    that come at once the later one sees the other. On SQLite nobody else writes.
    """
    if not tx.sqlite:
        await in_turn(tx.conn, [Step(_LOCK, (tenant_id,))], sqlite=False)


async def place(
    tx: Transaction,
    tenant_id: str,
    coming: Iterable[PreparedMessage | Mended],
    now: Instant,
    *,
    stays_in: str | None = None,
) -> dict[str, str]:
    """The thread of each message that is about to be written, by its id; threads that it joins are one from now on,
    which their messages tell, unless too many had to move. `stays_in`: the thread that they do not leave, whatever they
    say by now.
    """
    arriving = [Arriving(_id(message), _names(message)) for message in coming]
    names = sorted({name for message in arriving for name in message.names})
    if not names:
        return {message.id: stays_in or message.id for message in arriving}
    await lock(tx, tenant_id)
    parameters = (tenant_id, len(names), b"".join(names)) if tx.sqlite else (tenant_id, names)
    (rows,) = await in_turn(tx.conn, [Step(_LOOK_UP[tx.sqlite], parameters)], sqlite=tx.sqlite)
    known = {row[0]: {found for found in row[1:] if found is not None} for row in rows}
    if stays_in is not None:
        for message in arriving:
            known.setdefault(message.names[0], set()).add(stays_in)
    return await _joined(tx, tenant_id, thread(arriving, known), now)


async def join(tx: Transaction, tenant_id: str, message_ids: Collection[str], now: Instant) -> None:
    """These messages are in one thread from now on, whatever their headers say."""
    await lock(tx, tenant_id)
    query = select(_M.thread_id).where(_M.tenant_id == tenant_id, _M.id.in_(message_ids)).distinct()
    first, *others = sorted((await tx.conn.execute(query)).scalars()) or [""]
    await _joined(tx, tenant_id, Threading({}, dict.fromkeys(others, first)), now)


async def link(tx: Transaction, tenant_id: str, written: Iterable[PreparedMessage | Mended]) -> None:
    """Remember what these messages refer to, whose rows are written."""
    rows = [(tenant_id, token, _id(message)) for message in written for token in message.links]
    if rows:
        await in_turn(tx.conn, [Insert(message_links, _COLUMNS, rows)], sqlite=tx.sqlite)


async def unlink(tx: Transaction, message_id: str) -> None:
    """Forget what the message refers to: it says something else from now on."""
    await tx.conn.execute(delete(message_links).where(message_links.c.message_id == message_id))


async def _joined(tx: Transaction, tenant_id: str, threading: Threading, now: Instant) -> dict[str, str]:
    """Join the threads as far as may be; the thread of each message that arrives."""
    if not threading.joined:
        return threading.threads
    sizes: dict[str, int] = {}
    for thread_id in {*threading.joined, *threading.joined.values()}:
        some = select(_M.id).where(_M.tenant_id == tenant_id, _M.thread_id == thread_id).limit(MOVED + 1)
        sizes[thread_id] = (await tx.conn.execute(select(func.count()).select_from(some.subquery()))).scalar_one()
    threads, joined = bounded(threading, sizes)
    if joined:
        await _join(tx, tenant_id, joined, now)
    return threads


async def _join(tx: Transaction, tenant_id: str, joined: dict[str, str], now: Instant) -> None:
    mine = (_M.tenant_id == tenant_id) & among(_M.thread_id, joined, sqlite=tx.sqlite)
    query = select(_M.id, _M.mailbox_id, _M.thread_id, _M.deleted_at).where(mine).order_by(_M.id).with_for_update()
    moving: Sequence[Any] = (await tx.conn.execute(query)).all()
    for target, *old in groups(joined):
        theirs = (_M.tenant_id == tenant_id) & among(_M.thread_id, old, sqlite=tx.sqlite)
        await tx.conn.execute(update(messages).where(theirs).values(thread_id=target))
    for row in moving:
        if row.deleted_at is None:
            tx.emit(tenant_id, "message.updated", at=now, mailbox_id=row.mailbox_id, message_id=row.id)


def _id(message: PreparedMessage | Mended) -> str:
    return message.message_id if isinstance(message, Mended) else message.id


def _names(message: PreparedMessage | Mended) -> tuple[bytes, ...]:
    own = () if message.msgid_token is None else (message.msgid_token,)
    return own + message.links
