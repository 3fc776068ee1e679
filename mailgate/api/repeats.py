"""`Idempotency-Key`: ASGI middleware by which a POST that is repeated gets the first one's answer.

Only answers of success are kept: what was refused made nothing and may be tried again. Kept answers are sealed, since
one may hold the secret of a new token.
"""

from __future__ import annotations

import hashlib
import json

from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mailgate.api.problems import ProblemResponse, from_error
from mailgate.api.security import Principal
from mailgate.clock import HOUR
from mailgate.errors import MailgateError
from mailgate.store import idempotency
from mailgate.store.idempotency import Kept
from mailgate.usecases.parts import Services

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
        if not 0 < len(key) <= _LONGEST_KEY or not all("!" <= each <= "~" for each in key):
            detail = f"Idempotency-Key must have 1 to {_LONGEST_KEY} printable ASCII characters, without spaces"
            await ProblemResponse(400, "bad_request", detail)(scope, receive, send)
            return
        claim = Claim(self._parts, who.token_id, key, scope)
        if scope.get("streamed"):
            scope["claim"] = claim  # what the request is, is only known when its route has read it
        else:
            try:
                kept = await claim.make(hashlib.sha256(scope.get("body", b"")).digest())
            except MailgateError as error:
                await from_error(error)(scope, receive, send)
                return
            if kept is not None:
                await kept(scope, receive, send)
                return
        answer = _Answer(send)
        try:
            await self._app(scope, receive, answer.send)
        finally:
            await claim.settle(answer)


class Claim:
    """One request's claim on its key."""

    def __init__(self, parts: Services, token_id: str, key: str, scope: Scope) -> None:
        self._parts = parts
        self._token_id = token_id
        self._key = key
        self._scope = scope
        self._made = False

    async def make(self, body_digest: bytes) -> Response | None:
        """Claim the key for this request with its body; the answer if one was given before. Raises PreconditionError
        when the key was used for something else, ConflictError while the first request is at work.
        """
        parts = self._parts
        keep = parts.settings.limits.idempotency_hours * HOUR
        kept = await idempotency.reserve(
            parts.db, self._token_id, self._key, self._fingerprint(body_digest), keep=keep, now=parts.clock()
        )
        if kept is not None:
            return _again(parts.ring.open_sealed(kept.body, self._context), kept.status)
        self._made = True
        return None

    async def settle(self, answer: _Answer) -> None:
        """Keep the answer, if it was a success; else nothing was made and the key is free again."""
        if not self._made:
            return
        made = 200 <= answer.status < 300 and answer.complete
        sealed = self._parts.ring.seal(answer.pack(), self._context) if made else b""
        await idempotency.settle(
            self._parts.db, self._token_id, self._key, Kept(answer.status, sealed) if made else None
        )

    @property
    def _context(self) -> str:
        return f"idempotency:{self._token_id}:{self._key}"

    def _fingerprint(self, body_digest: bytes) -> bytes:
        """Of everything that makes the request; keyed, since bodies hold passwords of mailboxes."""
        scope = self._scope
        parts = (scope["method"].encode(), scope["path"].encode(), scope.get("query_string", b""))
        digests = b"".join(hashlib.sha256(part).digest() for part in parts) + body_digest
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


def _again(packed: bytes, status: int) -> Response:
    answer = json.loads(packed)
    return Response(answer["body"].encode(), status, {**dict(answer["headers"]), "idempotent-replayed": "true"})
