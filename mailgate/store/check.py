"""The store checks itself: `mailgate doctor`, and every test of the store at its end.

Each invariant is one named check that returns what contradicts it. Quick checks read rows only; `deep` also reads
every blob, decrypts it and compares it with what was stored. Nothing is changed. Run it beside a live gateway and a
count may be seen in the middle of a change only on PostgreSQL, where statements see different moments; on SQLite all
of it is one snapshot.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

from sqlalchemy import case, func, literal, or_, select, union_all
from sqlalchemy.ext.asyncio import AsyncConnection

from mailgate.blobs import BlobCorruptError, BlobMissingError, BlobStore, UnreadablePack
from mailgate.clock import DAY, to_rfc3339
from mailgate.errors import MailgateError
from mailgate.keys import KeyRing
from mailgate.messages.timed import untimed
from mailgate.store import installation, invariants, orphans, timelines
from mailgate.store.database import Database
from mailgate.store.schema import (
    blob_erasures,
    blobs,
    log_leaves,
    messages,
    runs,
    sent_counts,
    submissions,
    subscription_events,
    subscription_periods,
    tenant_heads,
    tenants,
)
from mailgate.tenants.limits import Purpose
from retention.ledger.report import counted
from retention.ledger.tree import Frontier, leaf_hash

_LEAVES_A_READ = 4096
_LOST = (BlobMissingError, BlobCorruptError)
_SHOWN = 20
"""Findings of one check that are listed; the rest is counted."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One contradiction: which invariant, whose, and what is there."""

    check: str
    tenant_id: str | None
    detail: str


KEY_IS_THERE = "a copy's key is there"


@dataclass(frozen=True, slots=True)
class Report:
    """What the doctor found. `orphans` are objects without a row: leftovers of a kill, harmless, swept later; so are
    `unreadable`: files of blobs that don't tell what is in them, and to which nothing refers. `lost`: blobs whose bytes
    are not there, or are not those that were stored.
    """

    findings: tuple[Finding, ...]
    checks: int
    orphans: int = 0
    blobs_read: int = 0
    unreadable: tuple[UnreadablePack, ...] = ()
    lost: frozenset[str] = frozenset()

    @property
    def healthy(self) -> bool:
        """Whether nothing contradicts anything."""
        return not self.findings


async def doctor(db: Database, store: BlobStore, ring: KeyRing, *, deep: bool = False) -> Report:
    """Check every invariant of the store."""
    findings: list[Finding] = []
    async with db.read() as conn:
        for name, query in invariants.queries().items():
            rows = (await conn.execute(query.limit(_SHOWN + 1))).all()
            findings += [Finding(name, row[0], ", ".join(str(value) for value in row[1:])) for row in rows[:_SHOWN]]
            if len(rows) > _SHOWN:
                findings.append(Finding(name, None, "and more"))
        for name, check in _WALKS.items():
            findings += [Finding(name, tenant_id, detail) async for tenant_id, detail in check(conn)]
        findings += [Finding(KEY_IS_THERE, *found) async for found in keys_missing(conn, ring)]
        held = {row.id async for row in await conn.stream(select(blobs.c.id))}
        queued = set((await conn.execute(select(blob_erasures.c.blob_id))).scalars())
    packs: list[UnreadablePack] = []
    objects = set(store.list_ids(packs.append))
    async with db.read() as conn:
        left = await orphans.unreferred(conn, packs)
    lost = set[str]()
    for blob_id in sorted(held - objects):
        if (found := await _why_not_listed(db, store, blob_id)) is not None:
            tenant_id, unlisted = found
            findings.append(Finding("a copy's blob is there", tenant_id, unlisted.why))
            if unlisted.lost:
                lost.add(blob_id)
    read = 0
    if deep:
        async for tenant_id, blob_id, unread in _read_all(db, store, ring):
            if unread is None:
                read += 1
            else:
                findings.append(Finding("a copy's bytes are what was stored", tenant_id, unread.why))
                if unread.lost:
                    lost.add(blob_id)
    checks = len(invariants.queries()) + len(_WALKS) + 2 + deep
    return Report(tuple(findings), checks, len(objects - held - queued), read, tuple(left), frozenset(lost))


