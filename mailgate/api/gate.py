"""What every request passes before a route sees it: ASGI middleware, outermost first.

1. `Observed`: a request id, the metrics, one line in the log, and 500 without internals for what nobody foresaw.
2. `Heads` (mailgate.api.heads): HEAD becomes GET without a body.
3. `Gate`: paths and queries that are no text, NUL, bodies that are too large or no JSON, and authentication of all
   of /v1, so that without a token nothing is parsed, looked up or told; then how often the token asks. Bodies are read
   here, up to their limit; but messages (message/rfc822), which may be large, are read by their route, as they come.
   A body that comes too slowly is given up: else who sends nothing would keep the places of those who do.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
from collections.abc import Callable, Mapping
from urllib.parse import parse_qsl, unquote_to_bytes

import structlog
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mailgate.api.jsons import read_json
from mailgate.api.problems import ProblemResponse, from_error
from mailgate.api.rates import Rates, Taken
from mailgate.api.security import Authenticator
from mailgate.clock import Clock, monotonic_s
from mailgate.errors import MailgateError, TooSlowError
from mailgate.ids import new_id
from mailgate.metrics import Metrics
from mailgate.store.outages import is_outage, outage
from mailgate.troubles import Trouble
from mailgate.usecases.parts import Places

_log = structlog.get_logger("mailgate.api")

_PATIENCE_S = 30.0
_SLOWEST = 4_096  # bytes a second, beside the patience
_LONGEST_PATH = 4_096
_LONGEST_QUERY = 8_192
_RECORD = re.compile(rb"/v1/tenants/[^/]+/(?:messages/[^/]+/)?pins/[^/]+/")
_MESSAGE = re.compile(r"message/rfc822\s*(;.*)?", re.IGNORECASE)
_TAKES_MESSAGES = re.compile(r"/v1/tenants/[^/]+/mailboxes/[^/]+/messages")
_ALWAYS_SERVED = frozenset({"/healthz", "/readyz", "/metrics"})
_SIGNED = frozenset({"/v1/billing/stripe"})
_LINKED = re.compile(r"/v1/oauth/(go|callback)/[^/]+")
_TAKES_SUBMISSIONS = re.compile(r"/v1/tenants/[^/]+/mailboxes/[^/]+/submissions")
_FORM = re.compile(r"application/x-www-form-urlencoded\s*(;.*)?", re.IGNORECASE)
_JSON = re.compile(r"application/([a-z0-9.+-]+\+)?json\s*(;.*)?", re.IGNORECASE)
_KINDS = {
    _FORM: "a form: Content-Type: application/x-www-form-urlencoded",
    _JSON: "JSON: Content-Type: application/json",
    _MESSAGE: "a message: Content-Type: message/rfc822",
}


class Observed:
    """Counts, logs and answers for what went wrong unforeseen."""

    def __init__(self, app: ASGIApp, *, metrics: Metrics, clock: Clock) -> None:
        self._app = app
        self._metrics = metrics
        self._clock = clock
        self._trouble = Trouble()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = new_id(self._clock())
        status = 0

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], (b"x-request-id", request_id.encode())]
            await send(message)

        began = time.perf_counter()
        structlog.contextvars.clear_contextvars()
        structlog.contextvars.bind_contextvars(request_id=request_id)
        try:
            await self._app(scope, receive, sending)
        except Exception as error:  # the boundary: whatever a route raises, the client gets a problem document
            self._say(error, scope)
            if status:
                raise  # the answer had begun: the server must cut it, or the client would take it for complete
            await _unforeseen(error, request_id)(scope, receive, sending)
        finally:
            took = time.perf_counter() - began
            route = _route(scope)
            self._metrics.count("http_requests_total", route=route, method=_method(scope), status=str(status))
            self._metrics.observe("http_request_seconds", took, route=route)
            _log.debug("request", method=scope["method"], route=route, status=status, ms=round(took * 1000, 1))

    def _say(self, error: Exception, scope: Scope) -> None:
        """With where it happened, unless the same was said of the request before: clients ask again and again."""
        away = outage(error)
        news = away is None or self._trouble.met(away)
        _log.error("request_failed", method=scope["method"], route=_route(scope), why=away, exc_info=news)


def _unforeseen(error: Exception, request_id: str) -> ProblemResponse:
    if is_outage(error):
        detail = "the database can't be used now; try again in a moment"
        return ProblemResponse(503, "unavailable", detail, headers={"retry-after": "5"}, request_id=request_id)
    detail = f"an error inside mailgate; its log has the rest under request {request_id}"
    return ProblemResponse(500, "internal", detail, request_id=request_id)


class Gate:
    """Refuses what no route should see, and tells who asks."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        authenticator: Authenticator,
        rates: Rates,
        closed: Callable[[], str | None],
        request_bytes: int,
        submission_bytes: int,
        uploads: Places,
    ) -> None:
        """`closed`: why nothing is served yet, but whether the process is alive and what it waits for. `uploads`: for
        submissions of more than `request_bytes`.
        """
        self._app = app
        self._closed = closed
        self._authenticator = authenticator
        self._rates = rates
        self._request_bytes = request_bytes
        self._submission_bytes = submission_bytes
        self._uploads = uploads

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        refusal = _bad_address(scope) or _ambiguous(headers)
        closed = None if scope["path"] in _ALWAYS_SERVED else self._closed()
        if refusal is None and closed is not None:
            refusal = ProblemResponse(503, "backup_restored", closed, headers={"retry-after": "60"})
        if refusal is None and _is_protected(scope["path"]):
            try:
                who = scope["principal"] = await self._authenticator.authenticate(headers.get("authorization"))
            except MailgateError as error:
                refusal = from_error(error)
            else:
                taken = self._rates.take(who.token_id, monotonic_s())
                if taken is not None:
                    send = self._telling(taken, send)
                    refusal = None if taken.passes else _too_many(taken)
        streamed = scope["streamed"] = _is_streamed(scope, headers)
        most = self._most(scope)
        kind = _FORM if _is_page(scope["path"]) else _MESSAGE if streamed else _JSON
        refusal = refusal or self._bad_body(headers, most, kind, streamed=streamed)
        with contextlib.ExitStack() as place:
            if refusal is None and self._is_large(scope, headers):
                try:
                    place.enter_context(self._uploads.place(scope["principal"].tenant_id))
                except MailgateError as error:
                    refusal = from_error(error)
            await self._pass(scope, _paced(receive), send, headers, refusal)

    async def _pass(
        self, scope: Scope, receive: Receive, send: Send, headers: Headers, refusal: ProblemResponse | None
    ) -> None:
        streamed, most = scope["streamed"], self._most(scope)
        if refusal is None and not streamed and ("content-length" in headers or "transfer-encoding" in headers):
            try:
                body = await _read(receive, most)
            except TooSlowError as error:
                await from_error(error)(scope, receive, send)
                return
            if body is None:
                refusal = self._too_large(most)
            else:
                scope["body"] = body
                receive = _replay(body, receive)
                refusal = _bad_json(scope)
        if refusal is not None:
            await refusal(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _telling(self, taken: Taken, send: Send) -> Send:
        """Adds what is left to the answer's header."""
        limits = [
            (b"ratelimit-policy", self._rates.policy.encode()),
            (b"ratelimit", f'"token";r={taken.remaining};t={taken.reset_s}'.encode()),
        ]

        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *limits]
            await send(message)

        return sending

    def _is_large(self, scope: Scope, headers: Headers) -> bool:
        """Whether it is a letter that may be larger than other requests."""
        length = headers.get("content-length")
        return _is_submission(scope) and (length is None or int(length) > self._request_bytes)

    def _most(self, scope: Scope) -> int:
        """Bytes of a body of JSON: letters carry files."""
        return self._submission_bytes if _is_submission(scope) else self._request_bytes

    def _bad_body(
        self, headers: Mapping[str, str], most: int, kind: re.Pattern[str], *, streamed: bool
    ) -> ProblemResponse | None:
        length = headers.get("content-length")
        if length is not None and (not length.isascii() or not length.isdigit()):
            return ProblemResponse(400, "bad_request", "Content-Length must be a number")
        if length is not None and (len(length) > 18 or (not streamed and int(length) > most)):
            return self._too_large(most)
        has_body = length not in (None, "0") or "transfer-encoding" in headers
        if has_body and headers.get("content-encoding", "identity").strip().lower() != "identity":
            detail = "the body must not be compressed (Content-Encoding)"
            return ProblemResponse(415, "unsupported_media_type", detail)
        if has_body and not kind.fullmatch(headers.get("content-type", "")):
            what = _KINDS[kind]
            return ProblemResponse(415, "unsupported_media_type", f"the body must be {what}")
        return None

    def _too_large(self, most: int) -> ProblemResponse:
        setting = "limits.request_bytes" if most == self._request_bytes else "sending.max_message_bytes"
        detail = f"the body is larger than {most} bytes ({setting})"
        return ProblemResponse(413, "too_large", detail, headers={"connection": "close"})


