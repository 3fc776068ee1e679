"""Signing in to the pages at an OpenID provider: who is let in with which role, and what an attacker may send."""

from __future__ import annotations

import base64
import hmac
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from cryptography.hazmat.primitives import serialization
from joserfc import jwt
from joserfc.jwk import ECKey, OctKey, RSAKey

from mailgate.admin import application as pages
from mailgate.api.application import create_app
from mailgate.app.core import Core
from mailgate.app.outside import elsewhere_of
from mailgate.clock import HOUR, MINUTE, SECOND
from mailgate.settings import DatabaseSettings, HttpSettings, OidcSettings, Settings
from mailgate.store import users
from mailgate.store.users import Role
from mailgate.usecases.signing_in_elsewhere import ATTEMPT
from tests.api.conftest import Gateway, RecordedSync, RecordedVerify, TestClock, make_services
from tests.api.people import Person, add
from tests.authserver import CLIENT_ID, CLIENT_SECRET, AuthServer, Code

HOME = "/admin/mailboxes"
KEY = RSAKey.generate_key(2048, {"kid": "one"})


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    """What is tested here does not hang on the database."""
    return sqlite_url


@dataclass
class World:
    """A gateway, a provider, and what its ID tokens say beside what they must."""

    gateway: Gateway
    server: AuthServer
    claims: dict[str, Any] = field(default_factory=dict)
    header: dict[str, Any] = field(default_factory=lambda: {"alg": "RS256", "kid": "one"})
    key: Any = None
    forge: Callable[[dict[str, Any]], str] | None = None

    def id_token(self, code: Code) -> str:
        now_s = self.gateway.clock() // SECOND
        claims = {
            "iss": self.server.url,
            "aud": CLIENT_ID,
            "sub": "7",
            "exp": now_s + 300,
            "iat": now_s,
            "nonce": code.nonce,
            "email": "ann@acme.example",
            "email_verified": True,
            **self.claims,
        }
        claims = {name: value for name, value in claims.items() if value is not None}
        if self.forge is not None:
            return self.forge(claims)
        return jwt.encode(self.header, claims, self.key or KEY, algorithms=[self.header["alg"]])

    async def leave(self, someone: Person, wanted: str = "") -> str:
        """Follow the link on the sign-in page: where it leads."""
        answer = await someone.client.get("/admin/sign-in/oidc", params={"next": wanted})
        assert answer.status_code == 302, answer.text
        return answer.headers["location"]

    async def sign_in(self, someone: Person, wanted: str = "") -> httpx.Response:
        back = self.server.consent(await self.leave(someone, wanted), "ann")
        return await someone.client.get(back)

    async def refused(self, someone: Person | None = None) -> str:
        """An attempt that lets nobody in; the page's words."""
        someone = someone or Person(self.gateway)
        answer = await self.sign_in(someone)
        assert answer.status_code == 401, answer.headers
        assert (await someone.client.get(HOME)).status_code == 303
        return answer.text


async def make(database_url: str, tmp_path: Path, server: AuthServer, clock: TestClock, **oidc: Any) -> Gateway:
    wanted = {"issuer": server.url, "client_id": CLIENT_ID, "client_secret": CLIENT_SECRET, "title": "Acme ID", **oidc}
    settings = Settings(
        data_dir=tmp_path / "data",
        database=DatabaseSettings(url=database_url),
        http=HttpSettings(public_url="http://gateway.test"),
        oidc=OidcSettings(**wanted),
    )
    core = await Core.open(settings, clock=clock)
    sync, verify = RecordedSync(core), RecordedVerify()
    services = make_services(core, sync, verify, {}, elsewhere=elsewhere_of(core))
    app = create_app(services)
    app.router.routes += pages.routes(services)
    return Gateway(core, app, clock, sync, verify, {})


@pytest.fixture
async def world(request: Any, database_url: str, tmp_path: Path) -> AsyncIterator[World]:
    clock = TestClock()
    server = await AuthServer(clock).start()
    server.documents = {
        "/.well-known/openid-configuration": {
            "issuer": server.url,
            "authorization_endpoint": server.url + "/authorize",
            "token_endpoint": server.url + "/token",
            "jwks_uri": server.url + "/keys",
        },
        "/keys": {"keys": [KEY.as_dict(private=False)]},
    }
    gateway = await make(database_url, tmp_path, server, clock, **getattr(request, "param", {}))
    made = World(gateway, server)
    server.id_token = made.id_token
    try:
        yield made
    finally:
        await gateway.client.aclose()
        await gateway.app.state.authenticator.flush()
        await gateway.core.close()
        await server.stop()


