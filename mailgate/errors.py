"""What can go wrong for a caller: each error has a stable slug, an HTTP status and a text that says what to do.

    MailgateError
    ├── BadRequestError       400   the request makes no sense
    ├── UnauthorizedError     401   no or unknown token
    ├── ForbiddenError        403   the token's scope does not cover this
    ├── NotFoundError         404   no such thing, or another tenant's
    ├── ConflictError         409   the state of things forbids it: `not_entitled`, `purged`, `mailbox_removed`, …
    ├── GoneError             410   it was here: `expired`, `purged`
    ├── PreconditionError     422   well formed, but a value can't be accepted
    ├── TooManyRequestsError  429   a limit of the plan, or more at a time than is allowed; try again later
    ├── UnavailableError      503   a part is not ready; try again
    └── ConfigurationError    –     the gateway can't start like this

Slugs are part of the interface: they never change their meaning.
"""

from __future__ import annotations

from typing import Any


class MailgateError(Exception):
    """Base; `slug` names the problem type, `status` the HTTP answer, `detail` is for a person, `extra` goes into the
    problem document.
    """

    status = 500
    default_slug = "internal"

    def __init__(self, detail: str, *, slug: str | None = None, **extra: Any) -> None:
        super().__init__(detail)
        self.detail = detail
        self.slug = slug or self.default_slug
        self.extra = extra


class BadRequestError(MailgateError):
    status = 400
    default_slug = "bad_request"


class UnauthorizedError(MailgateError):
    status = 401
    default_slug = "unauthorized"


class ForbiddenError(MailgateError):
    status = 403
    default_slug = "forbidden"


class NotFoundError(MailgateError):
    status = 404
    default_slug = "not_found"


class ConflictError(MailgateError):
    status = 409
    default_slug = "conflict"


class GoneError(MailgateError):
    status = 410
    default_slug = "gone"


class PreconditionError(MailgateError):
    status = 422
    default_slug = "unprocessable"


class TooSlowError(MailgateError):
    """The body of a request came too slowly, or not at all."""

    status = 408
    default_slug = "too_slow"


class TooManyRequestsError(MailgateError):
    """`retry_after_s`: whole seconds until asking again can help."""

    status = 429
    default_slug = "too_many_requests"

    def __init__(self, detail: str, *, slug: str | None = None, retry_after_s: int | None = None, **extra: Any) -> None:
        super().__init__(detail, slug=slug, **extra)
        self.retry_after_s = retry_after_s


class UnavailableError(MailgateError):
    status = 503
    default_slug = "unavailable"


class ConfigurationError(MailgateError):
    default_slug = "configuration"
