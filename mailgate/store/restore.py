"""After a backup of the database was restored: what the log outside says happened since, happens again.

The witness (`mailgate.store.witness`) is ahead of a database that was restored. Until both agree nothing is signed and
nothing is served: copies that were purged stand in the old database, holds and pins that were set since do not. For
each log that is behind:

    verify   the entries outside give the root that was signed, and begin with those that the database has; an older
             state of the same log passes, anything else does not                                     (no transaction)
    replay   in batches: what each entry did is done again, and the entry is appended as it was          (transaction)
    settle   the checkpoint of the outside is the database's again                                       (transaction)

Then, once for all tenants: what was waiting to be sent may have been sent since, and waits for a person; cursors of the
change feed from before lead nowhere. Each step finds what the last one left; cut, it is finished by the next one.

What the log does not know can't come back: copies that were stored since (the next pass fetches them again, as new
ones), and the ids of records that were pinned since (a placeholder keeps their copies, `mailgate.store.pins.RESTORED`).
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import Any

from sqlalchemy import delete, insert, select, update

from mailgate.actors import Actor
from mailgate.clock import Clock, Instant
from mailgate.errors import ConfigurationError, ConflictError, NotFoundError
from mailgate.ids import new_ref
from mailgate.store import tenants as tenants_store
from mailgate.store.database import Database
from mailgate.store.discard import end_copies
from mailgate.store.log_reading import LogDivergedError, LogReader
from mailgate.store.mailboxes import Mailboxes
from mailgate.store.pins import RESTORED
from mailgate.store.schema import (
    feed,
    hold_messages,
    holds,
    log_checkpoints,
    mailboxes,
    messages,
    pins,
    submissions,
    tenant_heads,
    tenants,
)
from mailgate.store.sets import among
from mailgate.store.subscriptions import Subscriptions
from mailgate.store.tenant_erasure import Reason, TenantErasures
from mailgate.store.tombstones import bury
from mailgate.store.transaction import Leaf, Transaction
from mailgate.store.witness import Witness
from retention.ledger.canonical import parse_instant
from retention.ledger.checkpoint import open_checkpoint, parse_checkpoint
from retention.ledger.note import NoteError, Verifier
from retention.ledger.schema import parse_leaf
from retention.ledger.tiles import TileError
from retention.ledger.tree import Frontier, leaf_hash

BATCH = 500
_M = messages.c
_GONE = frozenset({"item.purge", "item.remove"})
Found = dict[str, Any]
_ERASURES = frozenset(reason.value for reason in Reason)


class RestoredBackupError(ConflictError):
    """The database is older than what was signed of it: a backup was restored and not brought up to date."""

    default_slug = "backup_restored"


@dataclass(frozen=True, slots=True)
class Behind:
    """A log of which the database has fewer entries than were signed. `tenant_id` None: it does not know the tenant."""

    tenant_ref: str
    tenant_id: str | None
    have: int
    signed: int


@dataclass(slots=True)
class Replayed:
    """What was done again for one tenant. `missing`: pins, held and returned copies that were stored after the backup.
    `holds_without_mailbox`: holds that stand on mailboxes which were connected after it: they protect nothing until
    they are placed on what is connected now. `known_until`: the time of the last entry that was signed; what happened
    later nobody knows.
    """

    tenant_id: str
    entries: int = 0
    done: Counter[str] = field(default_factory=Counter)
    missing: int = 0
    holds_without_mailbox: list[str] = field(default_factory=list)
    known_until: Instant | None = None


async def behind(db: Database, witness: Witness) -> list[Behind]:
    """The logs of which more was signed than the database has. Raises ConfigurationError where a checkpoint outside
    can't be read or is not what was signed: then nobody knows.
    """

    def signed() -> dict[str, int]:
        notes = {ref: witness.last(ref) for ref in witness.refs()}
        return {ref: _size(ref, note, witness.identity) for ref, note in notes.items() if note is not None}

    sizes = await asyncio.to_thread(signed)
    query = select(tenants.c.ref, tenants.c.id, tenant_heads.c.log_size).join(tenant_heads)
    async with db.read() as conn:
        have = {row.ref: row for row in (await conn.execute(query)).all()}
    return [
        Behind(ref, have[ref].id if ref in have else None, have[ref].log_size if ref in have else 0, size)
        for ref, size in sorted(sizes.items())
        if ref not in have or have[ref].log_size < size
    ]


def _size(ref: str, note: bytes, identity: str) -> int:
    """The size that the installation's key signed for this log."""
    try:
        checkpoint = parse_checkpoint(note)
        if identity:
            name = f"{checkpoint.origin.rpartition('/')[0]}/{ref}"
            checkpoint = open_checkpoint(note, Verifier(name, bytes.fromhex(identity)))
    except NoteError as error:
        raise ConfigurationError(
            f"{ref}.checkpoint in ledger.witness is damaged ({error}), so nobody knows whether a backup of the "
            "database was restored: put it back from a backup of that folder, or take `checkpoint` of the log's newest "
            "export for it"
        ) from None
    return checkpoint.size