RULES = {"role_claim": "realm.roles", "admins": ["mail-admins"], "compliance": ["auditors"]}
rules = pytest.mark.parametrize("world", [RULES], indirect=True)
making = pytest.mark.parametrize("world", [{**RULES, "make_users": True}], indirect=True)


async def test_a_known_user_signs_in(world: World) -> None:
    await add(world.gateway, "ann@acme.example", role=Role.COMPLIANCE)
    ann = Person(world.gateway)
    page = await ann.get("/admin/sign-in?next=/admin/tenants")
    assert "Sign in with Acme ID" in page.text
    away = await world.leave(ann, "/admin/tenants")
    asked = parse_qs(urlsplit(away).query)
    assert asked["redirect_uri"] == ["http://gateway.test/admin/sign-in/oidc/callback"]
    assert asked["scope"] == ["openid email profile"]
    assert {"nonce", "state", "code_challenge"} <= set(asked)
    answer = await ann.client.get(world.server.consent(away, "ann"))
    assert (answer.status_code, answer.headers["location"]) == (303, "/admin/tenants")
    assert (await ann.get(HOME)).status_code == 200
    await ann.post("/admin/sign-out")
    assert (await ann.client.get(HOME)).status_code == 303


async def test_no_code_is_asked_for_that_the_provider_asks_for_itself(world: World) -> None:
    user = await add(world.gateway, "ann@acme.example")
    sealed = world.gateway.core.ring.seal(b"JBSWY3DPEHPK3PXP", f"user:{user.id}:totp")
    await users.change(world.gateway.core.db, user.id, totp=sealed)
    ann = Person(world.gateway)
    assert (await world.sign_in(ann)).headers["location"] == HOME
    assert (await ann.client.get(HOME)).status_code == 200


async def test_sign_ins_stand_in_the_access_log(world: World) -> None:
    user = await add(world.gateway, "ann@acme.example")
    await world.sign_in(Person(world.gateway))
    world.claims = {"nonce": "another"}
    await world.refused()
    found = (await world.gateway.client.get("/v1/access-log", params={"kind": "sign_in"})).json()["items"]
    told = [(item["actor"], item["status"], item["route"]) for item in found]
    route = "/admin/sign-in/oidc/callback"
    assert told == [("user:unknown", 401, route), (f"user:{user.id}", 200, route)]


async def test_without_a_rule_nobody_is_made(world: World) -> None:
    assert "nobody here has this name" in await world.refused()
    assert await users.every(world.gateway.core.db) == []


async def test_who_is_disabled_stays_out(world: World) -> None:
    user = await add(world.gateway, "ann@acme.example")
    await users.disable(world.gateway.core.db, user.id, world.gateway.clock())
    assert "disabled" in await world.refused()


@rules
async def test_a_role_is_what_the_provider_says_at_each_sign_in(world: World) -> None:
    user = await add(world.gateway, "ann@acme.example", role=Role.ADMIN)
    world.claims = {"realm": {"roles": ["x", "auditors"]}}
    assert (await world.sign_in(Person(world.gateway))).status_code == 303
    assert (await users.get(world.gateway.core.db, user.id))[0].role is Role.COMPLIANCE
    world.claims = {"realm": {"roles": ["auditors", "mail-admins"]}}
    await world.sign_in(Person(world.gateway))
    assert (await users.get(world.gateway.core.db, user.id))[0].role is Role.ADMIN
    for nothing in ({"roles": []}, {"roles": "other"}, {}, None, 5, ["mail-admins"]):
        world.claims = {"realm": nothing}
        assert "gives a role here" in await world.refused()


@rules
async def test_a_role_alone_makes_no_user(world: World) -> None:
    world.claims = {"realm": {"roles": ["mail-admins"]}}
    assert "nobody here has this name" in await world.refused()


@making
async def test_a_rule_may_make_users(world: World) -> None:
    world.claims = {"realm": {"roles": ["auditors"]}, "email": "Ben@Acme.example"}
    ben = Person(world.gateway, "ben@acme.example")
    assert (await world.sign_in(ben)).status_code == 303
    [made] = await users.every(world.gateway.core.db)
    assert (made.name, made.role, made.tenant_id) == ("ben@acme.example", Role.COMPLIANCE, None)
    assert (await Person(world.gateway, "ben@acme.example").try_to_sign_in("")).status_code == 401
    world.claims = {"realm": {"roles": ["auditors"]}, "email": "no name"}
    assert "no blanks" in await world.refused()
    world.claims = {"realm": {"roles": []}, "email": "eve@acme.example"}
    await world.refused()
    assert len(await users.every(world.gateway.core.db)) == 1


