"""Errors as RFC 9457 problem documents: `type` is a stable slug, `detail` is for a person and says what to do.

Internals never stand in one: what is not foreseen answers 500 with the request's id, by which the log has the rest.
"""

from __future__ import annotations

import http
import json
from collections.abc import Iterable, Mapping
from typing import Any

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException
from starlette.responses import Response

from mailgate.errors import MailgateError, TooManyRequestsError

MEDIA_TYPE = "application/problem+json"
_MOST_ERRORS = 20

_log = structlog.get_logger("mailgate.api")


class FieldError(BaseModel):
    """One value that can't be accepted."""

    location: str = Field(description="body, query, path or header")
    pointer: str = Field(description="where in it: a JSON Pointer (RFC 6901)", examples=["#/imap/port"])
    detail: str


class Problem(BaseModel):
    """RFC 9457. Further members belong to the type."""

    model_config = ConfigDict(extra="allow")

    type: str = Field(description="stable slug of the kind of problem", examples=["not_entitled"])
    title: str = Field(description="the status in words")
    status: int
    detail: str = Field(description="what is wrong here, and what to do")
    errors: list[FieldError] | None = Field(default=None, description="for `invalid`: each value that is wrong")


class ProblemResponse(Response):
    """A problem document."""

    media_type = MEDIA_TYPE

    def __init__(
        self,
        status: int,
        slug: str,
        detail: str,
        *,
        headers: Mapping[str, str] | None = None,
        **extra: Any,
    ) -> None:
        document = {"type": slug, "title": http.HTTPStatus(status).phrase, "status": status, "detail": detail} | extra
        content = json.dumps(document, ensure_ascii=True).encode()
        super().__init__(content, status, {"cache-control": "no-store", **(headers or {})})


_DESCRIPTIONS = {
    400: "The request makes no sense",
    401: "No token, or one that is not valid",
    403: "The token's scope does not cover this",
    404: "No such thing, or another tenant's",
    409: "The state of things forbids it; `type` says which",
    410: "It was here: `expired`, `purged`, or a cursor whose events are not kept any more",
    408: "The body comes too slowly",
    413: "The body is too large",
    415: "The body is of another type than the route takes",
    422: "A value can't be accepted",
    429: "The token asks too often (`rate_limited`), more at a time than is allowed, or more than the plan allows "
    "(`retry_at` says until when); see Retry-After",
    503: "Not ready; try again later",
}


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """For a route's `responses`: the problems that it can answer with."""
    content = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    return {status: {"description": _DESCRIPTIONS[status], "content": content} for status in statuses}


# A body that was refused for its size or its pace is not read to its end.
_HEADERS = {
    401: {"www-authenticate": "Bearer"},
    408: {"connection": "close"},
    413: {"connection": "close"},
    503: {"retry-after": "5"},
}


def from_error(error: MailgateError) -> ProblemResponse:
    """The answer for one of our errors."""
    headers = _HEADERS.get(error.status)
    if isinstance(error, TooManyRequestsError) and error.retry_after_s is not None:
        headers = {"retry-after": str(error.retry_after_s)}
    return ProblemResponse(error.status, error.slug, error.detail, headers=headers, **error.extra)


def install(app: FastAPI) -> None:
    """Give every foreseen error its problem document."""

    @app.exception_handler(MailgateError)
    async def foreseen(_request: Request, error: MailgateError) -> Response:
        if error.status >= http.HTTPStatus.INTERNAL_SERVER_ERROR and error.slug in ("internal", "configuration"):
            raise error  # nothing a client could act on: answered and logged as any other fault
        if error.status >= http.HTTPStatus.INTERNAL_SERVER_ERROR:
            _log.error("request_failed", slug=error.slug, detail=error.detail)
        return from_error(error)

    @app.exception_handler(RequestValidationError)
    async def invalid(_request: Request, error: RequestValidationError) -> Response:
        faults = error.errors()
        errors = [_field_error(fault) for fault in faults[:_MOST_ERRORS]]
        first = errors[0]
        detail = f"{first['location']} {first['pointer']}: {first['detail']}"
        return ProblemResponse(422, "invalid", detail, errors=errors)

    @app.exception_handler(HTTPException)
    async def framework(_request: Request, error: HTTPException) -> Response:
        if error.status_code == http.HTTPStatus.NOT_FOUND:
            return ProblemResponse(404, "route_not_found", "there is no such path; /docs lists them")
        if error.status_code == http.HTTPStatus.METHOD_NOT_ALLOWED:
            return ProblemResponse(405, "method_not_allowed", "this path has other methods", headers=error.headers)
        return ProblemResponse(error.status_code, "bad_request", str(error.detail), headers=error.headers)


def _field_error(fault: Mapping[str, Any]) -> dict[str, str]:
    """Names the place and what is wrong with it, never the value: it may be a password."""
    where, *path = [str(part) for part in fault["loc"]] or ["body"]
    path = [part for part in path if not part.startswith("<")]  # which kind of thing it was taken for: no place in it
    detail = str(fault["msg"]).removeprefix("Value error, ")
    return {"location": where, "pointer": _pointer(path), "detail": detail}


def _pointer(path: Iterable[str]) -> str:
    return "#" + "".join("/" + part.replace("~", "~0").replace("/", "~1") for part in path)
