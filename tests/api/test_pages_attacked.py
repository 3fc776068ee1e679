"""The pages under attack: hostile text in every field that is shown, forged and stale forms, sessions that are fixed or
over, roles that reach too far, addresses that make no sense, two people at once.
"""

from __future__ import annotations

import asyncio
import html
import re

import pytest
from sqlalchemy import update

from mailgate.admin.application import ROUTES
from mailgate.clock import HOUR
from mailgate.ids import new_id
from mailgate.store.schema import folders, guards, mailboxes, quarantine, runs, webhook_deliveries, webhooks
from mailgate.store.transaction import Transaction
from mailgate.store.users import Role
from tests.api.conftest import Gateway
from tests.api.hooks import MAILBOXES, delivering
from tests.api.people import Person, add, person
from tests.api.test_pages import path_of, world

SCRIPT = "<script>alert(1)</script>"
HOSTILE = f"{SCRIPT}\"'><img src=x onerror=alert(1)>{{{{7*7}}}}"
BIDI = "\u202egnp.exe\u2066\u200f\u0000invoice".replace("\u0000", "")
FIELDS = """
address owner imap_host url description tenant matter reason since after name kind mailbox messages plan seats term
overlap language next code format
"""
PARAMETERS = "q tenant state type mailbox done item run reason actor at ids hours since until plan kind"
RAW = re.compile(r"<script>alert|<img src=x|onerror=alert\(1\)>|>49<")


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    """What is tested here does not hang on the database."""
    return sqlite_url


async def furnish(gateway: Gateway, text: str) -> dict[str, str]:
    """A mailbox and a webhook of which everything that others say is this text."""
    known = await world(gateway)
    now, box = gateway.clock(), known["mailbox_id"]
    folder_id = new_id(now)

    async def work(tx: Transaction) -> None:
        said = {"state": "auth_failed", "state_reason": text[:400], "owner": text[:200]}
        await tx.conn.execute(update(mailboxes).where(mailboxes.c.id == box).values(said))
        folder = {"id": folder_id, "tenant_id": "acme", "mailbox_id": box, "name": text, "selectable": True}
        more = {"followed": True, "uidvalidity": 1, "exists_count": 1, "last_error": text[:400]}
        await tx.conn.execute(folders.insert(), [folder | more | {"progress_done": 0, "progress_total": 0}])
        common = {"id": new_id(now), "tenant_id": "acme", "mailbox_id": box, "folder_id": folder_id, "uidvalidity": 1}
        guard = {"digest": b"d", "known": 9, "gone": 9, "reason": text[:400], "raised_at": now}
        await tx.conn.execute(guards.insert(), [common | guard])
        aside = {"uid": 1, "reason": text[:400], "attempts": 1, "first_seen_at": now, "last_seen_at": now}
        await tx.conn.execute(quarantine.insert(), [common | aside | {"cause": "not_sent", "size": 1}])
        await tx.conn.execute(update(runs).values(detail=text[:400]))
        hook = {
            "description": text[:200],
            "detail": text[:400],
            "state": "paused",
            "reason": "failing",
            "paused_at": now,
        }
        await tx.conn.execute(update(webhooks).values(hook))
        given = {"response": text[:200], "error": text[:200], "status": 500}
        await tx.conn.execute(update(webhook_deliveries).values(given))

    await gateway.core.db.transact(work)
    return known


@pytest.mark.parametrize("text", [HOSTILE, BIDI, "a" * 100_000, "​", "}}{{ _('x') }}{% raw %}"])
async def test_what_others_say_is_text_on_every_page(gateway: Gateway, text: str) -> None:
    known = await furnish(gateway, text)
    ann = await person(gateway)
    for route in ROUTES:
        if route.method != "GET" or route.public:
            continue
        answer = await ann.get(path_of(route, known))
        assert answer.status_code in ((409,) if route.path.endswith("/consent") else (200, 303)), route.path
        assert not RAW.search(answer.text), route.path
        assert len(answer.text) < 2_000_000, route.path
    shown = html.unescape((await ann.get(f"/admin/tenants/acme/mailboxes/{known['mailbox_id']}")).text)
    assert (text if len(text) <= 200 else f"{text[:200]}…") in shown


async def test_what_is_typed_comes_back_as_text(gateway: Gateway) -> None:
    known = await world(gateway)
    ann = await person(gateway)
    fields = dict.fromkeys(FIELDS.split(), HOSTILE)
    for route in ROUTES:
        if route.method == "POST" and not route.path.startswith("/sign-"):
            await ann.get("/admin/account")
            answer = await ann.post(path_of(route, known), fields)
            assert answer.status_code < 500, route.path
            assert not RAW.search(answer.text), route.path
            assert "alert(1)" not in answer.headers.get("location", ""), route.path
    for route in ROUTES:
        if route.method == "GET" and not route.public:
            answer = await ann.get(path_of(route, known), params=dict.fromkeys(PARAMETERS.split(), HOSTILE))
            assert answer.status_code < 500, route.path
            assert not RAW.search(answer.text), route.path
            assert "alert(1)" not in answer.headers.get("location", ""), route.path


@pytest.mark.parametrize("value", ["9" * 30, "-1", "AAAA", "\u0661", "' OR 1=1 --", "a" * 400, "..", "\n"])
async def test_addresses_that_make_no_sense_fail_nothing(gateway: Gateway, value: str) -> None:
    known = await world(gateway)
    ann = await person(gateway)
    for route in ROUTES:
        if route.method == "GET" and not route.public:
            for params in ({"cursor": value}, dict.fromkeys(PARAMETERS.split(), value)):
                answer = await ann.get(path_of(route, known), params=params)
                assert answer.status_code < 500, (route.path, params)


