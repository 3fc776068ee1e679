"""The unit of work: one transaction in which a use case's rows, its events, its log entries and its usage are written
together.

Repositories (the modules beside this one) take a `Transaction` and share its connection. Events, log entries and
usage are buffered and written by `flush` just before the commit, under the lock of each tenant's row of
`tenant_heads`, tenants in order: the numbers are then contiguous in the order of commits, and that lock is held for
as short as possible.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from sqlalchemy import Table, bindparam, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection

from mailgate.clock import Instant
from mailgate.store.bulk import insert_many
from mailgate.store.schema import events, installation, log_leaves, tenant_heads
from retention.ledger.tree import Frontier, leaf_hash

_encode = json.JSONEncoder(separators=(",", ":")).encode
_EVENT_COLUMNS = ("tenant_id", "seq", "type", "at", "mailbox_id", "message_id", "payload")
_H = tenant_heads.c
_HEAD = select(_H.event_seq, _H.log_size, _H.log_frontier).where(_H.tenant_id == bindparam("tenant")).with_for_update()
_COUNT = (
    update(tenant_heads)
    .where(_H.tenant_id == bindparam("tenant"))
    .values(
        copies=_H.copies + bindparam("more_copies"),
        storage_bytes=_H.storage_bytes + bindparam("more_bytes"),
        event_seq=bindparam("last_seq"),
    )
)
GATEWAY = "*"
"""Stands for the gateway in an event's tenant: no tenant can be called so."""
_GATEWAY_SEQ = "events.seq"
_LEAF_COLUMNS = ("tenant_id", "idx", "body", "hash", "type", "at", "run_id", "item_ref")


class Leaf(NamedTuple):
    """One entry for the purge log: the canonical bytes, and what it is found by."""

    body: bytes
    type: str
    at: Instant
    run_id: str | None = None
    item_ref: str | None = None


def hashed(leaves: Iterable[Leaf]) -> list[tuple[Leaf, bytes]]:
    """Entries with their hashes, for `Transaction.log_hashed`."""
    return [(leaf, leaf_hash(leaf[0])) for leaf in leaves]


class Event(NamedTuple):
    """One entry of the outbox, its payload encoded already: for events by the thousand (`Transaction.emit_many`)."""

    type: str
    at: Instant
    mailbox_id: str | None
    message_id: str | None
    payload: str


@dataclass(slots=True)
class _Pending:
    events: list[Event] = field(default_factory=list)
    leaves: list[tuple[Leaf, bytes]] = field(default_factory=list)
    copies: int = 0
    storage_bytes: int = 0
    values: dict[str, Any] = field(default_factory=dict)


