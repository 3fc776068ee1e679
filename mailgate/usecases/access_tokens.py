"""Access tokens for connections: one that is good, renewed in time, and once more when a mail server refused it.

    bearer → the token that is kept, while it is good
           → else whoever claims the consent asks its provider, writes down what it gave, and only then uses it
           → the others wait for that, in this process and in any

A provider that can't be reached, or answers 5xx or nonsense, is left alone for a growing pause; a token that is still
good serves on meanwhile. Only `invalid_grant` ends a consent.
"""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Awaitable, Callable, Mapping
from typing import Final, TypeVar

import structlog

from connectors.errors import AuthError
from connectors.model import BearerAuth
from connectors.oauth.client import TokenClient
from connectors.oauth.errors import ConsentLapsedError, TokenEndpointError
from connectors.oauth.model import Tokens
from mailgate.clock import SECOND, Clock
from mailgate.consents.model import Consent, Given, Kept, ProviderName, pause, renewal
from mailgate.consents.providers import Offered
from mailgate.store.consents import Consents
from mailgate.store.subscriptions import Subscriptions

_log = structlog.get_logger("mailgate.consents")
T = TypeVar("T")

LOOK_S: Final = 0.1
"""How often who waits for another process looks."""
LOOKS: Final = 700
AT_ONCE: Final = 8
"""Renewals that are not waited for by anybody, at the same time: a provider that is slow holds up few others."""
SHORTEST_S: Final = 30
"""A token that is said to be good for less is used nevertheless; else none of that provider would ever be."""
_ROUNDS: Final = 8
"""Refresh tokens that may be refused, and changes by others, before it is given up for now."""


