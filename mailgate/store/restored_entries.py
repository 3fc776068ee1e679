"""What the entries of a purge log tell, done again upon a database that was restored and lacks them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from sqlalchemy import delete, insert, select, update

from mailgate.actors import COMMAND, Actor
from mailgate.clock import Clock, Instant
from mailgate.store.discard import end_copies
from mailgate.store.log import PurgeLog
from mailgate.store.pins import RESTORED
from mailgate.store.schema import hold_messages, holds, mailboxes, messages, pins, tenants, tombstones
from mailgate.store.sets import among
from mailgate.store.subscriptions import Subscriptions
from mailgate.store.tenant_erasure import Reason, TenantErasures
from mailgate.store.tenants import Tenant
from mailgate.store.tombstones import bury
from mailgate.store.transaction import Leaf, Transaction
from retention.ledger import leaves
from retention.ledger.canonical import parse_instant
from retention.ledger.schema import parse_leaf
from retention.model import Reason as RetentionReason

_M = messages.c
_GONE = frozenset({"item.purge", "item.remove", "item.lost"})
_ERASURES = frozenset(reason.value for reason in Reason)
LOST_AS: Final = RetentionReason.AGE.value
"""The reason of the tombstone of a copy that another restore lost: retention had taken it, and it may come back."""
Found = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Parts:
    """What knows the rest of what is done again."""

    subscriptions: Subscriptions
    erasures: TenantErasures
    log: PurgeLog
    clock: Clock


@dataclass(slots=True)
class Replayed:
    """What was done again for one tenant. `missing`: pins, held and returned copies that the backup does not have.
    `not_brought_back`: ids of messages that had been purged before the backup and were brought back since; it has them
    as purged, the log tells that they were lost, and they may be brought back once more.
    `holds_without_mailbox`: holds that stand on mailboxes which were connected after it: they protect nothing until
    they are placed on what is connected now. `bytes_lost`: copies that were purged and brought back after it: it refers
    to bytes which that purge destroyed; they are fetched again where the original stands. `known_until`: the time of
    the last entry that was signed; what happened later nobody knows.
    """

    tenant_id: str
    entries: int = 0
    done: Counter[str] = field(default_factory=Counter)
    missing: int = 0
    not_brought_back: list[str] = field(default_factory=list)
    holds_without_mailbox: list[str] = field(default_factory=list)
    bytes_lost: int = 0
    known_until: Instant | None = None


@dataclass(slots=True)
class Plan:
    """What becomes of each item in the entries that the database lacks."""

    gone_at: dict[str, int] = field(default_factory=dict)
    """Index of the entry by which an item went for good."""
    returned: set[str] = field(default_factory=set)
    """Items that retention purged and that were brought back, with bytes that the database does not know."""
    came_before: dict[str, str] = field(default_factory=dict)
    """Items that are here by the log, brought back since, and were gone before the first of these entries: each with
    its mailbox.
    """
    deleted: dict[str, str | None] = field(default_factory=dict)
    """Such items that were removed since: each with the reason of its tombstone, None when it needs none."""
    removed_mailboxes: set[str] = field(default_factory=set)

    def read(self, index: int, leaf: dict[str, Any]) -> None:
        """The next entry, which is the log's `index`-th."""
        if leaf["type"] in _GONE:
            self.gone_at[leaf["item_ref"]] = index
            self.returned.discard(leaf["item_ref"])
            if self.came_before.pop(leaf["item_ref"], None) is not None and leaf["type"] == "item.remove":
                self.deleted[leaf["item_ref"]] = leaf["reason"] if _stays_at_server(leaf) else None
            if leaf["reason"] == "mailbox_removed":
                self.removed_mailboxes.add(leaf["mailbox_ref"])
        elif leaf["type"] == "rehydrate":
            if self.gone_at.pop(leaf["item_ref"], None) is not None:
                self.returned.add(leaf["item_ref"])
            else:
                self.came_before[leaf["item_ref"]] = leaf["mailbox_ref"]


