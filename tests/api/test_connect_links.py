"""Connect links: made by the CRM, used once by a person at a page, whatever else happens at the same time."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest
from sqlalchemy import select

from mailgate.clock import DAY, HOUR, SECOND, to_rfc3339
from mailgate.errors import PreconditionError
from mailgate.store import connect_links as store
from mailgate.store.prune import prune
from mailgate.store.schema import connect_links, events, mailboxes
from mailgate.store.transaction import Transaction
from mailgate.usecases.connect_links import judged_return_url
from mailgate.usecases.parts import Step, Verification
from mailgate.usecases.remedies import REMEDIES
from tests.api.conftest import ALL_WELL, RETURN, START, Gateway

# What does not hang on the database.
ON_ONE = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)

LINKS = "/v1/tenants/acme/connect-links"
TOKEN = re.compile(r'name="token" value="([0-9a-f]{64})"')
PASSWORD = "hunter2-secret"
ACCOUNT = {
    "address": "ann@acme.example",
    "imap_host": "imap.acme.example",
    "imap_port": "993",
    "imap_security": "tls",
    "imap_username": "",
    "imap_password": PASSWORD,
}


@dataclass
class Visitor:
    """Somebody who opened the link, in a browser without script."""

    gateway: Gateway
    url: str
    client: httpx.AsyncClient = field(init=False)
    token: str = ""

    def __post_init__(self) -> None:
        self.client = self.gateway.with_token(None)

    async def open(self, **more: Any) -> httpx.Response:
        answer = await self.client.get(self.url, **more)
        found = TOKEN.search(answer.text)
        self.token = found[1] if found else self.token
        return answer

    async def find(self, address: str = "ann@gmail.com", **more: Any) -> httpx.Response:
        return await self.client.post(self.url, data={"token": self.token, "address": address}, **more)

    async def check(self, more: dict[str, str] | None = None, **rest: Any) -> httpx.Response:
        form = {"token": self.token, **ACCOUNT, **(more or {})}
        return await self.client.post(f"{self.url}/check", data=form, **rest)


async def link(gateway: Gateway, **body: Any) -> dict[str, Any]:
    made = await gateway.client.post(LINKS, json=body)
    assert made.status_code == 201, made.text
    found: dict[str, Any] = made.json()
    return found


async def visitor(gateway: Gateway, **body: Any) -> tuple[Visitor, dict[str, Any]]:
    made = await link(gateway, **body)
    one = Visitor(gateway, made["url"].removeprefix(gateway.core.settings.public_url))
    await one.open()
    return one, made


async def boxes(gateway: Gateway) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = (await gateway.client.get("/v1/tenants/acme/mailboxes")).json()["items"]
    return found


async def state(gateway: Gateway, made: dict[str, Any]) -> str:
    return str((await gateway.client.get(f"{LINKS}/{made['id']}")).json()["state"])


# The interface.


async def test_a_link_is_made_listed_and_revoked(gateway: Gateway) -> None:
    await gateway.tenant()
    made = await link(gateway, owner="ann", address="ann@acme.example", return_url=f"{RETURN}/mail?tab=1")
    assert made["url"].startswith("http://127.0.0.1:8025/connect/mgc_")
    assert made["expires_at"] == to_rfc3339(START + 72 * HOUR)
    assert (made["state"], made["owner"], made["attempts"]) == ("open", "ann", 0)
    gateway.clock.forward(SECOND)
    other = await link(gateway, expires_at=to_rfc3339(START + HOUR))
    listed = (await gateway.client.get(LINKS)).json()["items"]
    assert [item["id"] for item in listed] == [other["id"], made["id"]]
    assert not any("url" in item for item in listed)
    for _ in range(2):
        assert (await gateway.client.delete(f"{LINKS}/{made['id']}")).status_code == 204
    assert await state(gateway, made) == "revoked"
    gateway.clock.forward(HOUR - SECOND)
    assert await state(gateway, other) == "expired"


@ON_ONE
async def test_of_the_secret_only_a_hash_is_kept(gateway: Gateway) -> None:
    await gateway.tenant()
    made = await link(gateway)
    secret = made["url"].rpartition("/")[2]
    async with gateway.core.db.read() as conn:
        (row,) = (await conn.execute(select(connect_links))).all()
    assert secret not in repr(row)
    assert secret.encode() not in row.secret_hash
    assert len(secret) == 47


@ON_ONE
async def test_a_plan_without_sync_has_no_links(gateway: Gateway) -> None:
    await gateway.tenant("acme", "free")
    refused = await gateway.client.post(LINKS)
    assert (refused.status_code, refused.json()["type"]) == (409, "not_entitled")


@ON_ONE
@pytest.mark.parametrize(
    ("body", "slug"),
    [
        ({"return_url": "https://evil.example/settings"}, "return_url_refused"),
        ({"expires_at": to_rfc3339(START - SECOND)}, "expires_at_in_the_past"),
        ({"address": "ann"}, "invalid"),
        ({"more": 1}, "invalid"),
    ],
)
async def test_what_can_not_be_asked_for(gateway: Gateway, body: dict[str, Any], slug: str) -> None:
    await gateway.tenant()
    refused = await gateway.client.post(LINKS, json=body)
    assert (refused.status_code, refused.json()["type"]) == (422, slug)


ALLOWED = ("https://crm.example/settings", "https://app.example:8443", "http://localhost:3000/x/")


@pytest.mark.parametrize(
    "url",
    [
        "https://crm.example/settings",
        "https://crm.example/settings/mail?x=1",
        "https://CRM.example/settings/",
        "https://crm.example:443/settings?next=https://evil.example/",
        "https://app.example:8443/",
        "https://app.example:8443/anything",
        "http://localhost:3000/x/y",
    ],
)
def test_where_people_may_be_sent_back_to(url: str) -> None:
    assert judged_return_url(url, ALLOWED)


@pytest.mark.parametrize(
    "url",
    [
        "https://crm.example/",
        "https://crm.example/settingsevil",
        "https://crm.example/settings/../admin",
        "https://crm.example/settings/%2e%2e/admin",
        "https://crm.example/settings\\..\\admin",
        "https://crm.example.evil.example/settings",
        "https://crm.example@evil.example/settings",
        "https://evil.example/settings",
        "https://crm.example:8443/settings",
        "http://crm.example/settings",
        "https://user@crm.example/settings",
        "https://crm.example/settings#x",
        "//crm.example/settings",
        "/settings",
        "javascript:alert(1)//crm.example/settings",
        "https://app.example/",
        "https:///settings",
        "https://crm.example/settings\n",
        "https://crm.example/settings?" + "x" * 2_000,
        "",
    ],
)
def test_where_people_may_not_be_sent_back_to(url: str) -> None:
    with pytest.raises(PreconditionError) as refused:
        judged_return_url(url, ALLOWED)
    assert refused.value.slug == "return_url_refused"


# The page.


async def test_a_person_connects_their_mailbox(gateway: Gateway, log: Any) -> None:
    await gateway.tenant()
    ann, made = await visitor(gateway, owner="ann", address="ann@gmail.com", return_url=RETURN)
    first = await ann.open()
    assert first.status_code == 200
    for text in (
        "Acme asks you to connect your mailbox with Example CRM.",
        "of the last 90 days",
        'value="ann@gmail.com"',
    ):
        assert text in first.text
    second = await ann.find("ann@gmail.com")
    assert second.status_code == 200
    for text in (
        'value="imap.gmail.com"',
        "Make an app password at Gmail",
        "answer/185833",
        "imap.gmail.com, smtp.gmail.com",
    ):
        assert text in second.text
    done = await ann.check({"smtp_host": "smtp.acme.example", "smtp_port": "465", "smtp_security": "tls"})
    assert done.status_code == 200
    assert done.text.index("IMAP: log in: well") < done.text.index("ann@acme.example is connected")
    assert done.text.rstrip().endswith("</html>")
    (box,) = await boxes(gateway)
    assert (box["address"], box["owner"], box["imap"]["username"]) == ("ann@acme.example", "ann", "ann@acme.example")
    back = re.search(r'class="button main" href="([^"]+)"', done.text)
    assert back is not None
    query = httpx.URL(back[1].replace("&amp;", "&")).params
    assert dict(query) == {"result": "connected", "connect_link_id": made["id"], "mailbox_id": box["id"]}
    assert gateway.verify.senders == ["ann@acme.example"]
    used = (await gateway.client.get(f"{LINKS}/{made['id']}")).json()
    assert (used["state"], used["mailbox_id"], used["attempts"]) == ("used", box["id"], 2)
    async with gateway.core.db.read() as conn:
        told = (await conn.execute(select(events).where(events.c.type == "connect_link.used"))).all()
    assert [
        (row.mailbox_id, json.loads(row.payload) if isinstance(row.payload, str) else row.payload) for row in told
    ] == [(box["id"], {"connect_link_id": made["id"], "owner": "ann"})]
    (entry,) = [
        entry
        for entry in (await gateway.client.get("/v1/access-log", params={"tenant": "acme"})).json()["items"]
        if entry["actor"].startswith("link:")
    ]
    assert (entry["actor"], entry["status"]) == (f"link:{made['id']}", 200)
    again = await ann.open()
    assert (again.status_code, "This link was used" in again.text) == (410, True)
    assert (await ann.check()).status_code == 410
    assert len(await boxes(gateway)) == 1
    secret = ann.url.rpartition("/")[2]
    for told in (secret, PASSWORD):
        assert told not in log.getvalue()
    assert PASSWORD not in first.text + second.text + done.text


@ON_ONE
async def test_a_step_that_fails_is_named_with_what_to_do_and_can_be_tried_again(gateway: Gateway) -> None:
    await gateway.tenant()
    ann, made = await visitor(gateway)
    refused = (Step("resolve", True), Step("login", False, "[AUTH] <b>no</b>", "login_refused"))
    gateway.verify.answer = Verification(False, refused)
    answer = await ann.check()
    assert answer.status_code == 200  # the head was sent before it was known
    for text in (
        REMEDIES["login_refused"],
        "&lt;b&gt;no&lt;/b&gt;",
        "It is not connected yet",
        'value="imap.acme.example"',
    ):
        assert text in answer.text
    assert PASSWORD not in answer.text
    assert await boxes(gateway) == []
    assert await state(gateway, made) == "open"
    gateway.verify.answer = ALL_WELL
    assert "is connected" in (await ann.check()).text
    assert await state(gateway, made) == "used"


@ON_ONE
async def test_what_is_not_filled_in_is_said_before_anything_is_tried(gateway: Gateway) -> None:
    await gateway.tenant()
    ann, made = await visitor(gateway)
    answer = await ann.check({"imap_password": "", "imap_port": "x"})
    assert answer.status_code == 422
    assert "Write the password." in answer.text
    assert "Write a number from 1 to 65535." in answer.text
    for address in (
        "ann",
        "ann@",
        "ann@acme.example\r\nBcc: eve@evil.example",
        "ann@127.0.0.1",
        "a" * 400 + "@x.example",
    ):
        assert (await ann.find(address)).status_code == 422
    assert gateway.verify.tried == []
    assert await state(gateway, made) == "open"


@ON_ONE
async def test_nothing_beyond_the_account_is_taken_from_the_form(gateway: Gateway) -> None:
    await gateway.tenant()
    ann, _ = await visitor(gateway, owner="ann")
    await ann.check({"owner": "eve", "shared": "1", "include": "INBOX", "enabled": "0"})
    (box,) = await boxes(gateway)
    assert (box["owner"], box["shared"], box["enabled"], box["folder_rules"]["include"]) == ("ann", False, True, [])


async def test_two_windows_connect_one_mailbox(gateway: Gateway) -> None:
    await gateway.tenant()
    ann, made = await visitor(gateway)
    met = asyncio.Barrier(2)
    real = gateway.verify.__call__

    async def together(*arguments: Any, **more: Any) -> Verification:
        await met.wait()
        return await real(*arguments, **more)

    services = gateway.app.state.services
    object.__setattr__(services, "verify", together)
    answers = await asyncio.gather(
        ann.check(), ann.check({"address": "ben@acme.example", "imap_username": "ben@acme.example"})
    )
    said = sorted("is connected. Its messages" in answer.text for answer in answers)
    assert said == [False, True]
    assert sum("this link was used already" in answer.text for answer in answers) == 1
    assert len(await boxes(gateway)) == 1
    assert await state(gateway, made) == "used"


@pytest.mark.parametrize("when", ["before", "after"])
async def test_what_is_cut_leaves_neither_a_mailbox_nor_a_used_link(
    gateway: Gateway, when: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The link is used in the transaction that makes the mailbox."""
    await gateway.tenant()
    ann, made = await visitor(gateway)
    real: Callable[..., Awaitable[None]] = store.ConnectLinks.use

    async def cut(*arguments: Any) -> None:
        if when == "after":
            await real(*arguments)
        raise ConnectionError("cut")

    monkeypatch.setattr(store.ConnectLinks, "use", cut)
    assert "is connected" not in (await ann.check()).text
    monkeypatch.undo()
    async with gateway.core.db.read() as conn:
        assert (await conn.execute(select(mailboxes.c.id))).all() == []
    assert await state(gateway, made) == "open"
    assert "is connected" in (await ann.check()).text