def _bad_json(scope: Scope) -> ProblemResponse | None:
    """Reads the body into the scope, before any route sees it: their parsers differ in what they let pass. Stripe's
    events are read behind their signature.
    """
    if not scope["body"] or _is_page(scope["path"]) or scope["path"] in _SIGNED:
        return None
    try:
        scope["json"] = read_json(scope["body"])
    except MailgateError as error:
        return from_error(error)
    return None


def _too_many(taken: Taken) -> ProblemResponse:
    wait = max(1, taken.retry_after_s)
    detail = f"this token asks too often; again in {wait} s (limits.requests_per_minute, limits.requests_burst)"
    return ProblemResponse(429, "rate_limited", detail, headers={"retry-after": str(wait)})


def _is_page(path: str) -> bool:
    """Pages send forms, and tell who asks by a cookie of their own."""
    return path == "/admin" or path.startswith(("/admin/", "/connect/"))


def _is_submission(scope: Scope) -> bool:
    return scope["method"] == "POST" and bool(_TAKES_SUBMISSIONS.fullmatch(scope["path"]))


def _is_streamed(scope: Scope, headers: Mapping[str, str]) -> bool:
    """Whether the body is a message, which its route reads. A submission may be one, or JSON."""
    if _is_submission(scope):
        return bool(_MESSAGE.fullmatch(headers.get("content-type", "")))
    return scope["method"] == "POST" and bool(_TAKES_MESSAGES.fullmatch(scope["path"]))


