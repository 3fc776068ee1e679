"""Webhooks: is every receiver served, and if not, why? Endpoints, made and changed by admins; compliance looks.

An address may hold a key of the receiver's: who may not change an endpoint sees its host only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode, urlsplit

from starlette.responses import Response

from mailgate.admin import webhook_forms
from mailgate.admin.hook_words import ENDPOINTS, EVENTS, FAILING, OVERLAPS, PAUSES
from mailgate.admin.page import Page, Route
from mailgate.admin.webhook_forms import EndpointForm
from mailgate.admin.words import State
from mailgate.clock import HOUR, SECOND, Instant
from mailgate.errors import MailgateError, NotFoundError
from mailgate.ids import is_id
from mailgate.store.hooks import overview
from mailgate.store.hooks.overview import Standing
from mailgate.store.hooks.rows import Endpoint
from mailgate.store.users import Role
from mailgate.usecases.cursors import Cursors
from mailgate.webhooks.model import EndpointState, PauseReason

ON_A_PAGE = 50
HERE = "/admin/webhooks"


@dataclass(frozen=True, slots=True)
class Row:
    """An endpoint as pages show it."""

    endpoint: Endpoint
    standing: Standing
    address: str
    state: State
    lag_s: float

    @property
    def at(self) -> str:
        """The address of its own page."""
        return f"{HERE}/{self.endpoint.id}"


async def show_list(page: Page) -> Response:
    """All endpoints, newest first; of a tenant, or in a state."""
    filters = {name: page.query(name) for name in ("state", "tenant")}
    tenant_id = page.who.tenant_id or filters["tenant"] or None
    wanted = EndpointState(filters["state"]) if filters["state"] in list(EndpointState) else None
    cursors = Cursors("pages/webhooks", (str,), page.who.tenant_id, *filters.values())
    found = await overview.list_page(
        page.parts.db,
        tenant_id=tenant_id,
        state=wanted,
        after=cursors.after(page.query("cursor", 2_000) or None),
        limit=ON_A_PAGE,
    )
    counts = await overview.count_states(page.parts.db, tenant_id)
    following = cursors.write(found.next_key)
    chips = [("", page.text("All"), sum(counts.values()))]
    chips += [(key.value, page.text(state.name), counts.get(key.value, 0)) for key, state in ENDPOINTS.items()]
    return page.render(
        "webhooks.html",
        rows=[row_of(page, standing) for standing in found.items],
        filters=filters,
        chips=[(_link({**filters, "state": key}), name, count, filters["state"] == key) for key, name, count in chips],
        events=EVENTS,
        next=None if following is None else _link({**filters, "cursor": following}),
    )


async def ask_make(page: Page) -> Response:
    """The form for a new endpoint."""
    return _form(page, webhook_forms.blank(page.who.tenant_id or page.query("tenant")))


async def make(page: Page) -> Response:
    """Make an endpoint, and show its secret, this once."""
    form = webhook_forms.typed(page.form)
    tenant_id = page.who.tenant_id or form.tenant_id or None
    page.concerns = tenant_id
    if form.faults:
        return _form(page, form, status=422)
    try:
        endpoint, secret = await page.parts.webhooks.create(
            url=form.url, tenant_id=tenant_id, types=form.types, description=form.description
        )
    except MailgateError as error:
        return _form(page, form, status=error.status, fault=page.why(error))
    return page.render("webhook_secret.html", endpoint=endpoint, secret=secret, made=True, at=f"{HERE}/{endpoint.id}")


async def ask_change(page: Page) -> Response:
    """The form with the endpoint's settings."""
    endpoint = await endpoint_of(page)
    return _form(page, webhook_forms.of_endpoint(endpoint), endpoint=endpoint)


async def change(page: Page) -> Response:
    """Change address, types or description. What is on its way still goes where it went."""
    endpoint = await endpoint_of(page)
    form = webhook_forms.typed(page.form)
    if form.faults:
        return _form(page, form, status=422, endpoint=endpoint)
    try:
        await page.parts.webhooks.change(endpoint.id, page.who.tenant_id, form.change())
    except MailgateError as error:
        return _form(page, form, status=error.status, endpoint=endpoint, fault=page.why(error))
    return page.go(f"{HERE}/{endpoint.id}", "webhook_changed")