async def test_a_link_that_is_revoked_while_it_is_checked_connects_nothing(gateway: Gateway) -> None:
    await gateway.tenant()
    ann, made = await visitor(gateway)
    real = gateway.verify.__call__

    async def revoked(*arguments: Any, **more: Any) -> Verification:
        await gateway.client.delete(f"{LINKS}/{made['id']}")
        return await real(*arguments, **more)

    object.__setattr__(gateway.app.state.services, "verify", revoked)
    assert "this link was revoked" in (await ann.check()).text
    assert await boxes(gateway) == []


@ON_ONE
async def test_who_is_no_longer_allowed_gets_nobody_sent(gateway: Gateway) -> None:
    await gateway.tenant()
    ann, _ = await visitor(gateway, return_url=f"{RETURN}/mail")
    assert f"{RETURN}/mail?result=declined" in (await ann.open()).text
    services = gateway.app.state.services
    onboarding = services.settings.onboarding.model_copy(update={"return_urls": ("https://other.example",)})
    object.__setattr__(services, "settings", services.settings.model_copy(update={"onboarding": onboarding}))
    assert "crm.example" not in (await ann.open()).text


@ON_ONE
async def test_where_a_name_leads_inside_is_not_told_to_strangers(gateway: Gateway) -> None:
    await gateway.tenant()
    ann, _ = await visitor(gateway)
    refused = Step(
        "resolve", False, "the host wiki is at 10.0.0.8, which is not on the public internet", "address_refused"
    )
    gateway.verify.answer = Verification(False, (refused,))
    answer = await ann.check()
    assert "This name leads into a private network." in answer.text
    assert "10.0.0.8" not in answer.text


