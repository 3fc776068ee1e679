"""Signing in and out."""

from __future__ import annotations

from http import HTTPStatus
from urllib.parse import quote

from starlette.responses import Response

from mailgate.admin import security
from mailgate.admin.page import Page, Route
from mailgate.errors import TooManyRequestsError, UnauthorizedError
from mailgate.store import user_sessions, users
from mailgate.usecases import signing_in
from mailgate.usecases.signing_in import Begun

_HOME = "/admin/mailboxes"
_LONGEST_NEXT = 2_000


async def show(page: Page) -> Response:
    """Name and password; or the code, when those were right; or on, for who is signed in."""
    if page.user is not None:
        return page.go(_next(page.query("next", _LONGEST_NEXT)))
    wanted = page.query("next", _LONGEST_NEXT)
    if page.session is not None:
        return page.render("sign_in_code.html", next=wanted, why=None)
    ready = await users.any_admin(page.parts.db)
    return page.render("sign_in.html", next=wanted, why=None, ready=ready, name="")


async def sign_in(page: Page) -> Response:
    """Name and password."""
    wanted = page.form.get("next", "")
    try:
        begun = await signing_in.sign_in(page.parts, page.given("name"), page.form.get("password", ""), page.whence)
    except (UnauthorizedError, TooManyRequestsError) as error:
        answer = page.render(
            "sign_in.html",
            status=error.status,
            next=wanted,
            why=_why(page, error),
            ready=True,
            name=page.given("name")[:200],
        )
        return _retry_after(answer, error)
    return _begun(page, begun, wanted)


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
    Route("POST", "/sign-out", sign_out, public=True),
    Route("POST", "/sign-out-everywhere", sign_out_everywhere),
)
