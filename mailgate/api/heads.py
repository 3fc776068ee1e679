"""HEAD: answers as GET does, without the body (RFC 9110 §9.3.2)."""

from __future__ import annotations

from starlette.types import ASGIApp, Message, Receive, Scope, Send


class Heads:
    """ASGI middleware that runs HEAD as GET and keeps status and headers of the answer only."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "HEAD":
            await self._app(scope, receive, send)
            return

        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                await send(message)
            elif not message.get("more_body", False):
                await send({"type": "http.response.body", "body": b"", "more_body": False})

        # A copy, since the server must go on seeing HEAD: it counts the bytes of other answers.
        inner = {**scope, "method": "GET", "head": True}
        try:
            await self._app(inner, receive, sending)
        finally:
            if "route" in inner:  # for metrics and log
                scope["route"] = inner["route"]