async def test_parts_of_the_path_that_are_none_are_not_there(gateway: Gateway) -> None:
    known = await world(gateway)
    ann = await person(gateway)
    odd = ["0", "x" * 300, "é", "01KSKBP800DNN0GF2D5XF3BNE8", "*", "acme:1:2"]
    for route in ROUTES:
        for name in re.findall(r"\{(\w+)\}", route.path):
            for value in odd:
                path = path_of(route, known | {name: value})
                answer = await (ann.get(path) if route.method == "GET" else ann.post(path))
                assert answer.status_code in (303, 400, 404, 409, 410, 422) or (
                    # guards, quarantine and entries answer in their own words; nothing is made of an id that is none
                    answer.status_code == 200 and name == "index" and value == "0"
                ), (path, answer.status_code)


async def test_a_role_that_reaches_too_far_is_refused_everywhere(gateway: Gateway) -> None:
    known = await world(gateway)
    cleo = await person(gateway, "cleo", Role.COMPLIANCE)
    before = (await gateway.client.get(f"/v1/webhooks/{known['webhook_id']}")).json()
    for route in ROUTES:
        if route.role is Role.ADMIN:
            path = path_of(route, known)
            forged = {"role": "admin", "tenant_id": "acme", "sure": "1", "enabled": "0", "url": "https://evil.example/"}
            answer = await (cleo.get(path) if route.method == "GET" else cleo.post(path, forged))
            assert answer.status_code == 403, route.path
    after = (await gateway.client.get(f"/v1/webhooks/{known['webhook_id']}")).json()
    assert before == after
    log = (await gateway.client.get("/v1/access-log", params={"kind": "change", "limit": 200})).json()["items"]
    refused = [entry for entry in log if entry["actor"].startswith("user:")]
    assert {entry["status"] for entry in refused} == {403}  # it is written down that somebody tried
    assert len(refused) == sum(route.role is Role.ADMIN and route.method == "POST" for route in ROUTES)


async def test_a_session_that_somebody_else_chose_is_not_taken(gateway: Gateway) -> None:
    await add(gateway)
    victim = Person(gateway)
    fixed = "f" * 48
    victim.client.cookies.set("mailgate_session", fixed)
    victim.client.cookies.set("mailgate_visit", fixed)
    await victim.sign_in()
    chosen = [cookie.value for cookie in victim.client.cookies.jar if cookie.name == "mailgate_session"]
    assert any(value != fixed for value in chosen)
    attacker = Person(gateway)
    attacker.client.cookies.set("mailgate_session", fixed)
    assert (await attacker.get("/admin/mailboxes")).status_code == 303


async def test_a_stale_tab_changes_nothing_after_signing_out(gateway: Gateway) -> None:
    known = await world(gateway)
    ann = await person(gateway)
    at = f"/admin/webhooks/{known['webhook_id']}"
    await ann.get(at)
    stale = ann.token
    await ann.post("/admin/sign-out")
    ann.token = stale
    answer = await ann.post(f"{at}/remove", {"sure": "1"})
    assert (answer.status_code, answer.headers["location"]) == (303, "/admin/sign-in")
    partial = await ann.client.get("/admin/system/now", headers={"hx-request": "true"})
    assert (partial.headers["hx-redirect"], partial.text) == ("/admin/sign-in", "")
    await ann.sign_in()
    ann.token = stale  # of the session before
    assert (await ann.post(f"{at}/remove", {"sure": "1"})).status_code == 403
    assert (await gateway.client.get(f"/v1/webhooks/{known['webhook_id']}")).status_code == 200


async def test_two_admins_at_once_leave_one_outcome(gateway: Gateway) -> None:
    async with delivering(gateway) as one:
        hook = await one.make()
        ann, ben = await person(gateway), await person(gateway, "ben")
        at = f"/admin/webhooks/{hook['id']}"
        for both in (ann, ben):
            await both.get(at)
        answers = await asyncio.gather(
            ann.post(f"{at}/remove", {"sure": "1"}),
            ben.post(f"{at}/switch", {"enabled": "0"}),
            ben.post(f"{at}/secret", {"overlap": "0"}),
            ann.post(f"{at}/replay", {"from": "latest"}),
            ben.post(f"{at}/remove", {"sure": "1"}),
        )
        assert {answer.status_code for answer in answers} <= {200, 303, 404}
        assert (await ann.get(at)).status_code == 404
        await one.emit(MAILBOXES[0])
        await one.settle()
        assert one.receiver.got == []


async def test_nothing_is_kept_or_framed_and_nothing_runs(gateway: Gateway) -> None:
    known = await world(gateway)
    ann = await person(gateway)
    for route in ROUTES:
        path = path_of(route, known)
        answer = await (ann.get(path) if route.method == "GET" else ann.client.post(path, data={"token": "no"}))
        assert answer.headers["cache-control"] == "no-store", route.path
        policy = answer.headers["content-security-policy"]
        assert "frame-ancestors 'none'" in policy, route.path
        assert "default-src 'none'" in policy, route.path
        assert answer.headers["x-content-type-options"] == "nosniff", route.path
        assert not re.search(
            r"<script(?! src=\"/admin/static/)|\son\w+=|javascript:|<iframe|<object|<base", answer.text
        )


async def test_a_session_that_is_over_does_not_come_back_by_a_page_that_asks_by_itself(gateway: Gateway) -> None:
    await world(gateway)
    ann = await person(gateway)
    for _ in range(8):
        gateway.clock.forward(HOUR // 5)
        answer = await ann.client.get("/admin/system/now", headers={"hx-request": "true"})
    assert answer.headers.get("hx-redirect") == "/admin/sign-in"
