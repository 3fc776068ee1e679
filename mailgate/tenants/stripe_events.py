"""What Stripe tells, as events of a subscription's timeline. Pure: one verified event document in, events out.

Stripe delivers in any order, any number of times, and its times are whole seconds. Nothing is looked up and nothing is
remembered here; that it converges all the same rests on four decisions:

1. Every event carries Stripe's own instant and, as `contract`, the id of the subscription. The timeline sorts by the
   one and keeps subscriptions apart by the other, so that the end of a replaced subscription ends nothing.
2. A subscription's document is a snapshot. Each one claims what it shows: this period has begun, so many seats,
   cancelled or not. A claim of what is known changes nothing, and makes good for an event that never came. What is no
   state but a change (a higher or lower plan, a cancellation taken back, a trial moved) is read from
   `previous_attributes`.
3. Within one second the order is that of meaning, told in microseconds (`_STARTED` … `_ENDED`): what started; what
   a snapshot claims; a failure; a payment, which mends the failure; changes; the end. Of two changes of one kind in one
   second the timeline takes the one with the later id; the next snapshot puts that right. A cancellation and its
   withdrawal in one second count as withdrawn.
4. Stripe begins the next period, still `active`, before its invoice is charged (about an hour). The claim is
   believed, or every renewal would look past due; when `invoice.payment_failed` comes, it tells from when on nothing
   is paid, and the days of grace count from there. A failure that no renewal invoice explains (a proration, say) leaves
   the period as it is and counts from its end. What follows a trial is no trial: Stripe calls it active, so a first
   payment that fails has the days of grace; and so has the word that it became active, which may come late.

| Stripe | here |
|---|---|
| `trialing` | trial_started, until trial_end; unless it is cancelled, Stripe makes it active then by itself |
| `incomplete` becomes `active`, or created `active` | purchased |
| `active` | renewed until the end of the current period; from the instant when it began, if it just did |
| `past_due`, `unpaid` | renewal_failed; Stripe's own end of patience takes no days of grace away |
| `paused` (a trial without a card) | ended |
| `canceled` | ended; after a payment that failed: renewal_failed and canceled, so that grace runs out |
| `incomplete`, `incomplete_expired` | nothing: it never began |
| cancel_at_period_end, cancel_at within the period | canceled |
| a price of a higher plan, or of the same rank | upgraded, at once |
| a price of a lower plan | downgrade_bought: at the end of the period, as everywhere; in a trial nothing yet |
| invoice.paid of a period | renewed until the end of that period |
| invoice.payment_failed of a renewal | renewal_failed, from the start of that period |

References: docs.stripe.com/api/subscriptions/object, …/api/invoices/object, …/api/events/object; periods moved from the
subscription to its items, and an invoice's subscription to `parent`, with version 2025-03-31.basil: both are read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from mailgate.clock import DAY, SECOND, Instant
from mailgate.errors import BadRequestError
from mailgate.tenants.stripe_objects import Invoice, Offers, Subscription, mapping, seconds, text
from mailgate.tenants.timeline import Event, EventType

_STARTED: Final = 0
_CLAIMED: Final = 1
_FAILED: Final = 2
_PAID: Final = 3
_CHANGED: Final = 4
_ENDED: Final = 5

_SNAPSHOTS = frozenset(
    {"customer.subscription.updated", "customer.subscription.paused", "customer.subscription.resumed"}
)
_PAYMENTS = frozenset({"invoice.paid", "invoice.payment_succeeded"})
_NEW_PERIODS = frozenset({"subscription_create", "subscription_cycle"})
_UNPAID = frozenset({"past_due", "unpaid"})


_LONGEST_ID = 150


@dataclass(frozen=True, slots=True)
class StripeNews:
    """What one of Stripe's events says. `tenant` as the metadata names it, else None: then whoever knows which tenant
    has this `subscription` or `customer` (Stripe's ids) must tell. `events` in no particular order; none when the event
    does not concern a plan.
    """

    id: str
    type: str
    tenant: str | None
    customer: str | None
    subscription: str | None
    events: tuple[Event, ...]


def read_stripe_event(document: Mapping[str, Any], offers: Offers) -> StripeNews:
    """The news in an event document of Stripe (`object: event`), whose signature was verified.

    Raises BadRequestError (stripe_event_malformed) for a document of another shape, PreconditionError
    (stripe_price_unknown) when no price of a tenant's subscription is any plan's: nothing is to be changed then, and
    Stripe delivers the event again until plans.toml knows the price. A subscription that names neither a tenant nor a
    price of ours is of another business, and no news.
    """
    kind, event_id = text(document, "type"), text(document, "id")
    if document.get("object") != "event" or kind is None or event_id is None or len(event_id) > _LONGEST_ID:
        raise BadRequestError("this is no event of Stripe", slug="stripe_event_malformed")
    data = mapping(document, "data")
    content = mapping(data, "object")
    told = _Told(event_id, seconds(document, "created"), offers, mapping(data, "previous_attributes"))
    if kind.startswith("customer.subscription."):
        subscription = Subscription(content, offers)
        events = [] if subscription.concerns_no_tenant else told.of_subscription(kind, subscription)
        return StripeNews(event_id, kind, subscription.tenant, subscription.customer, subscription.id, tuple(events))
    if kind.startswith("invoice."):
        invoice = Invoice(content, offers)
        events = told.of_invoice(kind, invoice)
        # A customer of ours may pay for something else on the same account.
        customer = None if invoice.tenant is None and invoice.plan is None else invoice.customer
        return StripeNews(event_id, kind, invoice.tenant, customer, invoice.subscription, tuple(events))
    return StripeNews(event_id, kind, None, None, None, ())


@dataclass(frozen=True, slots=True)
class _Told:
    """One event document: its id, when it was created, and what had been there before."""

    id: str
    created: int
    offers: Offers
    before: Mapping[str, Any]

    def of_subscription(self, kind: str, subscription: Subscription) -> list[Event]:
        if kind == "customer.subscription.deleted":
            return self._ended(subscription)
        if kind == "customer.subscription.created":
            return self._started(subscription, _STARTED)
        return self._snapshot(subscription) if kind in _SNAPSHOTS else []

    def _started(self, subscription: Subscription, order: int) -> list[Event]:
        status, contract = subscription.status, subscription.id
        if status == "trialing":
            return [self._trial(subscription, order)]
        if status != "active":
            return []
        bought = self._event(
            EventType.PURCHASED,
            self._at(order),
            contract,
            plan=subscription.plan,
            term_months=subscription.term_months,
            period_end=subscription.period_end * SECOND,
            seats=subscription.seats,
        )
        return [bought, *self._cancellation(subscription)]

    def _trial(self, subscription: Subscription, order: int) -> Event:
        return self._event(
            EventType.TRIAL_STARTED,
            self._at(order),
            subscription.id,
            plan=subscription.plan,
            period_end=subscription.trial_end * SECOND,
            seats=subscription.seats,
            auto_renew=not subscription.cancels,
        )

    def _snapshot(self, subscription: Subscription) -> list[Event]:
        status, before = subscription.status, text(self.before, "status")
        if status == "canceled":
            return self._ended(subscription)
        if status == "paused":
            return [self._event(EventType.ENDED, self._at(_ENDED), subscription.id)]
        if status == "active" and before == "incomplete":
            return self._started(subscription, _STARTED)
        if status == "active":
            return [self._claim(subscription), *self._changes(subscription), *self._cancellation(subscription)]
        if status in _UNPAID:
            failed = self._event(EventType.RENEWAL_FAILED, self._at(_FAILED), subscription.id)
            return [failed, *self._changes(subscription), *self._cancellation(subscription)]
        if status == "trialing" and (before is not None or "trial_end" in self.before):
            return [self._trial(subscription, _CHANGED)]
        if status == "trialing":
            return [*self._changes(subscription), *self._cancellation(subscription)]
        return []

    def _claim(self, subscription: Subscription) -> Event:
        """This period is running. One that just began did so when it began, not when this was told: at the end of a
        trial, what lies between would be on Free.
        """
        before, plan = text(self.before, "status"), subscription.plan
        begun, at = subscription.period_start, self._at(_CLAIMED)
        if before is not None and before != "trialing":
            at = self._at(_PAID)  # it is active again: what was past due was paid
        elif self._has_begun(subscription) and begun <= self.created:
            at = begun * SECOND
        return self._event(
            EventType.RENEWED,
            at,
            subscription.id,
            plan=plan,
            term_months=subscription.term_months,
            period_end=subscription.period_end * SECOND,
        )

    def _has_begun(self, subscription: Subscription) -> bool:
        before = Subscription.end_before(self.before)
        return before is not None and before != subscription.period_end

    def _changes(self, subscription: Subscription) -> list[Event]:
        """Another plan, and the seats."""
        found: list[Event] = []
        old, new = subscription.plan_before(self.before), subscription.plan
        begins = Subscription.end_before(self.before) == subscription.period_start
        lower = old is not None and self.offers.ranks[new] < self.offers.ranks[old]
        # With a new period, as it follows a trial, its claim brings the plan.
        waits = begins or (lower and subscription.status == "trialing")
        if old is not None and old != new and not waits:
            kind = EventType.DOWNGRADE_BOUGHT if lower else EventType.UPGRADED
            term = subscription.term_months if lower else None
            found.append(self._event(kind, self._at(_CHANGED), subscription.id, plan=new, term_months=term))
        if subscription.seats is not None:
            at = self._at(_CHANGED if {"items", "quantity"} & set(self.before) else _CLAIMED)
            found.append(self._event(EventType.SEATS_CHANGED, at, subscription.id, seats=subscription.seats))
        return found

    def _cancellation(self, subscription: Subscription) -> list[Event]:
        at = self._at(_CHANGED)
        if subscription.cancels:
            sooner = subscription.cancels_sooner
            end = None if sooner is None else sooner * SECOND
            return [self._event(EventType.CANCELED, at, subscription.id, period_end=end)]
        if self.before.get("cancel_at_period_end") is True or self.before.get("cancel_at") is not None:
            return [self._event(EventType.RESUMED, at, subscription.id, auto_renew=True)]
        return []

    def _ended(self, subscription: Subscription) -> list[Event]:
        if subscription.status == "incomplete_expired":
            return []
        if subscription.unpaid_at_last:
            return [
                self._event(EventType.RENEWAL_FAILED, self._at(_FAILED), subscription.id),
                self._event(EventType.CANCELED, self._at(_ENDED), subscription.id),
            ]
        return [self._event(EventType.ENDED, self._at(_ENDED), subscription.id)]

    def of_invoice(self, kind: str, invoice: Invoice) -> list[Event]:
        if invoice.subscription is None or invoice.reason not in _NEW_PERIODS or invoice.period is None:
            return []
        start, end = invoice.period
        if kind in _PAYMENTS and not invoice.of_trial:
            return [
                self._event(
                    EventType.RENEWED,
                    self._at(_PAID),
                    invoice.subscription,
                    plan=invoice.plan,
                    period_end=end * SECOND,
                )
            ]
        if kind == "invoice.payment_failed" and invoice.reason == "subscription_cycle" and invoice.charged:
            # An invoice that was held back does not eat up the days of grace before it could be paid.
            finalized = invoice.finalized_at
            if finalized is not None and (finalized - start) * SECOND > DAY:
                start = finalized
            since = min(start, self.created) * SECOND
            return [
                self._event(EventType.RENEWAL_FAILED, self._at(_FAILED), invoice.subscription, period_end=since),
            ]
        return []

    def _at(self, order: int) -> Instant:
        return self.created * SECOND + order

    def _event(self, kind: EventType, at: Instant, contract: str, **fields: Any) -> Event:
        return Event(f"{self.id}:{kind.value}", kind, at, contract=contract, **fields)