class AccessTokens:
    """The access tokens of one process."""

    def __init__(
        self,
        consents: Consents,
        subscriptions: Subscriptions,
        providers: Mapping[ProviderName, Offered],
        client: TokenClient,
        clock: Clock,
        owner: str,
        *,
        ahead_s: int,
    ) -> None:
        self.on_lapsed: Callable[[], None] = lambda: None
        self._consents = consents
        self._subscriptions = subscriptions
        self._providers = providers
        self._client = client
        self._clock = clock
        self._owner = owner
        self._ahead = ahead_s * SECOND
        self._turns: dict[str, asyncio.Lock] = {}
        self._asking: set[asyncio.Task[None]] = set()

    @property
    def consents(self) -> Consents:
        """What is kept of them."""
        return self._consents

    @property
    def providers(self) -> Mapping[ProviderName, Offered]:
        """Those that are set up."""
        return self._providers

    @property
    def client(self) -> TokenClient:
        """Asks the providers."""
        return self._client

    async def close(self) -> None:
        """What was asked for is written down before the end: the old refresh token may be void already."""
        if self._asking:
            await asyncio.wait(set(self._asking))
        await self._client.close()

    async def logged_in(self, mailbox_id: str, username: str, connect: Callable[[BearerAuth], Awaitable[T]]) -> T:
        """What `connect` makes of a good token. When the server refuses that, once more with a new one. Raises what
        `connect` raises, ConsentLapsedError and TokenEndpointError.
        """
        bearer = await self.bearer(mailbox_id, username)
        try:
            return await connect(bearer)
        except ConsentLapsedError:
            raise
        except AuthError:
            _log.info("token_refused", mailbox_id=mailbox_id)
        again = await self.bearer(mailbox_id, username, refused=bearer.token)
        return await connect(again)

    async def bearer(self, mailbox_id: str, username: str, *, refused: str | None = None) -> BearerAuth:
        """A good token, another than `refused`. Raises ConsentLapsedError: only a new consent helps;
        TokenEndpointError: later; AuthError: there is no consent.
        """
        consent = await self._good(mailbox_id, refused)
        return BearerAuth(username, consent.kept.access or "", consent.expires_at)

    def given(self, provider: ProviderName, tokens: Tokens, refresh_token: str) -> Given:
        """A new consent with these tokens."""
        now = self._clock()
        expires_at = now + tokens.expires_in_s * SECOND
        kept = Kept((refresh_token,), tokens.access_token)
        return Given(provider, kept, expires_at, renewal(now, expires_at, self._ahead))

    async def renew_due(self) -> None:
        """Renew what is due, ahead of its expiry; a consent that lapsed is noticed here, whether its mailbox is
        connected or not. A tenant without synchronization asks nobody.
        """
        places = asyncio.Semaphore(AT_ONCE)

        async def renew(mailbox_id: str, tenant_id: str) -> None:
            async with places:
                if (await self._subscriptions.allowed(tenant_id, self._clock())).sync:
                    await self._renew_one(mailbox_id)

        async with asyncio.TaskGroup() as together:
            for mailbox_id, tenant_id in await self._consents.due(self._clock()):
                together.create_task(renew(mailbox_id, tenant_id))

    async def _renew_one(self, mailbox_id: str) -> None:
        try:
            await self._good(mailbox_id, None)
        except (AuthError, TokenEndpointError) as error:
            _log.warning("consent_not_renewed", mailbox_id=mailbox_id, error=str(error))

    async def _good(self, mailbox_id: str, refused: str | None) -> Consent:
        turn = self._turns.setdefault(mailbox_id, asyncio.Lock())
        try:
            async with turn:
                return await self._look(mailbox_id, refused)
        finally:
            if not turn.locked():
                self._turns.pop(mailbox_id, None)

    async def _look(self, mailbox_id: str, refused: str | None) -> Consent:
        rounds = 0
        for _ in range(LOOKS):
            consent = await self._standing(mailbox_id)
            now = self._clock()
            if consent.access(now, refused) is not None:
                return consent
            if not consent.may_be_asked(now):
                wait_s = (consent.retry_at - now) / SECOND
                raise TokenEndpointError(consent.last_error or "the provider gives no tokens now", retry_after_s=wait_s)
            if not await self._consents.claim(consent, self._owner, now):
                await asyncio.sleep(LOOK_S)
                continue
            rounds += 1
            if rounds > _ROUNDS:
                break
            # Whoever waits may be cut off; what the provider gives must not be lost with them.
            asking = asyncio.create_task(self._renew(consent), name=f"consent {mailbox_id}")
            self._asking.add(asking)
            asking.add_done_callback(self._asking.discard)
            await asyncio.shield(asking)
        raise TokenEndpointError("others ask the provider for tokens, without an end")

    async def _standing(self, mailbox_id: str) -> Consent:
        consent = await self._consents.find(mailbox_id)
        if consent is None:
            raise AuthError("the mailbox has no consent; sign in to its provider")
        if consent.lapsed_at is not None:
            raise ConsentLapsedError(consent.last_error or "the consent is over; sign in again")
        return consent

    async def _renew(self, consent: Consent) -> None:
        """Ask the provider with the claim in hand, and write down what it said. Raises TokenEndpointError."""
        try:
            tokens = await self._asked(consent)
        except ConsentLapsedError as error:
            if not await self._consents.refused(consent, str(error), self._clock()):
                _log.warning("consent_lapsed", mailbox_id=consent.mailbox_id, reason=str(error))
                self.on_lapsed()
            return
        except TokenEndpointError as error:
            asked = None if error.retry_after_s is None else round(error.retry_after_s * SECOND)
            wait = pause(consent.failures + 1, asked, zlib.crc32(consent.mailbox_id.encode()))
            await self._consents.failed(consent, str(error), self._clock() + wait)
            access = consent.kept.access
            if access is None or self._clock() >= consent.expires_at:
                raise
            return
        now = self._clock()
        expires_at = now + max(tokens.expires_in_s, SHORTEST_S) * SECOND
        await self._consents.renewed(consent, tokens, now, expires_at, renewal(now, expires_at, self._ahead))

    async def _asked(self, consent: Consent) -> Tokens:
        found = self._providers.get(ProviderName(consent.provider))
        if found is None:
            why = f"the provider {consent.provider} is not set up any more (oauth_{consent.provider}.client_id)"
            raise TokenEndpointError(why, ours=True)
        return await self._client.refresh(found.provider, consent.kept.refresh[0])
