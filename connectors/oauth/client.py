"""The token endpoint: one POST, bounded in time and size, without redirects, proxies of the environment or cookies."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Mapping
from typing import Final
from urllib.parse import urlsplit

import httpx

from connectors.oauth.errors import TokenEndpointError
from connectors.oauth.model import Provider, Tokens, read_answer

LARGEST_ANSWER: Final = 256 * 1024
_LONGEST_PAUSE_S: Final = 3_600.0


class TokenClient:
    """Asks authorisation servers. Their addresses are the operator's, so that they are not judged."""

    def __init__(self, context: Callable[[], ssl.SSLContext], timeout_s: float) -> None:
        """`context`: whom to trust, made when it is first needed; `timeout_s`: for a whole answer, in seconds."""
        self._timeout_s = timeout_s
        self._context = context
        self._made: httpx.AsyncClient | None = None

    @property
    def _http(self) -> httpx.AsyncClient:
        if self._made is None:
            self._made = httpx.AsyncClient(
                verify=self._context(), timeout=self._timeout_s, trust_env=False, follow_redirects=False
            )
        return self._made

    async def close(self) -> None:
        """Give the connections back."""
        made, self._made = self._made, None
        if made is not None:
            await made.aclose()

    async def redeem(self, provider: Provider, *, code: str, verifier: str, redirect_uri: str) -> Tokens:
        """The tokens for an authorisation code (RFC 6749 §4.1.3; RFC 7636 §4.5). Raises as `read_answer` does."""
        asked = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": redirect_uri,
            "code_verifier": verifier,
        }
        return await self._ask(provider, asked, (code, verifier))

    async def refresh(self, provider: Provider, refresh_token: str) -> Tokens:
        """New tokens for a refresh token (RFC 6749 §6). Raises as `read_answer` does."""
        asked = {"grant_type": "refresh_token", "refresh_token": refresh_token}
        return await self._ask(provider, asked, (refresh_token,))

    async def document(self, url: str) -> bytes:
        """What is at this address of a provider. Raises TokenEndpointError for anything but 200."""
        status, body, _ = await self._send("GET", url, None)
        if status != httpx.codes.OK:
            raise TokenEndpointError(f"{urlsplit(url).hostname} answered {status}")
        return body

    async def _ask(self, provider: Provider, asked: Mapping[str, str], secrets: tuple[str, ...]) -> Tokens:
        form = {**asked, "client_id": provider.client_id}
        if provider.client_secret:
            form["client_secret"] = provider.client_secret
        status, body, pause_s = await self._send("POST", provider.token_url, form)
        host = urlsplit(provider.token_url).hostname or ""
        hidden = (*secrets, provider.client_secret)
        return read_answer(status, body, host=host, secrets=hidden, retry_after_s=pause_s)

    async def _send(self, method: str, url: str, form: Mapping[str, str] | None) -> tuple[int, bytes, float | None]:
        host = urlsplit(url).hostname
        try:
            async with (
                asyncio.timeout(self._timeout_s),
                self._http.stream(method, url, data=form, headers={"accept": "application/json"}) as answer,
            ):
                body = bytearray()
                async for chunk in answer.aiter_bytes():
                    body += chunk
                    if len(body) > LARGEST_ANSWER:
                        raise TokenEndpointError(f"{host} answered more than {LARGEST_ANSWER} bytes")
                return answer.status_code, bytes(body), _pause_s(answer.headers.get("retry-after"))
        except TimeoutError:
            raise TokenEndpointError(f"{host} did not answer within {self._timeout_s:g} s") from None
        except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
            # Never the error's request, in which the secrets stand.
            raise TokenEndpointError(f"{host} can't be reached: {str(error) or type(error).__name__}") from None


def _pause_s(value: str | None) -> float | None:
    """Retry-After in seconds (RFC 9110 §10.2.3); a date is not worth its clock."""
    if value is None or not value.strip().isascii() or not value.strip().isdigit():
        return None
    return min(float(value), _LONGEST_PAUSE_S)
