"""Tenants: one customer of the CRM each; everything else belongs to one."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Row, insert, select, update

from mailgate.actors import Actor
from mailgate.clock import Instant
from mailgate.errors import ConflictError, NotFoundError
from mailgate.ids import new_ref
from mailgate.keys import KeyRing
from mailgate.store.database import Database
from mailgate.store.log import PurgeLog
from mailgate.store.paging import Page, page_by_id
from mailgate.store.schema import tenant_heads, tenants
from mailgate.store.transaction import Transaction
from retention.ledger.tree import Frontier

LIVING = tenants.c.erasing_at.is_(None)
"""Of the rows of `tenants`: those that are not being erased. The others stand for a log whose tenant is gone."""


@dataclass(frozen=True, slots=True)
class Tenant:
    """A tenant; `ref` is what the purge log and the key store call it."""

    id: str
    ref: str
    name: str
    created_at: Instant


async def put(
    db: Database, ring: KeyRing, log: PurgeLog, tenant_id: str, name: str, now: Instant, actor: Actor
) -> tuple[Tenant, bool]:
    """Make the tenant or rename it; (tenant, whether it was made). Its keys are made first: a key without a tenant
    harms nobody. Raises ConflictError (tenant_erased) for an id whose tenant was erased: its log keeps it.
    """
    existing = await find(db, tenant_id)
    ref = existing.ref if existing else new_ref()
    if existing is None:
        ring.create_tenant(ref, now)

    async def work(tx: Transaction) -> tuple[Tenant, bool]:
        insert_tenant = (
            tx.insert(tenants).values(id=tenant_id, ref=ref, name=name, created_at=now).on_conflict_do_nothing()
        )
        made = (await tx.conn.execute(insert_tenant.returning(tenants.c.id))).one_or_none() is not None
        if made:
            head = {"tenant_id": tenant_id, "log_frontier": Frontier().to_bytes()}
            await tx.conn.execute(insert(tenant_heads).values(head))
            log.announce_policy(tx, tenant_id, ref, at=now, actor=actor)
        else:
            await tx.conn.execute(update(tenants).where(tenants.c.id == tenant_id, LIVING).values(name=name))
        row = (await tx.conn.execute(select(tenants).where(tenants.c.id == tenant_id))).one()
        if row.erasing_at is not None:
            raise ConflictError(
                f"tenant {tenant_id} was erased, and its purge log keeps the id; take another one", slug="tenant_erased"
            )
        return _tenant(row), made

    try:
        tenant, made = await db.transact(work)
    except ConflictError:
        if existing is None:
            ring.destroy_tenant(ref)
        raise
    if existing is None and not made:
        ring.destroy_tenant(ref)  # somebody else made the tenant at the same moment, with a ref and keys of its own
    return tenant, made


async def find(db: Database, tenant_id: str, *, erased: bool = False) -> Tenant | None:
    """The tenant, or None. `erased`: also one that is being erased or was, of which only the log may be served."""
    query = select(tenants).where(tenants.c.id == tenant_id)
    async with db.read() as conn:
        row = (await conn.execute(query if erased else query.where(LIVING))).one_or_none()
    return None if row is None else _tenant(row)


async def get(db: Database, tenant_id: str, *, erased: bool = False) -> Tenant:
    """The same. Raises NotFoundError."""
    tenant = await find(db, tenant_id, erased=erased)
    if tenant is None:
        raise NotFoundError(
            f"there is no tenant {tenant_id!r}; make it with PUT /v1/tenants/{tenant_id}", slug="tenant_not_found"
        )
    return tenant


async def list_page(db: Database, *, after: str | None, limit: int) -> Page[Tenant]:
    """Tenants by id. The page's key is (id,)."""
    query = select(tenants).where(LIVING)
    return await page_by_id(db, query, tenants.c.id, _tenant, after=after, limit=limit, newest_first=False)


async def lock(tx: Transaction, tenant_id: str, *, shared: bool = False) -> Tenant:
    """Lock the tenant's row: shared by who only needs its plan to stand still (a purge), alone by who changes it.
    Raises NotFoundError, also for one that is being erased.
    """
    query = select(tenants).where(tenants.c.id == tenant_id, LIVING)
    query = query.with_for_update(read=True) if shared else query.with_for_update(key_share=True)
    row = (await tx.conn.execute(query)).one_or_none()
    if row is None:
        raise NotFoundError(f"there is no tenant {tenant_id!r}", slug="tenant_not_found")
    return _tenant(row)


async def leaving(tx: Transaction, tenant_id: str) -> Tenant | None:
    """A tenant that is being erased, or was: whose log it is, and nothing else. Not locked."""
    query = select(tenants).where(tenants.c.id == tenant_id, ~LIVING)
    row = (await tx.conn.execute(query)).one_or_none()
    return None if row is None else _tenant(row)


def _tenant(row: Row[tuple[object, ...]]) -> Tenant:
    return Tenant(row.id, row.ref, row.name, row.created_at)
