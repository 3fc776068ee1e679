"""After a backup of the database was restored: what the log outside says happened since, happens again.

The witness (`mailgate.store.witness`) is ahead of a database that was restored. Until both agree nothing is signed and
nothing is served: copies that were purged stand in the old database, holds and pins that were set since do not. For
each log that is behind:

    verify   the entries outside give the root that was signed, and begin with those that the database has; an older
             state of the same log passes, anything else does not                                     (no transaction)
    look     which copies it has that were purged and brought back since: the bytes that it knows of them are gone,
             and are fetched again (`mailgate.store.lost`)                                              (transaction)
    replay   in batches: what each entry did is done again (`mailgate.store.restored_entries`), and the entry is
             appended as it was                                                                          (transaction)
    settle   the checkpoint of the outside is the database's again                                       (transaction)

Then, once for all tenants: what was waiting to be sent may have been sent since, and waits for a person; cursors of the
change feed from before lead nowhere. Each step finds what the last one left; cut, it is finished by the next one.

What was purged before the backup and brought back since is purged in it, and stays so until it is brought back once
more: its log says that it was lost (`item.lost`), and the report names it.

What the log does not know can't come back: copies that were stored since (the next pass fetches them again, as new
ones), and the ids of records that were pinned since (a placeholder keeps their copies, `mailgate.store.pins.RESTORED`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice

from sqlalchemy import select, update

from mailgate.actors import Actor
from mailgate.blobs import BlobCorruptError, BlobStore
from mailgate.clock import Clock, Instant
from mailgate.errors import ConfigurationError, ConflictError, NotFoundError
from mailgate.ids import new_ref
from mailgate.store import lost
from mailgate.store import tenants as tenants_store
from mailgate.store.database import Database
from mailgate.store.log import PurgeLog
from mailgate.store.log_reading import LogDivergedError, LogReader
from mailgate.store.mailboxes import Mailboxes
from mailgate.store.messages import chunks
from mailgate.store.restored_entries import Batch, Parts, Plan, Replayed
from mailgate.store.schema import feed, log_checkpoints, messages, submissions, tenant_heads, tenants, tombstones
from mailgate.store.subscriptions import Subscriptions
from mailgate.store.tenant_erasure import TenantErasures
from mailgate.store.transaction import Transaction
from mailgate.store.witness import Witness
from retention.ledger.checkpoint import open_checkpoint, parse_checkpoint
from retention.ledger.note import NoteError, Verifier
from retention.ledger.schema import parse_leaf
from retention.ledger.tiles import TileError
from retention.ledger.tree import Frontier, leaf_hash

BATCH = 500


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
        f"{first.have} of {first.signed} signed entries; logs that are behind: {len(known)}. A backup was restored: "
        "run `mailgate restore`, which purges again what was purged since. Nothing is served before"
    )


def _nothing(step: str) -> None:
    """Nobody cuts restores here."""


class Restore:
    """Brings a restored database up to date."""

    def __init__(
        self,
        db: Database,
        blobs: BlobStore,
        log_reader: LogReader,
        witness: Witness,
        subscriptions: Subscriptions,
        mailboxes: Mailboxes,
        erasures: TenantErasures,
        log: PurgeLog,
        clock: Clock,
        *,
        batch: int = BATCH,
        step: Callable[[str], None] = _nothing,
    ) -> None:
        """`step` is told of every step boundary (tests cut restores there)."""
        self._db = db
        self._blobs = blobs
        self._log_reader = log_reader
        self._witness = witness
        self._mailboxes = mailboxes
        self._parts = Parts(subscriptions, erasures, log, clock)
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
        told = Replayed(tenant.id, bytes_lost=await self._set_lost_aside(tenant.id, plan))
        self._step("lost bytes known")
        left = self._witness.entries(tenant.ref, checkpoint.size)
        index = frontier.size
        next(islice(left, index, index), None)
        buried = await self._buried(tenant.id, plan)
        while bodies := list(islice(left, self._batch)):
            last = index + len(bodies) == checkpoint.size
            batch = Batch(tenant, index, bodies, plan, buried, self._parts, last=last)
            await self._db.transact(batch.replay)
            batch.tell(told)
            index += len(bodies)
            self._step("replayed")
        signed = (checkpoint.size, checkpoint.root, note)
        await self._db.transact(partial(_keep_checkpoint, tenant.id, signed, self._clock()))
        self._step("checkpoint kept")
        return told

    async def _set_lost_aside(self, tenant_id: str, plan: Plan) -> int:
        """Look for the bytes of copies that came back since: they may be others' as well, and still there."""
        gone = list[str]()
        for refs in chunks(sorted(plan.returned)):
            query = select(messages.c.id, messages.c.blob_id).where(
                messages.c.tenant_id == tenant_id, messages.c.item_ref.in_(refs)
            )
            async with self._db.read() as conn:
                rows = (await conn.execute(query)).all()
            gone += [row.id for row in rows if not await self._has(row.blob_id)]
        for ids in chunks(gone):
            await self._db.transact(partial(_set_aside, ids, self._clock()))
        return len(gone)

    async def _buried(self, tenant_id: str, plan: Plan) -> dict[str, str]:
        """The messages that are purged here and were brought back since: ids by item."""
        found = dict[str, str]()
        for refs in chunks(sorted(plan.came_before)):
            query = select(tombstones.c.item_ref, tombstones.c.message_id)
            query = query.where(tombstones.c.tenant_id == tenant_id, tombstones.c.item_ref.in_(refs))
            async with self._db.read() as conn:
                found |= {row.item_ref: row.message_id for row in await conn.execute(query)}
        return found

    async def _has(self, blob_id: str) -> bool:
        try:
            return await self._blobs.exists(blob_id)
        except BlobCorruptError:  # the file that it shares does not tell
            return False

    def _verify(self, tenant_id: str, ref: str, size: int, root: bytes, have: Frontier) -> Plan:
        """Compare what is outside with what was signed and what the database has; read what became of items."""
        tree, plan = Frontier(), Plan()
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


async def _set_aside(message_ids: Sequence[str], now: Instant, tx: Transaction) -> None:
    await lost.set_aside(tx, message_ids, now)


async def _keep_checkpoint(tenant_id: str, signed: tuple[int, bytes, bytes], now: Instant, tx: Transaction) -> None:
    size, root, note = signed
    values = {"tenant_id": tenant_id, "size": size, "root": root, "note": note.decode(), "signed_at": now}
    await tx.conn.execute(tx.insert(log_checkpoints).values(values).on_conflict_do_nothing())
