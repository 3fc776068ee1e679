"""Tenants: which there are, and what one of them has: plan, use, history, what will happen, what can be done."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from starlette.responses import Response

from mailgate.admin.page import Page, Route
from mailgate.admin.people import names
from mailgate.admin.words import CAUSES, CHANGES, COMMANDS, NOTICES, REFUSALS, STATUSES
from mailgate.errors import ConflictError, PreconditionError
from mailgate.store import mailbox_overview, tenant_overview
from mailgate.store.mailbox_overview import Which
from mailgate.store.users import Role
from mailgate.tenants.catalogue import Plan
from mailgate.tenants.commands import Command, Option, Wish
from mailgate.usecases import subscriptions
from mailgate.usecases.cursors import Cursors

ON_A_PAGE = 50
_NEEDS_PLAN = frozenset({Command.PURCHASE, Command.UPGRADE, Command.DOWNGRADE})
_NEEDS_TERM = frozenset({Command.PURCHASE, Command.RENEW, Command.DOWNGRADE})
_NEEDS_SEATS = frozenset({Command.PURCHASE, Command.UPGRADE, Command.DOWNGRADE, Command.SEATS})
_PRICED = frozenset({Command.PURCHASE, Command.RENEW, Command.UPGRADE, Command.DOWNGRADE, Command.SEATS})


@dataclass(frozen=True, slots=True)
class Action:
    """A command as the page offers it: what it asks for, or why it can't be given."""

    command: Command
    name: str
    about: str
    option: Option
    why: str | None
    plans: Sequence[Plan]
    terms: Sequence[int]
    seats: int | None

    @property
    def asks_seats(self) -> bool:
        """Whether a number of seats belongs to it."""
        return self.command in _NEEDS_SEATS


async def show_list(page: Page) -> Response:
    """All tenants, or those with a text in id or name, or on a plan."""
    filters = {name: page.query(name) for name in ("q", "plan")}
    cursors = Cursors("pages/tenants", (str,), page.who.tenant_id, *filters.values())
    found = await tenant_overview.list_page(
        page.parts.db,
        page.now,
        text=filters["q"] or None,
        plan=filters["plan"] or None,
        only=page.who.tenant_id,
        after=cursors.after(page.query("cursor", 2_000) or None),
        limit=ON_A_PAGE,
    )
    following = cursors.write(found.next_key)
    catalogue = page.parts.subscriptions.catalogue
    query = {name: value for name, value in {**filters, "cursor": following or ""}.items() if value}
    return page.render(
        "tenants.html",
        rows=found.items,
        filters=filters,
        titles={plan.name: plan.title for plan in catalogue.ranked()},
        statuses=STATUSES,
        next=None if following is None else f"/admin/tenants?{urlencode(query)}",
    )


async def show(page: Page) -> Response:
    """One tenant."""
    return await _render(page)


async def command(page: Page) -> Response:
    """Do what was asked for, if the rules allow it; or say what it would cost."""
    try:
        wish = _wish(page)
        if page.given("do") == "quote":
            priced = await page.parts.subscriptions.quote(page.of.id, wish, page.now)
            return await _render(page, quoted=priced, typed=wish)
        await subscriptions.command(page.parts, page.of.id, wish, page.who.actor)
    except (ConflictError, PreconditionError) as error:
        return await _render(page, status=error.status, fault=page.why(error))
    return page.go(f"/admin/tenants/{page.of.id}", "subscription")


def _wish(page: Page) -> Wish:
    try:
        wanted = Command(page.param("command"))
    except ValueError:
        raise PreconditionError("there is no such command", slug="invalid") from None
    plan = page.given("plan") or None
    seats = _whole(page.given("seats"))
    return Wish(
        wanted,
        plan if wanted in _NEEDS_PLAN else None,
        _whole(page.given("term")) if wanted in _NEEDS_TERM else None,
        seats if wanted in _NEEDS_SEATS else None,
    )


def _whole(text: str) -> int | None:
    if not text:
        return None
    if not (text.isascii() and text.isdigit() and len(text) < 9):
        raise PreconditionError("this must be a whole number", slug="invalid")
    return int(text)


async def _render(
    page: Page, *, status: int = 200, fault: str | None = None, quoted: Any = None, typed: Wish | None = None
) -> Response:
    parts, tenant_id = page.parts, page.of.id
    standing = await subscriptions.standing(parts, tenant_id)
    catalogue = parts.subscriptions.catalogue
    counts = await mailbox_overview.count_states(parts.db, Which(tenant_id), page.now)
    history = await parts.subscriptions.history(tenant_id, page.now)
    options = await parts.subscriptions.options(tenant_id, page.now)
    return page.render(
        "tenant.html",
        status=status,
        tenant=page.of,
        standing=standing,
        plan=standing.holds.limits,
        plans=catalogue.ranked(),
        currency=catalogue.currency,
        terms=catalogue.terms,
        titles={plan.name: plan.title for plan in catalogue.ranked()},
        states=counts,
        trouble=sum(counts.get(name, 0) for name in ("auth_failed", "needs_approval", "backoff")),
        actions=[_action(option, standing, catalogue) for option in options],
        coming=await subscriptions.coming(parts, tenant_id),
        history=history,
        names=await names(page, (entry.actor for entry in history)),
        notice_days=max(parts.settings.plans.notice_days, default=0),
        statuses=STATUSES,
        causes=CAUSES,
        notices=NOTICES,
        changes=CHANGES,
        commands=COMMANDS,
        priced=_PRICED,
        fault=fault,
        quoted=quoted,
        typed=typed,
    )


def _action(option: Option, standing: subscriptions.Standing, catalogue: Any) -> Action:
    name, about = COMMANDS[option.command]
    current = standing.holds.limits
    rank = -1 if current is None else current.rank
    sold = [plan for plan in catalogue.ranked() if plan.on_sale]
    fitting = {
        Command.PURCHASE: sold,
        Command.UPGRADE: [plan for plan in sold if plan.rank > rank],
        Command.DOWNGRADE: [plan for plan in sold if plan.rank < rank],
    }.get(option.command, [])
    why = None if option.allowed else REFUSALS.get(option.slug or "", option.detail)
    return Action(
        command=option.command,
        name=name,
        about=about,
        option=option,
        why=why,
        plans=fitting,
        terms=catalogue.terms if option.command in _NEEDS_TERM else (),
        seats=standing.seats,
    )


ROUTES = (
    Route("GET", "/tenants", show_list),
    Route("GET", "/tenants/{tenant_id}", show),
    Route("POST", "/tenants/{tenant_id}/subscription/{command}", command, Role.ADMIN),
)