def refusal(found: Sequence[Behind]) -> RestoredBackupError | None:
    """What to say while logs of known tenants are behind; None when none is."""
    known = [each for each in found if each.tenant_id is not None]
    if not known:
        return None
    first = known[0]
    return RestoredBackupError(
        f"the database is older than its purge logs outside (ledger.witness): of tenant {first.tenant_id} it has "
        f"{first.have} entries, {first.signed} were signed; {len(known)} logs are behind. A backup was restored: run "
        "`mailgate restore`, which purges again what was purged since. Nothing is served before"
    )


def _nothing(step: str) -> None:
    """Nobody cuts restores here."""


class Restore:
    """Brings a restored database up to date."""

    def __init__(
        self,
        db: Database,
        log_reader: LogReader,
        witness: Witness,
        subscriptions: Subscriptions,
        mailboxes: Mailboxes,
        erasures: TenantErasures,
        clock: Clock,
        *,
        batch: int = BATCH,
        step: Callable[[str], None] = _nothing,
    ) -> None:
        """`step` is told of every step boundary (tests cut restores there)."""
        self._db = db
        self._log_reader = log_reader
        self._witness = witness
        self._subscriptions = subscriptions
        self._mailboxes = mailboxes
        self._erasures = erasures
        self._clock = clock
        self._batch = batch
        self._step = step

    async def behind(self) -> list[Behind]:
        """The logs of which more was signed than the database has."""
        return await behind(self._db, self._witness)

    async def run(self, actor: Actor) -> list[Replayed]:
        """Do it for every tenant. Raises LogDivergedError where the database is not an older state of what was signed,
        or the entries are not outside; tenants before that one are done.
        """
        done = [await self._tenant(each, actor) for each in await self.behind() if each.tenant_id is not None]
        self._step("logs")
        await self._db.transact(self._settle_all)
        self._step("settled")
        return done

    async def _tenant(self, log: Behind, actor: Actor) -> Replayed:
        if log.tenant_id is None:
            raise ValueError("nothing to replay upon")
        tenant = await tenants_store.get(self._db, log.tenant_id, erased=True)
        note = self._witness.last(tenant.ref)
        if note is None:
            raise LogDivergedError(f"the checkpoint of tenant {tenant.id} is gone from ledger.witness")
        try:
            checkpoint = open_checkpoint(note, self._log_reader.verifier(tenant))
        except NoteError as error:
            raise LogDivergedError(
                f"the checkpoint of tenant {tenant.id} in ledger.witness was not signed by this installation ({error})"
            ) from None
        async with self._db.read() as conn:
            head = select(tenant_heads.c.log_frontier).where(tenant_heads.c.tenant_id == tenant.id)
            frontier = Frontier.from_bytes((await conn.execute(head)).scalar_one())
        plan = await asyncio.to_thread(self._verify, tenant.id, tenant.ref, checkpoint.size, checkpoint.root, frontier)
        self._step("verified")
        for mailbox_id in sorted(plan.removed_mailboxes):
            try:
                await self._mailboxes.remove(tenant.id, mailbox_id, self._clock(), actor)
            except NotFoundError:
                continue  # connected since the backup
        self._step("mailboxes removed")
        told = Replayed(tenant.id)
        left = self._witness.entries(tenant.ref, checkpoint.size)
        index = frontier.size
        next(islice(left, index, index), None)
        while bodies := list(islice(left, self._batch)):
            batch = _Batch(self, tenant.id, index, bodies, plan)
            await self._db.transact(batch.replay)
            batch.tell(told)
            index += len(bodies)
            self._step("replayed")
        signed = (checkpoint.size, checkpoint.root, note)
        await self._db.transact(partial(_keep_checkpoint, tenant.id, signed, self._clock()))
        self._step("checkpoint kept")
        return told

    def _verify(self, tenant_id: str, ref: str, size: int, root: bytes, have: Frontier) -> _Plan:
        """Compare what is outside with what was signed and what the database has; read what became of items."""
        tree, plan = Frontier(), _Plan()
        try:
            for index, body in enumerate(self._witness.entries(ref, size)):
                if index == have.size and tree.root() != have.root():
                    raise LogDivergedError(
                        f"the purge log of tenant {tenant_id} in the database has entries that the signed one has not: "
                        "something was written after the backup was restored. Restore the backup once more, and run "
                        "`mailgate restore` before anything else"
                    )
                tree.append(leaf_hash(body))
                if index >= have.size:
                    plan.read(index, parse_leaf(body))
        except (FileNotFoundError, TileError) as error:
            raise LogDivergedError(
                f"the entries of the purge log of tenant {tenant_id} are not whole in ledger.witness ({error}): "
                "without them it is not known what was purged since the backup. Bring that folder's files back"
            ) from None
        if tree.root() != root:
            raise LogDivergedError(
                f"the entries of tenant {tenant_id} in ledger.witness are not those that were signed"
            )
        return plan

    async def _settle_all(self, tx: Transaction) -> None:
        """What is not of one log: what waited to be sent, and the feed's cursors."""
        now = self._clock()
        waiting = submissions.c.state.in_(("queued", "sending")) & (submissions.c.next_at <= now)
        unknown = {"state": "uncertain", "code": "backup_restored", "claimed_by": None}
        await tx.conn.execute(update(submissions).where(waiting).values(unknown))
        await tx.conn.execute(update(feed).values(ref=new_ref()))


