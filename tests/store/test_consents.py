"""Renewing what was consented to: nothing that a provider gave is lost, nobody asks twice, and only a refused consent
ends one.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest
from sqlalchemy import select, update

from connectors.errors import AuthError, NetworkError
from connectors.model import BearerAuth
from connectors.oauth.client import TokenClient
from connectors.oauth.errors import ConsentLapsedError, TokenEndpointError
from connectors.oauth.model import Tokens
from mailgate.actors import SYSTEM
from mailgate.clock import DAY, HOUR, MINUTE, SECOND, Instant
from mailgate.consents.model import CLAIM, Given, Kept, ProviderName, pause, renewal
from mailgate.consents.providers import offered
from mailgate.settings import OAuthGenericSettings, Settings
from mailgate.store import tenants
from mailgate.store.consents import Consents
from mailgate.store.mailboxes import MailboxPatch, MailboxSpec
from mailgate.store.schema import consents, events, mailboxes
from mailgate.store.subscriptions import SubscriptionChange
from mailgate.store.transaction import Transaction
from mailgate.usecases.access_tokens import AccessTokens
from tests.authserver import SLOW, AuthServer, settings_of
from tests.store.conftest import NOW, Store

USER = "ann@acme.example"


@dataclass
class Time:
    at: Instant = NOW

    def __call__(self) -> Instant:
        return self.at


@dataclass
class World:
    """A mailbox with a consent, and processes that use it."""

    store: Store
    server: AuthServer
    time: Time
    mailbox_id: str
    processes: list[AccessTokens]

    def process(self, name: str = "two", timeout_s: float = 5) -> AccessTokens:
        settings = Settings(oauth_generic=OAuthGenericSettings(**settings_of(self.server.port)))
        client = TokenClient(ssl.create_default_context, timeout_s)
        made = AccessTokens(
            Consents(self.store.db, self.store.ring),
            self.store.subscriptions,
            offered(settings),
            client,
            self.time,
            name,
            ahead_s=300,
        )
        self.processes.append(made)
        return made

    @property
    def first(self) -> AccessTokens:
        return self.processes[0]

    async def bearer(self, refused: str | None = None) -> BearerAuth:
        return await self.first.bearer(self.mailbox_id, USER, refused=refused)

    async def kept(self) -> Kept:
        found = await self.first.consents.find(self.mailbox_id)
        assert found is not None
        return found.kept

    async def box(self) -> tuple[str, str | None, int]:
        columns = mailboxes.c
        query = select(columns.state, columns.state_reason, columns.config_version).where(columns.id == self.mailbox_id)
        async with self.store.db.read() as conn:
            return tuple((await conn.execute(query)).one())  # type: ignore[return-value]

    async def told(self) -> list[dict[str, str]]:
        query = select(events.c.payload).where(events.c.type == "mailbox.state_changed").order_by(events.c.seq)
        async with self.store.db.read() as conn:
            return [dict(row.payload) for row in await conn.execute(query)]


@pytest.fixture
async def world(store: Store) -> AsyncIterator[World]:
    await tenants.put(store.db, store.ring, store.log, "acme", "Acme", NOW, SYSTEM)
    change = SubscriptionChange(plan="professional")
    await store.subscriptions.set_outright("acme", change, NOW, SYSTEM)
    time = Time()
    server = await AuthServer(time).start()
    spec = MailboxSpec(
        address=USER,
        imap={"host": "imap.acme.example", "port": 993, "security": "tls", "username": USER},
        secrets={"imap": {"oauth2": "generic"}},
        given=Given(ProviderName.GENERIC, Kept((server.grant(USER),)), 0, 0),
    )
    box = await store.mailboxes.create("acme", spec, NOW, SYSTEM)
    made = World(store, server, time, box.id, [])
    made.process("one")
    yield made
    for process in made.processes:
        await process.close()
    await server.stop()


async def test_a_token_is_fetched_kept_and_renewed_ahead_of_its_end(world: World) -> None:
    first = await world.bearer()
    assert world.server.is_good(USER, first.token)
    assert first.expires_at == NOW + HOUR
    assert (await world.bearer()).token == first.token
    world.time.at += HOUR - 301 * SECOND
    assert (await world.bearer()).token == first.token
    world.time.at += 2 * SECOND
    second = await world.bearer()
    assert second.token != first.token
    assert len(world.server.refreshes()) == 2
    assert (await world.kept()).refresh == (world.server.grants[0].current,)


async def test_nothing_of_it_stands_in_clear(world: World) -> None:
    bearer = await world.bearer()
    async with world.store.db.read() as conn:
        row = (await conn.execute(select(consents))).one()
    for secret in (bearer.token, world.server.grants[0].current):
        assert secret.encode() not in row.tokens
        assert secret not in repr(row)
        assert secret not in repr(await world.first.consents.find(world.mailbox_id))


async def test_a_token_that_a_server_refused_is_renewed_once(world: World) -> None:
    """Two mail servers refuse the same token: the second refusal finds the new one there."""
    old = await world.bearer()
    new = await world.bearer(refused=old.token)
    assert new.token != old.token
    assert (await world.bearer(refused=old.token)).token == new.token
    assert len(world.server.refreshes()) == 2
    tried: list[str] = []

    async def connect(bearer: BearerAuth) -> str:
        tried.append(bearer.token)
        if len(tried) == 1:
            raise AuthError("no")
        return "in"

    assert await world.first.logged_in(world.mailbox_id, USER, connect) == "in"
    assert tried[0] == new.token
    assert tried[1] not in tried[:1]

    async def never(bearer: BearerAuth) -> str:
        tried.append(bearer.token)
        raise AuthError("no")

    del tried[:]
    with pytest.raises(AuthError):
        await world.first.logged_in(world.mailbox_id, USER, never)
    assert len(tried) == 2


async def test_many_at_once_ask_once(world: World) -> None:
    """In one process, and in two."""
    other = world.process()
    found = await asyncio.gather(
        *(world.bearer() for _ in range(5)), *(other.bearer(world.mailbox_id, USER) for _ in range(5))
    )
    assert len({bearer.token for bearer in found}) == 1
    assert len(world.server.refreshes()) == 1


async def test_who_is_cut_off_loses_nothing(world: World) -> None:
    """The provider has rotated already; the one who asked is gone."""
    world.server.faults = [SLOW]
    asking = asyncio.create_task(world.bearer())
    await world.server.heard.wait()
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    world.server.release()
    await world.first.close()
    assert (await world.kept()).refresh == (world.server.grants[0].current,)


async def test_who_stalled_beyond_its_claim_loses_nothing(world: World) -> None:
    """Another asked meanwhile with the same token: both answers are kept, and whichever is refused makes room."""
    world.server.grace = True
    consents_ = world.first.consents
    stalled = await consents_.find(world.mailbox_id)
    assert stalled is not None
    assert await consents_.claim(stalled, "stalled", NOW)
    assert not await consents_.claim(stalled, "two", NOW + CLAIM - 1)
    late = await world.first.client.refresh(
        world.first.providers[ProviderName.GENERIC].provider, stalled.kept.refresh[0]
    )
    world.time.at += CLAIM
    await world.bearer()
    quick = (await world.kept()).refresh[0]
    await consents_.renewed(stalled, late, NOW, NOW + HOUR, NOW + HOUR)
    assert (await world.kept()).refresh == (quick, late.refresh_token)
    # The provider turns out to keep only the late one.
    world.server.grace = False
    world.server.grants[0].current = late.refresh_token or ""
    world.time.at += HOUR
    assert world.server.is_good(USER, (await world.bearer()).token)
    assert (await world.kept()).refresh == (world.server.grants[0].current,)


async def test_an_answer_for_a_consent_that_was_given_anew_is_dropped(world: World) -> None:
    old = await world.first.consents.find(world.mailbox_id)
    assert old is not None
    again = Given(ProviderName.GENERIC, Kept((world.server.grant(USER),)), 0, 0)
    await world.store.mailboxes.update("acme", world.mailbox_id, MailboxPatch(given=again), NOW, SYSTEM)
    await world.first.consents.renewed(old, Tokens("at-old", "rt-old", 3600), NOW, NOW + HOUR, NOW + HOUR)
    assert await world.first.consents.refused(old, "why", NOW)
    assert await world.kept() == again.kept


@pytest.mark.parametrize("fault", [503, 500, 429, b"", b"HTTP/1.1 200 OK\r\n\r\n<html>", b"garbage\r\n\r\n"])
async def test_trouble_at_the_provider_disables_nothing(world: World, fault: int | bytes) -> None:
    before = await world.box()
    world.server.faults = [fault] * 2
    with pytest.raises(TokenEndpointError) as found:
        await world.bearer()
    assert isinstance(found.value, NetworkError)
    assert world.server.grants[0].current not in str(found.value)
    with pytest.raises(TokenEndpointError) as again:  # it is left alone for a while
        await world.bearer()
    assert len(world.server.asked) == 1
    assert again.value.retry_after_s
    assert await world.box() == before
    world.time.at += 10 * SECOND
    with pytest.raises(TokenEndpointError):
        await world.bearer()
    assert len(world.server.asked) == 2
    world.time.at += MINUTE
    assert world.server.is_good(USER, (await world.bearer()).token)
    assert await world.box() == before


async def test_a_provider_that_is_slow_holds_nobody_up_for_ever(world: World) -> None:
    world.server.faults = [SLOW]
    slow = world.process(timeout_s=0.05)
    with pytest.raises(TokenEndpointError, match="did not answer within"):
        await slow.bearer(world.mailbox_id, USER)


async def test_a_token_that_is_still_good_serves_on_while_its_provider_is_down(world: World) -> None:
    first = await world.bearer()
    world.time.at += HOUR - 200 * SECOND
    world.server.faults = [503]
    assert (await world.bearer()).token == first.token
    assert (await world.bearer()).token == first.token
    assert len(world.server.asked) == 2


async def test_our_own_registration_refused_is_not_the_persons_fault(world: World) -> None:
    world.server.refuse = "invalid_client"
    with pytest.raises(TokenEndpointError, match="registration"):
        await world.bearer()
    assert (await world.box())[0] == "connecting"
    world.time.at += MINUTE
    world.server.refuse = None
    await world.bearer()


async def test_a_lapsed_consent_is_said_at_once_and_one_given_anew_resumes(world: World) -> None:
    await world.bearer()
    world.server.revoke(USER)
    world.time.at += HOUR
    woken: list[bool] = []
    world.first.on_lapsed = lambda: woken.append(True)
    _, _, version = await world.box()
    with pytest.raises(ConsentLapsedError) as found:
        await world.bearer()
    state, reason, now = await world.box()
    assert (state, now) == ("auth_failed", version + 1)
    assert reason == str(found.value)
    assert "sign in there again" in (reason or "")
    assert woken
    assert (await world.told())[-1] == {"state": "auth_failed", "code": "consent_lapsed"}
    asked = len(world.server.asked)
    with pytest.raises(ConsentLapsedError):
        await world.bearer()
    assert len(world.server.asked) == asked
    again = Given(ProviderName.GENERIC, Kept((world.server.grant(USER),)), 0, 0)
    await world.store.mailboxes.update("acme", world.mailbox_id, MailboxPatch(given=again), world.time.at, SYSTEM)
    assert (await world.box())[0] == "connecting"
    assert world.server.is_good(USER, (await world.bearer()).token)


async def test_what_is_due_is_renewed_without_anybody_connecting(world: World) -> None:
    await world.first.renew_due()
    assert len(world.server.asked) == 1
    await world.first.renew_due()
    assert len(world.server.asked) == 1
    world.time.at += HOUR - MINUTE
    world.server.revoke(USER)
    await world.first.renew_due()
    assert (await world.box())[0] == "auth_failed"
    await world.first.renew_due()
    assert len(world.server.asked) == 2


async def test_nobody_is_asked_for_who_is_not_entitled_or_switched_off(world: World) -> None:
    off = MailboxPatch(enabled=False)
    await world.store.mailboxes.update("acme", world.mailbox_id, off, NOW, SYSTEM)
    await world.first.renew_due()
    await world.store.mailboxes.update("acme", world.mailbox_id, MailboxPatch(enabled=True), NOW, SYSTEM)
    await world.store.subscriptions.set_outright("acme", SubscriptionChange(plan="free"), NOW, SYSTEM)
    await world.first.renew_due()
    assert world.server.asked == []


async def test_removing_the_mailbox_destroys_its_tokens(world: World) -> None:
    await world.store.mailboxes.remove("acme", world.mailbox_id, NOW, SYSTEM)
    assert await world.first.consents.find(world.mailbox_id) is None
    with pytest.raises(AuthError):
        await world.bearer()


async def test_a_password_in_its_place_destroys_them_too(world: World) -> None:
    patch = MailboxPatch(secrets={"imap": {"password": "x"}})
    await world.store.mailboxes.update("acme", world.mailbox_id, patch, NOW, SYSTEM)
    assert await world.first.consents.find(world.mailbox_id) is None


async def test_a_provider_that_rotates_nothing(world: World) -> None:
    world.server.rotate = False
    refresh = (await world.kept()).refresh
    for _ in range(3):
        await world.bearer()
        world.time.at += HOUR
    assert (await world.kept()).refresh == refresh


@pytest.mark.parametrize("life_s", [0, 1, None])
async def test_how_long_a_token_lasts_may_be_said_badly(world: World, life_s: int | None) -> None:
    world.server.life_s = life_s
    assert (await world.bearer()).token
    assert len(world.server.asked) == 1


async def test_a_claim_of_a_time_that_never_was_holds_nobody_up(world: World) -> None:
    """The clock was ahead when somebody claimed, and was set back."""
    found = await world.first.consents.find(world.mailbox_id)
    assert found is not None
    assert await world.first.consents.claim(found, "ahead", NOW + DAY)
    assert await world.first.consents.claim(found, "one", NOW)

    async def forget(tx: Transaction) -> None:
        await tx.conn.execute(update(consents).values(claimed_until_at=0))

    await world.store.db.transact(forget)


def test_when_tokens_are_renewed() -> None:
    assert renewal(0, HOUR, 5 * MINUTE) == 55 * MINUTE
    assert renewal(0, 8 * MINUTE, 5 * MINUTE) == 6 * MINUTE
    assert renewal(HOUR, 0, MINUTE) == 0


def test_pauses_grow_to_an_end() -> None:
    found = [pause(n, None, 7) for n in range(1, 40)]
    assert found[0] >= 5 * SECOND
    assert found == sorted(found)
    assert found[-1] <= 18 * MINUTE
    assert pause(1, HOUR, 7) == HOUR
