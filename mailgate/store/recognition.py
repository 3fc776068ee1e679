"""Which copies and tombstones a message at the server may be: those with its header token, and whether they are free.

A copy is free when no original of it is believed to stand anywhere, an appended one when APPEND may have brought it
here; a tombstone when its address is void: its original
is known to be gone, or the folder has another UIDVALIDITY by now, or is no more.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence
from dataclasses import replace
from typing import Any

from sqlalchemy import BindParameter, bindparam, exists, or_, select
from sqlalchemy.ext.asyncio import AsyncConnection

from connectors.model import SpecialUse
from mailgate.clock import Instant
from mailgate.messages.timed import untimed
from mailgate.store.folders import AnyRow, listed, near_of
from mailgate.store.messages import chunks
from mailgate.store.schema import folders, messages, operations, origins, tombstones
from mailgate.store.sets import among_tokens, tokens_of
from mailgate.store.tombstones import purged_of
from mailgate.sync.identity import Likeness
from mailgate.sync.incoming import Known
from mailgate.sync.operations import OperationKind, OperationState
from mailgate.sync.state import FolderState
from mailgate.sync.views import Appending, Deleting, Detached, Near, Origin, Tombstoned

# Made once: making a statement takes SQLAlchemy longer than carrying it out.
_MAILBOX: BindParameter[str] = bindparam("mailbox")
_OURS = (tombstones.c.tenant_id == bindparam("tenant")) & (tombstones.c.account_ref == bindparam("account"))
_GONE = select(origins.c.uid).where(origins.c.mailbox_id == _MAILBOX, origins.c.vanished_at.is_not(None)).limit(1)
_COPIES = (
    select(
        messages.c.id,
        messages.c.header_token,
        messages.c.size,
        messages.c.internal_date_at,
        messages.c.email_token,
        messages.c.moving_to,
        messages.c.deleted_at,
        origins.c.folder_id,
        origins.c.uidvalidity,
        origins.c.uid,
        origins.c.vanished_at,
    )
    .join(origins, origins.c.message_id == messages.c.id, isouter=True)
    .where(messages.c.mailbox_id == _MAILBOX)
)
_COPIES_WITH = {
    sqlite: _COPIES.where(among_tokens(messages.c.header_token, sqlite=sqlite, or_untimed=True))
    for sqlite in (True, False)
}
_BURIED = select(
    tombstones.c.id,
    tombstones.c.header_token,
    tombstones.c.folder,
    tombstones.c.uidvalidity,
    tombstones.c.uid,
    tombstones.c.gone_at,
    tombstones.c.message_id,
    tombstones.c.item_ref,
    tombstones.c.anchor_at,
    tombstones.c.reason,
).where(_OURS)
_BURIED_WITH = {
    sqlite: _BURIED.where(among_tokens(tombstones.c.header_token, sqlite=sqlite, or_untimed=True))
    for sqlite in (True, False)
}


# Of what the CRM added the server may show another header than it was given.
_NEWEST = (
    select(origins.c.uid, messages.c.header_token, messages.c.internal_date_at)
    .join(messages, messages.c.id == origins.c.message_id)
    .where(
        origins.c.folder_id == bindparam("folder"),
        origins.c.uidvalidity == bindparam("number"),
        origins.c.vanished_at.is_(None),
        ~exists().where(
            operations.c.mailbox_id == messages.c.mailbox_id,
            operations.c.message_id == messages.c.id,
            operations.c.kind == OperationKind.APPEND.value,
        ),
    )
    .order_by(origins.c.uid.desc())
    .limit(bindparam("limit"))
)


async def has_gone(conn: AsyncConnection, mailbox_id: str) -> bool:
    """Whether any original of the mailbox is gone and waits, since it may have been moved. An index knows."""
    return (await conn.execute(_GONE, {"mailbox": mailbox_id})).first() is not None


async def has_free(
    conn: AsyncConnection, account_ref: bytes, tenant_id: str, mailbox_id: str, folder: FolderState, uidvalidity: int
) -> bool:
    """Whether anything of the mailbox waits to be recognised in this folder. It may look at every row of the mailbox to
    find out that nothing does.
    """
    if await has_gone(conn, mailbox_id):
        return True
    renumbered = select(origins.c.uid).where(origins.c.folder_id == folder.id, origins.c.uidvalidity != uidvalidity)
    if (await conn.execute(renumbered.limit(1))).first() is not None:
        return True
    detached = select(messages.c.id).where(
        messages.c.mailbox_id == mailbox_id, ~exists().where(origins.c.message_id == messages.c.id)
    )
    if (await conn.execute(detached.limit(1))).first() is not None:
        return True
    stale = select(tombstones.c.id).where(
        tombstones.c.tenant_id == tenant_id,
        tombstones.c.account_ref == account_ref,
        or_(
            tombstones.c.gone_at.is_not(None),
            tombstones.c.folder.is_(None),
            (tombstones.c.folder == folder.name) & (tombstones.c.uidvalidity != uidvalidity),
            ~_stands_as(mailbox_id),
        ),
    )
    return (await conn.execute(stale.limit(1))).first() is not None


def _stands_as(mailbox_id: str) -> Any:
    """Whether a tombstone's address is valid: its folder is listed and has the same UIDVALIDITY (or none known yet)."""
    return exists().where(
        folders.c.mailbox_id == mailbox_id,
        folders.c.name == tombstones.c.folder,
        folders.c.gone_at.is_(None),
        or_(folders.c.uidvalidity == tombstones.c.uidvalidity, folders.c.uidvalidity.is_(None)),
    )


