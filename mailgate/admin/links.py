"""Connect links of a tenant: make one and hand it over, see what became of them, withdraw one."""

from __future__ import annotations

from typing import Final
from urllib.parse import urlencode

from pydantic import ValidationError
from starlette.responses import Response

from mailgate.admin import account_forms
from mailgate.admin.account_forms import AccountForm
from mailgate.admin.page import Page, Route
from mailgate.admin.people import names
from mailgate.admin.words import LINKS
from mailgate.clock import HOUR, to_rfc3339
from mailgate.errors import ConflictError
from mailgate.store.users import Role
from mailgate.usecases import connect_links
from mailgate.usecases.connect_links import ConnectLinkBody
from mailgate.usecases.cursors import Cursors

ON_A_PAGE = 50
_AT = "/tenants/{tenant_id}/links"
_HOURS: Final = (24, 72, 168, 720)
"""How long a link may be good, beside what is usual."""


async def show(page: Page) -> Response:
    """The links that are open, or all that are kept; newest first."""
    return await _render(page)


async def make(page: Page) -> Response:
    """Make a link. Its address is shown here and never again."""
    hours = next((hours for hours in _choices(page) if str(hours) == page.given("hours")), _usual(page))
    try:
        asked = ConnectLinkBody(
            address=page.given("address") or None,
            owner=page.given("owner") or None,
            shared=page.given("shared") == "1",
            expires_at=to_rfc3339(page.now + hours * HOUR),  # type: ignore[arg-type]  # read as a client's is
        )
        _, url = await connect_links.make(page.parts, page.of.id, asked, page.who.actor)
    except ValidationError as error:
        form = account_forms.typed(page.form, account_forms.faults_of(error))
        return await _render(page, status=422, form=form)
    except ConflictError as error:
        return await _render(page, status=error.status, form=account_forms.typed(page.form), fault=page.why(error))
    return await _render(page, made=url)


async def revoke(page: Page) -> Response:
    """End a link at once."""
    await page.parts.links.revoke(page.of.id, page.param("connect_link_id"), page.now)
    return page.go(_at(page), "link_revoked")


async def _render(
    page: Page, *, status: int = 200, form: AccountForm | None = None, fault: str | None = None, made: str | None = None
) -> Response:
    every = page.query("show") == "all"
    cursors = Cursors("pages/links", (str,), page.of.id, every)
    links = page.parts.links
    found = await links.list_page(
        page.of.id,
        after=cursors.after(page.query("cursor", 2_000) or None),
        limit=ON_A_PAGE,
        open_at=None if every else page.now,
    )
    following = cursors.write(found.next_key)
    query = {name: value for name, value in (("show", "all" if every else ""), ("cursor", following)) if value}
    return page.render(
        "links.html",
        status=status,
        at=_at(page),
        form=form or account_forms.blank(),
        fault=fault,
        made=made,
        links=[(link, LINKS[link.state(page.now, links.most_attempts)]) for link in found.items],
        names=await names(page, (link.created_by for link in found.items)),
        every=every,
        hours=_choices(page),
        usual=_usual(page),
        most=links.most_attempts,
        sync=(await page.parts.subscriptions.allowed(page.of.id, page.now)).sync,
        next=None if following is None else f"{_at(page)}?{urlencode(query)}",
    )


def _at(page: Page) -> str:
    return f"/admin/tenants/{page.of.id}/links"


def _usual(page: Page) -> int:
    return page.parts.settings.onboarding.link_hours


def _choices(page: Page) -> list[int]:
    return sorted({*_HOURS, _usual(page)})


ROUTES = (
    Route("GET", _AT, show, Role.ADMIN),
    Route("POST", _AT, make, Role.ADMIN),
    Route("POST", f"{_AT}/{{connect_link_id}}/revoke", revoke, Role.ADMIN),
)