class Batch:
    """Some entries, done again and appended in one transaction."""

    def __init__(
        self,
        tenant: Tenant,
        first: int,
        bodies: Sequence[bytes],
        plan: Plan,
        buried: Mapping[str, str],
        parts: Parts,
        *,
        last: bool = False,
    ) -> None:
        """`first`: the index of the first of `bodies` in the tenant's log; `last`: none comes after them. `buried`: the
        ids of the messages that `plan` says came before and that have tombstones, by item.
        """
        self._parts = parts
        self._tenant = tenant
        self._tenant_id = tenant.id
        self._buried = buried
        self._last = last
        self._bodies = bodies
        self._leaves = [parse_leaf(body) for body in bodies]
        self._first = first
        self._plan = plan
        self._done: Counter[str] = Counter()
        self._missing = 0
        self._unbound: list[str] = []
        self._released: set[str] = set()

    def tell(self, told: Replayed) -> None:
        """Add what was done, once it is committed."""
        told.entries += len(self._bodies)
        told.done += self._done
        told.missing += self._missing
        if self._last:
            told.not_brought_back = sorted(self._buried[ref] for ref in self._lost)
        unbound = [*told.holds_without_mailbox, *self._unbound]
        told.holds_without_mailbox = [hold_id for hold_id in unbound if hold_id not in self._released]
        told.known_until = parse_instant(self._leaves[-1]["at"])

    async def replay(self, tx: Transaction) -> None:
        """The transaction. It may be repeated: what counts is the last time."""
        self._done, self._missing, self._unbound, self._released = Counter(), 0, [], set()
        locked = select(tenants.c.id).where(tenants.c.id == self._tenant_id).with_for_update(key_share=True)
        await tx.conn.execute(locked)
        copies = await self._copies(tx)
        for index, (body, leaf) in enumerate(zip(self._bodies, self._leaves, strict=True), start=self._first):
            type_, at = leaf["type"], parse_instant(leaf["at"])
            if type_ in _GONE:
                await self._end(tx, index, leaf, copies, at)
            elif type_ in _DONE_AGAIN:
                await _DONE_AGAIN[type_](self, tx, leaf, copies, at)
            tx.log(self._tenant_id, Leaf(body, type_, at, leaf.get("run"), leaf.get("item_ref")))
        if self._last:
            await self._settle_buried(tx)

    @property
    def _lost(self) -> list[str]:
        """Items that are here by the log and purged in the database."""
        return [ref for ref in self._plan.came_before if ref in self._buried]

    async def _settle_buried(self, tx: Transaction) -> None:
        """The log, which is the one that was signed by now, goes on with what it has as brought back and is not here:
        else the next return of such a copy, and its purge without the pins that it had, would look like a broken rule.
        What was deleted after it came back is kept from coming again, or needs no tombstone any more.
        """
        now = self._parts.clock()
        for ref in self._lost:
            box = self._plan.came_before[ref]
            said = {"item_ref": ref, "mailbox_ref": box, "reason": "backup_restored"}
            self._parts.log.write(
                tx, self._tenant_id, self._tenant.ref, leaves.item_lost, at=now, actor=COMMAND, **said
            )
        for ref, reason in self._plan.deleted.items():
            mine = (tombstones.c.tenant_id == self._tenant_id) & (tombstones.c.item_ref == ref)
            if reason is None:
                await tx.conn.execute(delete(tombstones).where(mine))
            else:
                await tx.conn.execute(update(tombstones).where(mine).values(reason=reason))

    async def _copies(self, tx: Transaction) -> dict[str, Any]:
        """The copies that the entries are about, locked, by reference."""
        refs = {leaf["item_ref"] for leaf in self._leaves if "item_ref" in leaf}
        refs |= {ref for leaf in self._leaves if leaf["type"] == "hold.cover" for ref in leaf["items"]}
        if not refs:
            return {}
        mine = (_M.tenant_id == self._tenant_id) & among(_M.item_ref, refs, sqlite=tx.sqlite)
        rows = (await tx.conn.execute(select(messages).where(mine).order_by(_M.id).with_for_update())).all()
        return {row.item_ref: row for row in rows}

    async def _end(self, tx: Transaction, index: int, leaf: Found, copies: Found, at: Instant) -> None:
        row = copies.get(leaf["item_ref"])
        if row is None or self._plan.gone_at.get(leaf["item_ref"]) != index:
            return
        del copies[leaf["item_ref"]]
        await tx.conn.execute(delete(pins).where(pins.c.message_id == row.id))
        if _stays_at_server(leaf):
            reason = LOST_AS if leaf["type"] == "item.lost" else leaf["reason"]
            await bury(tx, self._tenant_id, [row], [reason], at=at, run_id=leaf.get("run"))
        await end_copies(tx, self._tenant_id, [row], now=self._parts.clock(), run_id=leaf.get("run"))
        tx.count(self._tenant_id, copies=-1, storage_bytes=-row.size)
        self._done[leaf["type"]] += 1

    async def _rehydrate(self, tx: Transaction, leaf: Found, copies: Found, at: Instant) -> None:
        row = copies.get(leaf["item_ref"])
        if row is None:
            self._missing += 1
            return
        anchor = leaf["anchor"]
        values = {"anchor_at": parse_instant(anchor["at"]), "anchor_source": anchor["src"]}
        until = {"keep_until_at": parse_instant(leaf["until"])}
        await tx.conn.execute(update(messages).where(_M.id == row.id).values(values | until))
        self._done["rehydrate"] += 1

    async def _pin_add(self, tx: Transaction, leaf: Found, copies: Found, at: Instant) -> None:
        row = copies.get(leaf["item_ref"])
        if row is None:
            self._missing += 1
            return
        values = {
            "tenant_id": self._tenant_id,
            "message_id": row.id,
            "entity_type": leaf["entity_type"],
            "entity_id": RESTORED + leaf["entity_commit"],
            "ref": leaf["pin_ref"],
            "created_at": at,
            "created_by": _actor(leaf),
        }
        await tx.conn.execute(insert(pins).values(values))
        await tx.conn.execute(update(messages).where(_M.id == row.id).values(pins=_M.pins + 1, unpinned_at=None))
        self._done["pin.add"] += 1

    async def _pin_remove(self, tx: Transaction, leaf: Found, copies: Found, at: Instant) -> None:
        row = copies.get(leaf["item_ref"])
        if row is None:
            return
        mine = (pins.c.ref == leaf["pin_ref"]) & (pins.c.message_id == row.id)
        if (await tx.conn.execute(delete(pins).where(mine))).rowcount:
            fewer = update(messages).where(_M.id == row.id)
            await tx.conn.execute(fewer.values(pins=_M.pins - 1, unpinned_at=at))
            more = update(messages).where(_M.id == row.id, _M.pins > 0)
            await tx.conn.execute(more.values(unpinned_at=None))
            self._done["pin.remove"] += 1

    async def _hold_place(self, tx: Transaction, leaf: Found, copies: Found, at: Instant) -> None:
        scope = leaf["scope"]
        values = {
            "id": leaf["hold_ref"],
            "tenant_id": self._tenant_id,
            "scope": scope["kind"],
            "mailbox_id": scope.get("mailbox_ref"),
            "matter": leaf["matter"],
            "reason": "restored from the purge log, which has a commitment to the reason only",
            "placed_at": at,
            "placed_by": _actor(leaf),
        }
        await tx.conn.execute(insert(holds).values(values))
        self._done["hold.place"] += 1
        if scope["kind"] == "mailbox":
            there = select(mailboxes.c.id).where(mailboxes.c.id == scope["mailbox_ref"])
            if (await tx.conn.execute(there)).one_or_none() is None:
                self._unbound.append(leaf["hold_ref"])

    async def _hold_cover(self, tx: Transaction, leaf: Found, copies: Found, at: Instant) -> None:
        ids = [copies[ref].id for ref in leaf["items"] if ref in copies]
        # What is brought back once more has its old id, and is held again from then on.
        again = [self._buried[ref] for ref in leaf["items"] if ref in self._buried]
        self._missing += len(leaf["items"]) - len(ids)
        if named := [{"hold_id": leaf["hold_ref"], "message_id": id_} for id_ in (*ids, *again)]:
            await tx.conn.execute(insert(hold_messages), named)

    async def _hold_release(self, tx: Transaction, leaf: Found, copies: Found, at: Instant) -> None:
        values = {
            "released_at": at,
            "released_by": _actor(leaf),
            "release_reason": "restored from the purge log, which has a commitment to the reason only",
            "protects_until_at": parse_instant(leaf["grace_until"]),
        }
        await tx.conn.execute(update(holds).where(holds.c.id == leaf["hold_ref"]).values(values))
        self._released.add(leaf["hold_ref"])
        self._done["hold.release"] += 1

    async def _policy_set(self, tx: Transaction, leaf: Found, copies: Found, at: Instant) -> None:
        tx.set_head(self._tenant_id, log_policy=leaf["policy"]["sha256"])

    async def _plan_effective(self, tx: Transaction, leaf: Found, copies: Found, at: Instant) -> None:
        changed = await self._parts.subscriptions.recover(
            tx,
            self._tenant_id,
            leaf["plan"],
            leaf["days"],
            since=parse_instant(leaf["effective_at"]),
            at=at,
            event_id=f"restored-{leaf['id']}",
        )
        self._done["plan.effective"] += changed

    async def _run_open(self, tx: Transaction, leaf: Found, copies: Found, at: Instant) -> None:
        if leaf["trigger"] in _ERASURES:
            actor = leaf["actor"]
            await self._parts.erasures.recover(
                tx, self._tenant_id, Reason(leaf["trigger"]), leaf["run"], at, Actor(actor["kind"], actor["ref"])
            )
            self._done["erasure"] += 1

    async def _run_close(self, tx: Transaction, leaf: Found, copies: Found, at: Instant) -> None:
        await self._parts.erasures.recover_closed(tx, self._tenant_id, leaf["run"], leaf["purged"], leaf["bytes"])

    async def _key_rotate(self, tx: Transaction, leaf: Found, copies: Found, at: Instant) -> None:
        if leaf["key"] == "tenant":
            await self._parts.erasures.recover_shredded(tx, self._tenant_id)


_DONE_AGAIN: Final[Mapping[str, Callable[[Batch, Transaction, Found, Found, Instant], Awaitable[None]]]] = {
    "rehydrate": Batch._rehydrate,
    "pin.add": Batch._pin_add,
    "pin.remove": Batch._pin_remove,
    "hold.place": Batch._hold_place,
    "hold.cover": Batch._hold_cover,
    "hold.release": Batch._hold_release,
    "policy.set": Batch._policy_set,
    "plan.effective": Batch._plan_effective,
    "run.open": Batch._run_open,
    "run.close": Batch._run_close,
    "key.rotate": Batch._key_rotate,
}
"""What is done again of each type of entry; entries of others are appended only."""


def _stays_at_server(leaf: Found) -> bool:
    """Whether what went is still at the server, as far as anybody here wanted, and is not to be downloaded again."""
    if leaf["type"] != "item.remove":
        return leaf["reason"] not in _ERASURES
    return bool(leaf["original"] == "untouched")


def _actor(leaf: dict[str, Any]) -> str:
    return f"{leaf['actor']['kind']}:{leaf['actor']['ref']}"
