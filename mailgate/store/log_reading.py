"""Serving the purge log: checkpoints, tiles, entries and exports, as C2SP tlog-tiles has them.

Leaves are committed first; tiles and checkpoints are made from them afterwards, so a purge never waits for a
signature. One leased signer per tenant signs. Before it does, the tree is compared with the last checkpoint in the
database *and* with the one kept outside (the witness): a smaller or different tree means that a backup was restored or
rows were changed, and nothing is signed then.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from sqlalchemy import Connection, delete, desc, select

from mailgate.clock import MINUTE, Instant
from mailgate.errors import ConflictError, NotFoundError, UnavailableError
from mailgate.store import kept_outside, leases
from mailgate.store.database import Database
from mailgate.store.log_tiles import TileReader, is_damaged
from mailgate.store.schema import log_checkpoints, log_leaves, messages, tenant_heads, tombstones
from mailgate.store.tenants import Tenant
from mailgate.store.transaction import Transaction
from mailgate.store.witness import Witness
from retention.ledger import tiles
from retention.ledger.checkpoint import Checkpoint, open_checkpoint
from retention.ledger.note import NoteError, Signer, Verifier
from retention.ledger.proof import prove
from retention.ledger.tree import Frontier, tree_root

_SIGNER_LEASE = MINUTE
_ENTRIES_A_READ = 4096
_FREE = "no log can be signed until it can: look at its space and permissions"


class LogDivergedError(ConflictError):
    """The log is not the one that was signed before; nothing is signed until an admin has looked into it."""

    default_slug = "log_diverged"


@dataclass(frozen=True, slots=True)
class SignedCheckpoint:
    """A checkpoint with its signed note as bytes."""

    size: int
    root: bytes
    note: bytes
    signed_at: Instant


def _nobody(tenant_id: str, index: int) -> None:
    """Nobody is told."""


class LogReader:
    """Reads and signs the logs. `seed` is the installation's Ed25519 seed; each log's key bears the log's name."""

    def __init__(self, db: Database, *, origin: str, seed: bytes, witness: Witness, owner: str) -> None:
        self._db = db
        self._origin = origin
        self._seed = seed
        self._witness = witness
        self._owner = owner
        self.on_damage: Callable[[str, int], None] = _nobody
        """Called with tenant and index when an entry that was read is not what was hashed."""
        self._refused: str | None = None
        self._turns = dict[str, asyncio.Lock]()

    @property
    def witness_fault(self) -> str | None:
        """Why no checkpoint can be kept outside the database, and so none be signed; None when all is well, as far as
        was tried.
        """
        return self._witness.fault or self._refused

    def signer(self, tenant: Tenant) -> Signer:
        """The key that signs the tenant's log."""
        return self.signer_of(tenant.ref)

    def signer_of(self, tenant_ref: str) -> Signer:
        """The same, of the log of this name."""
        return Signer(f"{self._origin}/purge/{tenant_ref}", self._seed)

    def verifier(self, tenant: Tenant) -> Verifier:
        """Its public half; `.vkey` is what auditors are given."""
        return self.signer(tenant).verifier

    async def checkpoint(self, tenant: Tenant, now: Instant) -> SignedCheckpoint:
        """The newest checkpoint, signed now if the log grew. Raises LogDivergedError, or UnavailableError when another
        process is signing.
        """
        async with self._turns.setdefault(tenant.id, asyncio.Lock()):  # the lease is the whole process's
            return await self._newest(tenant, now)

    async def _newest(self, tenant: Tenant, now: Instant) -> SignedCheckpoint:
        last = await self._last(tenant)
        async with self._db.read() as conn:
            size = (
                await conn.execute(select(tenant_heads.c.log_size).where(tenant_heads.c.tenant_id == tenant.id))
            ).scalar_one()
        if last is not None and last.size == size and self._same_as_witness(tenant, last):
            return last
        lease = f"signer:{tenant.id}"
        fence = await leases.acquire(self._db, lease, self._owner, _SIGNER_LEASE, now)
        if fence is None:
            if last is not None:
                return last  # a moment old; whoever holds the lease is making the next one
            raise UnavailableError("another process is signing this log; try again in a minute", slug="log_busy")
        try:
            return await self._sign(tenant, now)
        finally:
            await leases.release(self._db, lease, self._owner, fence)

    async def _sign(self, tenant: Tenant, now: Instant) -> SignedCheckpoint:
        signer = self.signer(tenant)
        fault = self._witness.fault
        if fault is not None:
            raise UnavailableError(fault, slug="witness_missing")
        kept = self._witness.last(tenant.ref)
        last = await self._last(tenant)
        must_be_there = await kept_outside.was_kept(self._db, tenant.id)
        if kept is None and must_be_there:
            raise LogDivergedError(kept_outside.why_lost(tenant.id, tenant.ref))
        known = [
            _signed_before(tenant, where, note, signer.verifier)
            for where, note in (("ledger.witness", kept), ("the database", None if last is None else last.note))
            if note is not None
        ]
        if last is not None and (last.size, last.root) != (known[-1].size, known[-1].root):
            raise LogDivergedError(
                f"the checkpoint of {last.size} entries of tenant {tenant.id} in the database is not the one that was "
                "signed: compare the database with its backups and exports"
            )

        async def work(tx: Transaction) -> SignedCheckpoint:
            head = (
                await tx.conn.execute(
                    select(tenant_heads.c.log_size).where(tenant_heads.c.tenant_id == tenant.id).with_for_update()
                )
            ).one()
            checkpoint = await tx.conn.run_sync(lambda conn: self._grow(conn, tenant, head.log_size, known))
            note = checkpoint.sign([signer])
            values = {
                "tenant_id": tenant.id,
                "size": checkpoint.size,
                "root": checkpoint.root,
                "note": note.decode(),
                "signed_at": now,
            }
            await tx.conn.execute(tx.insert(log_checkpoints).values(values).on_conflict_do_nothing())
            return SignedCheckpoint(checkpoint.size, checkpoint.root, note, now)

        try:
            signed = await self._db.transact(work)
        except tiles.TileError as error:
            raise not_whole(tenant, error) from None
        try:
            await self._keep_entries(tenant, 0 if kept is None else known[0].size, signed.size)
            self._witness.keep(tenant.ref, signed.note)
            self._witness.forget_partial(tenant.ref, signed.size)
            if not must_be_there:
                await kept_outside.note_kept(self._db, tenant.id)
        except LogDivergedError:
            await self._db.transact(partial(_forget, tenant.id, signed.size))  # so that it stands as not signed
            raise
        except OSError as error:
            if last is None or last.size < signed.size:
                await self._db.transact(partial(_forget, tenant.id, signed.size))
            where = error.filename or "the directory"
            self._refused = f"{where} can't be written (ledger.witness): {error.strerror}; {_FREE}"
            raise UnavailableError(self._refused, slug="witness_missing") from error
        self._refused = None
        return signed

    async def _keep_entries(self, tenant: Tenant, kept: int, size: int) -> None:
        """Write the entries up to `size` outside, before the checkpoint that signs them; `kept` of them are there.

        Raises LogDivergedError when they are not what was hashed: the good ones outside must not be overwritten.
        """
        first = self._witness.kept_tiles(tenant.ref, min(kept, size)) * tiles.TILE_WIDTH
        while first < size:
            end = min(first + _ENTRIES_A_READ, size)
            bodies = await self._hashed(tenant, first, end)
            if not self._witness.keeps_entries:
                first = end
                continue
            together = [bodies[at : at + tiles.TILE_WIDTH] for at in range(0, len(bodies), tiles.TILE_WIDTH)]
            bundles = [
                (tiles.Tile(tiles.ENTRIES, number, len(each)), tiles.encode_bundle(each))
                for number, each in enumerate(together, start=first // tiles.TILE_WIDTH)
            ]
            await asyncio.to_thread(self._witness.keep_bundles, tenant.ref, bundles)
            first = end

    async def check(self, tenant: Tenant, size: int) -> None:
        """Raise LogDivergedError unless the first `size` leaves are there and each is the one that was hashed."""
        for first in range(0, size, _ENTRIES_A_READ):
            await self._hashed(tenant, first, min(first + _ENTRIES_A_READ, size))

    async def _hashed(self, tenant: Tenant, first: int, end: int) -> list[bytes]:
        """The leaves [first, end), each the one that was hashed when it was written."""
        leaf = log_leaves.c
        query = select(leaf.idx, leaf.body, leaf.hash).where(
            leaf.tenant_id == tenant.id, leaf.idx >= first, leaf.idx < end
        )
        async with self._db.read() as conn:
            rows = (await conn.execute(query.order_by(leaf.idx))).all()
        odd = await asyncio.to_thread(lambda: [row.idx for row in rows if is_damaged(row.body, row.hash)])
        if odd:
            self.on_damage(tenant.id, odd[0])
        if odd or len(rows) != end - first:
            which = f"entry {odd[0]} is not what was hashed" if odd else "an entry is missing"
            raise not_whole(tenant, which)
        return [row.body for row in rows]

    def _grow(self, conn: Connection, tenant: Tenant, size: int, known: Sequence[Checkpoint]) -> Checkpoint:
        """Compare the tree with what was signed before, store the tiles that became full, and say what the tree is
        now.
        """
        read = TileReader(conn, tenant.id)
        for old in known:
            if old.size > size:
                raise LogDivergedError(
                    f"the purge log of tenant {tenant.id} has {size} entries, but {old.size} were signed: "
                    "was a backup restored? Nothing more is signed until an admin has looked into it"
                )
            if tree_root(old.size, tiles.TileNodes(old.size, read)) != old.root:
                raise LogDivergedError(
                    f"the first {old.size} entries of the purge log of tenant {tenant.id} are not those that "
                    "were signed; compare the database with its backups and exports"
                )
        stored = max((old.size for old in known), default=0)
        for tile in tiles.full_tiles(stored, size):
            if tile.level != tiles.ENTRIES:
                read.store(tile)
        checkpoint = Checkpoint(
            f"{self._origin}/purge/{tenant.ref}", size, tree_root(size, tiles.TileNodes(size, read))
        )
        # The frontier in the head is what the next leaf is appended to: it must say the same.
        frontier = conn.execute(
            select(tenant_heads.c.log_frontier).where(tenant_heads.c.tenant_id == tenant.id)
        ).scalar_one()
        if Frontier.from_bytes(frontier).root() != checkpoint.root:
            raise LogDivergedError(
                f"the entries of the purge log of tenant {tenant.id} do not give the root that was counted along"
            )
        return checkpoint

    async def tile(self, tenant: Tenant, tile: tiles.Tile, now: Instant) -> bytes:
        """The bytes of a hash tile or entry bundle that the newest checkpoint covers. Raises NotFoundError."""
        signed = await self.checkpoint(tenant, now)
        have = tiles.tile_at(signed.size, tile.level, tile.number)
        if have is None or tile.width > have.width:
            raise NotFoundError(f"the log has {signed.size} entries and no {tile.path}", slug="tile_not_found")
        try:
            async with self._db.read() as conn:
                return await conn.run_sync(lambda sync: TileReader(sync, tenant.id).bundle(tile))
        except tiles.TileError as error:
            raise not_whole(tenant, error) from None

    async def proofs(self, tenant: Tenant, signed: SignedCheckpoint, indices: Sequence[int]) -> list[str]:
        """Of each of these leaves a text that proves it under the checkpoint (`retention.ledger.proof`).

        Raises NotFoundError for a leaf that the checkpoint does not cover.
        """
        beyond = [index for index in indices if not 0 <= index < signed.size]
        if beyond:
            raise NotFoundError(f"the log has {signed.size} entries and no entry {beyond[0]}", slug="leaf_not_found")

        def work(sync: Connection) -> list[str]:
            reader = TileReader(sync, tenant.id)
            nodes = tiles.TileNodes(signed.size, reader)
            return [prove(reader.hashed_leaf(index), index, signed.note, nodes) for index in indices]

        try:
            async with self._db.read() as conn:
                return await conn.run_sync(work)
        except tiles.TileError as error:
            raise not_whole(tenant, error) from None

    async def entries(self, tenant: Tenant, start: int, end: int) -> AsyncIterator[bytes]:
        """The leaves [start, end), in order; bounded memory."""
        for first in range(start, end, _ENTRIES_A_READ):
            query = (
                select(log_leaves.c.body)
                .where(
                    log_leaves.c.tenant_id == tenant.id,
                    log_leaves.c.idx >= first,
                    log_leaves.c.idx < min(first + _ENTRIES_A_READ, end),
                )
                .order_by(log_leaves.c.idx)
            )
            async with self._db.read() as conn:
                bodies = (await conn.execute(query)).scalars().all()
            for body in bodies:
                yield body

    async def between(
        self, tenant: Tenant, size: int, since: Instant | None, until: Instant | None
    ) -> AsyncIterator[tuple[int, bytes]]:
        """Of the first `size` leaves those of a time, with their indices, in order; bounded memory. Raises
        LogDivergedError at one that is not what was hashed.
        """
        leaf = log_leaves.c
        for first in range(0, size, _ENTRIES_A_READ):
            query = select(leaf.idx, leaf.body, leaf.hash).where(
                leaf.tenant_id == tenant.id, leaf.idx >= first, leaf.idx < min(first + _ENTRIES_A_READ, size)
            )
            if since is not None:
                query = query.where(leaf.at >= since)
            if until is not None:
                query = query.where(leaf.at < until)
            async with self._db.read() as conn:
                rows = (await conn.execute(query.order_by(leaf.idx))).all()
            for index, body, digest in rows:
                self.check_leaf(tenant, index, body, digest)
                yield index, body

    def check_leaf(self, tenant: Tenant, index: int, body: bytes, digest: bytes) -> None:
        """Raise LogDivergedError, and the alarm, when a leaf that was read is not what was hashed."""
        if is_damaged(body, digest):
            self.on_damage(tenant.id, index)
            raise not_whole(tenant, f"entry {index} is not what was hashed")

    async def lost(self) -> Mapping[str, str]:
        """By tenant, what to say of logs whose checkpoint was kept outside and is not there any more."""
        return await kept_outside.lost(self._db, self._witness)

    async def item_ref(self, tenant_id: str, item: str) -> str:
        """What the log calls a copy, of which `item` is the message's id; else `item` itself."""
        stored = select(messages.c.item_ref).where(messages.c.tenant_id == tenant_id, messages.c.id == item)
        buried = select(tombstones.c.item_ref).where(
            tombstones.c.tenant_id == tenant_id, tombstones.c.message_id == item
        )
        async with self._db.read() as conn:
            found: str | None = (await conn.execute(stored.union(buried).limit(1))).scalar_one_or_none()
        return item if found is None else found

    async def _last(self, tenant: Tenant) -> SignedCheckpoint | None:
        query = (
            select(log_checkpoints)
            .where(log_checkpoints.c.tenant_id == tenant.id)
            .order_by(desc(log_checkpoints.c.size))
            .limit(1)
        )
        async with self._db.read() as conn:
            row = (await conn.execute(query)).one_or_none()
        return None if row is None else SignedCheckpoint(row.size, row.root, row.note.encode(), row.signed_at)

    def _same_as_witness(self, tenant: Tenant, last: SignedCheckpoint) -> bool:
        """Whether both places have the very note, so that it may be served; where they have not, signing says why."""
        kept = self._witness.last(tenant.ref)
        if kept is None or kept != last.note:
            return False
        signed = _signed_before(tenant, "ledger.witness", kept, self.verifier(tenant))
        return (signed.size, signed.root) == (last.size, last.root)


def not_whole(tenant: Tenant, why: object) -> LogDivergedError:
    """What to say when entries in the database are other ones than those that were hashed and signed."""
    return LogDivergedError(
        f"the entries of the purge log of tenant {tenant.id} are not those that were written ({why}); compare the "
        "database with its backups, ledger.witness and exports. Nothing more is signed until then"
    )


async def _forget(tenant_id: str, size: int, tx: Transaction) -> None:
    point = log_checkpoints.c
    await tx.conn.execute(delete(log_checkpoints).where(point.tenant_id == tenant_id, point.size == size))


def _signed_before(tenant: Tenant, where: str, note: bytes, key: Verifier) -> Checkpoint:
    """The checkpoint in a note that was kept. Raises LogDivergedError when that is not what this key signed."""
    try:
        return open_checkpoint(note, key)
    except NoteError as error:
        raise LogDivergedError(
            f"the checkpoint of the purge log of tenant {tenant.id} in {where} is damaged ({error}): put it back from "
            "a backup or an export. Nothing more is signed until then"
        ) from None


async def anything_signed(db: Database) -> bool:
    """Whether any log was ever signed."""
    async with db.read() as conn:
        return (await conn.execute(select(log_checkpoints.c.size).limit(1))).first() is not None