@pytest.mark.parametrize(
    "claims",
    [
        {"nonce": "another"},
        {"nonce": None},
        {"aud": "somebody-else"},
        {"aud": None},
        {"aud": [CLIENT_ID, "somebody-else"]},
        {"aud": [CLIENT_ID, "somebody-else"], "azp": "somebody-else"},
        {"azp": "somebody-else"},
        {"iss": "https://evil.example"},
        {"iss": None},
        {"sub": None},
        {"sub": ""},
        {"exp": None},
        {"exp": 1},
        {"exp": "soon"},
        {"iat": None},
        {"iat": 10**12},
        {"email_verified": False},
        {"email_verified": None},
        {"email_verified": "true"},
        {"email": None},
        {"email": " "},
        {"email": ["a b"]},
    ],
)
async def test_an_id_token_that_is_not_for_us_lets_nobody_in(world: World, claims: dict[str, Any]) -> None:
    await add(world.gateway, "ann@acme.example")
    world.claims = claims
    await world.refused()


def _part(value: dict[str, Any]) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()


def unsigned(claims: dict[str, Any]) -> str:
    return f"{_part({'alg': 'none', 'typ': 'JWT'})}.{_part(claims)}."


def by_the_public_key(claims: dict[str, Any]) -> str:
    """HS256 with the provider's public key for a secret."""
    pem = KEY.public_key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    head, body = _part({"alg": "HS256", "typ": "JWT", "kid": "one"}), _part(claims)
    made = hmac.digest(pem, f"{head}.{body}".encode(), "sha256")
    return f"{head}.{body}.{base64.urlsafe_b64encode(made).rstrip(b'=').decode()}"


def by_the_client_secret(claims: dict[str, Any]) -> str:
    key = OctKey.import_key({"kty": "oct", "k": base64.urlsafe_b64encode(CLIENT_SECRET.encode() * 2).decode()})
    return jwt.encode({"alg": "HS256", "kid": "one"}, claims, key, algorithms=["HS256"])


def by_another_key(claims: dict[str, Any]) -> str:
    return jwt.encode({"alg": "RS256", "kid": "one"}, claims, RSAKey.generate_key(2048), algorithms=["RS256"])


def by_a_key_of_its_own(claims: dict[str, Any]) -> str:
    key = ECKey.generate_key("P-256")
    header = {"alg": "ES256", "jwk": key.as_dict(private=False)}
    return jwt.encode(header, claims, key, algorithms=["ES256"])


def changed(claims: dict[str, Any]) -> str:
    head, _, signature = jwt.encode({"alg": "RS256", "kid": "one"}, claims, KEY).split(".")
    return f"{head}.{_part(claims | {'email': 'root@acme.example'})}.{signature}"


@pytest.mark.parametrize(
    "forge",
    [
        unsigned,
        by_the_public_key,
        by_the_client_secret,
        by_another_key,
        by_a_key_of_its_own,
        changed,
        lambda _: "no token",
        lambda _: "",
        lambda _: "a.b.c",
        lambda _: "x" * 200_000,
    ],
)
async def test_what_the_provider_did_not_sign_lets_nobody_in(
    world: World, forge: Callable[[dict[str, Any]], str]
) -> None:
    for name in ("ann@acme.example", "root@acme.example"):
        await add(world.gateway, name)
    world.forge = forge
    await world.refused()


async def test_a_provider_that_changed_its_key_is_asked_for_it(world: World) -> None:
    await add(world.gateway, "ann@acme.example")
    assert (await world.sign_in(Person(world.gateway))).status_code == 303
    new = ECKey.generate_key("P-256", {"kid": "two"})
    world.server.documents["/keys"] = {"keys": [{"kty": "unknown"}, new.as_dict(private=False)]}
    world.key, world.header = new, {"alg": "ES256", "kid": "two"}
    world.gateway.clock.forward(2 * MINUTE)
    assert (await world.sign_in(Person(world.gateway))).status_code == 303
    # A forger can't make us ask again and again.
    world.forge = by_another_key
    before = sum("GET /keys" in head for head in world.server.headers)
    for _ in range(3):
        await world.refused()
    assert sum("GET /keys" in head for head in world.server.headers) == before


