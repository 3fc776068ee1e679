"""Stripe's objects as its API reference shows them, before 2025-03-31.basil (`old`) and since (`new`)."""

from __future__ import annotations

from typing import Any

OLD, NEW = "2024-06-20", "2026-10-28.endive"
STANDARD = "price_1QStandardMonthly"
Document = dict[str, Any]


def price(price_id: str = STANDARD, **changes: Any) -> Document:
    return {
        "id": price_id,
        "object": "price",
        "active": True,
        "billing_scheme": "per_unit",
        "created": 1_700_000_000,
        "currency": "eur",
        "livemode": False,
        "lookup_key": None,
        "metadata": {},
        "nickname": None,
        "product": "prod_QStandard",
        "recurring": {"interval": "month", "interval_count": 1, "meter": None, "usage_type": "licensed"},
        "tax_behavior": "exclusive",
        "type": "recurring",
        "unit_amount": 1200,
        "unit_amount_decimal": "1200",
    } | changes


def item(period: tuple[int, int], version: str, quantity: int | None = 5, **changes: Any) -> Document:
    shown = {
        "id": "si_QItem",
        "object": "subscription_item",
        "billing_thresholds": None,
        "created": period[0],
        "metadata": {},
        "price": price(),
        "subscription": "sub_1QA",
        "tax_rates": [],
    } | changes
    shown["plan"] = {"id": shown["price"]["id"], "object": "plan", "interval": "month", "interval_count": 1}
    if quantity is not None:
        shown["quantity"] = quantity
    if version == NEW:
        shown |= {"current_period_start": period[0], "current_period_end": period[1]}
    return shown


def subscription(period: tuple[int, int], version: str = NEW, **changes: Any) -> Document:
    items = changes.pop("items", None) or [item(period, version, changes.pop("quantity", 5))]
    shown: Document = {
        "id": "sub_1QA",
        "object": "subscription",
        "application": None,
        "automatic_tax": {"enabled": False, "liability": None},
        "billing_cycle_anchor": period[0],
        "cancel_at": None,
        "cancel_at_period_end": False,
        "canceled_at": None,
        "cancellation_details": {"comment": None, "feedback": None, "reason": None},
        "collection_method": "charge_automatically",
        "created": period[0],
        "currency": "eur",
        "customer": "cus_QAcme",
        "days_until_due": None,
        "default_payment_method": "pm_1QCard",
        "description": None,
        "discounts": [],
        "ended_at": None,
        "items": {
            "object": "list",
            "data": items,
            "has_more": False,
            "total_count": len(items),
            "url": "/v1/subscription_items?subscription=sub_1QA",
        },
        "latest_invoice": "in_1QFirst",
        "livemode": False,
        "metadata": {"mailgate_tenant": "acme"},
        "pause_collection": None,
        "schedule": None,
        "start_date": period[0],
        "status": "active",
        "trial_end": None,
        "trial_start": None,
    }
    if version == OLD:
        shown |= {"current_period_start": period[0], "current_period_end": period[1], "plan": items[0]["plan"]}
        shown["quantity"] = items[0].get("quantity")
    return shown | changes


def line(period: tuple[int, int], version: str, *, price_id: str = STANDARD, proration: bool = False) -> Document:
    shown: Document = {
        "id": "il_1QLine",
        "object": "line_item",
        "amount": 6000,
        "currency": "eur",
        "metadata": {"mailgate_tenant": "acme"},
        "period": {"start": period[0], "end": period[1]},
        "quantity": 5,
    }
    if version == OLD:
        return shown | {
            "type": "subscription",
            "subscription": "sub_1QA",
            "subscription_item": "si_QItem",
            "proration": proration,
            "price": price(price_id),
            "plan": {"id": price_id, "object": "plan"},
        }
    details = {"subscription": "sub_1QA", "subscription_item": "si_QItem", "proration": proration}
    return shown | {
        "parent": {
            "type": "subscription_item_details",
            "subscription_item_details": details,
            "invoice_item_details": None,
        },
        "pricing": {"type": "price_details", "price_details": {"price": price_id, "product": "prod_QStandard"}},
    }


def invoice(period: tuple[int, int], version: str = NEW, **changes: Any) -> Document:
    shown: Document = {
        "id": "in_1QFirst",
        "object": "invoice",
        "amount_due": 6000,
        "amount_paid": 6000,
        "attempt_count": 1,
        "billing_reason": "subscription_cycle",
        "collection_method": "charge_automatically",
        "created": period[0],
        "currency": "eur",
        "customer": "cus_QAcme",
        "lines": {"object": "list", "data": [line(period, version)], "has_more": False, "total_count": 1},
        "metadata": {},
        "period_start": period[0] - 30 * 86_400,
        "period_end": period[0],
        "status": "paid",
        "status_transitions": {"finalized_at": period[0] + 3_600, "paid_at": period[0] + 3_605},
        "total": 6000,
    }
    details = {"metadata": {"mailgate_tenant": "acme"}, "subscription": "sub_1QA"}
    if version == OLD:
        shown |= {"subscription": "sub_1QA", "subscription_details": {"metadata": {"mailgate_tenant": "acme"}}}
    else:
        parent = {"type": "subscription_details", "subscription_details": details, "quote_details": None}
        shown |= {"parent": parent}
    return shown | changes


def event(
    kind: str,
    created: int,
    content: Document,
    before: Document | None = None,
    *,
    version: str = NEW,
    event_id: str | None = None,
) -> Document:
    data: Document = {"object": content}
    if before is not None:
        data["previous_attributes"] = before
    return {
        "id": event_id or f"evt_1Q{kind.replace('.', '')}{created}",
        "object": "event",
        "api_version": version,
        "created": created,
        "data": data,
        "livemode": False,
        "pending_webhooks": 1,
        "request": {"id": None, "idempotency_key": None},
        "type": kind,
    }