@dataclass(slots=True)
class _Plan:
    """What becomes of each item in the entries that the database lacks."""

    gone_at: dict[str, int] = field(default_factory=dict)
    """Index of the entry by which an item went for good."""
    removed_mailboxes: set[str] = field(default_factory=set)

    def read(self, index: int, leaf: dict[str, Any]) -> None:
        if leaf["type"] in _GONE:
            self.gone_at[leaf["item_ref"]] = index
            if leaf["reason"] == "mailbox_removed":
                self.removed_mailboxes.add(leaf["mailbox_ref"])
        elif leaf["type"] == "rehydrate":
            self.gone_at.pop(leaf["item_ref"], None)


class _Batch:
    """Some entries, done again and appended in one transaction."""

    def __init__(self, restore: Restore, tenant_id: str, first: int, bodies: Sequence[bytes], plan: _Plan) -> None:
        self._restore = restore
        self._tenant_id = tenant_id
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
            handler = getattr(self, "_" + type_.replace(".", "_"), None)
            if type_ in _GONE:
                await self._end(tx, index, leaf, copies, at)
            elif handler is not None:
                await handler(tx, leaf, copies, at)
            tx.log(self._tenant_id, Leaf(body, type_, at, leaf.get("run"), leaf.get("item_ref")))

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
        if leaf["type"] == "item.purge" and leaf["reason"] not in _ERASURES:
            await bury(tx, self._tenant_id, [row], [leaf["reason"]], at=at, run_id=leaf.get("run"))
        await end_copies(tx, self._tenant_id, [row], now=self._restore._clock(), run_id=leaf.get("run"))
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
        named = [{"hold_id": leaf["hold_ref"], "message_id": copies[ref].id} for ref in leaf["items"] if ref in copies]
        self._missing += len(leaf["items"]) - len(named)
        if named:
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
        changed = await self._restore._subscriptions.recover(
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
            await self._restore._erasures.recover(
                tx, self._tenant_id, Reason(leaf["trigger"]), leaf["run"], at, Actor(actor["kind"], actor["ref"])
            )
            self._done["erasure"] += 1

    async def _run_close(self, tx: Transaction, leaf: Found, copies: Found, at: Instant) -> None:
        await self._restore._erasures.recover_closed(tx, self._tenant_id, leaf["run"], leaf["purged"], leaf["bytes"])

    async def _key_rotate(self, tx: Transaction, leaf: Found, copies: Found, at: Instant) -> None:
        if leaf["key"] == "tenant":
            await self._restore._erasures.recover_shredded(tx, self._tenant_id)


def _actor(leaf: dict[str, Any]) -> str:
    return f"{leaf['actor']['kind']}:{leaf['actor']['ref']}"


async def _keep_checkpoint(tenant_id: str, signed: tuple[int, bytes, bytes], now: Instant, tx: Transaction) -> None:
    size, root, note = signed
    values = {"tenant_id": tenant_id, "size": size, "root": root, "note": note.decode(), "signed_at": now}
    await tx.conn.execute(tx.insert(log_checkpoints).values(values).on_conflict_do_nothing())
