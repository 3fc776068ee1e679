"""What Stripe told, taken over: which of its customers and subscriptions are which tenant's, and the events."""

from __future__ import annotations

from collections.abc import Callable

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from mailgate.actors import Actor
from mailgate.clock import Clock
from mailgate.errors import NotFoundError
from mailgate.store import tenants
from mailgate.store.database import Database
from mailgate.store.schema import stripe_accounts
from mailgate.store.subscriptions import Subscriptions
from mailgate.store.transaction import Transaction
from mailgate.tenants.stripe_events import StripeNews
from mailgate.tenants.stripe_objects import Offers

STRIPE = Actor("billing", "stripe")


class StripeBook:
    """Takes news of Stripe over, each document in one transaction. `changed` is called when anything was new."""

    def __init__(self, db: Database, subscriptions: Subscriptions, clock: Clock, changed: Callable[[], None]) -> None:
        self._db = db
        self._subscriptions = subscriptions
        self._clock = clock
        self._changed = changed

    def offers(self) -> Offers:
        """What the plans that are in force say of Stripe's prices."""
        plans = self._subscriptions.catalogue.plans
        prices = {price: plan.name for plan in plans.values() for price in plan.stripe_prices}
        return Offers(prices, {name: plan.rank for name, plan in plans.items()})

    async def apply(self, news: StripeNews) -> bool:
        """Record the events; whether any was new. Where the news name no tenant, it is the one that had their
        subscription or customer before. Raises NotFoundError (tenant_not_found), upon which Stripe delivers them again.
        """
        now = self._clock()

        async def work(tx: Transaction) -> bool:
            tenant_id = news.tenant or await self._known(tx.conn, news)
            if tenant_id is None:
                raise NotFoundError(
                    "nobody knows whose this is: set metadata.mailgate_tenant of the subscription",
                    slug="tenant_not_found",
                )
            tenant = await tenants.lock(tx, tenant_id)
            # A subscription stays whose it is; a customer may have several, of several tenants.
            for ref in (news.subscription, news.customer if news.tenant is not None else None):
                if ref is not None:
                    row = tx.insert(stripe_accounts).values(ref=ref, tenant_id=tenant_id)
                    moved = {"tenant_id": tenant_id}
                    await tx.conn.execute(row.on_conflict_do_update(index_elements=[stripe_accounts.c.ref], set_=moved))
            recorded = await self._subscriptions.record(tx, tenant, news.events, "stripe", now, STRIPE)
            return recorded.new > 0

        changed = await self._db.transact(work)
        if changed:
            self._changed()
        return changed

    async def _known(self, conn: AsyncConnection, news: StripeNews) -> str | None:
        for ref in (news.subscription, news.customer):
            query = select(stripe_accounts.c.tenant_id).where(stripe_accounts.c.ref == ref)
            found: str | None = (await conn.execute(query)).scalar_one_or_none() if ref is not None else None
            if found is not None:
                return found
        return None
