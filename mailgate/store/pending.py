"""How many operations are not finished: what the near side shows and the mail server does not know yet."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from mailgate.store.schema import operations
from mailgate.store.sets import among

_O = operations.c


async def of_messages(conn: AsyncConnection, ids: Collection[str], *, sqlite: bool) -> Mapping[str, int]:
    """By message; those without any are left out."""
    mine = among(_O.message_id, ids, sqlite=sqlite)
    query = select(_O.message_id, func.count()).where(mine, _O.finished_at.is_(None)).group_by(_O.message_id)
    return {row[0]: row[1] for row in (await conn.execute(query)).all()}


async def of_mailboxes(conn: AsyncConnection, ids: Collection[str], *, sqlite: bool) -> Mapping[str, int]:
    """By mailbox; those without any are left out."""
    mine = among(_O.mailbox_id, ids, sqlite=sqlite)
    query = select(_O.mailbox_id, func.count()).where(mine, _O.finished_at.is_(None)).group_by(_O.mailbox_id)
    return {row[0]: row[1] for row in (await conn.execute(query)).all()}
