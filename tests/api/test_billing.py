"""Stripe's webhooks at the door: who may come in, and what is handed on. Signatures are computed here by the published
scheme, not by Stripe's library.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from dataclasses import dataclass, field
from typing import Any, Never

import httpx
import pytest
from fastapi import FastAPI
from starlette.middleware import Middleware

from mailgate.api import problems
from mailgate.api.gate import Gate
from mailgate.api.rates import Rates
from mailgate.api.routes.billing import StripeDoor, router
from mailgate.clock import SECOND, Instant
from mailgate.errors import NotFoundError
from mailgate.tenants.stripe_events import StripeNews
from mailgate.tenants.stripe_objects import Offers
from mailgate.tenants.timeline import EventType
from mailgate.usecases.parts import upload_places
from tests.unit.tenants.stripe_shapes import STANDARD, event, subscription

NOW_S = 1_772_236_800
SECRET, ROTATED = "whsec_of_the_tests", "whsec_of_yesterday"
MOST = 20_000
EVENT = event("customer.subscription.created", NOW_S - 5, subscription((NOW_S - 5, NOW_S + 2_600_000)))


def _mac(body: bytes, at: int, secret: str) -> str:
    return hmac.new(secret.encode(), f"{at}.".encode() + body, hashlib.sha256).hexdigest()


def _signed(body: bytes, at: int = NOW_S, *secrets: str) -> str:
    return ",".join([f"t={at}", *(f"v1={_mac(body, at, secret)}" for secret in secrets or (SECRET,))])


class _NoTokens:
    """Webhooks carry no token: nobody is to be asked for one."""

    async def authenticate(self, header: str | None) -> Never:
        raise AssertionError(f"asked for a token, having {header}")


@dataclass
class _Door:
    """The route over a port that remembers, as the store does, what it has seen."""

    secrets: tuple[str, ...] = (SECRET,)
    tenants: frozenset[str] = frozenset({"acme"})
    now: Instant = NOW_S * SECOND
    applied: list[StripeNews] = field(default_factory=list)

    async def apply(self, news: StripeNews) -> bool:
        if news.tenant not in self.tenants:
            raise NotFoundError(f"there is no tenant {news.tenant!r}", slug="tenant_not_found")
        known = news in self.applied
        if not known:
            self.applied.append(news)
        return not known

    def app(self) -> FastAPI:
        nobody: Any = _NoTokens()
        gate = Middleware(
            Gate,
            authenticator=nobody,
            rates=Rates(0, 1),
            closed=lambda: None,
            request_bytes=MOST,
            submission_bytes=MOST,
            uploads=upload_places(1),
        )
        app = FastAPI(middleware=[gate])
        problems.install(app)
        offers = Offers({STANDARD: "standard"}, {"free": 0, "standard": 3})
        app.state.stripe_door = StripeDoor(self.secrets, lambda: self.now, lambda: offers, self.apply)
        app.include_router(router)
        return app

    async def send(self, body: bytes, signature: str | None, **headers: str) -> httpx.Response:
        sent = {b"content-type": b"application/json; charset=utf-8"}
        sent |= {name.encode(): value.encode() for name, value in headers.items()}
        if signature is not None:
            sent[b"stripe-signature"] = signature.encode("latin-1")
        transport = httpx.ASGITransport(self.app(), raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://gateway.test") as client:
            return await client.post("/v1/billing/stripe", content=body, headers=sent)


@pytest.fixture
def door() -> _Door:
    return _Door()


def _body(document: Any = EVENT) -> bytes:
    return json.dumps(document, indent=2, ensure_ascii=False).encode()


def _refusal(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["type"].rpartition("/")[2].rpartition(":")[2]


async def test_what_stripe_signed_is_handed_on_once(door: _Door) -> None:
    body = _body()
    first, again = [await door.send(body, _signed(body)) for _ in range(2)]
    assert (first.status_code, first.json()) == (200, {"changed": True})
    assert (again.status_code, again.json()) == (200, {"changed": False})
    [news] = door.applied
    assert (news.tenant, [told.type for told in news.events]) == ("acme", [EventType.PURCHASED])


async def test_a_replay_is_known_while_it_is_fresh_and_refused_when_it_is_old(door: _Door) -> None:
    body = _body()
    signature = _signed(body)
    assert (await door.send(body, signature)).json() == {"changed": True}
    door.now += 300 * SECOND
    assert (await door.send(body, signature)).json() == {"changed": False}
    door.now += 1
    assert _refusal(await door.send(body, signature)) == (400, "stripe_signature_invalid")
    assert "300 seconds" in (await door.send(body, signature)).json()["detail"]


@pytest.mark.parametrize(
    "signature",
    [
        None,
        "",
        "t=",
        "v1=00",
        f"t={NOW_S}",
        f"t={NOW_S},v1=00",
        f"t={NOW_S},v1=\u00fc",
        f"t=now,v1={_mac(_body(), NOW_S, SECRET)}",
        f"t={NOW_S - 1},v1={_mac(_body(), NOW_S, SECRET)}",
        f"t={NOW_S},v0={_mac(_body(), NOW_S, SECRET)}",
        f"t={NOW_S},v1={_mac(_body(), NOW_S, 'whsec_of_somebody_else')}",
        f"t={NOW_S},v1={_mac(_body() + b' ', NOW_S, SECRET)}",
        f"v1={_mac(_body(), NOW_S, SECRET)}",
        # The time that counts is the one that was signed.
        f"t={NOW_S - 301},v1={_mac(_body(), NOW_S - 301, SECRET)},t={NOW_S}",
        f"t={NOW_S},t={NOW_S - 301},v1={_mac(_body(), NOW_S - 301, SECRET)}",
    ],
)
async def test_nobody_else_comes_in(door: _Door, signature: str | None) -> None:
    answer = await door.send(_body(), signature)
    assert _refusal(answer) == (400, "stripe_signature_invalid")
    assert door.applied == []
    assert SECRET not in answer.text


async def test_one_of_several_signatures_is_enough(door: _Door) -> None:
    body = _body()
    assert (await door.send(body, _signed(body, NOW_S, ROTATED, SECRET))).status_code == 200
    assert (await door.send(body, _signed(body) + ",v0=00")).status_code == 200


async def test_while_a_secret_is_rotated_both_count() -> None:
    door, body = _Door(secrets=(SECRET, ROTATED)), _body()
    for secret in (SECRET, ROTATED):
        assert (await door.send(body, _signed(body, NOW_S, secret))).status_code == 200
    assert (await door.send(body, _signed(body, NOW_S, "whsec_other"))).status_code == 400


async def test_without_secrets_there_is_no_such_door() -> None:
    for secrets, status in (((), 404), (("",), 400), ((" ",), 400)):
        answer = await _Door(secrets=secrets).send(_body(), _signed(_body(), NOW_S, "" if secrets == ("",) else " "))
        assert answer.status_code == status
    assert _refusal(await _Door(secrets=()).send(_body(), None)) == (404, "stripe_not_set_up")


async def test_a_signature_from_a_clock_ahead_of_ours_counts(door: _Door) -> None:
    assert (await door.send(_body(), _signed(_body(), NOW_S + 200))).status_code == 200


@pytest.mark.parametrize("body", [b"", b"null", b"[]", b"{", b"\xff\xfe", b'{"object": "event"}', b"[" * 9_000])
async def test_what_is_no_event_is_refused_although_it_is_signed(door: _Door, body: bytes) -> None:
    answer = await door.send(body, _signed(body))
    assert answer.status_code == 400
    assert _refusal(answer)[1] in ("stripe_event_malformed", "stripe_signature_invalid")
    assert door.applied == []


async def test_a_huge_body_is_not_read(door: _Door) -> None:
    body = b" " * (MOST + 1)
    assert _refusal(await door.send(body, _signed(body))) == (413, "too_large")
    assert (await door.send(_body(), _signed(_body()), **{"content-type": "text/plain"})).status_code == 415


async def test_text_beyond_ascii_is_signed_as_bytes(door: _Door) -> None:
    document = event(EVENT["type"], NOW_S, subscription((NOW_S, NOW_S + 99), description="Größe: 5 Plätze 🪑"))
    assert (await door.send(_body(document), _signed(_body(document)))).status_code == 200


async def test_what_does_not_concern_a_plan_is_not_handed_on(door: _Door) -> None:
    body = _body(event("charge.refunded", NOW_S, {"id": "ch_1", "object": "charge"}))
    assert (await door.send(body, _signed(body))).json() == {"changed": False}
    assert door.applied == []


async def test_an_unknown_price_and_an_unknown_tenant_are_told(door: _Door) -> None:
    content = subscription((NOW_S, NOW_S + 99))
    content["items"]["data"][0]["price"]["id"] = "price_1QX"
    body = _body(event(EVENT["type"], NOW_S, content))
    assert _refusal(await door.send(body, _signed(body))) == (422, "stripe_price_unknown")
    body = _body(event(EVENT["type"], NOW_S, subscription((NOW_S, NOW_S + 99), metadata={})))
    assert _refusal(await door.send(body, _signed(body))) == (404, "tenant_not_found")
    assert door.applied == []


def test_secrets_do_not_show_in_the_doors_text() -> None:
    async def apply(news: StripeNews) -> bool:
        raise AssertionError(news)

    assert SECRET not in repr(StripeDoor((SECRET,), lambda: 0, lambda: Offers({}, {}), apply))
