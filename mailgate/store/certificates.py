"""Certificates of runs, from the leaves that stand in the database (`retention.ledger.certificate`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, select

from mailgate.clock import MINUTE, Instant
from mailgate.errors import ConflictError, PreconditionError
from mailgate.store import runs, tenants
from mailgate.store.database import Database
from mailgate.store.log_reading import LogReader
from mailgate.store.log_tiles import TileReader
from mailgate.store.runs import RunRecord
from mailgate.store.schema import log_leaves
from mailgate.store.schema import tenants as tenants_table
from mailgate.store.tenants import Tenant
from retention.ledger.certificate import RunTally, certify, sign_certificate
from retention.ledger.tiles import TileNodes

MAX_TENANTS = 100
"""Certificates in one answer; a run over more tenants is certified tenant by tenant."""

_SLACK: Instant = 10 * MINUTE
_ENTRIES_A_READ = 4_096


async def certificates(
    db: Database, reader: LogReader, run: RunRecord, tenant_id: str | None, now: Instant
) -> list[Mapping[str, Any]]:
    """What a run did, one certificate for each tenant's log that it opened, or for one tenant.

    Raises ConflictError (`run_not_finished`, `nothing_to_certify`), PreconditionError (`tenant_needed`: there are too
    many tenants), LogDivergedError.
    """
    if run.state in (runs.QUEUED, runs.RUNNING):
        raise ConflictError("the run has not ended; ask again when it has", slug="run_not_finished")
    wanted = run.tenant_id or tenant_id
    if wanted is not None:
        found = [await tenants.get(db, wanted, erased=True)]
    else:
        found = await _all(db)
    made = [] if run.dry_run else [await _certificate(db, reader, run, tenant, now) for tenant in found]
    certified = [certificate for certificate in made if certificate is not None]
    if not certified:
        why = "a dry run purges nothing" if run.dry_run else "the run opened no log of this"
        raise ConflictError(f"{why}: there is nothing to certify", slug="nothing_to_certify")
    return certified


async def _all(db: Database) -> list[Tenant]:
    query = select(tenants_table).order_by(tenants_table.c.id).limit(MAX_TENANTS + 1)
    async with db.read() as conn:
        rows = (await conn.execute(query)).all()
    if len(rows) > MAX_TENANTS:
        raise PreconditionError(
            f"there are more than {MAX_TENANTS} tenants: say which one is meant (`tenant`)", slug="tenant_needed"
        )
    return [Tenant(row.id, row.ref, row.name, row.created_at) for row in rows]


async def _certificate(
    db: Database, reader: LogReader, run: RunRecord, tenant: Tenant, now: Instant
) -> Mapping[str, Any] | None:
    signed = await reader.checkpoint(tenant, now)
    since = await _first_at(db, tenant.id, signed.size, run.started_at - _SLACK)
    tally = await _tally(db, reader, tenant, run.id, since, signed.size)
    if tally.opened is None and since:
        # The clock went back: the log is not in its order.
        tally = await _tally(db, reader, tenant, run.id, 0, signed.size)

    def build(sync: Connection) -> Mapping[str, Any] | None:
        nodes = TileNodes(signed.size, TileReader(sync, tenant.id))
        certificate = certify(tally, signed.note, nodes, reader.verifier(tenant))
        return None if certificate is None else sign_certificate(certificate, reader.signer(tenant))

    async with db.read() as conn:
        return await conn.run_sync(build)


async def _tally(db: Database, reader: LogReader, tenant: Tenant, run_id: str, start: int, end: int) -> RunTally:
    """Add up the run's leaves from `start` on, until nothing of it can follow. Raises LogDivergedError at one that is
    not what was hashed: a certificate is signed.
    """
    leaf = log_leaves.c
    tally = RunTally(run_id)
    for first in range(start, end, _ENTRIES_A_READ):
        here = (leaf.tenant_id == tenant.id, leaf.idx >= first, leaf.idx < min(first + _ENTRIES_A_READ, end))
        query = select(leaf.idx, leaf.body, leaf.hash).where(*here, leaf.run_id == run_id).order_by(leaf.idx)
        async with db.read() as conn:
            for index, body, digest in (await conn.execute(query)).all():
                reader.check_leaf(tenant, index, body, digest)
                tally.feed(index, body)
        if tally.complete:
            break
    return tally


async def _first_at(db: Database, tenant_id: str, size: int, since: Instant) -> int:
    """About where the leaves of a time begin: by halving, as far as the log is in the order of its times."""
    leaf = log_leaves.c
    low, high = 0, size
    async with db.read() as conn:
        while low < high:
            middle = (low + high) // 2
            query = select(leaf.at).where(leaf.tenant_id == tenant_id, leaf.idx == middle)
            if (await conn.execute(query)).scalar_one() < since:
                low = middle + 1
            else:
                high = middle
    return low
