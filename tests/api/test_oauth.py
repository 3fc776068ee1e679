"""Consents over HTTP: given by the CRM with tokens, or by a person through a link; and attacks on the way."""

from __future__ import annotations

import html
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest

from connectors.autoconfig.model import Discovery, Offer, Source
from connectors.autoconfig.model import Server as ImapServer
from connectors.model import BearerAuth, Security
from mailgate.admin import application as pages
from mailgate.api.application import create_app
from mailgate.app.core import Core
from mailgate.consents.model import FLOW_LIFE
from mailgate.consents.providers import offered
from mailgate.settings import (
    DatabaseSettings,
    HttpSettings,
    OAuthGenericSettings,
    OAuthGoogleSettings,
    OnboardingSettings,
    Settings,
)
from mailgate.store.check import doctor
from mailgate.store.users import Role
from mailgate.usecases.consenting import cookie_name
from tests.api.conftest import Gateway, RecordedSync, RecordedVerify, TestClock, mailbox_body, make_services
from tests.api.people import Person, add
from tests.authserver import AuthServer, settings_of

USER = "ann@acme.example"
BACK = "https://crm.example/mail"


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    """What differs by database is tested in tests/store/test_consents.py."""
    return sqlite_url


@dataclass
class World:
    """A gateway with a provider."""

    gateway: Gateway
    server: AuthServer

    def browser(self) -> httpx.AsyncClient:
        return self.gateway.with_token(None)

    async def link(self, **more: Any) -> str:
        body = {"provider": "generic", **({} if "mailbox_id" in more else {"mailbox": wanted()}), **more}
        made = await self.gateway.client.post("/v1/tenants/acme/oauth/start", json=body)
        assert made.status_code == 201, made.text
        url: str = made.json()["url"]
        return url

    async def consented(self, browser: httpx.AsyncClient, link: str) -> str:
        """The person follows the link and agrees; where the provider sends them."""
        followed = await browser.get(link)
        assert followed.status_code == 302, followed.text
        return self.server.consent(followed.headers["location"], USER)

    async def mailboxes(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = (await self.gateway.client.get("/v1/tenants/acme/mailboxes")).json()["items"]
        return found


def wanted(**oauth2: Any) -> dict[str, Any]:
    body = mailbox_body(USER)
    body["imap"]["auth"] = {"oauth2": {"provider": "generic", **oauth2}}
    return body


@pytest.fixture
async def world(database_url: str, tmp_path: Path) -> AsyncIterator[World]:
    clock = TestClock()
    server = await AuthServer(clock).start()
    settings = Settings(
        data_dir=tmp_path / "data",
        database=DatabaseSettings(url=database_url),
        http=HttpSettings(public_url="http://gateway.test"),
        onboarding=OnboardingSettings(return_urls=(BACK,)),
        oauth_generic=OAuthGenericSettings(**settings_of(server.port), title="Acme"),
    )
    core = await Core.open(settings, clock=clock)
    sync, verify = RecordedSync(core), RecordedVerify()
    services = make_services(core, sync, verify, {})
    app = create_app(services)
    pages.install(app, services)
    gateway = Gateway(core, app, clock, sync, verify, {})
    await gateway.tenant()
    yield World(gateway, server)
    await gateway.client.aclose()
    await app.state.authenticator.flush()
    report = await doctor(core.db, core.blobs, core.ring, deep=True)
    await core.close()
    await server.stop()
    assert report.healthy, report.findings


async def test_the_crm_gives_tokens_that_it_has(world: World) -> None:
    refresh = world.server.grant(USER)
    body = wanted(refresh_token=refresh)
    made = await world.gateway.client.post("/v1/tenants/acme/mailboxes", json=body)
    assert made.status_code == 201, made.text
    assert made.json()["consent"] == {
        "provider": "generic",
        "given_at": made.json()["created_at"],
        "refreshed_at": None,
        "lapsed_at": None,
        "last_error": None,
    }
    assert refresh not in made.text
    bearer = await world.gateway.core.tokens.bearer(made.json()["id"], USER)
    assert world.server.is_good(USER, bearer.token)
    shown = await world.gateway.client.get(f"/v1/tenants/acme/mailboxes/{made.json()['id']}")
    assert shown.json()["consent"]["refreshed_at"] is not None
    assert bearer.token not in shown.text


async def test_an_access_token_that_comes_along_is_used_first(world: World) -> None:
    token = world.server.token(USER)
    body = wanted(refresh_token=world.server.grant(USER), access_token=token, expires_in=3600)
    made = (await world.gateway.client.post("/v1/tenants/acme/mailboxes", json=body)).json()
    assert (await world.gateway.core.tokens.bearer(made["id"], USER)).token == token
    assert world.server.asked == []


@pytest.mark.parametrize(
    ("change", "slug"),
    [
        ({}, "tokens_needed"),
        (
            {"host": "evil.example", "auth": {"oauth2": {"provider": "generic", "refresh_token": "r"}}},
            "host_not_of_provider",
        ),
        ({"security": "none", "auth": {"oauth2": {"provider": "generic", "refresh_token": "r"}}}, "tls_needed"),
        ({"auth": {"oauth2": {"provider": "google", "refresh_token": "r"}}}, "provider_not_set_up"),
        ({"auth": {"oauth2": {"provider": "nobody", "refresh_token": "r"}}}, "invalid"),
        ({"auth": {"oauth2": {"provider": "generic", "refresh_token": "r"}, "password": "x"}}, "invalid"),
        ({"auth": {}}, "invalid"),
        ({"auth": {"oauth2": {"provider": "generic", "refresh_token": "a b"}}}, "invalid"),
    ],
)
async def test_what_is_not_taken(world: World, change: dict[str, Any], slug: str) -> None:
    body = wanted()
    body["imap"] |= change
    refused = await world.gateway.client.post("/v1/tenants/acme/mailboxes", json=body)
    assert (refused.status_code, refused.json()["type"]) == (422, slug), refused.text


async def test_one_account_has_one_consent(world: World) -> None:
    body = wanted(refresh_token="one")
    body["smtp"] = {**body["imap"], "host": "smtp.acme.example", "auth": {"oauth2": {"provider": "generic"}}}
    body["smtp"]["auth"]["oauth2"]["refresh_token"] = "two"
    refused = await world.gateway.client.post("/v1/tenants/acme/mailboxes", json=body)
    assert refused.json()["type"] == "one_consent"
    del body["smtp"]["auth"]["oauth2"]["refresh_token"]
    made = await world.gateway.client.post("/v1/tenants/acme/mailboxes", json=body)
    assert made.status_code == 201
    secrets = await world.gateway.core.mailboxes.secrets(made.json()["id"])
    assert secrets == {"imap": {"oauth2": "generic"}, "smtp": {"oauth2": "generic"}}


async def test_settings_are_tried_with_an_access_token_only(world: World) -> None:
    """Trying a refresh token would use it up."""
    imap = wanted(refresh_token="r")["imap"]
    refused = await world.gateway.client.post("/v1/mailboxes/verify", json={"tenant_id": "acme", "imap": imap})
    assert refused.json()["type"] == "tokens_needed"
    imap["auth"]["oauth2"]["access_token"] = "a"
    tried = await world.gateway.client.post("/v1/mailboxes/verify", json={"tenant_id": "acme", "imap": imap})
    assert tried.status_code == 200
    assert world.gateway.verify.tried[0][1] == BearerAuth(USER, "a")
    assert world.server.asked == []


async def test_a_password_makes_room_for_a_consent_and_back(world: World) -> None:
    box = await world.gateway.mailbox("acme", USER)
    url = f"/v1/tenants/acme/mailboxes/{box['id']}"
    oauth2 = {"provider": "generic"}
    refused = await world.gateway.client.patch(url, json={"imap": {"auth": {"oauth2": oauth2}}})
    assert refused.json()["type"] == "tokens_needed"
    oauth2["refresh_token"] = world.server.grant(USER)
    changed = await world.gateway.client.patch(url, json={"imap": {"auth": {"oauth2": oauth2}}})
    assert changed.json()["consent"]["provider"] == "generic"
    back = await world.gateway.client.patch(url, json={"imap": {"auth": {"password": "new"}}})
    assert back.json()["consent"] is None


async def test_a_person_consents(world: World) -> None:
    async with world.browser() as browser:
        link = await world.link(return_url=BACK + "?tab=2")
        back = await world.consented(browser, link)
        done = await browser.get(back)
        assert done.status_code == 303
        [box] = await world.mailboxes()
        target = urlsplit(done.headers["location"])
        assert parse_qs(target.query) == {"tab": ["2"], "result": ["connected"], "mailbox_id": [box["id"]]}
        assert target.hostname == "crm.example"
        assert box["state"] == "connecting"
        assert box["id"] in world.gateway.sync.woken
        bearer = await world.gateway.core.tokens.bearer(box["id"], USER)
        assert world.server.is_good(USER, bearer.token)
        again = await browser.get(back)
        assert again.status_code == 404
        log = (await world.gateway.client.get("/v1/access-log", params={"tenant": "acme"})).json()["items"]
        [entry] = [entry for entry in log if entry["route"] == "/v1/oauth/callback/{provider}"]
        assert (entry["status"], entry["targets"]) == (200, {"mailbox_id": box["id"]})
        assert entry["actor"].startswith("token:")
    assert len(await world.mailboxes()) == 1


async def test_a_lapsed_consent_is_given_anew(world: World) -> None:
    body = wanted(refresh_token=world.server.grant(USER))
    box = (await world.gateway.client.post("/v1/tenants/acme/mailboxes", json=body)).json()
    world.server.revoke(USER)
    await world.gateway.core.tokens.renew_due()
    [lapsed] = await world.mailboxes()
    assert lapsed["state"] == "auth_failed"
    assert "sign in there again" in lapsed["state_reason"]
    assert lapsed["consent"]["lapsed_at"] is not None
    async with world.browser() as browser:
        link = await world.link(mailbox_id=box["id"])
        done = await browser.get(await world.consented(browser, link))
        assert done.status_code == 200
        assert "connected" in done.text
    [resumed] = await world.mailboxes()
    assert (resumed["state"], resumed["consent"]["lapsed_at"]) == ("connecting", None)


async def test_an_admin_gives_a_lapsed_consent_anew_on_the_page(world: World) -> None:
    body = wanted(refresh_token=world.server.grant(USER))
    box = (await world.gateway.client.post("/v1/tenants/acme/mailboxes", json=body)).json()
    await add(world.gateway)
    ann = await Person(world.gateway).sign_in()
    at = f"/admin/tenants/acme/mailboxes/{box['id']}"
    assert f'href="{at}/consent"' not in (await ann.get(at)).text
    world.server.revoke(USER)
    await world.gateway.core.tokens.renew_due()
    page = await ann.get(at)
    assert f'href="{at}/consent"' in page.text
    assert "Sign in with Acme" in page.text
    link = await ann.client.get(f"{at}/consent")
    assert link.status_code == 302
    done = await ann.client.get(await world.consented(ann.client, link.headers["location"]))
    assert done.headers["location"].startswith(f"http://gateway.test{at}?result=connected")
    [resumed] = await world.mailboxes()
    assert (resumed["state"], resumed["consent"]["lapsed_at"]) == ("connecting", None)
    cleo = await add(world.gateway, "cleo", role=Role.COMPLIANCE)
    assert cleo.role is Role.COMPLIANCE
    other = await Person(world.gateway, "cleo").sign_in()
    assert (await other.client.get(f"{at}/consent")).status_code == 403


async def test_who_says_no_is_sent_back_with_the_reason(world: World) -> None:
    async with world.browser() as browser:
        link = await world.link(return_url=BACK)
        state = link.rpartition("/")[2]
        await browser.get(link)
        done = await browser.get(f"/v1/oauth/callback/generic?state={state}&error=access_denied")
        assert done.headers["location"] == BACK + "?result=consent_denied"
        assert (await browser.get(f"/v1/oauth/callback/generic?state={state}&code=x")).status_code == 404
    assert await world.mailboxes() == []


async def test_what_the_provider_says_is_shown_as_text(world: World) -> None:
    async with world.browser() as browser:
        link = await world.link()
        state = link.rpartition("/")[2]
        await browser.get(link)
        done = await browser.get("/v1/oauth/callback/generic", params={"state": state, "error": "<script>x</script>"})
        assert done.status_code == 422
        assert "<script>" not in done.text
        assert "&lt;script&gt;" in done.text
        assert done.headers["content-security-policy"].startswith("default-src 'none'")


@pytest.mark.parametrize("fault", [503, b"garbage\r\n\r\n"])
async def test_a_provider_in_trouble(world: World, fault: int | bytes) -> None:
    async with world.browser() as browser:
        back = await world.consented(browser, await world.link(return_url=BACK))
        world.server.faults = [fault]
        done = await browser.get(back)
        assert done.headers["location"] == BACK + "?result=provider_unavailable"
    assert await world.mailboxes() == []


async def test_another_browser_can_use_neither_link_nor_answer(world: World) -> None:
    async with world.browser() as ann, world.browser() as eve:
        link = await world.link()
        back = await world.consented(ann, link)
        assert (await eve.get(link)).status_code == 404
        assert (await ann.get(link)).status_code == 302  # she went back and follows it again
        assert (await eve.get(back)).status_code == 404
        assert await world.mailboxes() == []
        assert (await ann.get(back)).status_code == 200
    assert len(await world.mailboxes()) == 1


async def test_a_cookie_that_somebody_made_up_ends_the_link(world: World) -> None:
    """Whoever has the state, but not the browser, knows what they should not: begin again."""
    async with world.browser() as ann, world.browser() as eve:
        back = await world.consented(ann, await world.link())
        state = parse_qs(urlsplit(back).query)["state"][0]
        eve.cookies.set(cookie_name(state), "made-up", domain="gateway.test")
        assert (await eve.get(back)).status_code == 404
        assert (await ann.get(back)).status_code == 404
    assert await world.mailboxes() == []
    assert world.server.asked == []


async def test_an_answer_that_came_with_another_state_or_late_or_elsewhere(world: World) -> None:
    async with world.browser() as browser:
        back = await world.consented(browser, await world.link())
        code = parse_qs(urlsplit(back).query)["code"][0]
        for query in (f"?code={code}", f"?state=&code={code}", f"?state={'x' * 43}&code={code}", ""):
            assert (await browser.get("/v1/oauth/callback/generic" + query)).status_code == 404
        world.gateway.clock.forward(FLOW_LIFE)
        assert (await browser.get(back)).status_code == 404
        other = await world.consented(browser, await world.link())
        assert (await browser.get(other.replace("/callback/generic", "/callback/google"))).status_code == 404
        assert (await browser.get(other)).status_code == 404
        late = await world.link()
        world.gateway.clock.forward(FLOW_LIFE)
        assert (await browser.get(late)).status_code == 404
    assert await world.mailboxes() == []


async def test_a_code_of_another_flow_is_not_redeemed(world: World) -> None:
    """PKCE: eve's code, put into ann's answer, fits no verifier of hers."""
    async with world.browser() as ann, world.browser() as eve:
        hers = await world.consented(ann, await world.link())
        evil = await world.consented(eve, await world.link())
        code = parse_qs(urlsplit(evil).query)["code"][0]
        state = parse_qs(urlsplit(hers).query)["state"][0]
        done = await ann.get("/v1/oauth/callback/generic", params={"state": state, "code": code})
        assert done.status_code == 422
    assert await world.mailboxes() == []


async def test_who_became_free_meanwhile_asks_nobody(world: World) -> None:
    async with world.browser() as browser:
        back = await world.consented(browser, await world.link(return_url=BACK))
        await world.gateway.client.put("/v1/tenants/acme/subscription", json={"plan": "free"})
        done = await browser.get(back)
        assert done.headers["location"] == BACK + "?result=not_entitled"
    assert world.server.asked == []
    refused = await world.gateway.client.post(
        "/v1/tenants/acme/oauth/start", json={"provider": "generic", "mailbox": wanted()}
    )
    assert (refused.status_code, refused.json()["type"]) == (409, "not_entitled")


@pytest.mark.parametrize(
    "url",
    [
        "https://evil.example/mail",
        "https://crm.example.evil.example/mail",
        "https://crm.example@evil.example/mail",
        "https://evil.example\\@crm.example/mail",
        "https://crm.example/mailbox",
        "https://crm.example/mail/../admin",
        "https://crm.example/mail/%2e%2e/admin",
        "http://crm.example/mail",
        "https://crm.example:8443/mail",
        "https://crm.example/mail#x",
        "//crm.example/mail",
        "javascript:alert(1)",
        "https://crm.example/mail\r\nx: y",
        "https://crm.example:x/mail",
    ],
)
async def test_nobody_is_sent_elsewhere(world: World, url: str) -> None:
    body = {"provider": "generic", "mailbox": wanted(), "return_url": url}
    refused = await world.gateway.client.post("/v1/tenants/acme/oauth/start", json=body)
    assert (refused.status_code, refused.json()["type"]) == (422, "return_url_refused")


async def test_tokens_of_a_link_go_to_the_providers_servers_only(world: World) -> None:
    body = wanted()
    body["imap"]["host"] = "imap.evil.example"
    refused = await world.gateway.client.post(
        "/v1/tenants/acme/oauth/start", json={"provider": "generic", "mailbox": body}
    )
    assert refused.json()["type"] == "host_not_of_provider"
    box = await world.gateway.mailbox(
        "acme", "bob@acme.example", imap={**mailbox_body()["imap"], "host": "else.example"}
    )
    refused = await world.gateway.client.post(
        "/v1/tenants/acme/oauth/start", json={"provider": "generic", "mailbox_id": box["id"]}
    )
    assert refused.json()["type"] == "host_not_of_provider"


async def test_erasing_a_tenant_destroys_its_consents(world: World) -> None:
    body = wanted(refresh_token=world.server.grant(USER))
    box = (await world.gateway.client.post("/v1/tenants/acme/mailboxes", json=body)).json()
    await world.link()
    assert (await world.gateway.client.delete("/v1/tenants/acme")).status_code in (200, 202, 204)
    assert await world.gateway.core.tokens.consents.find(box["id"]) is None


async def test_what_is_asked_of_google_and_which_are_offered(world: World) -> None:
    found = await world.gateway.client.get("/v1/oauth/providers")
    assert [item["name"] for item in found.json()["items"]] == ["generic"]
    settings = Settings(oauth_google=OAuthGoogleSettings(client_id="id", client_secret="secret"))
    [google] = offered(settings).values()
    assert google.provider.extra == {"access_type": "offline", "prompt": "consent"}
    assert google.redirect_uri == "http://127.0.0.1:8025/v1/oauth/callback/google"
    assert google.hosts == {"imap.gmail.com", "smtp.gmail.com"}


def found_at(address: str) -> Discovery:
    """The provider's servers, as if the domain had published them."""
    imap = ImapServer("imap.acme.example", 993, Security.TLS, address)
    smtp = ImapServer("smtp.elsewhere.example", 465, Security.TLS, address)
    return Discovery(address, "acme.example", Offer(Source.AUTOCONFIG, imap, smtp, certain=True))


async def test_a_person_signs_in_by_a_connect_link(world: World) -> None:
    gateway = world.gateway

    async def find(address: str, *, ask: bool = True) -> Discovery:
        return found_at(address)

    object.__setattr__(gateway.app.state.services, "find", find)
    body = {"owner": "ann", "return_url": BACK}
    made = (await gateway.client.post("/v1/tenants/acme/connect-links", json=body)).json()
    async with world.browser() as browser:
        page = await browser.get(made["url"])
        token = re.search(r'name="token" value="([0-9a-f]{64})"', page.text)
        assert token is not None

        async def consent_page() -> str:
            shown = await browser.post(made["url"], data={"token": token[1], "address": USER})
            link = re.search(r'href="([^"]+/v1/oauth/go/[^"]+)"', shown.text)
            assert link is not None, shown.text
            assert "Sign in with Acme" in shown.text
            return html.unescape(link[1])

        link = await consent_page()
        state = link.rpartition("/")[2]
        await browser.get(link)
        denied = await browser.get(f"/v1/oauth/callback/generic?state={state}&error=access_denied")
        assert denied.headers["location"] == f"{made['url']}?result=consent_denied"
        again = await browser.get(denied.headers["location"])
        assert "You did not agree at the provider" in again.text
        assert await world.mailboxes() == []

        first, second = await consent_page(), await consent_page()
        backs = [await world.consented(browser, link) for link in (first, second)]
        done = await browser.get(backs[0])
        [box] = await world.mailboxes()
        assert (box["owner"], box["consent"]["provider"], box["smtp"]) == ("ann", "generic", None)
        assert done.headers["location"] == f"{made['url']}?result=connected&mailbox_id={box['id']}"
        over = await browser.get(done.headers["location"])
        assert "This link was used" in over.text
        assert f"mailbox_id={box['id']}" in over.text
        late = await browser.get(backs[1])  # of another window
        assert late.headers["location"] == f"{made['url']}?result=link_used"
    assert len(await world.mailboxes()) == 1
    used = (await gateway.client.get(f"/v1/tenants/acme/connect-links/{made['id']}")).json()
    assert (used["state"], used["mailbox_id"]) == ("used", box["id"])


async def test_servers_that_get_no_tokens_of_the_provider_are_not_offered_any(world: World) -> None:
    gateway = world.gateway
    made = (await gateway.client.post("/v1/tenants/acme/connect-links")).json()
    async with world.browser() as browser:
        token = re.search(r'name="token" value="([0-9a-f]{64})"', (await browser.get(made["url"])).text)
        assert token is not None
        shown = await browser.post(made["url"], data={"token": token[1], "address": "ann@web.de"})
        assert shown.status_code == 200
        assert "/v1/oauth/go/" not in shown.text
