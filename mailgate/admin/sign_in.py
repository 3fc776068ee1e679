"""Signing in and out."""

from __future__ import annotations

from http import HTTPStatus
from urllib.parse import quote

from starlette.responses import RedirectResponse, Response

from mailgate.admin import details, security
from mailgate.admin.page import Page, Route
from mailgate.clock import SECOND
from mailgate.errors import TooManyRequestsError, UnauthorizedError, UnavailableError
from mailgate.store import user_sessions, users
from mailgate.usecases import signing_in
from mailgate.usecases.signing_in import Begun
from mailgate.usecases.signing_in_elsewhere import ATTEMPT, Back

_HOME = "/admin/mailboxes"
_LONGEST_NEXT = 2_000
_LONGEST_ATTEMPT = 4_000


async def show(page: Page) -> Response:
    """Name and password; or the code, when those were right; or on, for who is signed in."""
    if page.user is not None:
        return page.go(_next(page.query("next", _LONGEST_NEXT)))
    wanted = page.query("next", _LONGEST_NEXT)
    if page.session is not None:
        return page.render("sign_in_code.html", next=wanted, why=None)
    ready = await users.any_admin(page.parts.db)
    return _form(page, wanted, ready=ready)


def _form(
    page: Page, wanted: str, *, status: int = 200, why: str | None = None, ready: bool = True, name: str = ""
) -> Response:
    """Name and password, and the way to the provider where there is one."""
    there = "/admin/sign-in/oidc?next=" + quote(wanted, safe="")
    title = page.parts.elsewhere.title if page.parts.elsewhere is not None else None
    values = {"next": wanted, "why": why, "ready": ready, "name": name, "elsewhere": title, "there": there}
    return page.render("sign_in.html", status=status, **values)


async def sign_in(page: Page) -> Response:
    """Name and password."""
    wanted = page.form.get("next", "")
    try:
        begun = await signing_in.sign_in(page.parts, page.given("name"), page.form.get("password", ""), page.whence)
    except (UnauthorizedError, TooManyRequestsError) as error:
        answer = _form(page, wanted, status=error.status, why=_why(page, error), name=page.given("name")[:200])
        return _retry_after(answer, error)
    return _begun(page, begun, wanted)


async def leave(page: Page) -> Response:
    """To the provider. A link, since a form may not lead to another host."""
    wanted = _next(page.query("next", _LONGEST_NEXT))
    if page.parts.elsewhere is None:
        return page.go("/admin/sign-in")
    try:
        away = await page.parts.elsewhere.begin(page.parts, wanted)
    except UnavailableError as error:
        return _form(page, wanted, status=error.status, why=page.text("The sign-in provider can't be reached now."))
    answer = RedirectResponse(away.url, 302)
    _keep_attempt(page, answer, away.cookie)
    return answer


async def come_back(page: Page) -> Response:
    """From the provider."""
    if page.parts.elsewhere is None:
        return page.go("/admin/sign-in")
    query = page.request.query_params
    asked = Back(*(query.get(name, "")[:_LONGEST_NEXT] for name in ("state", "code", "error", "iss")))
    cookie = page.request.cookies.get(_attempt_name(page), "")
    try:
        begun, wanted = await page.parts.elsewhere.finish(page.parts, asked, cookie[:_LONGEST_ATTEMPT], page.whence)
    except UnavailableError as error:
        answer = _form(page, "", status=error.status, why=page.text("The sign-in provider can't be reached now."))
    except UnauthorizedError as error:
        why = page.text("The sign-in provider's answer did not let you in: %(why)s.")
        why %= {"why": details.said(page.language, error.detail)}
        answer = _form(page, "", status=error.status, why=why)
    else:
        answer = _begun(page, begun, wanted)
    _keep_attempt(page, answer, None)
    return answer


def _keep_attempt(page: Page, answer: Response, value: str | None) -> None:
    answer.set_cookie(
        _attempt_name(page),
        value or "",
        max_age=0 if value is None else ATTEMPT // SECOND,
        path="/",
        secure=security.is_secure(page.request, page.parts.settings),
        httponly=True,
        samesite="lax",  # the provider's page leads back here
    )


def _attempt_name(page: Page) -> str:
    return ("__Host-" if security.is_secure(page.request, page.parts.settings) else "") + "mailgate_oidc"


async def give_code(page: Page) -> Response:
    """The one-time code, or a recovery code."""
    wanted = page.form.get("next", "")
    found = await signing_in.session_of(page.parts, page.secret)
    if found is None or found[0].passed:
        return page.go("/admin/sign-in")
    try:
        begun = await signing_in.give_code(page.parts, *found, page.given("code"), page.whence)
    except (UnauthorizedError, TooManyRequestsError) as error:
        answer = page.render("sign_in_code.html", status=error.status, next=wanted, why=_why(page, error))
        return _retry_after(answer, error)
    return _begun(page, begun, wanted)


async def sign_out(page: Page) -> Response:
    """End this session."""
    if page.session is not None:
        await user_sessions.end(page.parts.db, page.session.secret_hash)
    return _ended(page, "signed_out")


async def sign_out_everywhere(page: Page) -> Response:
    """End every session of the person."""
    await user_sessions.end_all(page.parts.db, page.who.id)
    return _ended(page, "signed_out_everywhere")


def _begun(page: Page, begun: Begun, wanted: str) -> Response:
    target = _next(wanted) if begun.passed else "/admin/sign-in?next=" + quote(_next(wanted), safe="")
    answer = page.go(target)
    settings = page.parts.settings
    security.write_cookie(answer, page.request, settings, security.SESSION, begun.secret)
    security.write_cookie(answer, page.request, settings, security.VISIT, None)
    return answer


def _ended(page: Page, done: str) -> Response:
    answer = page.go("/admin/sign-in", done)
    security.write_cookie(answer, page.request, page.parts.settings, security.SESSION, None)
    return answer


def _next(wanted: str) -> str:
    """Where the person was going, if that is one of our pages: nobody shall be sent elsewhere by a link to us."""
    ours = wanted.startswith("/admin/") and not wanted.startswith("/admin/sign") and wanted.isprintable()
    return wanted if ours and "\\" not in wanted and "//" not in wanted.partition("?")[0] else _HOME


def _why(page: Page, error: UnauthorizedError | TooManyRequestsError) -> str:
    if isinstance(error, TooManyRequestsError):
        wait = page.language.lasting(error.retry_after_s or 0)
        return page.text("Too many attempts. Try again in %(wait)s.") % {"wait": wait}
    if page.session is not None:
        return page.text("This code is not right, or was used before.")
    return page.text("Name or password is not right.")


def _retry_after(answer: Response, error: Exception) -> Response:
    if isinstance(error, TooManyRequestsError) and error.status == HTTPStatus.TOO_MANY_REQUESTS:
        answer.headers["retry-after"] = str(error.retry_after_s)
    return answer


async def home(page: Page) -> Response:
    """The first page is the mailboxes'."""
    return page.go(_HOME)


ROUTES = (
    Route("GET", "", home),
    Route("GET", "/", home),
    Route("GET", "/sign-in", show, public=True),
    Route("POST", "/sign-in", sign_in, public=True),
    Route("POST", "/sign-in/code", give_code, public=True),
    Route("GET", "/sign-in/oidc", leave, public=True),
    Route("GET", "/sign-in/oidc/callback", come_back, public=True),
    Route("POST", "/sign-out", sign_out, public=True),
    Route("POST", "/sign-out-everywhere", sign_out_everywhere),
)