async def _log_hangs_together(conn: AsyncConnection) -> AsyncIterator[tuple[str, str]]:
    """Each log's leaves are numbered without gaps, hash to what is stored, and give the frontier that was counted
    along.
    """
    heads = (
        await conn.execute(select(tenant_heads.c.tenant_id, tenant_heads.c.log_size, tenant_heads.c.log_frontier))
    ).all()
    for tenant_id, size, frontier in heads:
        tree = Frontier()
        for first in range(0, size, _LEAVES_A_READ):
            query = (
                select(log_leaves.c.idx, log_leaves.c.body, log_leaves.c.hash)
                .where(
                    log_leaves.c.tenant_id == tenant_id,
                    log_leaves.c.idx >= first,
                    log_leaves.c.idx < first + _LEAVES_A_READ,
                )
                .order_by(log_leaves.c.idx)
            )
            for idx, body, digest in (await conn.execute(query)).all():
                if idx != tree.size or leaf_hash(body) != digest:
                    yield tenant_id, f"entry {tree.size} is missing or its hash does not fit"
                    return
                tree.append(digest)
        more = select(func.count()).where(log_leaves.c.tenant_id == tenant_id, log_leaves.c.idx >= size)
        if tree.size != size or (await conn.execute(more)).scalar_one():
            yield tenant_id, f"the log counts {size} entries, but other ones are there"
        elif tree.to_bytes() != frontier:
            yield tenant_id, "the entries do not give the frontier that was counted along"


async def _runs_balance(conn: AsyncConnection) -> AsyncIterator[tuple[str | None, str]]:
    """A purge run that is over has candidates = purged + kept + failed."""
    query = select(runs.c.id, runs.c.tenant_id, runs.c.counts).where(
        runs.c.kind == "purge", runs.c.finished_at.is_not(None)
    )
    for run_id, tenant_id, counts in (await conn.execute(query)).all():
        if not counts:
            continue
        told = counts.get("purged", 0) + sum(counts.get("kept", {}).values()) + counts.get("failed", 0)
        if counts.get("candidates", 0) != told:
            yield tenant_id, f"run {run_id}: {counts.get('candidates', 0)} candidates, but {told} outcomes"


@dataclass(frozen=True, slots=True)
class _Unread:
    """Why a blob can't be read; `lost`: and won't be, whatever a disk, a network or a key store does next."""

    why: str
    lost: bool = True


async def _why_not_listed(db: Database, store: BlobStore, blob_id: str) -> tuple[str, _Unread] | None:
    """Whose a blob is and why it is not among the objects; None when it was purged since its row was read."""
    try:
        found = None if await store.exists(blob_id) else _Unread(f"blob {blob_id} has no object")
    except MailgateError as error:
        found = _Unread(error.detail, isinstance(error, _LOST))
    tenant_id = await _holder(db, blob_id)
    return None if found is None or tenant_id is None else (tenant_id, found)


async def _holder(db: Database, blob_id: str) -> str | None:
    async with db.read() as conn:
        return (await conn.execute(select(blobs.c.tenant_id).where(blobs.c.id == blob_id))).scalar()


async def _read_all(db: Database, store: BlobStore, ring: KeyRing) -> AsyncIterator[tuple[str, str, _Unread | None]]:
    """Read every blob: tenant, id, and None for each good one."""
    after = ""
    while True:
        query = (
            select(blobs, tenants.c.ref)
            .join(tenants, tenants.c.id == blobs.c.tenant_id)
            .where(blobs.c.id > after)
            .order_by(blobs.c.id)
            .limit(500)
        )
        async with db.read() as conn:
            rows = (await conn.execute(query)).all()
        for row in rows:
            try:
                keys = ring.tenant(row.ref)
                digest, size = hashlib.sha256(), 0
                async for chunk in store.read(
                    row.tenant_id, row.id, keys.unwrap(row.data_key, row.key_epoch), row.size
                ):
                    digest.update(chunk)
                    size += len(chunk)
                good = size == row.size and keys.mac("content", digest.digest()) == untimed(row.content_token)
                yield row.tenant_id, row.id, None if good else _Unread(f"blob {row.id} has other bytes")
            except MailgateError as error:
                if await _holder(db, row.id) is not None:
                    yield row.tenant_id, row.id, _Unread(f"blob {row.id}: {error.detail}", isinstance(error, _LOST))
        if len(rows) < 500:
            return
        after = rows[-1].id