async def recognisable(
    conn: AsyncConnection,
    account_ref: bytes,
    tenant_id: str,
    mailbox_id: str,
    folder: FolderState,
    uidvalidity: int,
    tokens: Iterable[bytes],
) -> list[Known]:
    """Copies of the mailbox and tombstones of its account with these header tokens, the waiting ones first."""
    wanted = sorted(set(tokens))
    copies: dict[str, AnyRow] = {}
    addresses: dict[str, list[AnyRow]] = {}
    buried: list[AnyRow] = []
    sqlite = conn.dialect.name == "sqlite"
    for chunk in chunks(wanted):
        about = {"mailbox": mailbox_id, "tenant": tenant_id, "account": account_ref}
        about |= tokens_of(chunk, sqlite=sqlite, or_untimed=True)
        for row in await conn.execute(_COPIES_WITH[sqlite], about):
            copies[row.id] = row
            if row.folder_id is not None:
                addresses.setdefault(row.id, []).append(row)
        buried.extend((await conn.execute(_BURIED_WITH[sqlite], about)).all())
    if not copies and not buried:
        return []
    current = {state.name: state for state in await listed(conn, mailbox_id)} if buried else {}  # maybe thousands
    coming = [row.id for row in copies.values() if row.moving_to is not None and row.id not in addresses]
    expected = await _expected(conn, coming)
    moving = [row.id for row in copies.values() if row.moving_to is not None and row.id in addresses]
    marks = await _marked(conn, moving)
    found = (_known_copy(row, addresses.get(row.id, []), folder, uidvalidity, expected) for row in copies.values())
    known = [replace(copy, marks=copy.key in marks) for copy in found if copy is not None]
    known += [_known_tombstone(row, current, folder, uidvalidity) for row in buried]
    return sorted(known, key=lambda item: (not item.free, isinstance(item.near, Tombstoned), item.key))


async def _expected(conn: AsyncConnection, ids: Sequence[str]) -> set[str]:
    """Which of these appended copies may stand at the server: APPEND was sent, and its answer is not known. A person
    may have moved them on already, to any folder.
    """
    found: set[str] = set()
    columns = operations.c
    for chunk in chunks(ids):
        sent = columns.message_id.in_(chunk) & (columns.kind == OperationKind.APPEND.value)
        query = select(columns.message_id).where(sent, columns.state == OperationState.SENT.value)
        found.update((await conn.execute(query)).scalars())
    return found


async def _marked(conn: AsyncConnection, ids: Sequence[str]) -> set[str]:
    """Of which of these copies an original was marked to be removed, by a move in two halves that is not over."""
    found: set[str] = set()
    columns = operations.c
    for chunk in chunks(ids):
        sent = columns.message_id.in_(chunk) & (columns.kind == OperationKind.MOVE.value)
        query = select(columns.message_id, columns.journal).where(sent, columns.state == OperationState.SENT.value)
        found.update(row.message_id for row in await conn.execute(query) if (row.journal or {}).get("marks"))
    return found


def _known_copy(
    row: AnyRow, addresses: list[AnyRow], folder: FolderState, uidvalidity: int, expected: Container[str]
) -> Known | None:
    """What a copy may be taken for; None: for nothing. An appended copy is met only when it was sent, deleted since or
    not; another one that a user deleted and only a hold keeps is nobody's any more, and what equals it is another
    message. One that is moved in two halves stands where it goes already, and is met in its source all the same when
    that is renumbered.
    """
    renumbered = [at for at in addresses if at.folder_id == folder.id and at.uidvalidity != uidvalidity]
    stands = [
        at
        for at in addresses
        if at.vanished_at is None and at not in renumbered and not (renumbered and at.folder_id == row.moving_to)
    ]
    if folder.special_use is SpecialUse.DRAFTS and any(
        at.folder_id == folder.id and at.uidvalidity == uidvalidity and at.vanished_at is not None for at in addresses
    ):
        return None  # it may have been saved again with other words, whatever it looks like
    near: Near
    if addresses:
        near = near_of(row)
    elif row.id in expected:
        near = Appending(row.id, row.moving_to) if row.deleted_at is None else Deleting(row.id)
    elif row.moving_to is not None or row.deleted_at is not None:
        return None
    else:
        near = Detached(row.id)
    likeness = Likeness(untimed(row.header_token), row.size, row.internal_date_at, row.email_token)
    places = tuple(sorted({at.folder_id for at in stands}))
    return Known(near, row.id, likeness, not stands, places, tuple(_origin(at.folder_id, at) for at in stands))


def _known_tombstone(row: AnyRow, current: dict[str, FolderState], folder: FolderState, uidvalidity: int) -> Known:
    at = current.get(row.folder) if row.folder is not None else None
    if at is None:
        valid = False
    elif at.id == folder.id:
        valid = row.uidvalidity == uidvalidity
    else:
        valid = at.uidvalidity is None or at.uidvalidity == row.uidvalidity
    free = row.gone_at is not None or not valid
    places = () if free or at is None else (at.id,)
    stands = () if free or at is None or row.uid is None else (_origin(at.id, row),)
    near = Tombstoned(row.id, elsewhere=True, purged=purged_of(row))
    return Known(near, row.id, Likeness(untimed(row.header_token)), free, places, stands)


def _origin(folder_id: str, row: AnyRow) -> Origin:
    return Origin(folder_id, row.uidvalidity, row.uid)


async def sample(
    conn: AsyncConnection, folder_id: str, uidvalidity: int, limit: int
) -> dict[int, tuple[bytes, Instant | None]]:
    """Untimed header token and INTERNALDATE of a few copies that stand in the folder and came from the server, newest
    first.
    """
    here = {"folder": folder_id, "number": uidvalidity, "limit": limit}
    rows = await conn.execute(_NEWEST, here)
    return {row.uid: (untimed(row.header_token), row.internal_date_at) for row in rows}
