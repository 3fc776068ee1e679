"""How things stand: a mailbox's folders and passes, the gauges of /metrics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import Row, Select, case, desc, func, literal, or_, select

from mailgate.clock import Instant
from mailgate.store import leftovers, pending
from mailgate.store.database import Database
from mailgate.store.near_folders import Renames, renames
from mailgate.store.outages import OUTAGES, first_line
from mailgate.store.runs import COMPLETED, HALTED, PURGE
from mailgate.store.schema import (
    blob_erasures,
    folders,
    guards,
    installation,
    log_checkpoints,
    mailboxes,
    messages,
    quarantine,
    runs,
    submissions,
    tenant_heads,
)
from mailgate.store.sets import among
from mailgate.store.transaction import Transaction

_RUNS_LOOKED_AT = 100
_WRITTEN = "readyz.written_at"


@dataclass(frozen=True, slots=True)
class FolderRow:
    """A folder as last seen, under the near side's name; `exists` is the server's count. `pending`: create or rename
    while that is on its way to the server.
    """

    id: str
    name: str
    special_use: str | None
    followed: bool
    exists: int
    progress_done: int
    progress_total: int
    imported_at: Instant | None
    last_pass_at: Instant | None
    last_error: str | None
    pending: Literal["create", "rename"] | None


async def folders_of(db: Database, mailbox_ids: Sequence[str]) -> Mapping[str, list[FolderRow]]:
    """The folders that the near side has, by mailbox; INBOX first, then by name."""
    query = select(folders).where(
        folders.c.mailbox_id.in_(mailbox_ids),
        folders.c.gone_at.is_(None),
        folders.c.selectable,
        folders.c.on_its_way.is_distinct_from("delete"),
    )
    found: dict[str, list[FolderRow]] = {}
    async with db.read() as conn:
        rows = (await conn.execute(query)).all()
        renamed = await renames(conn, mailbox_ids)
    for row in rows:
        found.setdefault(row.mailbox_id, []).append(_folder(row, renamed))
    for shown in found.values():
        shown.sort(key=lambda folder: (folder.special_use != "inbox", folder.name))
    return found


@dataclass(frozen=True, slots=True)
class Waiting:
    """What of a mailbox is not done: operations that are not finished, guards that are not closed, messages that are
    set aside.
    """

    operations: int = 0
    guards: int = 0
    quarantined: int = 0


async def waiting(db: Database, mailbox_ids: Sequence[str]) -> Mapping[str, Waiting]:
    """The same of each of these mailboxes."""

    def count(of: Any) -> Select[Any]:
        return select(of, func.count()).where(among(of, mailbox_ids, sqlite=db.sqlite)).group_by(of)

    async with db.read() as conn:
        operations = await pending.of_mailboxes(conn, mailbox_ids, sqlite=db.sqlite)
        refused = count(guards.c.mailbox_id).where(guards.c.closed_at.is_(None))
        standing = {row[0]: row[1] for row in (await conn.execute(refused)).all()}
        aside = {row[0]: row[1] for row in (await conn.execute(count(quarantine.c.mailbox_id))).all()}
    return {id_: Waiting(operations.get(id_, 0), standing.get(id_, 0), aside.get(id_, 0)) for id_ in mailbox_ids}


@dataclass(frozen=True, slots=True)
class Gauges:
    """What the database knows for /metrics."""

    mailboxes: Mapping[str, int]
    messages: int
    storage_bytes: int
    messages_unindexed: int
    erasures_queued: int
    erasures_failing: int
    search_leftovers: int
    log_entries: int
    quarantined: int
    guards_open: int
    last_purge_at: Instant | None
    halted: int
    submissions: Mapping[str, int]


UNSETTLED = ("queued", "sending", "uncertain")
"""States of submissions in which somebody still waits for something."""


async def gauges(db: Database) -> Gauges:
    """A few counts over indexes and the small tables; nothing that walks over the copies."""
    async with db.read() as conn:
        states = select(mailboxes.c.state, func.count()).where(mailboxes.c.removed_at.is_(None))
        counted = (await conn.execute(states.group_by(mailboxes.c.state))).all()
        by_state = {row[0]: row[1] for row in counted}
        heads = (
            await conn.execute(
                select(
                    func.coalesce(func.sum(tenant_heads.c.copies), 0),
                    func.coalesce(func.sum(tenant_heads.c.storage_bytes), 0),
                    func.coalesce(func.sum(tenant_heads.c.log_size), 0),
                )
            )
        ).one()
        unindexed = (await conn.execute(select(func.count()).where(~messages.c.indexed))).scalar_one()
        queued, failing = (
            await conn.execute(
                select(func.count(), func.count(case((blob_erasures.c.attempts > 0, 1)))).select_from(blob_erasures)
            )
        ).one()
        words_left, _ = await leftovers.waiting(conn)
        aside = (await conn.execute(select(func.count()).select_from(quarantine))).scalar_one()
        refused = select(func.count()).select_from(guards).join(mailboxes, mailboxes.c.id == guards.c.mailbox_id)
        open_ = refused.where(guards.c.closed_at.is_(None), mailboxes.c.removed_at.is_(None))
        guards_open = (await conn.execute(open_)).scalar_one()
        unsettled = select(submissions.c.state, func.count()).where(submissions.c.state.in_(UNSETTLED))
        sending = {row[0]: row[1] for row in await conn.execute(unsettled.group_by(submissions.c.state))}
        last = (
            await conn.execute(
                select(func.max(runs.c.finished_at)).where(
                    runs.c.kind == PURGE, runs.c.state == COMPLETED, ~runs.c.dry_run
                )
            )
        ).scalar_one()
        recent = select(runs.c.state).where(runs.c.kind == PURGE).order_by(desc(runs.c.id)).limit(_RUNS_LOOKED_AT)
        halted = sum(state == HALTED for state in (await conn.execute(recent)).scalars())
    return Gauges(
        mailboxes=by_state,
        messages=int(heads[0]),
        storage_bytes=int(heads[1]),
        log_entries=int(heads[2]),
        messages_unindexed=unindexed,
        erasures_queued=queued,
        erasures_failing=failing,
        search_leftovers=words_left,
        quarantined=aside,
        guards_open=guards_open,
        last_purge_at=last,
        halted=halted,
        submissions=sending,
    )


def _folder(row: Row[Any], renamed: Renames) -> FolderRow:
    name = renamed.name_of(row.id, row.mailbox_id, row.name)
    return FolderRow(
        id=row.id,
        name=name,
        special_use=row.special_use,
        followed=row.followed,
        exists=max(0, row.exists_count),  # below: the server contradicted itself
        progress_done=row.progress_done,
        progress_total=row.progress_total,
        imported_at=row.imported_at,
        last_pass_at=row.last_pass_at,
        last_error=row.last_error,
        pending="create" if row.on_its_way == "create" else "rename" if name != row.name else None,
    )


async def unsigned_logs(db: Database) -> list[str]:
    """Tenants whose purge log is not what was last signed: it grew, or somebody made it shorter."""
    signed = (
        select(log_checkpoints.c.tenant_id, func.max(log_checkpoints.c.size).label("size"))
        .group_by(log_checkpoints.c.tenant_id)
        .subquery()
    )
    query = (
        select(tenant_heads.c.tenant_id)
        .outerjoin(signed, signed.c.tenant_id == tenant_heads.c.tenant_id)
        .where(tenant_heads.c.log_size != func.coalesce(signed.c.size, 0))
        .order_by(tenant_heads.c.tenant_id)
    )
    async with db.read() as conn:
        return list((await conn.execute(query)).scalars())


async def logs(db: Database) -> list[str]:
    """Tenants whose purge log has an entry, erased ones too."""
    query = select(tenant_heads.c.tenant_id).where(tenant_heads.c.log_size > 0).order_by(tenant_heads.c.tenant_id)
    async with db.read() as conn:
        return list((await conn.execute(query)).scalars())


async def importing(db: Database) -> bool:
    """Whether any mailbox is in its first import now."""
    query = select(mailboxes.c.id).where(mailboxes.c.state == "importing", mailboxes.c.removed_at.is_(None)).limit(1)
    async with db.read() as conn:
        return (await conn.execute(query)).one_or_none() is not None


async def find_mailboxes(db: Database, which: str) -> list[tuple[str, str]]:
    """(tenant, mailbox) of the connected accounts with this id or address."""
    query = (
        select(mailboxes.c.tenant_id, mailboxes.c.id)
        .where(or_(mailboxes.c.id == which, mailboxes.c.address == which), mailboxes.c.removed_at.is_(None))
        .order_by(mailboxes.c.id)
    )
    async with db.read() as conn:
        return [(row[0], row[1]) for row in (await conn.execute(query)).all()]


async def unreachable(db: Database) -> str | None:
    """What is wrong with the database, None when it answers."""
    try:
        async with db.read() as conn:
            await conn.execute(select(literal(1)))
    except OUTAGES as error:
        return f"the database does not answer: {first_line(error)}"
    return None


async def unwritable(db: Database, now: Instant) -> str | None:
    """Why nothing could be committed now, the purge log included; None when something just was."""

    async def work(tx: Transaction) -> None:
        mark = tx.insert(installation).values(key=_WRITTEN, value=str(now))
        await tx.conn.execute(mark.on_conflict_do_update(index_elements=[installation.c.key], set_={"value": str(now)}))

    try:
        await db.transact(work)
    except OUTAGES as error:
        return f"nothing can be written: {first_line(error)}; nothing is purged until it can"
    return None
