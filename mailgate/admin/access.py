"""The access log as a page: who read or changed what, and who signed in?"""

from __future__ import annotations

from urllib.parse import urlencode

from starlette.responses import Response

from mailgate.admin.page import Page, Route
from mailgate.admin.people import names
from mailgate.admin.words import KINDS
from mailgate.clock import DAY, Instant, from_rfc3339
from mailgate.store import access_log
from mailgate.usecases.cursors import Cursors

ON_A_PAGE = 100


async def show(page: Page) -> Response:
    """Entries, newest first; of one tenant, actor, kind, or between two days."""
    filters = {name: page.query(name) for name in ("tenant", "actor", "kind", "since", "until")}
    tenant_id = (filters["tenant"] or None) if page.who.tenant_id is None else page.who.tenant_id
    cursors = Cursors("pages/access-log", (str,), page.who.tenant_id, *filters.values())
    until = day(filters["until"])
    found = await access_log.list_page(
        page.parts.db,
        tenant_id=tenant_id,
        actor=filters["actor"] or None,
        kind=filters["kind"] if filters["kind"] in KINDS else None,
        since=day(filters["since"]),
        until=None if until is None else until + DAY,
        after=cursors.after(page.query("cursor", 2_000) or None),
        limit=ON_A_PAGE,
    )
    following = cursors.write(found.next_key)
    query = {name: value for name, value in {**filters, "cursor": following or ""}.items() if value}
    return page.render(
        "access_log.html",
        entries=found.items,
        filters=filters,
        kinds=KINDS,
        names=await names(page, (entry.actor for entry in found.items)),
        next=None if following is None else f"/admin/access-log?{urlencode(query)}",
    )


def day(text: str) -> Instant | None:
    """The beginning of a day that was given as YYYY-MM-DD; what is none does not count."""
    try:
        return from_rfc3339(f"{text}T00:00:00Z")
    except (ValueError, OverflowError):
        return None


ROUTES = (Route("GET", "/access-log", show),)
