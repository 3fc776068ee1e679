"""The access log's part of the interface: ASGI middleware that writes down what tokens change, and counts what they
read of messages.

A change is written before its answer leaves: whoever was told that something happened can find who did it. Refused
ones are written too. What stands in an entry comes from the path alone: no body and no query, but for the name of a
tenant where the path has none.
"""

from __future__ import annotations

import json
import re
from urllib.parse import parse_qsl

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mailgate.api.security import Principal
from mailgate.store.access_log import Access, Kind
from mailgate.store.tokens import Scope as TokenScope
from mailgate.usecases.accesses import write_down
from mailgate.usecases.parts import Services
from mailgate.usecases.types import TENANT_PATTERN

_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
_TENANT = re.compile(TENANT_PATTERN)
_MAIL = re.compile(
    r"/v1/(tenants/\{tenant_id\}/(messages|threads|mailboxes/\{mailbox_id\}/quarantine/\{n\}/raw)|snapshot)(/.*)?"
)
"""Routes that show what stands in messages."""


class Accesses:
    """Writes what was done with a token."""

    def __init__(self, app: ASGIApp, *, services: Services) -> None:
        self._app = app
        self._parts = services

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        who: Principal | None = scope.get("principal")
        if scope["type"] != "http" or who is None:
            await self._app(scope, receive, send)
            return

        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                await self._write(scope, who, message["status"])
            await send(message)

        await self._app(scope, receive, sending)

    async def _write(self, scope: Scope, who: Principal, status: int) -> None:
        route = re.sub(r":\w+}", "}", str(getattr(scope.get("route"), "path", "none")))
        changes = scope["method"] not in _SAFE
        if not changes and (status >= 400 or TokenScope.ADMIN in who.scopes or not _MAIL.fullmatch(route)):
            return
        client = scope.get("client")
        access = Access(
            kind=Kind.CHANGE if changes else Kind.READ,
            actor=str(who.actor),
            tenant_id=_tenant_of(scope, who),
            method=scope["method"],
            route=route,
            targets=_targets(scope) if changes else {},
            status=status,
            at=self._parts.clock(),
            address=None if client is None else client[0],
        )
        await write_down(self._parts, access)


def _targets(scope: Scope) -> dict[str, str]:
    given = scope.get("path_params") or {}
    return {name: str(value) for name, value in given.items() if name != "tenant_id"}


def _tenant_of(scope: Scope, who: Principal) -> str | None:
    """The tenant that was meant: in the path, else in the query or the body, else the token's own."""
    named = (scope.get("path_params") or {}).get("tenant_id")
    if named is None:
        named = dict(parse_qsl(scope.get("query_string", b"").decode("ascii", "replace"))).get("tenant")
    if named is None and scope.get("body"):
        named = _in_body(scope["body"])
    return named if isinstance(named, str) and _TENANT.fullmatch(named) else who.tenant_id


def _in_body(body: bytes) -> object:
    try:
        document = json.loads(body)
    except ValueError:
        return None
    return document.get("tenant_id", document.get("tenant")) if isinstance(document, dict) else None
