"""Refusals as pages: what the gate, the framework or a fault inside would answer about a page is a page as well.

What stands before a page (the gate: too large, not understood, closed for a restore) and what a page does not foresee
(the database is away, a fault) ends in a problem document, which is for programs. This ASGI middleware stands outside
all that, and gives people the same with the same status, in their language, with the number by which the log has the
rest. It asks nothing of the database: that may be what is away.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mailgate.admin import faults, security
from mailgate.admin.languages import language, negotiate
from mailgate.admin.rendering import render
from mailgate.settings import Settings

LANGUAGE = "mailgate.language"
"""In the scope: the language of who asks, once that is known."""
_PROBLEM = "application/problem+json"
_REPLACED = frozenset({"content-length", "content-type"})


class Shown:
    """See above; outermost of all."""

    def __init__(self, app: ASGIApp, *, settings: Settings, below: Sequence[str]) -> None:
        self._below = below
        self._app = app
        self._settings = settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not self._is_page(scope["path"]):
            await self._app(scope, receive, send)
            return
        held: Message | None = None
        body = bytearray()

        async def sending(message: Message) -> None:
            nonlocal held
            if message["type"] == "http.response.start":
                kind = Headers(raw=message["headers"]).get("content-type", "")
                if kind.partition(";")[0] == _PROBLEM:
                    held = message
                    return
            if held is None:
                await send(message)
                return
            body.extend(message.get("body", b""))
            if not message.get("more_body", False):
                await self._show(scope, send, held, bytes(body))

        await self._app(scope, receive, sending)

    def _is_page(self, path: str) -> bool:
        return any(path == prefix or path.startswith(f"{prefix}/") for prefix in self._below)

    async def _show(self, scope: Scope, send: Send, start: Message, document: bytes) -> None:
        problem: dict[str, Any] = json.loads(document or b"{}")
        request = Request(scope)
        own = scope.get(LANGUAGE) or security.read_cookie(request, self._settings, security.LANGUAGE)
        words = language(negotiate(request.headers.get("accept-language"), own))
        status = int(start["status"])
        visitor = scope["path"].startswith("/connect/")
        title, meaning = faults.refusal(words, status)
        text = render(
            words.code,
            "connect_fault.html" if visitor else "fault.html",
            title=title,
            meaning=meaning,
            detail=problem.get("detail") if problem.get("type") == "backup_restored" else None,
            number=problem.get("request_id"),
            user=None,
            done=None,
            again=status in (429, 503) and scope["method"] == "GET",
        ).encode()
        raw = [(name, value) for name, value in start["headers"] if name.decode("latin-1").lower() not in _REPLACED]
        headers = MutableHeaders(raw=raw)
        for name, value in (security.VISITOR_HEADERS if visitor else security.HEADERS).items():
            headers[name] = value
        headers["cache-control"] = "no-store"
        headers["content-type"] = "text/html; charset=utf-8"
        headers["content-length"] = str(len(text))
        await send({**start, "headers": headers.raw})
        await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else text})
