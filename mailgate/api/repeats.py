"""`Idempotency-Key`: ASGI middleware by which a POST that is repeated gets the first one's answer.

Only answers of success are kept: what was refused made nothing and may be tried again. Kept answers are sealed, since
one may hold the secret of a new token.
"""

from __future__ import annotations

import hashlib
import json

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mailgate.api.problems import ProblemResponse, from_error
from mailgate.api.security import Principal
from mailgate.api.services import Services
from mailgate.clock import HOUR
from mailgate.errors import MailgateError
from mailgate.store import idempotency
from mailgate.store.idempotency import Kept

_LONGEST_KEY = 200
_KEPT_HEADERS = ("content-type", "location")


class Repeats:
    """Keeps answers for repeated POSTs."""

    def __init__(self, app: ASGIApp, *, services: Services) -> None:
        self._app = app
        self._parts = services

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        who: Principal | None = scope.get("principal")
        key = Headers(scope=scope).get("idempotency-key") if scope["type"] == "http" else None
        if who is None or key is None or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        if not 0 < len(key) <= _LONGEST_KEY or not key.isprintable():
            detail = f"Idempotency-Key must have 1 to {_LONGEST_KEY} printable characters"
            await ProblemResponse(400, "bad_request", detail)(scope, receive, send)
            return
        parts = self._parts
        keep = parts.settings.limits.idempotency_hours * HOUR
        try:
            kept = await idempotency.reserve(
                parts.db, who.token_id, key, self._fingerprint(scope), keep=keep, now=parts.clock()
            )
        except MailgateError as error:
            await from_error(error)(scope, receive, send)
            return
        context = f"idempotency:{who.token_id}:{key}"
        if kept is not None:
            await _send_kept(parts.ring.open_sealed(kept.body, context), kept.status, send)
            return
        answer = _Answer(send)
        try:
            await self._app(scope, receive, answer.send)
        finally:
            made = 200 <= answer.status < 300 and answer.complete
            sealed = parts.ring.seal(answer.pack(), context) if made else b""
            await idempotency.settle(parts.db, who.token_id, key, Kept(answer.status, sealed) if made else None)

    def _fingerprint(self, scope: Scope) -> bytes:
        """Of everything that makes the request; keyed, since bodies hold passwords of mailboxes."""
        path, query, body = scope["path"].encode(), scope.get("query_string", b""), scope.get("body", b"")
        parts = (scope["method"].encode(), path, query, body)
        digests = b"".join(hashlib.sha256(part).digest() for part in parts)
        return self._parts.ring.fingerprint(digests, "idempotency")


class _Answer:
    """Listens to an answer as it is sent."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._headers: list[tuple[str, str]] = []
        self._body = bytearray()
        self.status = 0
        self.complete = False

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = Headers(raw=message["headers"])
            self._headers = [(name, headers[name]) for name in _KEPT_HEADERS if name in headers]
        elif message["type"] == "http.response.body":
            self._body += message.get("body", b"")
            self.complete = not message.get("more_body", False)
        await self._send(message)

    def pack(self) -> bytes:
        """Headers and body as one text."""
        return json.dumps({"headers": self._headers, "body": self._body.decode("utf-8")}).encode()


async def _send_kept(packed: bytes, status: int, send: Send) -> None:
    answer = json.loads(packed)
    body = answer["body"].encode()
    headers = [(name.encode(), value.encode()) for name, value in answer["headers"]]
    headers += [(b"content-length", str(len(body)).encode()), (b"idempotent-replayed", b"true")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
