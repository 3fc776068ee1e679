"""Holds: what must not be purged, for which matter; placed and released by admins and compliance alike."""

from __future__ import annotations

from urllib.parse import quote, urlencode

from starlette.responses import Response

from mailgate.admin.page import Page, Route
from mailgate.admin.people import names
from mailgate.errors import MailgateError, PreconditionError
from mailgate.ids import is_id
from mailgate.store import mailbox_overview
from mailgate.store.legal_holds import MAX_MATTER, MAX_REASON, Scope
from mailgate.store.mailbox_overview import Which
from mailgate.usecases.cursors import Cursors

ON_A_PAGE = 50
_TENANTS_SHOWN = 200
_MAILBOXES_OFFERED = 200


async def show_tenants(page: Page) -> Response:
    """Whose mail is held now, and a way to the holds of any tenant."""
    own = page.who.tenant_id
    wanted = own or page.query("tenant")
    if wanted:
        return page.go(f"/admin/retention/holds/{quote(wanted, safe='')}")
    return page.render("holds_tenants.html", tenants=await page.parts.holds.standing(_TENANTS_SHOWN))


async def show(page: Page) -> Response:
    """The holds of a tenant, those that stand first."""
    return await _render(page)


async def place(page: Page) -> Response:
    """Stop the purge of what the scope covers, from now on."""
    try:
        await page.parts.holds.place(
            page.of.id,
            _scope(page),
            matter=page.given("matter"),
            reason=page.given("reason"),
            now=page.now,
            actor=page.who.actor,
        )
    except MailgateError as error:
        return await _render(page, status=error.status, fault=page.why(error))
    return page.go(f"/admin/retention/holds/{page.of.id}", "hold_placed")


async def release(page: Page) -> Response:
    """End a hold; what it covered stays for some days more."""
    hold_id = page.param("hold_id")
    try:
        await page.parts.holds.release(
            page.of.id, hold_id, reason=page.given("reason"), now=page.now, actor=page.who.actor
        )
    except MailgateError as error:
        if error.status == 404:
            raise
        return await _render(page, status=error.status, fault=page.why(error))
    return page.go(f"/admin/retention/holds/{page.of.id}", "hold_released")


def _scope(page: Page) -> Scope:
    kind, mailbox_id = page.given("kind"), page.given("mailbox")
    if kind == "tenant":
        return Scope()
    if kind == "mailbox" and is_id(mailbox_id):
        return Scope(mailbox_id)
    ids = page.given("messages").split()
    if kind == "messages" and ids and all(map(is_id, ids)):
        return Scope(message_ids=tuple(ids))
    raise PreconditionError("say what to hold: everything, a mailbox, or messages by their ids", slug="scope_invalid")


async def _render(page: Page, *, status: int = 200, fault: str | None = None) -> Response:
    cursors = Cursors("pages/holds", (str,), page.of.id)
    found = await page.parts.holds.list_page(
        page.of.id, after=cursors.after(page.query("cursor", 2_000) or None), limit=ON_A_PAGE
    )
    following = cursors.write(found.next_key)
    which = Which(page.of.id)
    offered = await mailbox_overview.list_page(page.parts.db, which, page.now, after=None, limit=_MAILBOXES_OFFERED)
    return page.render(
        "holds.html",
        status=status,
        tenant=page.of,
        holds=found.items,
        mailboxes={listed.mailbox.id: listed.mailbox.address for listed in offered.items},
        names=await names(page, (by for hold in found.items for by in (hold.placed_by, hold.released_by))),
        fault=fault,
        typed=page.form,
        most_matter=MAX_MATTER,
        most_reason=MAX_REASON,
        release_days=page.parts.settings.retention.hold_release_days,
        next=None if following is None else f"/admin/retention/holds/{page.of.id}?{urlencode({'cursor': following})}",
    )


ROUTES = (
    Route("GET", "/retention/holds", show_tenants),
    Route("GET", "/retention/holds/{tenant_id}", show),
    Route("POST", "/retention/holds/{tenant_id}", place),
    Route("POST", "/retention/holds/{tenant_id}/{hold_id}/release", release),
)
