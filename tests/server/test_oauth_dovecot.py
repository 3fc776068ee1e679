"""The whole gateway with a Dovecot that takes access tokens, and asks a local authorisation server about them: connect,
import, renew, lapse, consent anew, send.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import httpx
import pytest

from connectors.errors import AuthError
from connectors.imap.connection import connect_imap
from connectors.model import BearerAuth, Endpoint, Security
from connectors.net import parse_networks
from mailgate.app.application import Application
from mailgate.app.core import Core, Secrets
from mailgate.clock import HOUR, SECOND, Instant, system_clock
from mailgate.settings import HttpSettings, NetSettings, OAuthGenericSettings, Settings, SyncSettings
from tests.authserver import AuthServer, settings_of
from tests.dovecot import Account, Dovecot, start_dovecot
from tests.servers import free_port
from tests.smtpserver import SmtpServer

pytestmark = pytest.mark.server

ADMIN = "an-admin-token-of-the-tests"
LOOPBACK = parse_networks(["127.0.0.0/8"])
LIFE_S = 240
"""Shorter than the leases, with which a clock that jumps by it must not interfere, even twice."""


@dataclass
class Time:
    """The system's clock, and so much ahead as the test says."""

    ahead: Instant = 0

    def __call__(self) -> Instant:
        return system_clock() + self.ahead


@pytest.fixture(scope="module")
def port() -> int:
    return free_port()


@pytest.fixture(scope="module")
def tokens_dovecot(port: int) -> Iterator[Dovecot]:
    """A Dovecot that asks about tokens at this port."""
    yield from start_dovecot(introspection=f"http://127.0.0.1:{port}/introspect")


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture
async def server(port: int, time: Time) -> AsyncIterator[AuthServer]:
    made = await AuthServer(time, life_s=LIFE_S).start(port)
    try:
        yield made
    finally:
        await made.stop()


@dataclass
class World:
    """A running gateway, a person's account, and what the test does as the CRM."""

    application: Application
    client: httpx.AsyncClient
    account: Account
    server: AuthServer
    time: Time
    mailbox_id: str = ""
    seen: list[str] = field(default_factory=list)

    async def connect(self, smtp_port: int | None = None) -> None:
        oauth2: dict[str, Any] = {"provider": "generic", "refresh_token": self.server.grant(self.account.name)}
        body = {"address": self.account.name, "imap": self.imap(oauth2)}
        if smtp_port is not None:
            body["smtp"] = {**self.imap({"provider": "generic"}), "port": smtp_port}
        made = await self.client.post("/v1/tenants/acme/mailboxes", json=body)
        assert made.status_code == 201, made.text
        self.mailbox_id = made.json()["id"]

    def imap(self, oauth2: dict[str, Any]) -> dict[str, Any]:
        dovecot = self.account.server
        return {
            "host": "127.0.0.1",
            "port": dovecot.tls_port,
            "security": "tls",
            "username": self.account.name,
            "auth": {"oauth2": oauth2},
        }

    async def box(self) -> dict[str, Any]:
        found = await self.client.get(f"/v1/tenants/acme/mailboxes/{self.mailbox_id}")
        shown: dict[str, Any] = found.json()
        return shown

    async def subjects(self) -> set[str]:
        found = await self.client.get("/v1/tenants/acme/messages")
        return {item["subject"] for item in found.json()["items"]}

    async def until(self, condition: Callable[[], Awaitable[bool]]) -> None:
        try:
            async with asyncio.timeout(60):
                while not await condition():  # noqa: ASYNC110 - a look at the interface, which wakes nobody
                    await asyncio.sleep(0.02)
        except TimeoutError:
            pytest.fail(f"never happened; the mailbox is {await self.box()}")

    async def until_state(self, state: str) -> None:
        async def there() -> bool:
            return bool((await self.box())["state"] == state)

        await self.until(there)

    async def until_subject(self, subject: str) -> None:
        async def there() -> bool:
            return subject in await self.subjects()

        await self.until(there)

    async def until_logins(self, count: int) -> None:
        async def there() -> bool:
            return self.account.logins() >= count

        await self.until(there)

    async def states(self) -> list[str]:
        """Every state that was announced."""
        found = await self.client.get("/v1/events", params={"types": "mailbox.state_changed", "limit": 200})
        return [item["data"]["state"] for item in found.json()["items"]]


