"""Stripe's subscriptions and invoices, as far as they tell of plans: old and new shapes of them read alike. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mailgate.errors import BadRequestError, PreconditionError

TENANT = "mailgate_tenant"
"""Key of the metadata (of a subscription, else of its customer) that names the tenant."""
PLAN = "mailgate_plan"
"""Key of a price's metadata that names the plan, where its id and lookup key stand in no list."""

_LATEST = 253_402_300_799  # the end of the year 9999
_MONTHS = {"month": 1, "year": 12}
_MOST_MONTHS = 120
_MOST_SEATS = 1_000_000
_LONGEST_TEXT = 200  # Stripe's longest: a price's lookup key


@dataclass(frozen=True, slots=True)
class Offers:
    """What is sold at Stripe: the plan of each price (by id or lookup key), and every plan's rank."""

    plans: Mapping[str, str]
    ranks: Mapping[str, int]

    def plan(self, price: Mapping[str, Any]) -> str | None:
        """The plan that a price, or a plan of the old kind, stands for."""
        named = text(mapping(price, "metadata"), PLAN)
        if named is not None and named in self.ranks:
            return named
        keys = (text(price, "id"), text(price, "lookup_key"))
        return next((self.plans[key] for key in keys if key is not None and key in self.plans), None)

    def highest(self, plans: Iterable[str | None]) -> str | None:
        """Of several plans in one subscription the one that keeps most."""
        return max(
            (plan for plan in plans if plan is not None), key=lambda plan: (self.ranks[plan], plan), default=None
        )


@dataclass(frozen=True, slots=True)
class Subscription:
    """An object of type `subscription`. Reading what is missing or of the wrong kind raises BadRequestError."""

    content: Mapping[str, Any]
    offers: Offers

    @property
    def id(self) -> str:
        return _needed(self.content, "id")

    @property
    def status(self) -> str:
        return _needed(self.content, "status")

    @property
    def customer(self) -> str | None:
        return _reference(self.content, "customer")

    @property
    def tenant(self) -> str | None:
        """As the metadata of the subscription names it, else those of the customer if that was sent along."""
        customer = self.content.get("customer")
        elsewhere = mapping(customer, "metadata") if isinstance(customer, Mapping) else {}
        return text(mapping(self.content, "metadata"), TENANT) or text(elsewhere, TENANT)

    @property
    def concerns_no_tenant(self) -> bool:
        """Whether it is of another business on the same account: it names no tenant, and no price of ours."""
        return self.tenant is None and not any(self.offers.plan(_price(item)) for item in _items(self.content))

    @property
    def plan(self) -> str:
        """Raises PreconditionError (stripe_price_unknown) when none of the prices is any plan's."""
        found = self.offers.highest(self.offers.plan(_price(item)) for item in _items(self.content))
        if found is None:
            ids = ", ".join(repr(text(_price(item), "id") or "?")[:80] for item in _items(self.content)) or "none"
            raise PreconditionError(
                f"no plan has a price of this subscription ({ids}): name it under stripe_prices in plans.toml",
                slug="stripe_price_unknown",
            )
        return found

    def plan_before(self, before: Mapping[str, Any]) -> str | None:
        """The plan of the prices that `previous_attributes` name; None when they name none, or none that is known."""
        items = [_price(item) for item in _items(before)] or [mapping(before, "plan")]
        return self.offers.highest(self.offers.plan(price) for price in items)

    @property
    def _sold(self) -> Sequence[Mapping[str, Any]]:
        """The items that make the plan; another may be an extra that is no plan's."""
        return [item for item in _items(self.content) if self.offers.plan(_price(item)) == self.plan]

    @property
    def term_months(self) -> int | None:
        """None for weeks and days, which are no months: the period's own end counts."""
        recurring = mapping(_price(self._sold[0]), "recurring") or _price(self._sold[0])
        months, count = _MONTHS.get(text(recurring, "interval") or ""), recurring.get("interval_count", 1)
        if months is None or not isinstance(count, int) or not 1 <= months * count <= _MOST_MONTHS:
            return None
        return months * count

    @property
    def seats(self) -> int | None:
        """The quantity; None where one is metered, which has none."""
        counts = [count for item in self._sold if isinstance(count := item.get("quantity"), int)]
        total = sum(counts) if len(counts) == len(self._sold) else 0
        return total if 1 <= total <= _MOST_SEATS else None

    @property
    def period_start(self) -> int:
        return self._edge("current_period_start")

    @property
    def period_end(self) -> int:
        return self._edge("current_period_end")

    def _edge(self, name: str) -> int:
        """Since 2025-03-31.basil a period is the item's; of several the latest counts."""
        of_items = [seconds(item, name) for item in self._sold if item.get(name) is not None]
        return max(of_items) if of_items else seconds(self.content, name)

    @staticmethod
    def end_before(before: Mapping[str, Any]) -> int | None:
        """The end of the period that `previous_attributes` tell of."""
        ends = [seconds(item, "current_period_end") for item in _items(before) if item.get("current_period_end")]
        if before.get("current_period_end") is not None:
            ends.append(seconds(before, "current_period_end"))
        return max(ends, default=None)

    @property
    def trial_end(self) -> int:
        return seconds(self.content, "trial_end")

    @property
    def cancels_sooner(self) -> int | None:
        """An end within the period, at which Stripe will cancel."""
        at = self.content.get("cancel_at")
        return None if at is None or seconds(self.content, "cancel_at") >= self.period_end else at

    @property
    def cancels(self) -> bool:
        """Whether it will not be renewed. A cancellation for a later period is none yet."""
        at = self.content.get("cancel_at")
        within = at is not None and seconds(self.content, "cancel_at") <= self.period_end
        return self.content.get("cancel_at_period_end") is True or within

    @property
    def unpaid_at_last(self) -> bool:
        """Whether Stripe ended it because a payment failed."""
        return text(mapping(self.content, "cancellation_details"), "reason") == "payment_failed"


