"""Events: what happened? The feed backwards, by tenant, mailbox and type; one event as receivers get it; who has it."""

from __future__ import annotations

import json
from urllib.parse import quote, urlencode

from starlette.responses import Response

from mailgate.admin.hook_words import DELIVERIES, EVENTS
from mailgate.admin.page import Page, Route
from mailgate.admin.webhooks import address_of
from mailgate.errors import NotFoundError
from mailgate.events.types import TYPES, parse_filter
from mailgate.ids import is_id
from mailgate.store import feed_looking, overview
from mailgate.store.feed import FeedEvent
from mailgate.store.hooks import overview as hooks_overview
from mailgate.store.transaction import GATEWAY
from mailgate.usecases.cursors import Cursors

ON_A_PAGE = 50
_LONGEST_SEQ = 18
NO_SUCH = "there is no such event, or it is not kept any more"


async def show(page: Page) -> Response:
    """Events, newest first."""
    filters = {name: page.query(name) for name in ("tenant", "type", "mailbox")}
    tenant_id = page.who.tenant_id or filters["tenant"] or None
    cursors = Cursors("pages/events", (int,), page.who.tenant_id, *filters.values())
    key = cursors.read(page.query("cursor", 2_000) or None)
    words = [filters["type"]] if filters["type"] in _words() else []
    mailbox_id, known = None, True
    if filters["mailbox"]:
        found = await _mailbox(page, filters["mailbox"], tenant_id)
        known = found is not None
        if found is not None:
            tenant_id, mailbox_id = found
    looked = feed_looking.Looked([], None)
    if known:
        looked = await feed_looking.newest(
            page.parts.db,
            before=None if key is None else int(key[0]),
            tenant_id=tenant_id,
            types=parse_filter(words) if words else None,
            mailbox_id=mailbox_id,
            limit=ON_A_PAGE,
        )
    following = None if looked.before is None else cursors.write((looked.before,))
    query = {name: value for name, value in {**filters, "cursor": following or ""}.items() if value}
    tenant_ids = sorted({event.tenant_id for event in looked.events})
    mailbox_ids = sorted({event.mailbox_id for event in looked.events if event.mailbox_id})
    names, addresses = await feed_looking.names(page.parts.db, tenant_ids, mailbox_ids)
    return page.render(
        "events.html",
        filters=filters,
        events=looked.events,
        words=EVENTS,
        areas=_areas(),
        names=names,
        addresses=addresses,
        gateway=GATEWAY,
        link=link,
        full=len(looked.events) == ON_A_PAGE,
        next=None if following is None else f"/admin/events?{urlencode(query)}",
    )


async def show_event(page: Page) -> Response:
    """One event: the body that receivers get, as it is now, and at which endpoints it is."""
    event = await _event(page)
    head = await page.parts.feed.reader.head()
    (shown,) = await page.parts.feed.items(head.ref, [event], page.now)
    names, addresses = await feed_looking.names(
        page.parts.db, [event.tenant_id], [event.mailbox_id] if event.mailbox_id else []
    )
    given = await hooks_overview.of_event(page.parts.db, event.id, event.position, page.who.tenant_id)
    return page.render(
        "event.html",
        event=event,
        name=EVENTS.get(event.type, event.type),
        tenant_name=names.get(event.tenant_id),
        address=addresses.get(event.mailbox_id or ""),
        gateway=GATEWAY,
        body=json.dumps(shown, ensure_ascii=False, indent=2),
        cursor=shown["cursor"],
        given=[(endpoint, address_of(page, endpoint), delivery) for endpoint, delivery in given],
        states=DELIVERIES,
    )


def link(event: FeedEvent) -> str:
    """The address of its page."""
    return "/admin/events/" + quote(event.id, safe="")


async def _event(page: Page) -> FeedEvent:
    """The event in the path; another tenant's is not there, nor is the gateway's own for who is bound to a tenant."""
    tenant_id, _, seq = page.param("event_id").rpartition(":")
    if not (tenant_id and seq.isascii() and seq.isdigit() and len(seq) <= _LONGEST_SEQ and page.who.reaches(tenant_id)):
        raise NotFoundError(NO_SUCH, slug="event_not_found")
    event = await page.parts.feed.reader.find(f"{tenant_id}:{int(seq)}")
    if event is None:
        raise NotFoundError(NO_SUCH, slug="event_not_found")
    return event


async def _mailbox(page: Page, text: str, tenant_id: str | None) -> tuple[str, str] | None:
    """(tenant, mailbox) for an id, also of one that was removed, or for an address; of one tenant, or any."""
    if is_id(text):
        owner = await feed_looking.tenant_of_mailbox(page.parts.db, text)
        return None if owner is None or tenant_id not in (None, owner) else (owner, text)
    found = await overview.find_mailboxes(page.parts.db, text)
    mine = [pair for pair in found if tenant_id in (None, pair[0])]
    return mine[-1] if mine else None


def _areas() -> list[tuple[str, list[str]]]:
    """Every word of the filter: areas, each with its types."""
    areas: dict[str, list[str]] = {}
    for name in TYPES:
        areas.setdefault(name.partition(".")[0], []).append(name)
    return [(f"{area}.*", names) for area, names in areas.items()]


def _words() -> set[str]:
    return {word for area, names in _areas() for word in (area, *names)}


ROUTES = (
    Route("GET", "/events", show),
    Route("GET", "/events/{event_id}", show_event),
)