async def keys_missing(conn: AsyncConnection, ring: KeyRing) -> AsyncIterator[tuple[str, str]]:
    """Of whom the key of a month is gone under which something is wrapped, and what can't be read for it. A backup has
    such rows that is older than its keys were kept.
    """
    for table in (messages, blobs, submissions):
        used = select(table.c.tenant_id, table.c.key_epoch, tenants.c.ref, func.count().label("n"))
        used = used.join(tenants, tenants.c.id == table.c.tenant_id)
        query = used.group_by(table.c.tenant_id, table.c.key_epoch, tenants.c.ref)
        for row in (await conn.execute(query.order_by(table.c.tenant_id, table.c.key_epoch))).all():
            if row.key_epoch not in ring.epochs(row.ref):
                yield (
                    row.tenant_id,
                    f"the key of {row.key_epoch} is gone: {counted(row.n, table.name[:-1])} can't be read",
                )


_Walk = Callable[[AsyncConnection], AsyncIterator[tuple[str | None, str]]]


async def _periods_follow(conn: AsyncConnection) -> AsyncIterator[tuple[str, str]]:
    """Each timeline that is kept is the one that its events make by the rules that it was computed under. What another
    version of the gateway computed is made anew at the next start, and not judged before.
    """
    rules = timelines.rules_of(await installation.read(conn, installation.SUBSCRIPTION_RULES))
    if rules is None:
        return
    told = select(subscription_events.c.tenant_id).union(select(subscription_periods.c.tenant_id))
    for tenant_id in sorted((await conn.execute(told)).scalars()):
        line = await timelines.compute(conn, tenant_id, rules)
        if await timelines.read(conn, tenant_id) != line:
            yield tenant_id, "they do not"
        columns = (subscription_periods.c.effective_at, subscription_periods.c.plan_since)
        since = await conn.execute(select(*columns).where(subscription_periods.c.tenant_id == tenant_id))
        if any(line.plan_since(row.effective_at) != row.plan_since for row in since):
            yield tenant_id, "a plan is said to hold since another instant"


async def _sent_is_counted(conn: AsyncConnection) -> AsyncIterator[tuple[str, str]]:
    """What counts of each day as sent is what the submissions of that day say. Days of which submissions may have been
    pruned can't be compared; counts are kept longer than those.
    """
    pruned = await installation.read(conn, installation.SUBMISSIONS_PRUNED)
    day_at = submissions.c.charged_at - submissions.c.charged_at % DAY
    of_users = func.sum(case((submissions.c.purpose == Purpose.USER.value, 1), else_=0))
    none = literal(0)
    # One statement, so that a message that is counted in between is seen on both sides or on neither.
    told = union_all(
        select(
            sent_counts.c.tenant_id,
            sent_counts.c.day_at,
            sent_counts.c.user_count.label("users"),
            sent_counts.c.service_count.label("service"),
            none.label("sent_by_users"),
            none.label("sent_by_service"),
        ),
        select(submissions.c.tenant_id, day_at, none, none, of_users, func.count() - of_users)
        .where(submissions.c.charged_at.is_not(None))
        .group_by(submissions.c.tenant_id, day_at),
    ).subquery()
    users, service = func.sum(told.c.users), func.sum(told.c.service)
    sent_by_users, sent_by_service = func.sum(told.c.sent_by_users), func.sum(told.c.sent_by_service)
    query = (
        select(told.c.tenant_id, told.c.day_at, users, sent_by_users, service, sent_by_service)
        .where(told.c.day_at >= (0 if pruned is None else int(pruned)))
        .group_by(told.c.tenant_id, told.c.day_at)
        .having(or_(users != sent_by_users, service != sent_by_service))
        .order_by(told.c.tenant_id, told.c.day_at)
        .limit(_SHOWN)
    )
    for row in (await conn.execute(query)).all():
        counted = f"{row[2]} of users and {row[4]} of the service are counted"
        yield row[0], f"{to_rfc3339(row[1])[:10]}: {counted}, but {row[3]} and {row[5]} were accepted"


_WALKS: dict[str, _Walk] = {
    "the log hangs together": _log_hangs_together,
    "the counts of a run balance": _runs_balance,
    "a subscription's periods follow from its events": _periods_follow,
    "what counts as sent was accepted for sending": _sent_is_counted,
}