async def test_trying_has_an_end(gateway: Gateway) -> None:
    await gateway.tenant()
    ann, made = await visitor(gateway)
    gateway.verify.answer = Verification(False, (Step("login", False, "no", "login_refused"),))
    most = gateway.core.settings.onboarding.link_attempts
    for _ in range(most - 1):
        assert (await ann.check()).status_code == 200
    assert (await ann.find()).status_code == 200
    answer = await ann.check()
    assert (answer.status_code, "tried too often" in answer.text) == (410, True)
    assert len(gateway.verify.tried) == most - 1
    assert await state(gateway, made) == "exhausted"


@ON_ONE
@pytest.mark.parametrize("how", ["unknown", "cut", "revoked", "expired", "unpaid", "erased"])
async def test_a_link_that_is_not_good_shows_a_friendly_page_and_connects_nowhere(gateway: Gateway, how: str) -> None:
    await gateway.tenant()
    ann, made = await visitor(gateway)
    status, text = 410, ""
    if how == "unknown":
        ann.url, status, text = "/connect/mgc_" + "A" * 43, 404, "This link leads nowhere"
    elif how == "cut":
        ann.url, status, text = ann.url[:-3], 404, "This link leads nowhere"
    elif how == "revoked":
        await gateway.client.delete(f"{LINKS}/{made['id']}")
        text = "This link was withdrawn"
    elif how == "expired":
        gateway.clock.forward(73 * HOUR)
        text = "This link has expired"
    elif how == "unpaid":
        await gateway.client.put("/v1/tenants/acme/subscription", json={"plan": "free"})
        status, text = 409, "This is not possible now"
    else:
        await gateway.client.delete("/v1/tenants/acme")
        status, text = 404, "This link leads nowhere"
    for answer in (await ann.open(), await ann.find(), await ann.check()):
        assert (answer.status_code, text in answer.text) == (status, True)
        assert answer.headers["content-type"].startswith("text/html")
    assert gateway.verify.tried == []


