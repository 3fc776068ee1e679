"""An OpenID provider with a page of its own, for a browser: it runs in a thread, since Playwright has the test's loop.

It calls itself `localhost`, the gateway is at 127.0.0.1: for a browser that is another site, as a real one is.
"""

from __future__ import annotations

import asyncio
import functools
import html
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlencode

from joserfc import jwt
from joserfc.jwk import RSAKey

from mailgate.clock import SECOND, system_clock
from tests.authserver import CLIENT_ID, AuthServer, Code

_PAGE = """HTTP/1.1 200 OK\r\ncontent-type: text/html; charset=utf-8\r\nconnection: close\r\n\r\n<!doctype html>
<html lang="en"><title>Example ID</title><main><h1>Example ID</h1><form action="/authorize">{fields}
<button name="user" value="cleo">Go on as cleo</button> <button name="user" value="mallory">Go on as mallory</button>
<button name="user" value="nobody">No</button></form></main></html>"""


class Provider(AuthServer):
    """Asks who it is, and believes it."""

    @property
    def url(self) -> str:
        return f"http://localhost:{self.port}"

    async def _answer(self, method: str, path: str, form: dict[str, str]) -> tuple[int, Any]:
        if path != "/authorize":
            return await super()._answer(method, path, form)
        user = form.pop("user", None)
        if user is None:
            fields = "".join(f'<input type="hidden" name="{name}" value="{html.escape(form[name])}">' for name in form)
            return 200, _PAGE.format(fields=fields).encode()
        if user != "nobody":
            back = self.consent(f"{self.url}/authorize?{urlencode(form)}", user)
        else:
            back = f"{form['redirect_uri']}?{urlencode({'error': 'access_denied', 'state': form['state']})}"
        return 302, f"HTTP/1.1 302 Found\r\nlocation: {back}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n".encode()


_key = functools.cache(lambda: RSAKey.generate_key(2048, {"kid": "one"}))
"""One for all: the gateway keeps it for an hour."""


@contextmanager
def provider(port: int) -> Iterator[Provider]:
    """The provider, at this port."""
    made = Provider(system_clock)

    def id_token(code: Code) -> str:
        now_s = system_clock() // SECOND
        claims = {"iss": made.url, "aud": CLIENT_ID, "sub": code.user, "iat": now_s, "exp": now_s + 300}
        return jwt.encode(
            {"alg": "RS256", "kid": "one"}, claims | {"nonce": code.nonce, "preferred_username": code.user}, _key()
        )

    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()

    def wait_for(work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, loop).result(30)

    wait_for(made.start(port))
    made.id_token = id_token
    made.documents = {
        "/.well-known/openid-configuration": {
            "issuer": made.url,
            "authorization_endpoint": made.url + "/authorize",
            "token_endpoint": made.url + "/token",
            "jwks_uri": made.url + "/keys",
        },
        "/keys": {"keys": [_key().as_dict(private=False)]},
    }
    try:
        yield made
    finally:
        wait_for(made.stop())
        loop.call_soon_threadsafe(loop.stop)
        thread.join(30)
        loop.close()