@pytest.fixture
async def world(tokens_dovecot: Dovecot, server: AuthServer, time: Time, tmp_path: Path) -> AsyncIterator[World]:
    settings = Settings(
        data_dir=tmp_path / "data",
        http=HttpSettings(public_url="http://gateway.test"),
        net=NetSettings(allow=LOOPBACK),
        sync=SyncSettings(poll_interval_s=1, backoff_min_s=0.05, lease_s=600),
        oauth_generic=OAuthGenericSettings(**settings_of(server.port)),
    )
    core = await Core.open(settings, clock=time)
    application = Application(core, secrets=Secrets(ADMIN), context=tokens_dovecot.ssl_context())
    await application.start()
    client = httpx.AsyncClient(
        transport=httpx.ASGITransport(application.api),
        base_url="http://gateway.test",
        headers={"authorization": f"Bearer {ADMIN}"},
    )
    try:
        await client.put("/v1/tenants/acme", json={"name": "Acme"})
        await client.put("/v1/tenants/acme/subscription", json={"plan": "professional"})
        yield World(application, client, tokens_dovecot.account(), server, time)
    finally:
        await client.aclose()
        await application.stop()
        await core.close()


def letter(subject: str) -> bytes:
    message = EmailMessage()
    message["From"], message["To"], message["Subject"] = "bob@other.example", "ann@acme.example", subject
    message["Message-ID"] = f"<{subject}@other.example>"
    message.set_content("Hello.")
    return message.as_bytes().replace(b"\n", b"\r\n")


@pytest.mark.parametrize("security", [Security.TLS, Security.STARTTLS])
async def test_dovecot_takes_a_good_token_and_says_what_is_wrong_with_a_bad_one(
    tokens_dovecot: Dovecot, server: AuthServer, security: Security
) -> None:
    account = tokens_dovecot.account()
    endpoint = Endpoint("127.0.0.1", tokens_dovecot.tls_port, security)
    if security is Security.STARTTLS:
        endpoint = Endpoint("127.0.0.1", tokens_dovecot.port, security)
    context = tokens_dovecot.ssl_context()
    good = BearerAuth(account.name, server.token(account.name))
    line = await connect_imap(endpoint, good, ssl_context=context, allow_networks=LOOPBACK)
    assert (await line.list_folders())[0].name == "INBOX"
    await line.close()
    for wrong in (BearerAuth(account.name, "nonsense"), BearerAuth(account.name, server.token("eve@acme.example"))):
        with pytest.raises(AuthError, match="access token") as found:
            await connect_imap(endpoint, wrong, ssl_context=context, allow_networks=LOOPBACK)
        assert wrong.token not in str(found.value)


async def test_import_expiry_renewal_and_idle_without_an_error(world: World) -> None:
    """The server ends the line when the token is over; nothing is shown of it, and mail goes on coming."""
    world.account.add(letter("first"))
    await world.connect()
    await world.until_state("live")
    await world.until_subject("first")
    refresh = world.server.refreshes()
    for number in (1, 2):
        logins = world.account.logins()
        world.time.ahead += (LIFE_S - 10) * SECOND
        world.account.server.kick(world.account)
        await world.until_logins(logins + 1)
        world.account.add(letter(f"after {number}"))
        await world.until_subject(f"after {number}")
        await world.until_state("live")
    assert len(world.server.refreshes()) == len(refresh) + 2
    assert len(set(world.server.refreshes())) == len(world.server.refreshes())  # rotated, and each was sent once
    assert "backoff" not in await world.states()
    assert (await world.box())["state_reason"] is None


async def test_a_token_that_the_mail_server_refuses_is_renewed(world: World) -> None:
    """It was revoked before its time."""
    await world.connect()
    await world.until_state("live")
    world.server.void()
    logins = world.account.logins()
    world.account.server.kick(world.account)
    await world.until_logins(logins + 1)
    await world.until_state("live")
    assert len(world.server.refreshes()) == 2