@ON_ONE
async def test_a_mailbox_that_is_connected_already_does_not_use_the_link(gateway: Gateway) -> None:
    await gateway.tenant()
    await gateway.mailbox("acme", "ann@acme.example")
    ann, made = await visitor(gateway)
    answer = await ann.check()
    assert "is connected. Its messages" not in answer.text
    assert 'role="alert"' in answer.text
    assert await state(gateway, made) == "open"


# What keeps it safe.


@ON_ONE
async def test_a_form_from_elsewhere_changes_nothing(gateway: Gateway) -> None:
    await gateway.tenant()
    ann, made = await visitor(gateway)
    eve = Visitor(gateway, ann.url, token="")
    for answer in (
        await eve.check(),
        await ann.check({"token": "0" * 64}),
        await ann.check(headers={"origin": "https://evil.example"}),
        await ann.check(headers={"origin": "null", "sec-fetch-site": "cross-site"}),
        await ann.check(headers={"sec-fetch-site": "cross-site"}),
        await ann.find(headers={"origin": "https://evil.example"}),
    ):
        assert (answer.status_code, "Nothing was changed" in answer.text) == (403, True)
    assert gateway.verify.tried == []
    assert (await gateway.client.get(f"{LINKS}/{made['id']}")).json()["attempts"] == 0
    # A page that sends no referrer has no origin to name.
    done = await ann.check(headers={"origin": "null", "sec-fetch-site": "same-origin"})
    assert "is connected" in done.text


