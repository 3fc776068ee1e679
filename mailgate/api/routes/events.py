"""The change feed: read in pages, waited for, streamed; and a snapshot to begin from."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Request
from pydantic import ConfigDict, Field
from starlette.responses import JSONResponse, Response

from mailgate.api.paging import Cursors, PageQuery
from mailgate.api.problems import problems
from mailgate.api.security import Parts, Principal, Who, only
from mailgate.api.waiting import EventStream, Fetch, long_poll
from mailgate.errors import NotFoundError, PreconditionError
from mailgate.events.cursors import write_cursor
from mailgate.events.types import FILTER_PATTERN, TypeFilter, parse_filter
from mailgate.store import tenants
from mailgate.store.feed import Head
from mailgate.store.feed_items import ItemsPage, show_hold, show_state, show_terms
from mailgate.store.tokens import Scope
from mailgate.usecases.parts import Services
from mailgate.usecases.types import Answer, Parameters, TenantId, Time, text

router = APIRouter(tags=["events"], prefix="/v1")

LONGEST_WAIT_S = 60
_LARGEST = 1_000
_AT_ONCE = 100


class PinRef(Answer):
    """A record that refers to a message."""

    entity_type: str
    entity_id: str


class StateAnswer(Answer):
    """A copy as a table would hold it, without content. It may be expired: hide it by `expires_at`."""

    id: str
    tenant_id: str
    mailbox_id: str
    folder_ids: list[str]
    thread_id: str
    flags: list[str]
    labels: list[str]
    pins: list[PinRef]
    size: int
    has_files: bool
    anchor_at: Time
    anchor_source: str
    received_at: Time | None
    stored_at: Time
    unpinned_at: Time | None = Field(description="when the last pin went; null while there is one or never was")
    keep_until_at: Time | None = Field(description="of one that was brought back: it stays at least until then")
    expires_at: Time | None = Field(description="by the plan that holds; null while pinned or held")
    held: bool
    hold_ids: list[str] = Field(description="holds that name it; those of its mailbox and tenant cover it as well")
    mailbox_removed_at: Time | None
    origin_present: bool


class StepAnswer(Answer):
    """From `at` on, copies that nothing keeps are kept for so many days; null: not known, everything stays."""

    at: Time
    plan: str
    days: int | None


class RetentionTerms(Answer):
    """What expiry hangs on beside the copies: the first step holds now, the others begin by themselves."""

    steps: list[StepAnswer]
    min_residence_days: int
    plan_shrink_grace_days: int
    unpin_grace_days: int
    shrunk_at: Time | None


class HoldRef(Answer):
    """A hold; it protects until `protects_until_at`, null: until it is released."""

    id: str
    scope: str
    mailbox_id: str | None
    protects_until_at: Time | None


class EventAnswer(Answer):
    """One event. `data` is what it was written with; `message`, `retention` and `hold` are as of this answer."""

    model_config = ConfigDict(json_schema_extra={"required": ["cursor", "id", "tenant_id", "type", "at", "data"]})

    cursor: str = Field(description="`after` for what follows")
    id: str = Field(description="tenant and number; the same at each delivery", examples=["acme:17"])
    tenant_id: str | None = Field(description="null: of the whole gateway, for readers that are bound to no tenant")
    type: str = Field(examples=["message.created"])
    at: Time
    mailbox_id: str | None = Field(default=None, description="missing when it is about none")
    message_id: str | None = Field(default=None, description="missing when it is about none")
    message: StateAnswer | None = Field(default=None, description="the copy now; null: it is gone")
    retention: RetentionTerms | None = Field(default=None, description="with subscription.changed")
    hold: HoldRef | None = Field(default=None, description="with hold.placed and hold.released")
    data: dict[str, Any] = Field(description="by type: docs/event-types.md")


class EventsAnswer(Answer):
    """A page of the feed. Unlike in other listings there always is a `next_cursor`: more events will come."""

    items: list[EventAnswer]
    next_cursor: str


class SnapshotAnswer(Answer):
    """A page of a snapshot; the first one says where the feed goes on afterwards, and what expiry hangs on."""

    items: list[StateAnswer]
    next_cursor: str | None = Field(description="for the next page; null at the end")
    event_cursor: str | None = Field(description="first page only: `after` for GET /v1/events when all pages are read")
    retention: RetentionTerms | None = Field(description="first page only")
    holds: list[HoldRef] | None = Field(description="first page only: the holds that protect now")


class FeedQuery(Parameters):
    """Where to begin and what to leave out."""

    after: Annotated[str, text(100)] | None = Field(
        default=None, description="a cursor; `latest`: from now on; left out: from the oldest event that is kept"
    )
    tenant: TenantId | None = Field(default=None, description="only this tenant's")
    types: Annotated[str, text(2_000)] | None = Field(
        default=None,
        description="only these, separated by commas",
        examples=["message.*,mailbox.state_changed"],
        json_schema_extra={"pattern": FILTER_PATTERN},
    )

    def filter(self) -> TypeFilter | None:
        """The types. Raises PreconditionError for one that does not exist."""
        return None if self.types is None else parse_filter([word.strip() for word in self.types.split(",")])


class EventsQuery(FeedQuery):
    """The same for a page."""

    wait: float = Field(
        default=0, ge=0, le=LONGEST_WAIT_S, description="seconds to wait for an event when there is none"
    )
    limit: int = Field(default=100, ge=1, le=_LARGEST, description="events on the page")


class SnapshotQuery(PageQuery):
    """Whose copies."""

    tenant: TenantId | None = Field(default=None, description="may be left out with a token that is bound to one")
    limit: int = Field(default=200, ge=1, le=_LARGEST, description="copies on the page")


@router.get(
    "/events",
    dependencies=[only(Scope.CRM, Scope.COMPLIANCE)],
    response_model=EventsAnswer,
    responses=problems(400, 404, 410, 503),
)
async def list_events(query: Annotated[EventsQuery, Query()], parts: Parts, who: Who, request: Request) -> Response:
    """What happened after a cursor, in order; waits for it with `wait`. 410 `cursor_expired` when that is not kept any
    more: then take a snapshot.
    """
    head, after, fetch = await _reading(parts, who, query, query.after, query.limit)
    page = await long_poll(parts, request.receive, fetch, after, query.wait, who.tenant_id)
    parts.metrics.count("feed_events_given_total", len(page.items))
    return JSONResponse({"items": page.items, "next_cursor": write_cursor(head.ref, page.position)})


_SSE = {
    "type": "object",
    "description": "One Server-Sent Event: its cursor, its type, and the item of `GET /v1/events` as JSON text.",
    "properties": {name: {"type": "string"} for name in ("id", "event", "data")},
}


@router.get(
    "/events/stream",
    dependencies=[only(Scope.CRM, Scope.COMPLIANCE)],
    response_class=Response,
    responses={
        200: {"content": {"text/event-stream": {"schema": _SSE}}, "description": "Events as they come"},
        **problems(400, 404, 410, 503),
    },
)
async def stream_events(
    query: Annotated[FeedQuery, Query()],
    parts: Parts,
    who: Who,
    request: Request,
    last_event_id: Annotated[str | None, Header(max_length=100)] = None,
) -> Response:
    """The same as Server-Sent Events; `Last-Event-ID` goes on where a stream was cut, and wins over `after`."""
    _, after, fetch = await _reading(parts, who, query, last_event_id or query.after, _AT_ONCE)

    async def still() -> None:
        await request.app.state.authenticator.authenticate(request.headers.get("authorization"))

    return EventStream(parts, fetch, after, still, who.tenant_id)


@router.get(
    "/snapshot",
    dependencies=[only(Scope.CRM, Scope.COMPLIANCE)],
    response_model=SnapshotAnswer,
    responses=problems(400, 404),
)
async def get_snapshot(query: Annotated[SnapshotQuery, Query()], parts: Parts, who: Who) -> Response:
    """The copies of a tenant, page by page, to begin from or to start again: after the last page, apply the feed from
    `event_cursor` of the first one.
    """
    tenant_id = query.tenant or who.tenant_id
    if tenant_id is None:
        raise PreconditionError("name the tenant: ?tenant=", slug="tenant_needed")
    await _known(parts, who, tenant_id)
    cursors = Cursors("snapshot", (int, str), tenant_id)
    key = cursors.read(query.cursor)
    head = await parts.feed.reader.head()  # before the copies are read: what changes afterwards has its event behind it
    page = await parts.feed.states.page(
        tenant_id,
        after=None if key is None else (int(key[0]), str(key[1])),
        limit=query.limit,
        now=parts.clock(),
    )
    return JSONResponse(
        {
            "items": [show_state(state) for state in page.states],
            "next_cursor": cursors.write(page.next_key),
            "event_cursor": write_cursor(head.ref, head.position) if key is None else None,
            "retention": None if page.terms is None else show_terms(page.terms),
            "holds": [show_hold(hold) for hold in page.holds] if key is None else None,
        }
    )


async def _reading(
    parts: Services, who: Principal, query: FeedQuery, after: str | None, limit: int
) -> tuple[Head, int, Fetch]:
    """The feed's head, where to begin, and how to read on; only what the token may see."""
    types = query.filter()
    tenant_id = query.tenant or who.tenant_id
    if tenant_id is not None:
        await _known(parts, who, tenant_id)
    head, position = await parts.feed.reader.start(after)

    async def fetch(at: int) -> ItemsPage:
        return await parts.feed.page(head, at, tenant_id=tenant_id, types=types, limit=limit, now=parts.clock())

    return head, position, fetch


async def _known(parts: Services, who: Principal, tenant_id: str) -> None:
    """Raise NotFoundError for a tenant that is not there, or that the token is not bound to."""
    if not who.reaches(tenant_id) or await tenants.find(parts.db, tenant_id) is None:
        raise NotFoundError(f"there is no tenant {tenant_id!r}", slug="tenant_not_found")