async def test_trouble_at_the_provider_passes_by_itself(world: World) -> None:
    world.server.faults = [503] * 1_000

    async def says_why() -> bool:
        box = await world.box()
        return box["state"] == "backoff" and "gives no tokens now" in box["state_reason"]

    await world.connect()
    await world.until(says_why)
    world.server.faults = []
    world.time.ahead += 30 * SECOND
    await world.until_state("live")


async def test_a_consent_is_taken_back_and_given_anew(world: World) -> None:
    await world.connect()
    await world.until_state("live")
    world.server.revoke(world.account.name)
    world.time.ahead += (LIFE_S - 10) * SECOND
    # The line stands, and this server would let it stand: that the consent is over is noticed nevertheless.
    await world.application.core.tokens.renew_due()
    await world.until_state("auth_failed")
    box = await world.box()
    assert "sign in there again" in box["state_reason"]
    assert box["consent"]["lapsed_at"] is not None

    async def gone() -> bool:
        return world.account.server.sessions(world.account) == 0

    await world.until(gone)
    body = {"provider": "generic", "mailbox_id": world.mailbox_id}
    started = await world.client.post("/v1/tenants/acme/oauth/start", json=body)
    followed = await world.client.get(started.json()["url"])
    back = world.server.consent(followed.headers["location"], world.account.name)
    done = await world.client.get(back)
    assert done.status_code == 200, done.text
    world.account.add(letter("resumed"))
    await world.until_subject("resumed")
    await world.until_state("live")


async def test_the_wrong_account_is_named(world: World) -> None:
    """Somebody else consented: the token is good, but not for this account."""
    world.account.name, name = "eve@acme.example", world.account.name
    refresh = world.server.grant("eve@acme.example")
    world.account.name = name
    body = {
        "address": name,
        "imap": world.imap({"provider": "generic", "refresh_token": refresh}),
    }
    made = await world.client.post("/v1/tenants/acme/mailboxes", json=body)
    world.mailbox_id = made.json()["id"]
    await world.until_state("auth_failed")
    assert "access token" in (await world.box())["state_reason"]
    assert len(world.server.refreshes()) == 2  # once more with a new one, and no more


async def test_sending_takes_the_same_consent(world: World) -> None:
    certificates = world.account.server.certificates
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificates.certificate, certificates.key)
    smtp = await SmtpServer(
        tls=context,
        bearer=frozenset({"OAUTHBEARER"}),
        tokens=world.server.is_good,
    ).start()
    try:
        await world.connect(smtp.port)
        await world.until_state("live")
        world.server.void()  # the one that is kept is refused
        url = f"/v1/tenants/acme/mailboxes/{world.mailbox_id}/submissions"
        body = {"to": ["bob@other.example"], "subject": "Hi", "text": "Hello."}
        queued = await world.client.post(url, json=body)
        assert queued.status_code in (201, 202), queued.text

        async def sent() -> bool:
            return bool((await world.client.get(f"{url}/{queued.json()['id']}")).json()["state"] == "sent")

        await world.until(sent)
        assert len(smtp.received) == 1
        assert smtp.steps.count("auth OAUTHBEARER at once") == 2
        # A lapsed consent holds mail back, and one that is given anew sends it.
        world.server.revoke(world.account.name)
        world.server.void()
        world.time.ahead += HOUR
        queued = await world.client.post(url, json=body)
        await world.until_state("auth_failed")
        waiting = (await world.client.get(f"{url}/{queued.json()['id']}")).json()
        assert waiting["state"] == "queued"
        oauth2 = {"provider": "generic", "refresh_token": world.server.grant(world.account.name)}
        patch = {"imap": {"auth": {"oauth2": oauth2}}}
        await world.client.patch(f"/v1/tenants/acme/mailboxes/{world.mailbox_id}", json=patch)
        await world.until(sent)
        assert len(smtp.received) == 2
    finally:
        await smtp.stop()