async def test_an_answer_that_is_stale_or_of_another_browser(world: World) -> None:
    await add(world.gateway, "ann@acme.example")
    ann, eve = Person(world.gateway), Person(world.gateway)
    back = world.server.consent(await world.leave(ann), "ann")
    assert (await eve.client.get(back)).status_code == 401
    await world.leave(eve)
    assert (await eve.client.get(back)).status_code == 401  # hers has another state
    assert (await ann.client.get(back)).status_code == 303
    assert (await ann.client.get(back)).status_code == 401  # once
    bob = Person(world.gateway)
    late = world.server.consent(await world.leave(bob), "ann")
    world.gateway.clock.forward(ATTEMPT)
    assert "took too long" in (await bob.client.get(late)).text
    carl = Person(world.gateway)
    code = parse_qs(urlsplit(world.server.consent(await world.leave(carl), "ann")).query)["code"][0]
    for query in ({"code": code}, {"code": code, "state": "x"}, {}):
        assert (await carl.client.get("/admin/sign-in/oidc/callback", params=query)).status_code == 401


async def test_a_cookie_that_somebody_made_up(world: World) -> None:
    eve = Person(world.gateway)
    for cookie in ("x", "AAAA", base64.urlsafe_b64encode(b"{}" * 40).decode()):
        eve.client.cookies.set("mailgate_oidc", cookie, domain="gateway.test")
        answer = await eve.client.get("/admin/sign-in/oidc/callback?state=a&code=b")
        assert answer.status_code == 401


async def test_an_answer_of_another_provider(world: World) -> None:
    """RFC 9207: mix-up."""
    await add(world.gateway, "ann@acme.example")
    ann = Person(world.gateway)
    back = world.server.consent(await world.leave(ann), "ann")
    assert (await ann.client.get(back + "&iss=https%3A%2F%2Fevil.example")).status_code == 401
    back = world.server.consent(await world.leave(ann), "ann")
    assert (await ann.client.get(back + "&iss=" + world.server.url)).status_code == 303
    world.server.documents["/.well-known/openid-configuration"]["authorization_response_iss_parameter_supported"] = True
    world.gateway.clock.forward(2 * HOUR)
    await world.refused()


@pytest.mark.parametrize(
    "target", ["https://evil.example/", "//evil.example", "/admin/\\evil", "/v1/tenants", "javascript:x"]
)
async def test_nobody_is_led_elsewhere(world: World, target: str) -> None:
    await add(world.gateway, "ann@acme.example")
    assert (await world.sign_in(Person(world.gateway), target)).headers["location"] == HOME


async def test_what_the_provider_says_is_shown_as_text(world: World) -> None:
    ann = Person(world.gateway)
    state = parse_qs(urlsplit(await world.leave(ann)).query)["state"][0]
    answer = await ann.client.get(
        "/admin/sign-in/oidc/callback", params={"state": state, "error": "<script>alert(1)</script>"}
    )
    assert answer.status_code == 401
    assert "<script>alert" not in answer.text
    assert "&lt;script&gt;" in answer.text


@pytest.mark.parametrize(
    "change",
    [
        {"issuer": "https://evil.example"},
        {"issuer": None},
        {"token_endpoint": None},
        {"jwks_uri": "file:///etc/passwd"},
        {"authorization_endpoint": "javascript:alert(1)"},
    ],
)
async def test_a_configuration_that_is_not_the_providers(world: World, change: dict[str, Any]) -> None:
    world.server.documents["/.well-known/openid-configuration"] |= change
    answer = await Person(world.gateway).client.get("/admin/sign-in/oidc")
    assert answer.status_code == 503
    assert "be reached now" in answer.text
    asked = len(world.server.headers)
    for _ in range(5):  # whoever asks for it again and again does not make us ask
        assert (await Person(world.gateway).client.get("/admin/sign-in/oidc")).status_code == 503
    assert len(world.server.headers) == asked


async def test_a_provider_in_trouble_is_said_on_the_page_and_passwords_go_on(world: World) -> None:
    await add(world.gateway, "ann@acme.example")
    ann = Person(world.gateway)
    back = world.server.consent(await world.leave(ann), "ann")
    world.server.faults = [503]
    answer = await ann.client.get(back)
    assert answer.status_code == 503
    await world.server.stop()
    world.gateway.clock.forward(2 * HOUR)
    assert (await ann.client.get("/admin/sign-in/oidc")).status_code == 503
    await Person(world.gateway, "ann@acme.example").sign_in()


async def test_without_a_provider_nothing_of_it_is_there(gateway: Gateway) -> None:
    ann = Person(gateway)
    assert "Sign in with" not in (await ann.get("/admin/sign-in")).text
    for path in ("/admin/sign-in/oidc", "/admin/sign-in/oidc/callback?code=x&state=y"):
        assert (await ann.client.get(path)).headers["location"] == "/admin/sign-in"
