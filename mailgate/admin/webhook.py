"""One webhook: how its receiver does, what was delivered and what it answered; test, pause, resume, send again."""

from __future__ import annotations

from typing import Any, Final
from urllib.parse import urlencode

from starlette.responses import Response

from mailgate.admin.hook_words import DELIVERIES, DELIVERY_KINDS, EVENTS, OVERLAPS
from mailgate.admin.languages import marked
from mailgate.admin.page import Page, Route
from mailgate.admin.webhooks import HERE, endpoint_of, row_of
from mailgate.clock import Instant, from_rfc3339
from mailgate.errors import MailgateError, NotFoundError, PreconditionError
from mailgate.ids import is_id
from mailgate.store.hooks import deliveries, overview
from mailgate.store.hooks.endpoints import Change
from mailgate.store.hooks.rows import Delivery, Endpoint
from mailgate.store.users import Role
from mailgate.usecases import hooks
from mailgate.usecases.cursors import Cursors
from mailgate.webhooks.model import DeliveryState, EndpointState

ON_A_PAGE = 50
_AT = "/webhooks/{webhook_id}"
NO_TIME: Final = marked("Write the time as year-month-day and hour:minute.")


async def show(page: Page) -> Response:
    """The endpoint and its deliveries, newest first."""
    return await _render(page, await endpoint_of(page))


async def standing(page: Page) -> Response:
    """The part of the page that moves."""
    endpoint = await endpoint_of(page)
    return page.render("webhook_standing.html", **await _standing(page, endpoint))


async def switch(page: Page) -> Response:
    """Pause it, or resume it; it goes on where it stopped."""
    endpoint = await endpoint_of(page)
    on = page.given("enabled") == "1"
    state = EndpointState.ENABLED if on else EndpointState.PAUSED
    try:
        await page.parts.webhooks.change(endpoint.id, page.who.tenant_id, Change(state=state))
    except MailgateError as error:
        return await _render(page, endpoint, status=error.status, fault=page.why(error))
    return page.go(f"{HERE}/{endpoint.id}", "webhook_resumed" if on else "webhook_paused")


async def test(page: Page) -> Response:
    """Send a test now, and show what the receiver answered."""
    endpoint = await endpoint_of(page)
    return await _render(page, endpoint, tried=await hooks.send_test(page.parts, endpoint))


async def again(page: Page) -> Response:
    """Try a delivery again now."""
    endpoint = await endpoint_of(page)
    try:
        delivery = await hooks.send_again(page.parts, endpoint, await _delivery(page, endpoint))
    except MailgateError as error:
        if error.status == 404:
            raise
        return await _render(page, endpoint, status=error.status, fault=page.why(error))
    if delivery.state is DeliveryState.WAITING:  # it goes ahead in its place
        return page.go(f"{HERE}/{endpoint.id}", "webhook_hurried")
    return await _render(page, endpoint, tried=delivery)


async def replay(page: Page) -> Response:
    """Deliver again from a time, or from a place in the feed; or go to its end, and leave out what waits."""
    endpoint = await endpoint_of(page)
    since, cursor, latest = page.given("since"), page.given("after"), page.given("from") == "latest"
    at: Instant | None = None
    if since and not latest:
        at = _moment(since)
        if at is None:
            return await _render(page, endpoint, status=422, fault=page.text(NO_TIME))
    after = "latest" if latest else cursor or None
    try:
        if (after is None) == (at is None):
            raise PreconditionError("give one: a cursor or a time from which to deliver again", slug="replay_invalid")
        await page.parts.webhooks.replay(endpoint.id, page.who.tenant_id, after=after, since=at)
    except MailgateError as error:
        return await _render(page, endpoint, status=error.status, fault=page.why(error))
    return page.go(f"{HERE}/{endpoint.id}", "webhook_skipped" if latest else "webhook_replayed")


async def _delivery(page: Page, endpoint: Endpoint) -> Delivery:
    delivery_id = page.param("delivery_id")
    if not is_id(delivery_id):
        raise NotFoundError(f"there is no delivery {delivery_id!r}", slug="delivery_not_found")
    return await deliveries.get(page.parts.db, endpoint.id, delivery_id)


def _moment(text: str) -> Instant | None:
    """What a field for day and time gives (HTML: `YYYY-MM-DDTHH:MM`, perhaps seconds), as UTC; None for others."""
    text = text.strip().replace(" ", "T")
    try:
        return from_rfc3339(f"{text}:00Z" if text.count(":") == 1 else f"{text}Z")
    except (ValueError, OverflowError):
        return None


async def _standing(page: Page, endpoint: Endpoint) -> dict[str, Any]:
    (found,) = await overview.standing(page.parts.db, [endpoint])
    row = row_of(page, found)
    return {"row": row, "endpoint": endpoint, "at": row.at, "events": EVENTS}


async def _render(
    page: Page, endpoint: Endpoint, *, status: int = 200, fault: str | None = None, tried: Delivery | None = None
) -> Response:
    wanted = page.query("state")
    state = DeliveryState(wanted) if wanted in list(DeliveryState) else None
    cursors = Cursors("pages/deliveries", (str,), endpoint.id, wanted)
    found = await deliveries.page(
        page.parts.db,
        endpoint.id,
        state=state,
        after=cursors.after(page.query("cursor", 2_000) or None),
        limit=ON_A_PAGE,
    )
    following = cursors.write(found.next_key)
    endpoint = await page.parts.webhooks.get(endpoint.id, page.who.tenant_id)  # a test may have taken a while
    at = f"{HERE}/{endpoint.id}"
    query = {name: value for name, value in (("state", wanted), ("cursor", following)) if value}
    return page.render(
        "webhook.html",
        status=status,
        deliveries=found.items,
        wanted=wanted,
        states=DELIVERIES,
        kinds=DELIVERY_KINDS,
        overlaps=OVERLAPS,
        fault=fault,
        tried=tried,
        typed=page.form,
        keep_days=page.parts.settings.webhooks.keep_days,
        next=None if following is None else f"{at}?{urlencode(query)}",
        **await _standing(page, endpoint),
    )


ROUTES = (
    Route("GET", _AT, show),
    Route("GET", f"{_AT}/standing", standing),
    Route("POST", f"{_AT}/switch", switch, Role.ADMIN),
    Route("POST", f"{_AT}/test", test, Role.ADMIN),
    Route("POST", f"{_AT}/replay", replay, Role.ADMIN),
    Route("POST", f"{_AT}/deliveries/{{delivery_id}}/again", again, Role.ADMIN),
)
