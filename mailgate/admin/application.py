"""The pages as routes: who asks is found, what may not be is refused, what was changed is written down, what went wrong
is a page too.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from http import HTTPStatus
from urllib.parse import quote

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Route as HttpRoute

from mailgate.admin import (
    access,
    account,
    connect,
    events,
    holds,
    links,
    mailbox,
    mailboxes,
    purge_log,
    retention,
    security,
    sign_in,
    system,
    tenants,
    webhook,
    webhooks,
)
from mailgate.admin.languages import language, negotiate
from mailgate.admin.page import Page, Route
from mailgate.admin.serving import Named, read_form, static_file
from mailgate.admin.shown import LANGUAGE, Shown
from mailgate.errors import MailgateError, NotFoundError, TooManyRequestsError
from mailgate.store import tenants as tenant_rows
from mailgate.store.access_log import Access, Kind
from mailgate.store.users import Role
from mailgate.usecases.accesses import write_down
from mailgate.usecases.parts import Services
from mailgate.usecases.signing_in import session_of
from mailgate.usecases.types import TENANT_PATTERN

ROUTES: tuple[Route, ...] = (
    *sign_in.ROUTES,
    *account.ROUTES,
    *mailboxes.ROUTES,
    *mailbox.ROUTES,
    *tenants.ROUTES,
    *links.ROUTES,
    *retention.ROUTES,
    *holds.ROUTES,
    *purge_log.ROUTES,
    *events.ROUTES,
    *webhooks.ROUTES,
    *webhook.ROUTES,
    *system.ROUTES,
    *access.ROUTES,
)
_TENANT = re.compile(TENANT_PATTERN)


def routes(parts: Services) -> list[HttpRoute]:
    """All pages over these parts, below /admin; the last one answers for every other address there."""
    if not parts.settings.pages.enabled:
        return []
    by_path: dict[str, dict[str, Route]] = {}
    for route in ROUTES:
        by_path.setdefault(route.path, {})[route.method] = route
    made = [
        HttpRoute(f"/admin{path}", _endpoint(parts, f"/admin{path}", methods), methods=[*methods])
        for path, methods in by_path.items()
    ]
    static = HttpRoute("/admin/static/{name}", static_file, methods=["GET"])
    nowhere = {"GET": Route("GET", "/{rest}", _nowhere, public=True)}
    return [
        static,
        *made,
        HttpRoute("/admin/{rest:path}", _endpoint(parts, "/admin/{rest}", nowhere), methods=["GET"]),
    ]


def install(app: Starlette, parts: Services) -> None:
    """Put the pages into the application, and what stands around them."""
    app.router.routes += [*connect.routes(parts), *routes(parts)]
    app.add_middleware(
        Shown, settings=parts.settings, below=("/admin", "/connect") if parts.settings.pages.enabled else ("/connect",)
    )


def _endpoint(parts: Services, template: str, methods: dict[str, Route]) -> Callable[..., object]:
    async def endpoint(request: Request) -> Response:
        request.scope["route"] = Named(template)
        # HEAD comes as GET (mailgate.api.heads).
        answer = await _answer(parts, methods[request.method], template, request)
        for name, value in security.HEADERS.items():
            answer.headers.setdefault(name, value)  # a certificate has a policy of its own, which allows less
        answer.headers["cache-control"] = "no-store"
        return answer

    return endpoint


async def _answer(parts: Services, route: Route, template: str, request: Request) -> Response:
    settings = parts.settings
    secret = security.read_cookie(request, settings, security.SESSION)
    # What a page asks for by itself must not keep a session alive that nobody uses.
    by_itself = request.method == "GET" and request.headers.get("hx-request") == "true"
    found = None if secret is None else await session_of(parts, secret, used=not by_itself)
    session, user = found if found is not None else (None, None)
    if session is None or not session.passed:
        user = None
    visit = None if session is not None else security.read_cookie(request, settings, security.VISIT)
    remembered = security.read_cookie(request, settings, security.LANGUAGE)
    chosen = remembered if user is None else user.language
    code = request.scope[LANGUAGE] = negotiate(request.headers.get("accept-language"), chosen)
    base = (secret if session is not None else visit) or security.new_visit()
    page = Page(
        request=request,
        parts=parts,
        language=language(code),
        secret=base,
        now=parts.clock(),
        session=session,
        user=user,
        token=security.form_token(base),
    )
    answer = await _checked(page, route)
    if session is None and visit is None and route.public:
        security.write_cookie(answer, request, settings, security.VISIT, base)
    if user is not None and remembered != user.language:
        security.write_cookie(answer, request, settings, security.LANGUAGE, user.language)
    if route.method != "GET" and user is not None:
        await _write_down(page, template, answer.status_code)
    return answer


async def _checked(page: Page, route: Route) -> Response:
    """The handler's answer, after everything that stands before it."""
    if page.user is None and not route.public:
        return _to_sign_in(page)
    if route.method != "GET":
        page.form = await read_form(page.request)
        ours = security.is_from_here(page.request, page.parts.settings)
        if not ours or not security.is_token(page.form.get("token", ""), page.secret):
            return page.render("refused.html", status=HTTPStatus.FORBIDDEN, why="token")
    if route.role is not None and page.who.role not in (route.role, Role.ADMIN):
        return page.render("refused.html", status=HTTPStatus.FORBIDDEN, why="role")
    try:
        if route.whole and page.who.tenant_id is not None:
            raise NotFoundError("this is about all tenants", slug="page_not_found")
        await _find_tenant(page, erased=route.erased)
        return await route.handler(page)
    except MailgateError as error:
        if error.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            raise
        return failed(page, error)