async def _read(receive: Receive, most: int) -> bytes | None:
    """The whole body, counted as it comes, since it may not be as small as announced; None when it is too large."""
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return bytes(body)  # the client went away: nobody reads the answer
        body += message.get("body", b"")
        if len(body) > most:
            return None
        if not message.get("more_body", False):
            return bytes(body)


def _paced(receive: Receive) -> Receive:
    """Raises TooSlowError when the body stops coming, or drips. What comes behind it (that the client goes away) may
    take as long as it likes.
    """
    loop = asyncio.get_running_loop()
    until: float | None = loop.time() + _PATIENCE_S

    async def paced() -> Message:
        nonlocal until
        try:
            async with asyncio.timeout_at(until):
                message = await receive()
        except TimeoutError:
            raise TooSlowError("the body comes too slowly") from None
        if until is not None:
            until += len(message.get("body", b"")) / _SLOWEST
            if not message.get("more_body", False):
                until = None
        return message

    return paced


def _replay(body: bytes, receive: Receive) -> Receive:
    """Gives the body to the application as one message."""
    waiting = True

    async def replaying() -> Message:
        nonlocal waiting
        if waiting:
            waiting = False
            return {"type": "http.request", "body": body, "more_body": False}
        return await receive()

    return replaying


def _bad_address(scope: Scope) -> ProblemResponse | None:
    """Paths and queries must be UTF-8 text without NUL: servers replace what is not, and two ids would become one. A
    slash that is percent-encoded would be taken for one between two names; an entity_id is all the rest of its path.
    """
    raw_path: bytes = scope.get("raw_path") or scope["path"].encode()
    query: bytes = scope.get("query_string", b"")
    if len(raw_path) > _LONGEST_PATH or len(query) > _LONGEST_QUERY:
        return ProblemResponse(400, "address_too_long", "the address is too long")
    for part, plain in (("path", unquote_to_bytes(raw_path)), ("query", unquote_to_bytes(query.replace(b"+", b" ")))):
        if b"\0" in plain:
            return ProblemResponse(422, "invalid", f"the {part} contains a NUL character")
        try:
            plain.decode("utf-8")
        except UnicodeDecodeError:
            return ProblemResponse(400, "bad_request", f"the {part} is not UTF-8 text, percent-encoded")
    record = _RECORD.match(raw_path)
    if b"%2f" in raw_path[: record.end() if record else None].lower():
        detail = "the path has a slash that is percent-encoded (%2F), which only an entity_id may have"
        return ProblemResponse(422, "invalid", detail)
    names = [name for name, _ in parse_qsl(query.decode("ascii", "replace"), keep_blank_values=True)]
    repeated = next((name for name in names if names.count(name) > 1), None)
    if repeated is not None:  # which of the two was meant?
        return ProblemResponse(422, "invalid", f"the parameter {repeated[:100]!r} is given more than once")
    return None


_CLOSED = {"connection": "close"}


def _ambiguous(headers: Headers) -> ProblemResponse | None:
    """What a proxy in front may have read otherwise: where the body ends (RFC 9112 §6.1), or who asks."""
    if "content-length" in headers and "transfer-encoding" in headers:
        detail = "Content-Length and Transfer-Encoding exclude each other"
        return ProblemResponse(400, "bad_request", detail, headers=_CLOSED)
    for name in ("authorization", "content-type", "idempotency-key"):
        if len(headers.getlist(name)) > 1:
            detail = f"the header {name.title()} is given more than once"
            return ProblemResponse(400, "bad_request", detail, headers=_CLOSED)
    return None


def _is_protected(path: str) -> bool:
    """Webhooks carry no token, but a signature, which their route checks before it reads anything else; and browsers
    follow links, whose secret is in them.
    """
    return path == "/v1" or (path.startswith("/v1/") and path not in _SIGNED and _LINKED.fullmatch(path) is None)


_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


def _method(scope: Scope) -> str:
    """The method as a label: a client's own invention must not become a new time series."""
    return scope["method"] if scope["method"] in _METHODS else "other"


def _route(scope: Scope) -> str:
    """The route's template, so that no id becomes a label or stands in the log."""
    route = scope.get("route")
    return str(getattr(route, "path", "none"))
