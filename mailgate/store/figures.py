"""How the gateway stands, in figures: queues, lag, storage, keys, logs. Counts over indexes and small tables only, but
for the size of what is stored, which walks over the blobs and is asked for once an hour.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from sqlalchemy import Select, and_, func, literal, literal_column, select, text

from mailgate.clock import SECOND, Instant
from mailgate.store import key_epochs as epochs
from mailgate.store.database import Database
from mailgate.store.fenced import LEASE_PREFIX
from mailgate.store.runs import BACKFILL, QUEUED, RUNNING, SYNC
from mailgate.store.schema import (
    blob_erasures,
    blobs,
    events,
    feed,
    installation,
    key_epochs,
    leases,
    log_checkpoints,
    mailboxes,
    operations,
    runs,
    submissions,
    tenant_heads,
    tenants,
    webhook_deliveries,
)

_FLOWING: Final = ("live", "polling")
_TROUBLE: Final = ("auth_failed", "needs_approval", "backoff")
_RUNS_LOOKED_AT: Final = 500
_SLOWEST: Final = 5
# Written out: an index of such rows only is not used for a value that comes later.
_WAITING: Final = tuple(submissions.c.state == literal_column(word) for word in ("'queued'", "'sending'"))


@dataclass(frozen=True, slots=True)
class Queues:
    """What waits: passes that were asked for, changes for mail servers, letters, deliveries to webhooks, bytes to
    erase, events without a place in the feed.
    """

    passes: int
    pushes: int
    letters: int
    deliveries: int
    erasures: int
    events: int


@dataclass(frozen=True, slots=True)
class Lag:
    """Seconds since the mailboxes that flow agreed with their servers: the middle one, one of twenty, the worst."""

    mailboxes: int
    middle_s: float
    most_s: float
    worst_s: float


@dataclass(frozen=True, slots=True)
class Slow:
    """A mailbox that was not checked for longest."""

    id: str
    tenant_id: str
    address: str
    lag_s: float


@dataclass(frozen=True, slots=True)
class Owned:
    """What a process has: how many mailboxes, and which other leases, with until when."""

    mailboxes: int = 0
    others: Sequence[tuple[str, Instant]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Keys:
    """Keys of months that are over: `waiting` will be destroyed, `destroyed` were; when a rotation last ended."""

    waiting: int
    destroyed: int
    rotated_at: Instant | None


@dataclass(frozen=True, slots=True)
class Logs:
    """The purge logs: how many there are, entries of all, how many are not signed as they are, when one last was."""

    logs: int
    entries: int
    unsigned: int
    signed_at: Instant | None


@dataclass(frozen=True, slots=True)
class Largest:
    """A tenant with what it has stored: bytes are RFC 822 sizes."""

    id: str
    name: str
    copies: int
    size: int


@dataclass(frozen=True, slots=True)
class Stored:
    """What is stored. `database`: bytes of the database itself; None: not known."""

    copies: int
    size: int
    database: int | None
    largest: Sequence[Largest]


async def queues(db: Database) -> Queues:
    """How long the queues are."""
    asked = select(runs.c.state).where(runs.c.kind.in_((SYNC, BACKFILL))).order_by(runs.c.id.desc())
    recent = asked.limit(_RUNS_LOOKED_AT).subquery()
    async with db.read() as conn:

        async def count(query: Select[Any]) -> int:
            return int((await conn.execute(query)).scalar_one())

        return Queues(
            passes=await count(select(func.count()).select_from(recent).where(recent.c.state.in_((QUEUED, RUNNING)))),
            pushes=await count(select(func.count()).where(operations.c.finished_at.is_(None))),
            letters=sum([await count(select(func.count()).where(state)) for state in _WAITING]),
            deliveries=await count(select(func.count()).where(webhook_deliveries.c.finished_at.is_(None))),
            erasures=await count(select(func.count()).select_from(blob_erasures)),
            events=await count(select(func.count()).where(events.c.position.is_(None))),
        )


async def lag(db: Database, now: Instant) -> tuple[Lag, Sequence[Slow]]:
    """How long ago mailboxes that flow were checked, and those that wait longest."""
    of = leases.c.name == LEASE_PREFIX + mailboxes.c.id
    flowing = and_(
        mailboxes.c.state.in_(_FLOWING),
        mailboxes.c.removed_at.is_(None),
        mailboxes.c.last_checked_at.is_not(None),
        leases.c.expires_at > now,
    )
    source = mailboxes.join(leases, of)
    ages = select(mailboxes.c.last_checked_at).select_from(source).where(flowing)
    slowest = select(mailboxes.c.id, mailboxes.c.tenant_id, mailboxes.c.address, mailboxes.c.last_checked_at)
    slowest = slowest.select_from(source).where(flowing).order_by(mailboxes.c.last_checked_at).limit(_SLOWEST)
    async with db.read() as conn:
        found = sorted(max(0, now - at) / SECOND for at in (await conn.execute(ages)).scalars())
        slow = [
            Slow(row.id, row.tenant_id, row.address, max(0, now - row.last_checked_at) / SECOND)
            for row in await conn.execute(slowest)
        ]
    if not found:
        return Lag(0, 0.0, 0.0, 0.0), []
    return Lag(len(found), found[len(found) // 2], found[len(found) * 19 // 20], found[-1]), slow


async def owned(db: Database, now: Instant) -> Mapping[str, Owned]:
    """What each process has now, by its name in leases."""
    living = leases.c.expires_at > now
    boxes = leases.c.name.like(f"{LEASE_PREFIX}%")
    counted = select(leases.c.owner, func.count()).where(living, boxes).group_by(leases.c.owner)
    named = select(leases.c.owner, leases.c.name, leases.c.expires_at).where(living, ~boxes).order_by(leases.c.name)
    async with db.read() as conn:
        have: Counter[str] = Counter({row[0]: row[1] for row in await conn.execute(counted)})
        others: dict[str, list[tuple[str, Instant]]] = {}
        for row in await conn.execute(named.limit(200)):
            others.setdefault(row.owner, []).append((row.name, row.expires_at))
    return {owner: Owned(have[owner], others.get(owner, [])) for owner in sorted({*have, *others})}


async def keys(db: Database) -> Keys:
    """How the keys of past months stand."""
    states = select(func.count(), func.count(key_epochs.c.destroyed_at)).select_from(key_epochs)
    async with db.read() as conn:
        every, destroyed = (await conn.execute(states)).one()
        passed = select(installation.c.value).where(installation.c.key == epochs.PASSED)
        at = (await conn.execute(passed)).scalar_one_or_none()
    return Keys(every - destroyed, destroyed, None if at is None else int(at))


async def logs(db: Database) -> Logs:
    """How the purge logs stand."""
    signed = (
        select(log_checkpoints.c.tenant_id, func.max(log_checkpoints.c.size).label("size"))
        .group_by(log_checkpoints.c.tenant_id)
        .subquery()
    )
    grown = (
        select(func.count())
        .select_from(tenant_heads.outerjoin(signed, signed.c.tenant_id == tenant_heads.c.tenant_id))
        .where(tenant_heads.c.log_size != func.coalesce(signed.c.size, 0))
    )
    every = select(func.count(), func.coalesce(func.sum(tenant_heads.c.log_size), 0)).where(tenant_heads.c.log_size > 0)
    async with db.read() as conn:
        count, entries = (await conn.execute(every)).one()
        unsigned = (await conn.execute(grown)).scalar_one()
        at = (await conn.execute(select(func.max(log_checkpoints.c.signed_at)))).scalar_one()
    return Logs(count, int(entries), unsigned, at)


async def stored(db: Database, most: int) -> Stored:
    """What is stored, and the tenants with most of it."""
    heads = tenant_heads.c
    sums = select(func.coalesce(func.sum(heads.copies), 0), func.coalesce(func.sum(heads.storage_bytes), 0))
    top = (
        select(tenants.c.id, tenants.c.name, heads.copies, heads.storage_bytes)
        .join(tenants, tenants.c.id == heads.tenant_id)
        .where(heads.storage_bytes > 0)
        .order_by(heads.storage_bytes.desc(), tenants.c.id)
        .limit(most)
    )
    async with db.read() as conn:
        copies, size = (await conn.execute(sums)).one()
        largest = [Largest(*row) for row in await conn.execute(top)]
    return Stored(int(copies), int(size), await database_size(db), largest)


async def database_size(db: Database) -> int | None:
    """Bytes of the database."""
    pages = text("SELECT page_count * page_size FROM pragma_page_count(), pragma_page_size()")
    query = pages if db.sqlite else text("SELECT pg_database_size(current_database())")
    async with db.read() as conn:
        found: int | None = (await conn.execute(query)).scalar_one_or_none()
    return found


async def blobs_size(db: Database) -> int:
    """Bytes of the stored objects, compressed and encrypted. Walks over all of them."""
    async with db.read() as conn:
        return int((await conn.execute(select(func.coalesce(func.sum(blobs.c.stored_size), 0)))).scalar_one())


async def versions(db: Database) -> tuple[str, str]:
    """The database and its version, and the revision of its schema."""
    asked = select(func.sqlite_version()) if db.sqlite else text("SHOW server_version")
    async with db.read() as conn:
        version = (await conn.execute(asked)).scalar_one()
        revision = (await conn.execute(text("SELECT version_num FROM alembic_version"))).scalar_one()
    return f"{'SQLite' if db.sqlite else 'PostgreSQL'} {version}", str(revision)


async def measure(db: Database, now: Instant) -> dict[str, float]:
    """The figures of a minute, by the names under which they are kept."""
    waits = await queues(db)
    checked, _ = await lag(db, now)
    states = select(mailboxes.c.state, func.count()).where(mailboxes.c.removed_at.is_(None))
    sums = select(
        func.coalesce(func.sum(tenant_heads.c.copies), 0),
        func.coalesce(func.sum(tenant_heads.c.storage_bytes), 0),
        func.coalesce(func.sum(tenant_heads.c.log_size), 0),
    )
    async with db.read() as conn:
        counted = {row[0]: row[1] for row in await conn.execute(states.group_by(mailboxes.c.state))}
        copies, size, entries = (await conn.execute(sums)).one()
        position = (await conn.execute(select(func.coalesce(func.max(feed.c.position), literal(0))))).scalar_one()
    return {
        "flowing": sum(counted.get(state, 0) for state in _FLOWING),
        "trouble": sum(counted.get(state, 0) for state in _TROUBLE),
        "lag_s": round(checked.most_s, 1),
        "worst_lag_s": round(checked.worst_s, 1),
        "passes": waits.passes,
        "pushes": waits.pushes,
        "letters": waits.letters,
        "deliveries": waits.deliveries,
        "erasures": waits.erasures,
        "events": waits.events,
        "position": int(position),
        "copies": int(copies),
        "size": int(size),
        "entries": int(entries),
    }
