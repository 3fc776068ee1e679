"""What keeps the pages safe in a browser: headers, cookies, and proof that a change comes from one of our own pages.

1. Content-Security-Policy: only what this host serves, no inline script or style, no frame around us.
2. The session's cookie is HttpOnly and SameSite=Lax, over https Secure and bound to the host (`__Host-`).
3. Each form carries the session's own token; besides, a request that says where it comes from must come from here.
"""

from __future__ import annotations

import hmac
import os
from collections.abc import Mapping
from urllib.parse import urlsplit

from starlette.requests import Request
from starlette.responses import Response

from mailgate.settings import Settings

_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; form-action 'self'; "
    "frame-ancestors 'none'; base-uri 'none'"
)
HEADERS: Mapping[str, str] = {
    "content-security-policy": _POLICY,
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
    "referrer-policy": "same-origin",
    "x-content-type-options": "nosniff",
}
VISITOR_HEADERS: Mapping[str, str] = {
    **HEADERS,
    # No script at all, and nothing that a page links to learns the address of this one, which is a secret.
    "content-security-policy": (
        "default-src 'none'; style-src 'self'; img-src 'self'; form-action 'self'; frame-ancestors 'none'; "
        "base-uri 'none'"
    ),
    "referrer-policy": "no-referrer",
    "x-robots-tag": "noindex, nofollow",
}
"""For the page behind a connect link."""
SESSION = "mailgate_session"
VISIT = "mailgate_visit"
"""Before there is a session: what the sign-in form's token hangs on."""


CONNECT = "mailgate_connect"
"""What the forms behind a connect link hang on."""

LANGUAGE = "mailgate_language"
"""The language that the person chose, for what is shown before it is known who asks; it says nothing else."""
_REMEMBERED_S = 365 * 86_400


def is_secure(request: Request, settings: Settings) -> bool:
    """Whether cookies are only for https."""
    return request.url.scheme == "https" or settings.pages.secure_cookie or settings.public_url.startswith("https://")


def read_cookie(request: Request, settings: Settings, name: str) -> str | None:
    """The cookie, under the name that it has here."""
    value = request.cookies.get(_name(name, secure=is_secure(request, settings)))
    return value if value and len(value) <= 100 else None


def write_cookie(response: Response, request: Request, settings: Settings, name: str, value: str | None) -> None:
    """Set the cookie until the browser closes (the language: for a year), or take it away."""
    secure = is_secure(request, settings)
    response.set_cookie(
        _name(name, secure=secure),
        value or "",
        max_age=0 if not value else _REMEMBERED_S if name == LANGUAGE else None,
        path="/",
        secure=secure,
        httponly=True,
        samesite="lax",
    )


def new_visit() -> str:
    """A random value for the visit's cookie."""
    return os.urandom(24).hex()


def form_token(secret: str) -> str:
    """The token in the forms of who has this secret in a cookie: nobody else can know it."""
    return hmac.digest(secret.encode(), b"mailgate form", "sha256").hex()


def is_token(given: str, secret: str) -> bool:
    """Whether it is that token."""
    return hmac.compare_digest(given.encode("utf-8", "surrogatepass"), form_token(secret).encode())


def is_from_here(request: Request, settings: Settings, *, nameless: bool = False) -> bool:
    """Whether a request that says where it comes from comes from this host. Browsers say it with every form; behind a
    proxy only the host can be compared, since what it speaks with the browser is not known here. `nameless`: our page
    sends no referrer, so browsers name no origin either (Fetch, “append a request `Origin` header”).
    """
    origin = request.headers.get("origin")
    if origin is None or (nameless and origin == "null"):
        site = request.headers.get("sec-fetch-site")
        return site in (None, "same-origin", "none")
    host = urlsplit(origin).netloc
    return bool(host) and host in (request.headers.get("host"), urlsplit(settings.public_url).netloc)


def _name(name: str, *, secure: bool) -> str:
    return f"__Host-{name}" if secure else name