async def rotate(page: Page) -> Response:
    """A new secret; the one before signs as well for a while."""
    endpoint = await endpoint_of(page)
    given = page.given("overlap")
    hours = int(given) if given.isascii() and given.isdigit() and int(given[:4]) in OVERLAPS else 24
    endpoint, secret = await page.parts.webhooks.rotate(endpoint.id, page.who.tenant_id, hours * HOUR)
    return page.render("webhook_secret.html", endpoint=endpoint, secret=secret, made=False, at=f"{HERE}/{endpoint.id}")


async def ask_remove(page: Page) -> Response:
    """What removing does, before it is done."""
    endpoint = await endpoint_of(page)
    return page.render("webhook_remove.html", endpoint=endpoint, at=f"{HERE}/{endpoint.id}", fault=None)


async def remove(page: Page) -> Response:
    """Remove it with its deliveries, when that was ticked."""
    endpoint = await endpoint_of(page)
    if page.given("sure") != "1":
        fault = page.text("Tick that you mean it.")
        at = f"{HERE}/{endpoint.id}"
        return page.render("webhook_remove.html", status=422, endpoint=endpoint, at=at, fault=fault)
    await page.parts.webhooks.remove(endpoint.id, page.who.tenant_id)
    return page.go(HERE, "webhook_removed")


async def endpoint_of(page: Page) -> Endpoint:
    """The endpoint in the path; another tenant's is not there. Raises NotFoundError."""
    webhook_id = page.param("webhook_id")
    if not is_id(webhook_id):
        raise NotFoundError(f"there is no webhook {webhook_id!r}", slug="webhook_not_found")
    endpoint = await page.parts.webhooks.get(webhook_id, page.who.tenant_id)
    page.concerns = endpoint.tenant_id
    return endpoint


def row_of(page: Page, standing: Standing) -> Row:
    """What pages show of an endpoint."""
    endpoint, now = standing.endpoint, page.now
    return Row(endpoint, standing, address_of(page, endpoint), state_of(endpoint), _age_s(standing.oldest_at, now))


def state_of(endpoint: Endpoint) -> State:
    """How it is, in words."""
    if endpoint.state is EndpointState.PAUSED:
        return PAUSES[endpoint.reason or PauseReason.REQUESTED]
    return FAILING if endpoint.failures else ENDPOINTS[endpoint.state]


def address_of(page: Page, endpoint: Endpoint) -> str:
    """Where it is, as far as the reader may know."""
    return endpoint.url if page.may_change else host_of(endpoint)


def host_of(endpoint: Endpoint) -> str:
    """The host and, if it is an unusual one, the port."""
    return urlsplit(endpoint.url).netloc.rpartition("@")[2]


def _age_s(at: Instant | None, now: Instant) -> float:
    return 0.0 if at is None else max(0, now - at) / SECOND


def _form(
    page: Page, form: EndpointForm, *, status: int = 200, endpoint: Endpoint | None = None, fault: str | None = None
) -> Response:
    values: dict[str, Any] = {"form": form, "endpoint": endpoint, "fault": fault, "areas": webhook_forms.areas(EVENTS)}
    at = HERE if endpoint is None else f"{HERE}/{endpoint.id}"
    return page.render("webhook_form.html", status=status, at=at, **values)


def _link(query: dict[str, str]) -> str:
    text = urlencode({name: value for name, value in query.items() if value})
    return HERE + (f"?{text}" if text else "")


ROUTES = (
    Route("GET", "/webhooks", show_list),
    Route("GET", "/webhooks/new", ask_make, Role.ADMIN),
    Route("POST", "/webhooks/new", make, Role.ADMIN),
    Route("GET", "/webhooks/{webhook_id}/edit", ask_change, Role.ADMIN),
    Route("POST", "/webhooks/{webhook_id}/edit", change, Role.ADMIN),
    Route("POST", "/webhooks/{webhook_id}/secret", rotate, Role.ADMIN),
    Route("GET", "/webhooks/{webhook_id}/remove", ask_remove, Role.ADMIN),
    Route("POST", "/webhooks/{webhook_id}/remove", remove, Role.ADMIN),
)
