"""Who read or changed what: changes and sign-ins one by one, at once; reads of messages counted together, written once
a minute, so that reading costs no write.

An entry holds who, when, from where, which route, the ids in its path, and what came of it; no body, no query.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

from sqlalchemy import Row, insert, select

from mailgate.clock import MINUTE, Clock, Instant
from mailgate.ids import later_id, new_id
from mailgate.store.database import Database
from mailgate.store.paging import Page, page_by_id
from mailgate.store.schema import access_log
from mailgate.store.transaction import Transaction

_A = access_log.c
_MOST_COUNTED = 10_000
"""Kinds of reads that are counted at a time; bounds memory."""
_LONGEST_TARGET = 200


class Kind(StrEnum):
    """What an entry is about."""

    CHANGE = "change"
    READ = "read"
    SIGN_IN = "sign_in"


@dataclass(frozen=True, slots=True)
class Access:
    """One entry. `status` is the HTTP status of the answer; `count` and `until_at` are of reads that are counted
    together.
    """

    kind: Kind
    actor: str
    method: str
    route: str
    status: int
    at: Instant
    tenant_id: str | None = None
    targets: Mapping[str, str] = field(default_factory=dict)
    address: str | None = None
    count: int = 1
    until_at: Instant | None = None
    id: str = ""


class AccessLog:
    """The log as one process writes it."""

    def __init__(self, db: Database, clock: Clock) -> None:
        self._db = db
        self._clock = clock
        self._reads: dict[tuple[object, ...], Access] = {}
        self._flushed_at = clock()
        self._last_id = ""

    async def note(self, access: Access) -> None:
        """Write an entry; it is there when this returns."""
        await self._write([access])

    async def read(self, access: Access) -> None:
        """Count a read with those of the same kind."""
        key = (access.actor, access.tenant_id, access.method, access.route, access.status, access.address)
        known = self._reads.get(key)
        if known is None and len(self._reads) >= _MOST_COUNTED:
            await self.flush()
        self._reads[key] = (
            access if known is None else replace(known, count=known.count + access.count, until_at=access.at)
        )

    async def tick(self) -> None:
        """Called often; writes what was counted once a minute."""
        if self._clock() - self._flushed_at >= MINUTE:
            await self.flush()

    async def flush(self) -> None:
        """Write what was counted."""
        reads, self._reads = self._reads, {}
        self._flushed_at = self._clock()
        await self._write(list(reads.values()))

    def _new_id(self, at: Instant) -> str:
        """Entries of the same millisecond stay in the order in which they were written."""
        self._last_id = later_id(at, self._last_id)
        return self._last_id

    async def _write(self, entries: list[Access]) -> None:
        if not entries:
            return
        rows = [
            {
                "id": self._new_id(entry.at),
                "at": entry.at,
                "until_at": entry.until_at,
                "kind": entry.kind.value,
                "actor": entry.actor[:200],
                "tenant_id": entry.tenant_id,
                "method": entry.method[:8],
                "route": entry.route[:200],
                "targets": {name: value[:_LONGEST_TARGET] for name, value in entry.targets.items()},
                "status": entry.status,
                "count": entry.count,
                "address": None if entry.address is None else entry.address[:64],
            }
            for entry in entries
        ]

        async def work(tx: Transaction) -> None:
            await tx.conn.execute(insert(access_log), rows)

        await self._db.transact(work)


async def list_page(
    db: Database,
    *,
    tenant_id: str | None,
    actor: str | None = None,
    kind: str | None = None,
    since: Instant | None = None,
    until: Instant | None = None,
    after: str | None,
    limit: int,
) -> Page[Access]:
    """Entries that began from `since` on and before `until`, newest first; of one tenant, or all. The page's key is
    (id,).
    """
    query = select(access_log)
    for column, value in ((_A.tenant_id, tenant_id), (_A.actor, actor), (_A.kind, kind)):
        if value is not None:
            query = query.where(column == value)
    # Ids begin with the time, to the millisecond: so a window of time is a range of the key.
    if since is not None:
        query = query.where(_A.id >= _first_id(since), _A.at >= since)
    if until is not None:
        query = query.where(_A.id < _first_id(until + 1_000), _A.at < until)
    return await page_by_id(db, query, _A.id, _access, after=after, limit=limit)


async def prune(tx: Transaction, before: Instant, limit: int) -> int:
    """Forget entries from before then, at most so many."""
    old = select(_A.id).where(_A.id < _first_id(before)).limit(limit)
    return (await tx.conn.execute(access_log.delete().where(_A.id.in_(old)))).rowcount


def _first_id(at: Instant) -> str:
    """The lowest id that something made at this instant can have."""
    return new_id(max(0, at))[:10] + "0" * 16


def _access(row: Row[Any]) -> Access:
    return Access(
        id=row.id,
        kind=Kind(row.kind),
        actor=row.actor,
        method=row.method,
        route=row.route,
        status=row.status,
        at=row.at,
        tenant_id=row.tenant_id,
        targets=row.targets,
        address=row.address,
        count=row._mapping["count"],
        until_at=row.until_at,
    )
