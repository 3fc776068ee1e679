"""Certificates of runs, from the leaves that stand in the database (`retention.ledger.certificate`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, exists, func, select

from mailgate.clock import Instant
from mailgate.errors import ConflictError, PreconditionError
from mailgate.store import tenants
from mailgate.store.database import Database
from mailgate.store.log_reading import LogReader
from mailgate.store.log_tiles import TileReader
from mailgate.store.schema import log_leaves
from mailgate.store.schema import tenants as tenants_table
from mailgate.store.tenants import Tenant
from retention.ledger.certificate import RunTally, certify, sign_certificate
from retention.ledger.tiles import TileNodes

MAX_TENANTS = 100
"""Certificates in one answer; a run over more tenants is certified tenant by tenant."""

_ENTRIES_A_READ = 4_096


async def certificates(
    db: Database, reader: LogReader, run_id: str, tenant_id: str | None, now: Instant
) -> list[Mapping[str, Any]]:
    """What a run did, one certificate for each tenant's log that it opened, or for one tenant; none where no log knows
    it. Purges and erasures of tenants are found alike, and whether or not the run is remembered elsewhere.

    Raises ConflictError (`run_not_finished`), NotFoundError, PreconditionError (`tenant_needed`: there are too many
    tenants), LogDivergedError.
    """
    if tenant_id is not None:
        await tenants.get(db, tenant_id, erased=True)
    made = [await _certificate(db, reader, run_id, tenant, now) for tenant in await _opened(db, run_id, tenant_id)]
    certified = [certificate for certificate in made if certificate is not None]
    if made and not certified:
        raise ConflictError("the run has not ended; ask again when it has", slug="run_not_finished")
    return certified


async def _opened(db: Database, run_id: str, tenant_id: str | None) -> list[Tenant]:
    """The tenants whose logs have entries of this run."""
    leaf, tenant = log_leaves.c, tenants_table.c
    theirs = exists().where(leaf.tenant_id == tenant.id, leaf.run_id == run_id)
    query = select(tenants_table).where(theirs).order_by(tenant.id).limit(MAX_TENANTS + 1)
    if tenant_id is not None:
        query = query.where(tenant.id == tenant_id)
    async with db.read() as conn:
        rows = (await conn.execute(query)).all()
    if len(rows) > MAX_TENANTS:
        raise PreconditionError(
            f"the run opened the logs of more than {MAX_TENANTS} tenants: say which one is meant (`tenant`)",
            slug="tenant_needed",
        )
    return [Tenant(row.id, row.ref, row.name, row.created_at) for row in rows]


async def _certificate(
    db: Database, reader: LogReader, run_id: str, tenant: Tenant, now: Instant
) -> Mapping[str, Any] | None:
    signed = await reader.checkpoint(tenant, now)
    tally = await _tally(db, reader, tenant, run_id, signed.size)

    def build(sync: Connection) -> Mapping[str, Any] | None:
        nodes = TileNodes(signed.size, TileReader(sync, tenant.id))
        certificate = certify(tally, signed.note, nodes, reader.verifier(tenant))
        return None if certificate is None else sign_certificate(certificate, reader.signer(tenant))

    async with db.read() as conn:
        return await conn.run_sync(build)


async def _tally(db: Database, reader: LogReader, tenant: Tenant, run_id: str, end: int) -> RunTally:
    """Add up the run's leaves before `end`, until nothing of it can follow. Raises LogDivergedError at one that is
    not what was hashed: a certificate is signed.
    """
    leaf = log_leaves.c
    tally = RunTally(run_id)
    async with db.read() as conn:
        mine = select(func.min(leaf.idx)).where(leaf.tenant_id == tenant.id, leaf.run_id == run_id)
        start = (await conn.execute(mine)).scalar_one()
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