@dataclass(frozen=True, slots=True)
class Invoice:
    """An object of type `invoice`."""

    content: Mapping[str, Any]
    offers: Offers

    @property
    def _details(self) -> Mapping[str, Any]:
        return mapping(mapping(self.content, "parent"), "subscription_details")

    @property
    def subscription(self) -> str | None:
        return _reference(self._details, "subscription") or _reference(self.content, "subscription")

    @property
    def customer(self) -> str | None:
        return _reference(self.content, "customer")

    @property
    def tenant(self) -> str | None:
        """As the subscription's metadata name it, of which an invoice has a copy, else the customer's or a line's."""
        customer = self.content.get("customer")
        places = [self._details, mapping(self.content, "subscription_details")]
        places += [customer] if isinstance(customer, Mapping) else []
        found = (text(mapping(place, "metadata"), TENANT) for place in [*places, *self._lines])
        return next((tenant for tenant in found if tenant is not None), None)

    @property
    def reason(self) -> str | None:
        return text(self.content, "billing_reason")

    @property
    def charged(self) -> bool:
        """Whether Stripe charges it by itself; one that is sent is due later than its period begins."""
        return text(self.content, "collection_method") != "send_invoice"

    @property
    def of_trial(self) -> bool:
        """An invoice over nothing with which a subscription begins: a trial's, which is no purchase."""
        return self.reason == "subscription_create" and self.content.get("total") == 0

    @property
    def finalized_at(self) -> int | None:
        times = mapping(self.content, "status_transitions")
        return None if times.get("finalized_at") is None else seconds(times, "finalized_at")

    @property
    def _lines(self) -> Sequence[Mapping[str, Any]]:
        """The lines of the subscription itself, without prorations."""
        found = []
        for line in _list(mapping(self.content, "lines")):
            parent = mapping(line, "parent")
            details = mapping(parent, "subscription_item_details")
            kind = text(parent, "type") or text(line, "type")
            if kind in ("subscription", "subscription_item_details") and not (
                line.get("proration") is True or details.get("proration") is True
            ):
                found.append(line)
        return found

    @property
    def period(self) -> tuple[int, int] | None:
        """Start and end of what is paid by it, in seconds. What is metered is paid afterwards: the later one counts."""
        periods = [mapping(line, "period") for line in self._lines]
        return max(((seconds(period, "start"), seconds(period, "end")) for period in periods), default=None)

    @property
    def plan(self) -> str | None:
        """None where its prices are not known: new invoices name a price's id, but not its lookup key."""
        return self.offers.highest(self.offers.plan(price) for line in self._lines for price in _prices(line))


def mapping(content: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """An object in it; an empty one where there is none."""
    found = content.get(name)
    return found if isinstance(found, Mapping) else {}


def text(content: Mapping[str, Any], name: str) -> str | None:
    """A text in it that is not empty. Raises BadRequestError (stripe_event_malformed) for one that no database keeps,
    or that is longer than anything that is read here.
    """
    found = content.get(name)
    if not isinstance(found, str) or not found:
        return None
    if "\x00" in found or len(found) > _LONGEST_TEXT or any(0xD800 <= ord(letter) <= 0xDFFF for letter in found):
        raise _malformed(f"{name} is no text")
    return found


def seconds(content: Mapping[str, Any], name: str) -> int:
    """A time in it, in seconds since the epoch. Raises BadRequestError (stripe_event_malformed)."""
    found = content.get(name)
    if not isinstance(found, int) or isinstance(found, bool) or not 0 <= found <= _LATEST:
        raise _malformed(f"{name} is no time")
    return found


def _needed(content: Mapping[str, Any], name: str) -> str:
    found = text(content, name)
    if found is None:
        raise _malformed(f"{name} is missing")
    return found


def _malformed(what: str) -> BadRequestError:
    return BadRequestError(
        f"an event of Stripe has another shape than documented: {what}", slug="stripe_event_malformed"
    )


def _reference(content: Mapping[str, Any], name: str) -> str | None:
    """The id of an object that is named or was sent along."""
    found = content.get(name)
    return text(found, "id") if isinstance(found, Mapping) else text(content, name)


def _list(content: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    found = content.get("data")
    return [entry for entry in found if isinstance(entry, Mapping)] if isinstance(found, list) else []


def _items(content: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return _list(mapping(content, "items"))


def _price(item: Mapping[str, Any]) -> Mapping[str, Any]:
    return mapping(item, "price") or mapping(item, "plan")


def _prices(line: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """A line's price in each shape that it may have."""
    details = mapping(mapping(line, "pricing"), "price_details")
    found = details.get("price")
    priced = found if isinstance(found, Mapping) else {"id": found}
    return [priced, mapping(line, "price"), mapping(line, "plan")]
