"""Tombstones: what stays of a copy that must not be downloaded again, unless somebody asks for it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, Protocol

from sqlalchemy import Row, select
from sqlalchemy.ext.asyncio import AsyncConnection

from mailgate.clock import Instant
from mailgate.ids import new_id
from mailgate.store.bulk import insert_many
from mailgate.store.schema import folders, mailboxes, origins, tombstones
from mailgate.store.sets import among
from mailgate.store.transaction import Transaction
from mailgate.sync.views import Purged
from retention.model import Reason

RETURNABLE: Final = frozenset({Reason.AGE, Reason.PLAN_END, Reason.MAILBOX_REMOVED})
"""Why a copy was purged that may be brought back: retention took it, nobody asked for its end."""

_COLUMNS = (
    "id",
    "tenant_id",
    "account_ref",
    "mailbox_id",
    "message_id",
    "item_ref",
    "folder",
    "uidvalidity",
    "uid",
    "header_token",
    "anchor_at",
    "reason",
    "run_id",
    "created_at",
)

_NO_ORIGINAL: tuple[tuple[str | None, int | None, int | None], ...] = ((None, None, None),)


def purged_of(row: Any) -> Purged | None:
    """The copy that a tombstone is of, if it may be brought back. The row: message_id, item_ref, anchor_at, reason."""
    return Purged(row.message_id, row.item_ref, row.anchor_at) if row.reason in RETURNABLE else None


async def of_messages(
    conn: AsyncConnection, tenant_id: str, message_ids: Sequence[str], *, sqlite: bool
) -> dict[str, list[Row[Any]]]:
    """The tombstones of these messages, in order of their ids, by message."""
    found: dict[str, list[Row[Any]]] = {}
    if message_ids:
        mine = among(tombstones.c.message_id, message_ids, sqlite=sqlite)
        query = select(tombstones).where(tombstones.c.tenant_id == tenant_id, mine).order_by(tombstones.c.id)
        for row in await conn.execute(query):
            found.setdefault(row.message_id, []).append(row)
    return found


class Buried(Protocol):
    """What a row of a copy that gets a tombstone must have."""

    @property
    def id(self) -> str:
        """The message's id."""

    @property
    def mailbox_id(self) -> str:
        """Its mailbox."""

    @property
    def item_ref(self) -> str:
        """What the purge log calls it."""

    @property
    def header_token(self) -> bytes:
        """What it is recognised by."""

    @property
    def anchor_at(self) -> Instant:
        """From when its age counted."""


async def bury(
    tx: Transaction,
    tenant_id: str,
    copies: Sequence[Buried | Row[Any]],
    reasons: Sequence[str],
    *,
    at: Instant,
    run_id: str | None = None,
) -> None:
    """One tombstone per original, or one without an address for a copy that had none; before the copies' rows go."""
    ids = [copy.id for copy in copies]
    found = (
        select(origins.c.message_id, folders.c.name, origins.c.uidvalidity, origins.c.uid)
        .join(folders, folders.c.id == origins.c.folder_id)
        .where(among(origins.c.message_id, ids, sqlite=tx.sqlite))
    )
    addresses: dict[str, list[tuple[str | None, int | None, int | None]]] = {}
    for message_id, folder, uidvalidity, uid in (await tx.conn.execute(found)).all():
        addresses.setdefault(message_id, []).append((folder, uidvalidity, uid))
    accounts = select(mailboxes.c.id, mailboxes.c.account_ref).where(
        among(mailboxes.c.id, {copy.mailbox_id for copy in copies}, sqlite=tx.sqlite)
    )
    account_refs = {row[0]: row[1] for row in (await tx.conn.execute(accounts)).all()}
    rows = [
        (
            new_id(at),
            tenant_id,
            account_refs[copy.mailbox_id],
            copy.mailbox_id,
            copy.id,
            copy.item_ref,
            *address,
            copy.header_token,
            copy.anchor_at,
            reason,
            run_id,
            at,
        )
        for copy, reason in zip(copies, reasons, strict=True)
        for address in addresses.get(copy.id, _NO_ORIGINAL)
    ]
    await insert_many(tx.conn, tombstones, _COLUMNS, rows, sqlite=tx.sqlite)
