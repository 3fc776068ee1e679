"""The list of mailboxes: is everybody's mail flowing, and if not, why?"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from starlette.responses import Response

from mailgate.admin.page import Page, Route
from mailgate.admin.words import FILTERS, STATES, State
from mailgate.clock import SECOND, Instant, monotonic_s
from mailgate.errors import MailgateError
from mailgate.ids import is_id
from mailgate.store import mailbox_overview, overview
from mailgate.store.mailbox_overview import Listed, Stored, Which
from mailgate.store.mailboxes import Mailbox
from mailgate.store.overview import Waiting
from mailgate.store.users import Role
from mailgate.sync.state import MailboxState
from mailgate.usecases import connecting
from mailgate.usecases.accounts import MailboxPatchBody
from mailgate.usecases.cursors import Cursors
from mailgate.usecases.parts import Services

ON_A_PAGE = 50
_SHARE = 10
"""Counting again takes at most one part in so many of the time."""
_KEPT_S, _LONGEST_KEPT_S = 0.5, 60.0
_MOST_KEPT = 500


@dataclass(frozen=True, slots=True)
class Row:
    """A mailbox as the list shows it."""

    mailbox: Mailbox
    tenant_name: str
    state: State
    waiting: Waiting
    stored: Stored | None
    rate: float | None
    left_s: float | None
    closing: bool
    """Switched off, and the process that has it has not let go yet."""

    @property
    def at(self) -> str:
        """The address of its own page."""
        return f"/admin/tenants/{self.mailbox.tenant_id}/mailboxes/{self.mailbox.id}"


class Sizes:
    """Copies and bytes by mailbox, of those that were looked at last. Counting walks over an index of all copies of a
    tenant; what took long is counted less often, so that pages that keep themselves up to date cost little.
    """

    def __init__(self) -> None:
        self._known: OrderedDict[str, tuple[float, Stored]] = OrderedDict()

    async def of(self, parts: Services, mailboxes: Sequence[Mailbox]) -> dict[str, Stored]:
        """The same of these mailboxes."""
        began = monotonic_s()
        stale = [box for box in mailboxes if self._known.get(box.id, (0.0, None))[0] <= began]
        if stale:
            counted = await mailbox_overview.stored(parts.db, {box.tenant_id for box in stale}, [b.id for b in stale])
            ended = monotonic_s()
            until = ended + min(max(_SHARE * (ended - began), _KEPT_S), _LONGEST_KEPT_S)
            for box in stale:
                self._known[box.id] = (until, counted.get(box.id, Stored()))
                self._known.move_to_end(box.id)
        found = {box.id: self._known[box.id][1] for box in mailboxes}
        while len(self._known) > _MOST_KEPT:
            self._known.popitem(last=False)
        return found


async def show(page: Page) -> Response:
    """Mailboxes of all tenants, or of one; those in trouble first."""
    filters = {name: page.query(name) for name in ("state", "tenant", "q")}
    which = _which(page, filters)
    cursors = Cursors("pages/mailboxes", (int, str), page.who.tenant_id, *filters.values())
    after = cursors.read(page.query("cursor", 2_000) or None)
    found = await mailbox_overview.list_page(
        page.parts.db, which, page.now, after=None if after is None else (int(after[0]), str(after[1])), limit=ON_A_PAGE
    )
    counts = await mailbox_overview.count_states(page.parts.db, which, page.now)
    following = cursors.write(found.next_key)
    return page.render(
        "mailboxes.html",
        rows=await rows_of(page, found.items),
        filters=filters,
        chips=_chips(page, filters, counts),
        total=sum(counts.values()),
        paged=after is not None,
        next=None if following is None else _link({**filters, "cursor": following}),
        whole=_link({}),
    )


async def rows(page: Page) -> Response:
    """The rows with these ids, in their order, for a page that keeps itself up to date."""
    ids = [id_ for id_ in page.query("ids", 4_000).split(",")[:ON_A_PAGE] if is_id(id_)]
    found = await mailbox_overview.these(page.parts.db, ids, page.who.tenant_id, page.now)
    return page.render("mailbox_rows.html", rows=await rows_of(page, found))


async def switch(page: Page) -> Response:
    """Switch a mailbox off or on; it acts at once, and the row shows that it did."""
    mailbox_id, on = page.param("mailbox_id"), page.given("enabled") == "1"
    fault = None
    try:
        patch = MailboxPatchBody(enabled=on)
        await connecting.change(page.parts, page.of.id, mailbox_id, patch, page.who.actor)
    except MailgateError as error:
        if not page.partial or error.status == 404:
            raise
        fault = page.why(error)
    if not page.partial:
        back = page.given("back")
        here = f"/admin/tenants/{page.of.id}/mailboxes/{mailbox_id}"
        target = back if back.startswith("/admin/mailboxes") and back.isprintable() else here
        return page.go(target, "switched_on" if on else "switched_off")
    now = page.parts.clock()
    found = await mailbox_overview.these(page.parts.db, [mailbox_id], page.of.id, now)
    # 200 also when it was refused: htmx shows what comes, and the row says why.
    return page.render("mailbox_rows.html", rows=await rows_of(page, found), fault=fault)


async def rows_of(page: Page, found: Sequence[Listed]) -> list[Row]:
    """What the list shows of these."""
    boxes = [listed.mailbox for listed in found]
    waiting = await overview.waiting(page.parts.db, [box.id for box in boxes])
    sizes = await _sizes(page).of(page.parts, boxes)
    return [_row(listed, waiting[listed.mailbox.id], sizes, page.now) for listed in found]


def _row(listed: Listed, waiting: Waiting, sizes: Mapping[str, Stored], now: Instant) -> Row:
    box = listed.mailbox
    rate, left = pace(box.progress_done, box.progress_total, box.progress_started_at, now)
    off = box.state in (MailboxState.DISABLED, MailboxState.NOT_ENTITLED)
    return Row(
        mailbox=box,
        tenant_name=listed.tenant_name,
        state=STATES[box.state],
        waiting=waiting,
        stored=sizes.get(box.id),
        rate=rate,
        left_s=left,
        closing=off and box.owned_until_at > now,
    )


def pace(done: int, total: int, started_at: Instant | None, now: Instant) -> tuple[float | None, float | None]:
    """Messages a second since the import began, and seconds left at that pace; None while unknown."""
    elapsed = 0 if started_at is None else (now - started_at) / SECOND
    rate = done / elapsed if elapsed > 0 and done > 0 else None
    return rate, (total - done) / rate if rate and total >= done else None


def _which(page: Page, filters: Mapping[str, str]) -> Which:
    group = FILTERS.get(filters["state"])
    wanted = (filters["tenant"] or None) if page.who.tenant_id is None else page.who.tenant_id
    return Which(
        tenant_id=wanted, states=() if group is None else [state.value for state in group[1]], text=filters["q"] or None
    )


def _chips(page: Page, filters: Mapping[str, str], counts: Mapping[str, int]) -> list[dict[str, Any]]:
    """The groups of states with their counts, as links."""
    chosen = filters["state"] if filters["state"] in FILTERS else ""
    rest = {**filters, "state": ""}
    made = [{"name": page.text("All"), "count": sum(counts.values()), "href": _link(rest), "on": not chosen, "key": ""}]
    for key, (name, states) in FILTERS.items():
        count = sum(counts.get(state.value, 0) for state in states)
        href = _link({**filters, "state": key})
        made.append({"name": page.text(name), "count": count, "href": href, "on": chosen == key, "key": key})
    return made


def _link(query: Mapping[str, str]) -> str:
    text = urlencode({name: value for name, value in query.items() if value})
    return "/admin/mailboxes" + (f"?{text}" if text else "")


def _sizes(page: Page) -> Sizes:
    state = page.request.app.state
    if not hasattr(state, "page_sizes"):
        state.page_sizes = Sizes()
    kept: Sizes = state.page_sizes
    return kept


ROUTES = (
    Route("GET", "/mailboxes", show),
    Route("GET", "/mailboxes/rows", rows),
    Route("POST", "/tenants/{tenant_id}/mailboxes/{mailbox_id}/switch", switch, Role.ADMIN),
)
