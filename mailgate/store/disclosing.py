"""Opening one entry of a purge log to one reader: its proof, and what its commitments commit to.

The gateway gives the salt, which it derives from the tenant's key, and what it still knows itself: the reason of a
hold, the record of a pin that stands. Of what was purged it knows nothing any more; whoever asks for the disclosure has
the message, or its Message-ID, and brings it. Nothing leaves before it was found to be what the entry commits to.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from mailgate.clock import Instant
from mailgate.errors import ConflictError, NotFoundError
from mailgate.keys import KeyRing
from mailgate.store.database import Database
from mailgate.store.log_reading import LogReader
from mailgate.store.schema import holds, log_leaves, pins
from mailgate.store.tenants import Tenant
from retention.ledger.commitment import Committer, opens
from retention.ledger.disclosure import disclose as write
from retention.ledger.schema import parse_leaf

_SUFFIX: Final = "_commit"


async def disclose(
    db: Database, ring: KeyRing, reader: LogReader, tenant: Tenant, index: int, given: Mapping[str, bytes], now: Instant
) -> tuple[str, list[str]]:
    """The text that opens entry `index` (see `retention.ledger.disclosure`), and the names of the fields in it.

    `given`: values by field, as the entry commits to them: `content` the SHA-256 of the message (32 bytes), `msgid` its
    Message-ID, `entity` the id of a record, `reason` that of a hold. Raises NotFoundError for no such entry,
    ConflictError when there is nothing to open or a value is another one, KeyMissingError when the tenant's keys were
    destroyed: then nobody can ever open anything of this log.
    """
    async with db.read() as conn:
        query = select(log_leaves.c.body).where(log_leaves.c.tenant_id == tenant.id, log_leaves.c.idx == index)
        body = (await conn.execute(query)).scalar_one_or_none()
        if body is None:
            raise NotFoundError(f"the log has no entry {index}", slug="leaf_not_found")
        leaf = parse_leaf(body)
        known = await _known(conn, leaf)
    fields = [name.removesuffix(_SUFFIX) for name in leaf if name.endswith(_SUFFIX)]
    unheard = sorted(set(given) - set(fields))
    if unheard or not fields:
        has = f"commits to {', '.join(fields)}" if fields else "commits to nothing: there is nothing to open"
        raise ConflictError(f"entry {index}, {leaf['type']}, {has}", slug="not_committed_to")
    salt = Committer(ring.tenant(tenant.ref).ledger_key).salt(_reference(leaf))
    opened: dict[str, tuple[bytes, bytes]] = {}
    for field in fields:
        value = given.get(field, known.get(field))
        if value is None:
            continue
        if not opens(salt, field, value, leaf[field + _SUFFIX]):
            raise ConflictError(f"entry {index} commits to another {field} than this one", slug="not_committed_to")
        opened[field] = (salt, value)
    if not opened:
        raise ConflictError(
            f"the gateway does not know any more what entry {index} commits to: give its {' or '.join(fields)}",
            slug="value_needed",
        )
    signed = await reader.checkpoint(tenant, now)
    (proof,) = await reader.proofs(tenant, signed, [index])
    return write(proof, opened), list(opened)


def _reference(leaf: Mapping[str, Any]) -> str:
    """What the salt of the leaf's commitments is derived for."""
    return str(leaf.get("item_ref") or leaf.get("hold_ref") or leaf["id"])


async def _known(conn: AsyncConnection, leaf: Mapping[str, Any]) -> dict[str, bytes]:
    """Values that still stand in the database."""
    found: str | None = None
    if leaf["type"] == "pin.add":
        found = (await conn.execute(select(pins.c.entity_id).where(pins.c.ref == leaf["pin_ref"]))).scalar_one_or_none()
        return {} if found is None else {"entity": found.encode()}
    if leaf["type"] in ("hold.place", "hold.release"):
        column = holds.c.reason if leaf["type"] == "hold.place" else holds.c.release_reason
        found = (await conn.execute(select(column).where(holds.c.id == leaf["hold_ref"]))).scalar_one_or_none()
        return {} if found is None else {"reason": found.encode()}
    return {}
