"""An authorisation server on loopback, in the test's own event loop: consents, codes with PKCE, refresh tokens that
rotate, introspection for mail servers, and OpenID Connect.

Time is the test's. `faults` are answers that are given instead of tokens, one after the other: a status, `SLOW` (no
answer until `release`), or bytes that are sent as they are. Consents are given by `consent`, as a browser would go
through them.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import json
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

from mailgate.clock import SECOND, Instant

SLOW = "slow"
CLIENT_ID, CLIENT_SECRET = "gateway", "hush-of-the-client"


@dataclass
class Grant:
    """What a person consented to. `current`: the one refresh token that is good."""

    user: str
    current: str
    previous: str | None = None
    revoked: bool = False


@dataclass
class Code:
    """An authorisation code, good once."""

    user: str
    challenge: str
    redirect_uri: str
    nonce: str | None = None


@dataclass
class AuthServer:
    """One server. `grace`: the refresh token before the last is good as well, as some servers have it. `rotate` False:
    refresh tokens stay as they are.
    """

    clock: Callable[[], Instant]
    life_s: int | None = 3600
    rotate: bool = True
    grace: bool = False
    refuse: str | None = None
    faults: list[int | str | bytes] = field(default_factory=list)
    grants: list[Grant] = field(default_factory=list)
    access: dict[str, tuple[str, Instant]] = field(default_factory=dict)
    codes: dict[str, Code] = field(default_factory=dict)
    asked: list[dict[str, str]] = field(default_factory=list)
    headers: list[str] = field(default_factory=list)
    before_answer: Callable[[], object] | None = None
    id_token: Callable[[Code], str] | None = None
    documents: dict[str, Any] = field(default_factory=dict)
    port: int = 0
    heard: asyncio.Event = field(default_factory=asyncio.Event)
    _server: asyncio.Server | None = None
    _writers: set[asyncio.StreamWriter] = field(default_factory=set)
    _slow: asyncio.Event = field(default_factory=asyncio.Event)

    async def start(self, port: int = 0) -> AuthServer:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", port)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def stop(self) -> None:
        self._slow.set()
        for writer in self._writers:
            writer.transport.abort()
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def release(self) -> None:
        """What is slow is answered."""
        self._slow.set()

    # What people and tests do.

    def grant(self, user: str) -> str:
        """A consent that was given elsewhere; its refresh token."""
        made = Grant(user, _random("rt"))
        self.grants.append(made)
        return made.current

    def token(self, user: str) -> str:
        """An access token."""
        made = _random("at")
        self.access[made] = (user, self.clock() + (self.life_s or 3600) * SECOND)
        return made

    def revoke(self, user: str) -> None:
        """The person takes all consents back; access tokens stay good until they expire."""
        for grant in self.grants:
            grant.revoked |= grant.user == user

    def void(self) -> None:
        """No access token is good any more."""
        self.access.clear()

    def is_good(self, user: str, token: str) -> bool:
        """Whether the token is this person's, and not expired."""
        found = self.access.get(token)
        return found is not None and found[0] == user and found[1] > self.clock()

    def consent(self, url: str, user: str) -> str:
        """The person signs in and agrees: where the browser is sent back to."""
        asked = {name: values[0] for name, values in parse_qs(urlsplit(url).query).items()}
        assert asked["response_type"] == "code"
        assert asked["client_id"] == CLIENT_ID
        assert asked["code_challenge_method"] == "S256"
        code = _random("code")
        self.codes[code] = Code(user, asked["code_challenge"], asked["redirect_uri"], asked.get("nonce"))
        return asked["redirect_uri"] + "?" + urlencode({"state": asked["state"], "code": code})

    def refreshes(self) -> list[str]:
        """The refresh tokens that were sent, in order."""
        return [form["refresh_token"] for form in self.asked if form.get("grant_type") == "refresh_token"]

    # HTTP.

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                self.headers.append(head)
                lines = head.split("\r\n")
                method, target, _ = lines[0].split(" ")
                length = next((int(line[15:]) for line in lines if line.lower().startswith("content-length:")), 0)
                body = (await reader.readexactly(length)).decode()
                form = {name: values[0] for name, values in parse_qs(body or urlsplit(target).query).items()}
                status, answer = await self._answer(method, urlsplit(target).path, form)
                if self.before_answer is not None:
                    self.before_answer()
                if isinstance(answer, bytes):
                    raw = answer
                else:
                    text = json.dumps(answer).encode()
                    raw = b"HTTP/1.1 %d X\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s" % (
                        status,
                        len(text),
                        text,
                    )
                writer.write(raw)
                await writer.drain()
                if isinstance(answer, bytes):
                    break
        writer.close()
        self._writers.discard(writer)

    async def _answer(self, method: str, path: str, form: dict[str, str]) -> tuple[int, Any]:
        if path == "/introspect":
            user, until = self.access.get(form.get("token", ""), ("", 0))
            good = until > self.clock()
            return 200, {"active": good, "username": user, "exp": until // SECOND} if good else {"active": False}
        if path in self.documents:
            return 200, self.documents[path]
        if path != "/token" or method != "POST":
            return 404, {"error": "not_found"}
        self.asked.append(form)
        self.heard.set()
        if self.faults:
            fault = self.faults.pop(0)
            if fault == SLOW:
                await self._slow.wait()
            else:
                return (fault, {"error": "temporarily_unavailable"}) if isinstance(fault, int) else (200, fault)
        if self.refuse is not None:
            return 400, {"error": self.refuse, "error_description": f"because of {form.get('refresh_token')}"}
        if (form.get("client_id"), form.get("client_secret")) != (CLIENT_ID, CLIENT_SECRET):
            return 401, {"error": "invalid_client"}
        return self._refresh(form) if form.get("grant_type") == "refresh_token" else self._redeem(form)

    def _redeem(self, form: dict[str, str]) -> tuple[int, Any]:
        code = self.codes.pop(form.get("code", ""), None)
        digest = hashlib.sha256(form.get("code_verifier", "").encode()).digest()
        proven = base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
        if code is None or code.redirect_uri != form.get("redirect_uri") or code.challenge != proven:
            return 400, {"error": "invalid_grant"}
        made = self._tokens(code.user, self.grant(code.user))
        if self.id_token is not None:
            made["id_token"] = self.id_token(code)
        return 200, made

    def _refresh(self, form: dict[str, str]) -> tuple[int, Any]:
        sent = form["refresh_token"]
        for grant in self.grants:
            if not grant.revoked and (sent == grant.current or (self.grace and sent == grant.previous)):
                if not self.rotate:
                    return 200, self._tokens(grant.user, None)
                grant.previous, grant.current = grant.current, _random("rt")
                return 200, self._tokens(grant.user, grant.current)
        return 400, {"error": "invalid_grant", "error_description": "Token has been expired or revoked."}

    def _tokens(self, user: str, refresh: str | None) -> dict[str, Any]:
        made: dict[str, Any] = {"access_token": self.token(user), "token_type": "Bearer"}
        if self.life_s is not None:
            made["expires_in"] = self.life_s
        if refresh is not None:
            made["refresh_token"] = refresh
        return made


def _random(kind: str) -> str:
    return f"{kind}-{secrets.token_urlsafe(24)}"


def settings_of(port: int) -> dict[str, Any]:
    """The settings of a gateway that knows the server."""
    return {
        "client_id": CLIENT_ID,
        "client_secret": CLIENT_SECRET,
        "authorize_url": f"http://127.0.0.1:{port}/authorize",
        "token_url": f"http://127.0.0.1:{port}/token",
        "scopes": ["mail", "offline_access"],
        "hosts": ["127.0.0.1", "localhost", "imap.acme.example", "smtp.acme.example"],
    }
