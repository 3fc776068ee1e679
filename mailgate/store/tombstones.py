"""Tombstones: what stays of a copy that must not be downloaded again, unless somebody asks for it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final, NamedTuple, Protocol

from sqlalchemy import Row, exists, select
from sqlalchemy.ext.asyncio import AsyncConnection

from mailgate.clock import Instant
from mailgate.ids import new_ids
from mailgate.store.bulk import AMONG, Insert, Step, ids_of, in_turn
from mailgate.store.schema import operations, origins, tombstones
from mailgate.store.sets import among
from mailgate.store.transaction import Transaction
from mailgate.sync.operations import OperationKind, OperationState
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

_ORIGINS = "SELECT o.message_id, f.name, o.uidvalidity, o.uid FROM origins o JOIN folders f ON f.id = o.folder_id"
_ADDRESSES = {sqlite: f"{_ORIGINS} WHERE o.message_id {AMONG[sqlite]}" for sqlite in (True, False)}
_ACCOUNTS = {sqlite: f"SELECT id, account_ref FROM mailboxes WHERE id {AMONG[sqlite]}" for sqlite in (True, False)}  # noqa: S608 - of our own words

_NO_ORIGINAL: tuple[tuple[str | None, int | None, int | None], ...] = ((None, None, None),)


def purged_of(row: Any) -> Purged | None:
    """The copy that a tombstone is of, if it may be brought back. The row: message_id, item_ref, anchor_at, reason."""
    return Purged(row.message_id, row.item_ref, row.anchor_at) if row.reason in RETURNABLE else None


def original_gone(graves: Sequence[Any]) -> bool:
    """Whether a copy with these tombstones, not none, can't be fetched again: none of its originals is there."""
    return all(grave.gone_at is not None or grave.folder is None for grave in graves)


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


async def copied(conn: AsyncConnection, message_ids: Collection[str], *, sqlite: bool) -> set[str]:
    """Of which of these the first half of a move was sent, and nobody knows whether the server did it (or ever will,
    since the mailbox was removed): then they stand twice, once where nobody saw them.
    """
    op = operations.c
    met = exists().where(origins.c.message_id == op.message_id, origins.c.folder_id == op.folder_id)
    sent = (op.state == OperationState.SENT.value) & op.finished_at.is_(None)
    left = (op.state == OperationState.FAILED.value) & (op.code == Reason.MAILBOX_REMOVED.value)
    move = (op.kind == OperationKind.MOVE.value) & (sent | left)
    query = select(op.message_id, op.journal).where(among(op.message_id, message_ids, sqlite=sqlite), move, ~met)
    return {row.message_id for row in await conn.execute(query) if (row.journal or {}).get("halves")}


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
    places = await read_places(tx, copies)
    made = graves(tenant_id, copies, reasons, places, at=at, run_id=run_id)
    await in_turn(tx.conn, [made], sqlite=tx.sqlite)


async def bury_unseen(tx: Transaction, tenant_id: str, copy: Buried | Row[Any], reason: str, *, at: Instant) -> None:
    """One more tombstone, without an address: for an original that may stand where nobody saw it yet."""
    places = Places({}, (await read_places(tx, [copy])).accounts)
    await in_turn(tx.conn, [graves(tenant_id, [copy], [reason], places, at=at)], sqlite=tx.sqlite)


class Places(NamedTuple):
    """Where copies came from: the addresses of their originals by message, the account of each mailbox; `twice`: those
    of which one more may stand where nobody saw it.
    """

    addresses: Mapping[str, Sequence[tuple[str | None, int | None, int | None]]]
    accounts: Mapping[str, bytes]
    twice: Collection[str] = ()


async def read_places(tx: Transaction, copies: Sequence[Buried | Row[Any]]) -> Places:
    """Read them before the copies' rows go."""
    ids = ids_of([copy.id for copy in copies], sqlite=tx.sqlite)
    of = ids_of({copy.mailbox_id for copy in copies}, sqlite=tx.sqlite)
    steps = [Step(_ADDRESSES[tx.sqlite], (ids,)), Step(_ACCOUNTS[tx.sqlite], (of,))]
    found, accounts = await in_turn(tx.conn, steps, sqlite=tx.sqlite)
    addresses: dict[str, list[tuple[str | None, int | None, int | None]]] = {}
    for message_id, folder, uidvalidity, uid in found:
        addresses.setdefault(message_id, []).append((folder, uidvalidity, uid))
    return Places(addresses, {row[0]: row[1] for row in accounts})


def graves(
    tenant_id: str,
    copies: Sequence[Buried | Row[Any]],
    reasons: Sequence[str],
    places: Places,
    *,
    at: Instant,
    run_id: str | None = None,
) -> Insert:
    """The rows that `bury` inserts."""
    addresses, accounts, twice = places
    rows = [
        (
            tenant_id,
            accounts[copy.mailbox_id],
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
        for address in (*addresses.get(copy.id, _NO_ORIGINAL), *(_NO_ORIGINAL if copy.id in twice else ()))
    ]
    return Insert(tombstones, _COLUMNS, [(id_, *row) for id_, row in zip(new_ids(at, len(rows)), rows, strict=True)])
