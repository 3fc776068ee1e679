"""Consents that are being given: between the link that a person follows and the provider's answer. Each is taken once;
its secret is `state`, of which only a hash is kept, and what it is for is sealed under the tenant's key.
"""

from __future__ import annotations

import hmac
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Row, delete, insert, select, update

from mailgate.clock import Instant
from mailgate.keys import KeyRing
from mailgate.keys.errors import KeyMissingError
from mailgate.store import tenants
from mailgate.store.database import Database
from mailgate.store.schema import consent_flows
from mailgate.store.schema import tenants as tenants_table
from mailgate.store.transaction import Transaction

_F = consent_flows.c


@dataclass(frozen=True, slots=True)
class Flow:
    """A consent that is being given, and what for. No `repr` shows it."""

    tenant_id: str
    provider: str
    about: Mapping[str, Any]

    def __repr__(self) -> str:
        return f"Flow({self.tenant_id!r}, {self.provider!r})"


async def begin(db: Database, ring: KeyRing, secret_hash: bytes, flow: Flow, expires_at: Instant, now: Instant) -> None:
    """Keep it until then; what nobody finished is forgotten. Raises NotFoundError."""
    tenant = await tenants.get(db, flow.tenant_id)
    values = {
        "secret_hash": secret_hash,
        "tenant_id": flow.tenant_id,
        "provider": flow.provider,
        "sealed": ring.tenant(tenant.ref).seal(json.dumps(dict(flow.about)).encode(), _context(secret_hash)),
        "expires_at": expires_at,
    }

    async def work(tx: Transaction) -> None:
        await tenants.lock(tx, flow.tenant_id, shared=True)
        await tx.conn.execute(delete(consent_flows).where(_F.expires_at <= now))
        await tx.conn.execute(insert(consent_flows).values(values))

    await db.transact(work)


async def follow(db: Database, ring: KeyRing, secret_hash: bytes, browser_hash: bytes, now: Instant) -> Flow | None:
    """Bind it to the browser that follows the link first. None: it is over, or another browser has it."""
    mine = (_F.secret_hash == secret_hash) & (_F.expires_at > now)
    free = _F.browser_hash.is_(None) | (_F.browser_hash == browser_hash)

    async def work(tx: Transaction) -> bool:
        bound = update(consent_flows).where(mine, free).values(browser_hash=browser_hash)
        return (await tx.conn.execute(bound)).rowcount == 1

    if not await db.transact(work):
        return None
    async with db.read() as conn:
        return _flow(ring, (await conn.execute(_reading().where(mine))).one_or_none())


async def take(
    db: Database, ring: KeyRing, secret_hash: bytes, browser_hash: bytes, provider: str, now: Instant
) -> Flow | None:
    """The flow, which is over with this. None: there is none, or it is another browser's or provider's (whose answer
    then ends it as well: somebody knows its secret).
    """

    async def work(tx: Transaction) -> Row[Any] | None:
        row = (await tx.conn.execute(_reading().where(_F.secret_hash == secret_hash))).one_or_none()
        gone = await tx.conn.execute(delete(consent_flows).where(_F.secret_hash == secret_hash))
        return row if gone.rowcount == 1 else None

    row = await db.transact(work)
    if row is None or row.expires_at <= now or row.provider != provider:
        return None
    if row.browser_hash is None or not hmac.compare_digest(row.browser_hash, browser_hash):
        return None
    return _flow(ring, row)


def _reading() -> Any:
    return select(consent_flows, tenants_table.c.ref).join(tenants_table, tenants_table.c.id == _F.tenant_id)


def _flow(ring: KeyRing, row: Row[Any] | None) -> Flow | None:
    if row is None:
        return None
    try:
        keys = ring.tenant(row.ref)
    except KeyMissingError:  # the tenant was erased
        return None
    return Flow(row.tenant_id, row.provider, json.loads(keys.open_sealed(row.sealed, _context(row.secret_hash))))


def _context(secret_hash: bytes) -> str:
    return f"consent-flow:{secret_hash.hex()}"
