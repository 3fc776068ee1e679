"""What people do about their own account: password, language, one-time codes, where they are signed in."""

from __future__ import annotations

import io
from typing import Any

import segno
from markupsafe import Markup
from starlette.responses import Response

from mailgate.admin.languages import LANGUAGES, marked
from mailgate.admin.page import Page, Route
from mailgate.admin.words import ROLES
from mailgate.errors import MailgateError, PreconditionError
from mailgate.store import users
from mailgate.usecases import signing_in

_HERE = "/admin/account"
_WHY = {
    "sign_in_refused": marked("The password is not right."),
    "sign_in_paused": marked("Too many attempts. Try again later."),
    "password_short": marked("A password has at least 12 characters; a few words are good."),
    "password_long": marked("A password has at most 1000 characters."),
    "password_name": marked("A password must not be the name."),
    "password_twice": marked("The two new passwords differ."),
    "code_wrong": marked("This code is not right. Look at the clock of the device."),
}


async def show(page: Page) -> Response:
    """The account."""
    return await _render(page)


async def change_password(page: Page) -> Response:
    """A new password, with the old one."""
    old, new, again = (page.form.get(name, "") for name in ("old", "new", "again"))
    try:
        if new != again:
            raise PreconditionError("the two new passwords differ", slug="password_twice")
        await signing_in.change_password(page.parts, page.signed, page.who, old, new, page.whence)
    except MailgateError as error:
        return await _render(page, status=error.status, password_fault=_why(page, error))
    return page.go(_HERE, "password")


async def change_language(page: Page) -> Response:
    """The language of the pages; none: as the browser asks."""
    wanted = page.given("language")
    await users.change(page.parts.db, page.who.id, language=wanted if wanted in LANGUAGES else None)
    return page.go(_HERE, "language")


async def offer_codes(page: Page) -> Response:
    """The secret for the authenticator, as a picture and as text."""
    if page.who.totp:
        return page.go(_HERE)
    return await _offer(page, None)


async def confirm_codes(page: Page) -> Response:
    """The first code proves that the authenticator has it; the recovery codes are shown, once."""
    try:
        await signing_in.require_password(page.parts, page.who, page.form.get("password", ""), page.whence)
        codes = await signing_in.confirm_codes(page.parts, page.who, page.given("code"))
    except MailgateError as error:
        return await _offer(page, _why(page, error), status=error.status)
    return page.render("account_recovery.html", codes=codes)


async def forget_codes(page: Page) -> Response:
    """No code is asked for any more; with the password, so that an open session is not enough."""
    try:
        await signing_in.require_password(page.parts, page.who, page.form.get("password", ""), page.whence)
    except MailgateError as error:
        return await _render(page, status=error.status, codes_fault=_why(page, error))
    await users.forget_codes(page.parts.db, page.who.id)
    return page.go(_HERE, "codes_off")


async def _render(page: Page, *, status: int = 200, **faults: Any) -> Response:
    return page.render(
        "account.html",
        status=status,
        languages=LANGUAGES,
        role=ROLES[page.who.role],
        sessions=await signing_in.sessions(page.parts, page.who),
        codes_left=await users.recovery_codes_left(page.parts.db, page.who.id),
        **({"password_fault": None, "codes_fault": None} | faults),
    )


async def _offer(page: Page, fault: str | None, *, status: int = 200) -> Response:
    secret, address = await signing_in.offer_codes(page.parts, page.who)
    return page.render("account_codes.html", status=status, secret=secret, picture=_picture(address), fault=fault)


def _picture(address: str) -> Markup:
    """The address as a QR code: an SVG that holds paths only, so it may stand in the page as it is."""
    drawn = io.BytesIO()
    segno.make(address, error="m", micro=False).save(
        drawn, kind="svg", xmldecl=False, svgns=True, scale=4, border=4, light="#fff", dark="#000", omitsize=True
    )
    return Markup(drawn.getvalue().decode())  # noqa: S704 - made by the library from numbers alone


def _why(page: Page, error: MailgateError) -> str:
    known = _WHY.get(error.slug)
    return page.why(error) if known is None else page.text(known)


ROUTES = (
    Route("GET", "/account", show),
    Route("POST", "/account/password", change_password),
    Route("POST", "/account/language", change_language),
    Route("GET", "/account/codes", offer_codes),
    Route("POST", "/account/codes", confirm_codes),
    Route("POST", "/account/codes/forget", forget_codes),
)