@ON_ONE
async def test_what_a_browser_is_told(gateway: Gateway) -> None:
    await gateway.tenant()
    ann, _ = await visitor(gateway)
    for answer in (await ann.open(), await ann.find(), await ann.check(), await ann.open()):
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "script-src" not in policy
        assert "<script" not in answer.text
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["x-robots-tag"] == "noindex, nofollow"
        assert not re.findall(r'(?:src|href|action)="(?:https?:)?//(?!crm\.example|support\.google\.com)', answer.text)
    style = await ann.client.get("/connect/static/pages.css")
    assert (style.status_code, style.headers["content-type"]) == (200, "text/css; charset=utf-8")
    cookie = (await gateway.with_token(None).get(ann.url)).headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=lax" in cookie


@ON_ONE
async def test_names_from_the_crm_are_text(gateway: Gateway) -> None:
    await gateway.client.put("/v1/tenants/acme", json={"name": "<script>alert(1)</script>"})
    await gateway.client.put("/v1/tenants/acme/subscription", json={"plan": "standard"})
    ann, _ = await visitor(gateway, address="'&copy@acme.example")  # no other of HTML's characters may stand in one
    answer = await ann.open()
    assert "<script" not in answer.text
    assert "&#39;&amp;copy@acme.example" in answer.text
    assert "&copy" not in answer.text


@ON_ONE
async def test_letters_that_look_like_others_are_named(gateway: Gateway) -> None:
    await gateway.tenant()
    ann, _ = await visitor(gateway)
    answer = await ann.find("ann@gm\u0430il.com")
    assert "xn--gmil-63d.com" in answer.text
    assert "Gmail" not in answer.text


@ON_ONE
async def test_a_provider_without_imap_has_no_field_for_a_password(gateway: Gateway) -> None:
    await gateway.tenant()
    ann, _ = await visitor(gateway)
    answer = await ann.find("ann@tuta.com")
    assert "Tuta offers no access by IMAP" in answer.text
    assert 'type="password"' not in answer.text


@ON_ONE
@pytest.mark.parametrize(
    ("accepted", "text"),
    [("vi", "Kết nối hộp thư của bạn"), ("fr-FR,fr;q=0.9", "Connecter votre boîte"), ("it", "Collega la tua casella")],
)
async def test_it_speaks_the_readers_language(gateway: Gateway, accepted: str, text: str) -> None:
    await gateway.tenant()
    ann, _ = await visitor(gateway)
    answer = await ann.open(headers={"accept-language": accepted})
    assert text in answer.text
    gone = await ann.client.get("/connect/nothing", headers={"accept-language": accepted})
    assert gone.status_code == 404
    assert "This link" not in gone.text


@ON_ONE
async def test_what_is_no_form_is_a_page_too(gateway: Gateway) -> None:
    await gateway.tenant()
    ann, _ = await visitor(gateway)
    answer = await ann.client.post(ann.url, json={"address": "ann@gmail.com"})
    assert answer.status_code == 415
    assert answer.headers["content-type"].startswith("text/html")
    assert answer.headers["referrer-policy"] == "no-referrer"
    assert "/admin" not in answer.text


async def test_links_that_are_over_are_forgotten(gateway: Gateway) -> None:
    await gateway.tenant()
    open_link = await link(gateway, expires_at=to_rfc3339(START + 60 * DAY))
    for _ in range(2):
        await link(gateway)
    revoked = await link(gateway)
    await gateway.client.delete(f"{LINKS}/{revoked['id']}")
    now = START + 34 * DAY
    pruned = await prune(gateway.core.db, now, longest_days=90, idempotency_hours=24, link_days=30)
    assert pruned.connect_links == 3
    assert [item["id"] for item in (await gateway.client.get(LINKS)).json()["items"]] == [open_link["id"]]


async def test_the_secret_of_an_erased_tenant_opens_nothing(gateway: Gateway) -> None:
    await gateway.tenant()
    made = await link(gateway)

    async def leave(tx: Transaction) -> None:
        await store.revoke_all(tx, "acme", gateway.clock())

    await gateway.core.db.transact(leave)
    assert await state(gateway, made) == "revoked"