async def _find_tenant(page: Page, *, erased: bool) -> None:
    """The tenant in the path; another one than the person's own is one that is not there."""
    tenant_id = page.request.path_params.get("tenant_id")
    if tenant_id is None:
        return
    known = _TENANT.fullmatch(tenant_id) is not None and page.who.reaches(tenant_id)
    page.tenant = await tenant_rows.find(page.parts.db, tenant_id, erased=erased) if known else None
    if page.tenant is None:
        raise NotFoundError(f"there is no tenant {tenant_id!r}", slug="tenant_not_found")


def failed(page: Page, error: MailgateError) -> Response:
    """The page that says what is wrong and what to do."""
    answer = page.render("failed.html", status=error.status, detail=page.why(error), found=error.status != 404)
    if isinstance(error, TooManyRequestsError) and error.retry_after_s is not None:
        answer.headers["retry-after"] = str(error.retry_after_s)
    return answer


def _to_sign_in(page: Page) -> Response:
    """To the sign-in page, and from there back to where the person was going."""
    wanted = page.request.url.path if page.request.method == "GET" and not page.partial else ""
    query = page.request.url.query
    target = "/admin/sign-in"
    if wanted not in ("", "/admin", "/admin/"):
        target += "?next=" + quote(wanted + (f"?{query}" if query else ""), safe="")
    if page.partial:
        return HTMLResponse("", headers={"hx-redirect": target})
    return RedirectResponse(target, 303)


async def _write_down(page: Page, template: str, status: int) -> None:
    given = page.request.path_params
    access = Access(
        kind=Kind.CHANGE,
        actor=str(page.who.actor),
        tenant_id=page.concerns if page.tenant is None else page.tenant.id,
        method=page.request.method,
        route=template,
        targets={name: str(value) for name, value in given.items() if name != "tenant_id"},
        status=status,
        at=page.parts.clock(),
        address=page.whence.address,
    )
    await write_down(page.parts, access)


async def _nowhere(page: Page) -> Response:
    return page.render("failed.html", status=HTTPStatus.NOT_FOUND, detail=None, found=False)
