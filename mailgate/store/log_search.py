"""Entries of a purge log by what they are about, newest first, in a log of any length.

A look is answered from an index where one holds little else: an item's entries, a purge's, entries of the types that
are few. Whatever remains is nearly everything and is looked through, a bounded number of entries a look; where that
ends without enough of them the next look goes on, which is why a page may hold fewer entries than were asked for, and
still have a next one.

Entries of a time stand between two signed checkpoints: those before a checkpoint that was signed, like all before it,
well before `since` are too old. A clock that jumped widens the range and never narrows it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import ColumnElement, Row, Select, desc, func, select, text
from sqlalchemy.ext.asyncio import AsyncConnection

from mailgate.clock import DAY, Instant
from mailgate.store.database import Database
from mailgate.store.paging import Page
from mailgate.store.schema import log_checkpoints, log_leaves
from mailgate.store.schema.log import FREQUENT, RARE
from retention.ledger.tree import leaf_hash

STRETCH: Final = 5_000
"""Entries that one statement looks through."""
_STRETCHES: Final = 4
_MARGIN: Final[Instant] = DAY
"""So long after an entry's time it may be written, and signed."""

_L = log_leaves.c
_C = log_checkpoints.c


@dataclass(frozen=True, slots=True)
class Entry:
    """One leaf as stored; `body` is its canonical JSON, unless somebody changed it: then it is `damaged`."""

    index: int
    type: str
    at: Instant
    run_id: str | None
    item_ref: str | None
    body: bytes
    damaged: bool = False

    @property
    def leaf(self) -> dict[str, Any]:
        """What stands in it, field by field; nothing when it is damaged."""
        return {} if self.damaged else json.loads(self.body)


@dataclass(frozen=True, slots=True)
class EntryFilter:
    """What to list; None means any. `reason` stands inside of the entries."""

    since: Instant | None = None
    until: Instant | None = None
    types: Sequence[str] = ()
    run_id: str | None = None
    item_ref: str | None = None
    reason: str | None = None


async def page(db: Database, tenant_id: str, wanted: EntryFilter, *, before: int | None, limit: int) -> Page[Entry]:
    """Entries, newest first; those before an index. The page's key is (index,)."""
    async with db.read() as conn:
        low, end = await _range(conn, tenant_id, wanted, before)
        if low >= end:
            return Page([])
        query = select(log_leaves).where(_L.tenant_id == tenant_id, *_filters(wanted, sqlite=db.sqlite))
        indexed = _indexed(wanted)
        # An expression that no index has: else the walk would be along the log instead of along the item's entries.
        index = _L.idx + 0 if wanted.item_ref is not None else _L.idx
        found: list[Entry] = []
        at = end
        for _ in range(1 if indexed else _STRETCHES):
            first = low if indexed else max(low, at - STRETCH)
            rows = (await conn.execute(_part(query, index, first, at, limit + 1))).all()
            found += [entry for entry in map(_entry, rows) if _fits(entry, wanted)]
            at = rows[-1].idx if len(rows) > limit else first
            if len(found) > limit or at <= low:
                break
    if len(found) > limit:
        return Page(found[:limit], (found[limit - 1].index,))
    return Page(found, (at,) if at > low else None)


def _part(query: Select[Any], index: ColumnElement[int], first: int, end: int, limit: int) -> Select[Any]:
    return query.where(index >= first, index < end).order_by(desc(index)).limit(limit)


def _indexed(wanted: EntryFilter) -> bool:
    """Whether an index has what is wanted and little else."""
    named = wanted.item_ref is not None or wanted.run_id is not None
    return named or (bool(wanted.types) and not set(wanted.types) & set(FREQUENT) and wanted.reason is None)


def _filters(wanted: EntryFilter, *, sqlite: bool) -> list[ColumnElement[bool]]:
    found: list[ColumnElement[bool]] = []
    if wanted.since is not None:
        found.append(_L.at >= wanted.since)
    if wanted.until is not None:
        found.append(_L.at < wanted.until)
    if wanted.types:
        found.append(_L.type.in_(wanted.types))
        if not set(wanted.types) & set(FREQUENT):
            found.append(text(RARE))  # type: ignore[arg-type]  # says what the index of the rare types holds
    if wanted.run_id is not None:
        found.append(_L.run_id == wanted.run_id)
    if wanted.item_ref is not None:
        found.append(_L.item_ref == wanted.item_ref)
    if wanted.reason is not None:
        found.append(_mentions(json.dumps(wanted.reason, ensure_ascii=False).encode(), sqlite=sqlite))
    return found


def _mentions(needle: bytes, *, sqlite: bool) -> ColumnElement[bool]:
    """Whether the bytes of an entry hold these; what does not is never read out of the database."""
    if sqlite:
        return func.instr(_L.body, needle) > 0
    for special in (b"\\", b"%", b"_"):
        needle = needle.replace(special, b"\\" + special)
    return _L.body.op("LIKE", is_comparison=True)(b"%" + needle + b"%")


def _fits(entry: Entry, wanted: EntryFilter) -> bool:
    return wanted.reason is None or entry.leaf.get("reason") == wanted.reason


def _entry(row: Row[Any]) -> Entry:
    damaged = leaf_hash(row.body) != row.hash
    return Entry(row.idx, row.type, row.at, row.run_id, row.item_ref, row.body, damaged)


async def _range(conn: AsyncConnection, tenant_id: str, wanted: EntryFilter, before: int | None) -> tuple[int, int]:
    """From which index on, and before which, entries of the time can stand."""
    last = (await conn.execute(select(func.max(_L.idx)).where(_L.tenant_id == tenant_id))).scalar_one()
    low, end = 0, 0 if last is None else last + 1
    signed = select(_C.size).where(_C.tenant_id == tenant_id)
    if wanted.since is not None:
        # The first checkpoint that is not too old, and before it the last one: all before that one are.
        first = signed.where(_C.signed_at >= wanted.since - _MARGIN).order_by(_C.size).limit(1).scalar_subquery()
        old = select(func.max(_C.size)).where(_C.tenant_id == tenant_id, _C.size < func.coalesce(first, 1 << 62))
        low = (await conn.execute(old)).scalar_one() or 0
    if wanted.until is not None:
        # The last checkpoint that is not too young, and behind it the first one: all behind that one are.
        recent = signed.where(_C.signed_at < wanted.until + _MARGIN).order_by(_C.size.desc()).limit(1)
        young = select(func.min(_C.size)).where(
            _C.tenant_id == tenant_id, _C.size > func.coalesce(recent.scalar_subquery(), 0)
        )
        end = min(end, (await conn.execute(young)).scalar_one() or end)
    return low, end if before is None else min(end, before)
