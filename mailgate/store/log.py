"""Writing the purge log: leaves that carry who, when and under which policy, in the transaction of what they tell of.

A tenant's log begins with the policy, and a new version of the policy is announced before the first leaf under it.
Leaves are built here (`retention.ledger.leaves` says what may stand in them) and numbered by the transaction's flush,
under the lock of `tenant_heads`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy import select, update

from mailgate.actors import Actor
from mailgate.clock import Instant
from mailgate.ids import new_id
from mailgate.store.database import Database
from mailgate.store.schema import tenant_heads, tenants
from mailgate.store.transaction import Leaf, Transaction
from retention.ledger import leaves

if TYPE_CHECKING:
    from mailgate.store.tenants import Tenant


@dataclass(frozen=True, slots=True)
class LogPolicy:
    """The policy as the log announces it: a document of strings, whole numbers, booleans and lists, and its version."""

    version: int
    document: Mapping[str, Any]

    @property
    def sha256(self) -> str:
        """What every leaf names; hex."""
        return leaves.policy_sha256(self.document)


class PurgeLog:
    """The logs of all tenants as one process writes them. `origin` is fixed at set-up, e.g. `mail.example.com`."""

    def __init__(self, *, origin: str, policy: LogPolicy, version: str, commit: str) -> None:
        self._origin = origin
        self._policy = leaves.Policy(policy.version, policy.sha256)
        self._document = policy.document
        self._build = leaves.Build(version, commit)

    async def adopt(self, db: Database, policy: LogPolicy, *, at: Instant, actor: Actor) -> None:
        """Write under another policy from now on. Every log hears of it first; one that is begun meanwhile, after."""
        changed = leaves.Policy(policy.version, policy.sha256)
        coming = PurgeLog(origin=self._origin, policy=policy, version=self._build.version, commit=self._build.commit)
        await coming.announce_everywhere(db, at=at, actor=actor)
        self._policy, self._document = changed, policy.document
        await self.announce_everywhere(db, at=at, actor=actor)

    def name(self, tenant_ref: str) -> str:
        """The name of a tenant's log and of the key that signs it."""
        return f"{self._origin}/purge/{tenant_ref}"

    def common(self, tenant_ref: str, at: Instant, actor: Actor, run: str | None = None) -> leaves.Common:
        """What every leaf begins with, with an id of its own."""
        return leaves.Common(
            id=new_id(at),
            at=at,
            origin=self.name(tenant_ref),
            tenant_ref=tenant_ref,
            actor=leaves.Actor(actor.kind, actor.ref),
            policy=self._policy,
            build=self._build,
            run=run,
        )

    def write(
        self,
        tx: Transaction,
        tenant_id: str,
        tenant_ref: str,
        make: Callable[..., bytes],
        *,
        at: Instant,
        actor: Actor,
        run: str | None = None,
        **fields: Any,
    ) -> None:
        """Append the leaf that `make` (a constructor of `retention.ledger.leaves`) builds from the fields."""
        body = make(self.common(tenant_ref, at, actor, run), **fields)
        type_ = make.__name__.replace("_", ".", 1)
        tx.log(tenant_id, Leaf(body, type_, at, run, fields.get("item_ref")))

    async def note_export(
        self, db: Database, tenant: Tenant, format_: str, size: int, root: bytes, *, at: Instant, actor: Actor
    ) -> None:
        """Append `export`: who was given the log, up to which state. The entry stands behind what is given."""

        async def work(tx: Transaction) -> None:
            fields: dict[str, Any] = {"format_": format_, "size": size, "root": root}
            self.write(tx, tenant.id, tenant.ref, leaves.export, at=at, actor=actor, **fields)

        await db.transact(work)

    def announce_policy(self, tx: Transaction, tenant_id: str, tenant_ref: str, *, at: Instant, actor: Actor) -> None:
        """Append `policy.set`: once when a tenant is made, then by `announce_everywhere` when the policy changed."""
        self.write(
            tx, tenant_id, tenant_ref, leaves.policy_set, at=at, actor=actor, document=self._document, effective_at=at
        )
        tx.set_head(tenant_id, log_policy=self._policy.sha256)

    async def announce_everywhere(self, db: Database, *, at: Instant, actor: Actor) -> int:
        """At start: tell every log that has not heard of it about the policy that holds now, also those of tenants that
        leave or left: entries about them go on. Returns to how many.
        """
        query = (
            select(tenants.c.id, tenants.c.ref)
            .join(tenant_heads, tenant_heads.c.tenant_id == tenants.c.id)
            .where(tenant_heads.c.log_policy.is_distinct_from(self._policy.sha256))
            .order_by(tenants.c.id)
        )
        async with db.read() as conn:
            missing = (await conn.execute(query)).all()
        told = 0
        for tenant_id, tenant_ref in missing:
            told += await db.transact(functools.partial(self._announce_once, tenant_id, tenant_ref, at, actor))
        return told

    async def _announce_once(self, tenant_id: str, tenant_ref: str, at: Instant, actor: Actor, tx: Transaction) -> int:
        # The update decides between processes that start at the same moment: only one of them finds the old value.
        claim = (
            update(tenant_heads)
            .where(
                tenant_heads.c.tenant_id == tenant_id, tenant_heads.c.log_policy.is_distinct_from(self._policy.sha256)
            )
            .values(log_policy=self._policy.sha256)
        )
        if (await tx.conn.execute(claim)).rowcount == 0:
            return 0
        self.announce_policy(tx, tenant_id, tenant_ref, at=at, actor=actor)
        return 1