class Transaction:
    """A write transaction. `conn` is for the repositories of this package; use cases call `emit`, `log` and `count`."""

    def __init__(self, conn: AsyncConnection, *, sqlite: bool, on_events: Callable[[], None] | None = None) -> None:
        self.conn = conn
        self.sqlite = sqlite
        self._on_events = on_events
        self._pending: defaultdict[str, _Pending] = defaultdict(_Pending)
        self._after: list[Callable[[], None]] = []

    def emit(
        self,
        tenant_id: str | None,
        type_: str,
        *,
        at: Instant,
        mailbox_id: str | None = None,
        message_id: str | None = None,
        payload: Mapping[str, Any] | None = None,
    ) -> None:
        """Add an event to the outbox; its type and the names in `payload` stand in `mailgate.events.types`. It holds
        ids, instants and states, nothing from a message. `tenant_id` None: it concerns the whole gateway.
        """
        text = _encode(dict(payload)) if payload else "{}"
        self._pending[tenant_id or GATEWAY].events.append(Event(type_, at, mailbox_id, message_id, text))

    def emit_many(self, tenant_id: str, events_: Iterable[Event]) -> None:
        """Add many events of one tenant, as `emit` does one."""
        self._pending[tenant_id].events.extend(events_)

    def log(self, tenant_id: str, leaf: Leaf) -> None:
        """Append an entry to the tenant's purge log."""
        self.log_many(tenant_id, (leaf,))

    def log_many(self, tenant_id: str, leaves: Iterable[Leaf]) -> None:
        """Append entries to the tenant's purge log. They are hashed now, before anybody waits for the head's lock."""
        self.log_hashed(tenant_id, hashed(leaves))

    def log_hashed(self, tenant_id: str, leaves: Iterable[tuple[Leaf, bytes]]) -> None:
        """Append entries that were `hashed` before the transaction began."""
        self._pending[tenant_id].leaves.extend(leaves)

    def count(self, tenant_id: str, *, copies: int = 0, storage_bytes: int = 0) -> None:
        """Change the tenant's usage by these differences."""
        pending = self._pending[tenant_id]
        pending.copies += copies
        pending.storage_bytes += storage_bytes

    def set_head(self, tenant_id: str, **values: Any) -> None:
        """Set columns of the tenant's head with the rest."""
        self._pending[tenant_id].values.update(values)

    def after_commit(self, call: Callable[[], None]) -> None:
        """Call this once the commit is certain (to wake a waiting task, never to do I/O)."""
        self._after.append(call)

    def insert(self, table: Table) -> postgresql.Insert | sqlite.Insert:
        """An INSERT that knows ON CONFLICT; both databases spell it alike."""
        return sqlite.insert(table) if self.sqlite else postgresql.insert(table)

    async def flush(self) -> None:
        """Write what was buffered. Called once, last, by the database."""
        if self._on_events is not None and any(pending.events for pending in self._pending.values()):
            self._after.append(self._on_events)
        for tenant_id in sorted(self._pending):
            if tenant_id == GATEWAY:
                await self._flush_gateway(self._pending[tenant_id])
            else:
                await self._flush_tenant(tenant_id, self._pending[tenant_id])
        self._pending.clear()

    def committed(self) -> None:
        """Run the `after_commit` calls."""
        for call in self._after:
            call()

    async def _flush_tenant(self, tenant_id: str, pending: _Pending) -> None:
        # Waits for other transactions of this tenant that are about to commit; last in the lock order, so no cycle.
        row = (await self.conn.execute(_HEAD, {"tenant": tenant_id})).one()
        rows = [(tenant_id, seq, *event) for seq, event in enumerate(pending.events, start=row.event_seq + 1)]
        await insert_many(self.conn, events, _EVENT_COLUMNS, rows, sqlite=self.sqlite)
        values = dict(pending.values)
        if pending.leaves:
            values |= await self._append(tenant_id, row.log_size, row.log_frontier, pending.leaves)
        counts = {
            "tenant": tenant_id,
            "more_copies": pending.copies,
            "more_bytes": pending.storage_bytes,
            "last_seq": row.event_seq + len(rows),
        }
        await self.conn.execute(_COUNT.values(values) if values else _COUNT, counts)

    async def _flush_gateway(self, pending: _Pending) -> None:
        """The gateway's own events: numbered as a tenant's are, under the lock of the row that counts them."""
        key = installation.c.key == _GATEWAY_SEQ
        first = self.insert(installation).values(key=_GATEWAY_SEQ, value="0")
        await self.conn.execute(first.on_conflict_do_nothing())
        seq = int((await self.conn.execute(select(installation.c.value).where(key).with_for_update())).scalar_one())
        rows = [(GATEWAY, number, *event) for number, event in enumerate(pending.events, start=seq + 1)]
        await insert_many(self.conn, events, _EVENT_COLUMNS, rows, sqlite=self.sqlite)
        await self.conn.execute(update(installation).where(key).values(value=str(seq + len(rows))))

    async def _append(
        self, tenant_id: str, size: int, frontier_bytes: bytes, leaves: list[tuple[Leaf, bytes]]
    ) -> dict[str, Any]:
        frontier = Frontier.from_bytes(frontier_bytes)
        frontier.extend([digest for _, digest in leaves])
        rows = [
            (tenant_id, index, body, digest, type_, at, run_id, item_ref)
            for index, ((body, type_, at, run_id, item_ref), digest) in enumerate(leaves, start=size)
        ]
        await insert_many(self.conn, log_leaves, _LEAF_COLUMNS, rows, sqlite=self.sqlite)
        return {"log_size": size + len(rows), "log_frontier": frontier.to_bytes()}
