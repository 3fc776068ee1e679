"""The mailboxes' pages: trouble first, reasons and remedies, a switch that acts, connecting with each step, guards."""

from __future__ import annotations

import re
from typing import Any

import pytest
from sqlalchemy import insert, update

from mailgate.clock import DAY, HOUR, MINUTE, SECOND
from mailgate.store import mailbox_overview, runs
from mailgate.store.mailbox_overview import Which
from mailgate.store.schema import folders, leases, mailboxes
from mailgate.store.transaction import Transaction
from mailgate.usecases.parts import Step, Verification
from tests.api.conftest import START, Gateway
from tests.api.mail import letter, postman
from tests.api.people import Person, person
from tests.api.trouble import set_aside, vanish
from tests.postgres import before_the_database

ACCOUNT = {
    "address": "cy@acme.example",
    "imap_host": "IMAP.acme.example",
    "imap_port": "993",
    "imap_security": "tls",
    "imap_username": "",
    "imap_password": "hunter2-imap",
}
PARTIAL = {"hx-request": "true"}


async def put(gateway: Gateway, mailbox_id: str, *, owned: bool = True, **values: Any) -> None:
    """The mailbox as a running synchronization left it."""

    async def work(tx: Transaction) -> None:
        await tx.conn.execute(update(mailboxes).where(mailboxes.c.id == mailbox_id).values(values))
        if owned:
            lease = {"name": f"mailbox:{mailbox_id}", "owner": "test", "fence": 1, "expires_at": gateway.clock() + DAY}
            await tx.conn.execute(insert(leases).values(lease))

    await gateway.core.db.transact(work)


def addresses(text: str) -> list[str]:
    return re.findall(r'<a href="/admin/tenants/[^/"]+/mailboxes/[^/"]+">([^<]+)</a>', text)


async def test_trouble_comes_first_with_its_reason_and_what_to_do(gateway: Gateway) -> None:
    await gateway.tenant("acme")
    await gateway.tenant("beta")
    states = {
        "a": ("live", None),
        "b": ("backoff", "the line broke"),
        "c": ("auth_failed", "the password is wrong"),
        "d": ("importing", None),
        "e": ("disabled", "switched off"),
    }
    for name, (state, reason) in states.items():
        box = await gateway.mailbox("beta" if name in "ab" else "acme", f"{name}@acme.example")
        await put(gateway, box["id"], state=state, state_reason=reason, enabled=state != "disabled")
    lost = await gateway.mailbox("acme", "f@acme.example")
    await put(gateway, lost["id"], owned=False, state="live")
    ann = await person(gateway)
    text = (await ann.get("/admin/mailboxes")).text
    assert [address[0] for address in addresses(text)] == list("cbfdae")
    assert "the password is wrong" in text
    assert "Give the right user name or password" in text
    assert "no process has this mailbox" in text
    counts = dict(re.findall(r">(\w+) <b>(\d+)</b>", text))
    assert counts == {"All": "6", "Trouble": "2", "Starting": "2", "Flowing": "1", "Off": "1"}
    for query, expected in (
        ("state=trouble", "cb"),
        ("state=starting", "fd"),
        ("tenant=beta", "ba"),
        ("q=BETA", "ba"),
        ("q=d%40acme", "d"),
        ("q=%25", ""),
        (f"q={lost['id']}", "f"),
        ("state=nonsense", "cbfdae"),
    ):
        found = addresses((await ann.get(f"/admin/mailboxes?{query}")).text)
        assert [address[0] for address in found] == list(expected), query


async def test_thousands_are_paged_in_the_same_order(gateway: Gateway) -> None:
    await gateway.tenant("acme")
    for n in range(7):
        await gateway.mailbox("acme", f"box{n}@acme.example")
    db, now = gateway.core.db, gateway.clock()
    whole = (await mailbox_overview.list_page(db, Which(), now, after=None, limit=50)).items
    found: list[Any] = []
    after: Any = None
    while True:
        page = await mailbox_overview.list_page(db, Which(), now, after=after, limit=3)
        found += page.items
        if page.next_key is None:
            break
        after = page.next_key
    assert [entry.mailbox.id for entry in found] == [entry.mailbox.id for entry in whole]
    assert len(found) == 7


async def test_a_cursor_leads_on_and_a_false_one_is_refused(gateway: Gateway) -> None:
    await gateway.tenant("acme")
    for n in range(52):
        await gateway.mailbox("acme", f"box{n:02}@acme.example")
    ann = await person(gateway)
    first = (await ann.get("/admin/mailboxes")).text
    link = re.search(r'href="([^"]+)" rel="next"', first)
    assert link is not None
    second = (await ann.get(link[1].replace("&amp;", "&"))).text
    assert addresses(first) + addresses(second) == [f"box{n:02}@acme.example" for n in range(52)]
    assert (await ann.get("/admin/mailboxes?cursor=xyz")).status_code == 400


async def test_the_switch_acts_at_once_and_the_row_shows_it(gateway: Gateway) -> None:
    await gateway.tenant("acme")
    box = await gateway.mailbox("acme")
    await put(gateway, box["id"], state="live")
    ann = await person(gateway)
    gateway.sync.woken.clear()
    at = f"/admin/tenants/acme/mailboxes/{box['id']}"
    shown = {"hx-current-url": "http://gateway.test/admin/mailboxes?q=a%26b&done=switched_on"}
    row = await ann.post(f"{at}/switch", {"enabled": "0"}, headers=PARTIAL | shown)
    assert row.status_code == 200
    assert 'name="back" value="/admin/mailboxes?q=a%26b"' in row.text
    assert row.text.strip().startswith(f'<tr id="row-{box["id"]}"')
    assert 'aria-checked="false"' in row.text
    assert "The connection is being closed." in row.text  # its process has not let go yet
    assert gateway.sync.woken == [box["id"]]
    answer = await ann.post(f"{at}/switch", {"enabled": "1", "back": "/admin/mailboxes?q=ann"})  # without script
    assert answer.headers["location"] == "/admin/mailboxes?q=ann&done=switched_on"
    assert "It is switched on, and connects now." in (await ann.get(answer.headers["location"])).text
    elsewhere = await ann.post(f"{at}/switch", {"enabled": "1", "back": "https://evil.example"})
    assert elsewhere.headers["location"] == f"{at}?done=switched_on"


async def test_a_switch_that_is_refused_says_why_in_its_row(gateway: Gateway) -> None:
    await gateway.tenant("acme", "standard")
    boxes = [await gateway.mailbox("acme", f"b{n}@acme.example", owner="ann") for n in range(5)]
    ann = await person(gateway)
    at = f"/admin/tenants/acme/mailboxes/{boxes[0]['id']}/switch"
    await ann.post(at, {"enabled": "0"})
    await gateway.mailbox("acme", "b9@acme.example", owner="ann")
    row = await ann.post(at, {"enabled": "1"}, headers=PARTIAL)
    assert (row.status_code, 'aria-checked="false"' in row.text) == (200, True)
    assert "allows 5 mailboxes for each user" in row.text
    whole = await ann.post(at, {"enabled": "1"})
    assert whole.status_code == 409
    assert "allows 5 mailboxes for each user" in whole.text


async def test_rows_keep_themselves_up_to_date_in_their_order(gateway: Gateway) -> None:
    await gateway.tenant("acme")
    boxes = [await gateway.mailbox("acme", f"b{n}@acme.example") for n in range(3)]
    ann = await person(gateway)
    progress = {"progress_done": 40, "progress_total": 100, "progress_started_at": START}
    await put(gateway, boxes[1]["id"], state="importing", **progress)
    gateway.clock.forward(10 * SECOND)
    ids = ",".join(boxes[n]["id"] for n in (2, 1, 0))
    text = (await ann.get(f"/admin/mailboxes/rows?ids={ids},nonsense", headers=PARTIAL)).text
    assert addresses(text) == [f"b{n}@acme.example" for n in (2, 1, 0)]
    assert "40 of 100 messages · 4 a second · 15 seconds left" in text
    assert '<progress max="100" value="40"' in text


async def test_copies_and_sizes_are_counted(gateway: Gateway) -> None:
    post = await postman(gateway, "acme")
    raw = letter(text="x" * 5_000)
    for n in range(3):
        await post.deliver(raw + b"%d" % n, index=False)
    ann = await person(gateway)
    text = (await ann.get("/admin/mailboxes")).text
    assert re.search(r'data-label="Copies" class="num">3<', text)
    assert re.search(r'data-label="Size" class="num">1[56](\.\d)? KiB<', text)


async def test_connecting_shows_each_step_and_keeps_no_password_in_the_page(gateway: Gateway) -> None:
    await gateway.tenant("acme")
    ann = await person(gateway)
    assert "Check and connect" in (await ann.get("/admin/tenants/acme/connect")).text
    gateway.verify.answer = Verification(
        False, (Step("resolve", True), Step("login", False, "the server says no", "login_refused"))
    )
    refused = await ann.post("/admin/tenants/acme/connect", {**ACCOUNT, "do": "connect"})
    assert "IMAP: log in: failed" in refused.text
    assert "the server says no" in refused.text
    assert "hunter2" not in refused.text
    assert 'value="IMAP.acme.example"' in refused.text
    gateway.verify.answer = Verification(True, (Step("resolve", True), Step("login", True)))
    only_checked = await ann.post("/admin/tenants/acme/connect", {**ACCOUNT, "do": "check"}, headers=PARTIAL)
    assert only_checked.text.strip().startswith('<div id="outcome"')
    assert "All is well." in only_checked.text
    assert (await gateway.client.get("/v1/tenants/acme/mailboxes")).json()["items"] == []
    done = await ann.post("/admin/tenants/acme/connect", {**ACCOUNT, "do": "connect"})
    (box,) = (await gateway.client.get("/v1/tenants/acme/mailboxes")).json()["items"]
    assert done.headers["location"] == f"/admin/tenants/acme/mailboxes/{box['id']}?done=connected"
    assert (box["imap"]["username"], box["imap"]["host"]) == ("cy@acme.example", "imap.acme.example")
    again = await ann.post("/admin/tenants/acme/connect", {**ACCOUNT, "unchecked": "1"}, headers=PARTIAL)
    assert (again.status_code, "connected already" in again.text) == (200, True)
    assert len(gateway.verify.tried) == 3


@before_the_database
@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("address", "no address", "Write an address like"),
        ("imap_host", "a b", "Write a host name"),
        ("imap_port", "99999", "from 1 to 65535"),
        ("imap_port", "x", "from 1 to 65535"),
        ("imap_security", "magic", "Choose one of the list"),
        ("imap_password", "", "Write the password"),
        ("owner", "x" * 201, "at most 200"),
    ],
)
async def test_what_is_typed_wrong_is_said_beside_its_field(
    gateway: Gateway, field: str, value: str, said: str
) -> None:
    await gateway.tenant("acme")
    ann = await person(gateway)
    answer = await ann.post("/admin/tenants/acme/connect", {**ACCOUNT, field: value})
    assert answer.status_code == 422
    assert said in answer.text
    assert "hunter2" not in answer.text


async def test_on_free_nothing_is_connected_or_tried(gateway: Gateway) -> None:
    await gateway.tenant("acme", "free")
    ann = await person(gateway)
    answer = await ann.post("/admin/tenants/acme/connect", ACCOUNT)
    assert (answer.status_code, "has no synchronization" in answer.text) == (409, True)
    assert gateway.verify.tried == []


async def test_settings_change_and_a_stored_password_goes_to_no_other_server(gateway: Gateway) -> None:
    await gateway.tenant("acme")
    box = await gateway.mailbox("acme", owner="ann", smtp={**mail_server(), "port": 465})
    ann = await person(gateway)
    at = f"/admin/tenants/acme/mailboxes/{box['id']}"
    shown = (await ann.get(f"{at}/edit")).text
    assert "imap.acme.example" in shown
    assert "hunter2" not in shown
    form = {
        "address": "ann2@acme.example",
        "owner": "ann",
        "imap_host": "imap.acme.example",
        "imap_port": "993",
        "imap_security": "tls",
        "imap_username": "ann@acme.example",
        "smtp_host": "smtp.acme.example",
        "smtp_port": "465",
        "smtp_security": "tls",
        "smtp_username": "ann",
        "exclude": "Spam\n Trash/* \n",
    }
    version = (await gateway.core.mailboxes.get("acme", box["id"])).imap
    assert (await ann.post(f"{at}/edit", form)).headers["location"] == f"{at}?done=changed"
    changed = (await gateway.client.get(f"/v1/tenants/acme/mailboxes/{box['id']}")).json()
    assert (changed["address"], changed["folder_rules"]["exclude"]) == ("ann2@acme.example", ["Spam", "Trash/*"])
    assert (await gateway.core.mailboxes.get("acme", box["id"])).imap == version
    refused = await ann.post(f"{at}/edit", {**form, "imap_host": "imap.evil.example"})
    assert (refused.status_code, "write it again" in refused.text) == (422, True)
    moved = await ann.post(f"{at}/edit", {**form, "imap_host": "imap2.acme.example", "imap_password": "new-secret"})
    assert moved.status_code == 303
    secrets = await gateway.core.mailboxes.secrets(box["id"])
    assert secrets == {"imap": {"password": "new-secret"}, "smtp": {"password": "hunter2-smtp"}}


async def test_a_refused_login_is_mended_by_reconnecting(gateway: Gateway) -> None:
    await gateway.tenant("acme")
    box = await gateway.mailbox("acme", smtp=mail_server())
    await put(gateway, box["id"], state="auth_failed", state_reason="no")
    ann = await person(gateway)
    at = f"/admin/tenants/acme/mailboxes/{box['id']}"
    assert "Reconnect" in (await ann.get(at)).text
    assert (await ann.post(f"{at}/reconnect", {"password": ""})).status_code == 422
    assert (await ann.post(f"{at}/reconnect", {"password": "hunter3"})).headers["location"] == f"{at}?done=reconnected"
    secrets = await gateway.core.mailboxes.secrets(box["id"])
    assert secrets == {"imap": {"password": "hunter3"}, "smtp": {"password": "hunter2-smtp"}}
    assert (await gateway.core.mailboxes.get("acme", box["id"])).state == "connecting"


async def test_one_mailbox_shows_what_it_was_like_and_what_waits(gateway: Gateway) -> None:
    post = await postman(gateway, "acme")
    gone = [await post.deliver(letter(str(n)), folder="Clients", index=False) for n in range(3)]
    guard_id = await vanish(post, gone, "Clients")
    entry_id = await set_aside(post, 99)
    ann = await person(gateway)
    at = f"/admin/tenants/acme/mailboxes/{post.mailbox_id}"
    text = (await ann.get(at)).text
    assert "3 of 3 messages are gone from the mail server" in text
    assert "it is not_sent" in text
    assert "Improbable deletions were refused" in text
    assert re.search(r'<time datetime="2026-[^"]+T00:00:00Z">[^<]+</time> <span class="badge busy">Connecting', text)
    assert (await ann.post(f"{at}/guards/{guard_id}/approve")).headers["location"] == f"{at}?done=approved"
    assert "approved; the next pass carries it out" in (await ann.get(at)).text
    answer = await ann.post(f"{at}/quarantine/{entry_id}/retry")
    assert answer.headers["location"] == f"{at}?done=retried"
    assert (await ann.post(f"{at}/sync")).headers["location"] == f"{at}?done=asked"
    assert len((await runs.list_page(gateway.core.db, mailbox_id=post.mailbox_id)).items) == 3
    assert "Queued" in (await ann.get(at)).text
    standing = (await ann.get(f"{at}/standing", headers=PARTIAL)).text
    assert standing.strip().startswith('<div id="standing" hx-get=')


async def test_a_guard_that_changed_is_not_approved(gateway: Gateway) -> None:
    post = await postman(gateway, "acme")
    gone = [await post.deliver(letter(str(n)), folder="Clients", index=False) for n in range(3)]
    guard_id = await vanish(post, gone[:2], "Clients")
    await vanish(post, gone, "Clients")
    ann = await person(gateway)
    answer = await ann.post(f"/admin/tenants/acme/mailboxes/{post.mailbox_id}/guards/{guard_id}/approve")
    assert (answer.status_code, "no longer what this guard names" in answer.text) == (409, True)


async def test_removing_needs_the_address_typed(gateway: Gateway) -> None:
    await gateway.tenant("acme")
    box = await gateway.mailbox("acme")
    ann = await person(gateway)
    at = f"/admin/tenants/acme/mailboxes/{box['id']}"
    assert "Nothing is changed at the mail server." in (await ann.get(f"{at}/remove")).text
    assert (await ann.post(f"{at}/remove", {"address": "ben@acme.example"})).status_code == 422
    done = await ann.post(f"{at}/remove", {"address": "Ann@acme.example"})
    assert done.headers["location"] == "/admin/tenants/acme?done=removed"
    assert addresses((await ann.get("/admin/mailboxes")).text) == []
    shown = (await ann.get(at)).text
    assert "Removed" in shown
    assert f'{at}/sync"' not in shown
    gateway.clock.forward(MINUTE)
    assert (await ann.post(f"{at}/switch", {"enabled": "1"})).status_code == 409


def mail_server() -> dict[str, Any]:
    return {"host": "smtp.acme.example", "port": 465, "username": "ann", "auth": {"password": "hunter2-smtp"}}


async def test_what_is_written_in_another_language(gateway: Gateway) -> None:
    await gateway.tenant("acme")
    ann: Person = await person(gateway)
    for accepted, expected in (("vi,en;q=0.5", "vi"), ("fr-CH;q=0.9,de", "fr"), ("de", "en"), ("it;q=x,,;q=", "en")):
        text = (await ann.get("/admin/mailboxes", headers={"accept-language": accepted})).text
        assert f'<html lang="{expected}">' in text
    await ann.get("/admin/account")
    await ann.post("/admin/account/language", {"language": "it"})
    assert '<html lang="it">' in (await ann.get("/admin/mailboxes", headers={"accept-language": "vi"})).text
    await ann.post("/admin/account/language", {"language": "tlh"})
    assert '<html lang="en">' in (await ann.get("/admin/mailboxes")).text


async def test_a_mailbox_shows_how_long_it_was_in_trouble_day_by_day(gateway: Gateway) -> None:
    await gateway.tenant("acme")
    box = await gateway.mailbox("acme", "ann@acme.example")
    ann = await person(gateway)
    at = f"/admin/tenants/acme/mailboxes/{box['id']}"
    assert "In trouble" not in (await ann.get(at)).text

    async def work(tx: Transaction) -> None:
        for ago, state in ((40 * DAY, "live"), (2 * DAY, "backoff"), (2 * DAY - 3 * HOUR, "live")):
            payload = {"state": state} | ({"reason": "it <hung> up"} if state == "backoff" else {})
            tx.emit("acme", "mailbox.state_changed", at=START - ago, mailbox_id=box["id"], payload=payload)

    await gateway.core.db.transact(work)
    text = (await ann.get(at)).text
    assert "In trouble in the last 30 days" in text
    assert '<svg class="plot"' in text
    shown = re.findall(r'data-label="Day">([^<]+)</th><td data-label="In trouble" class="num">([^<]+)<', text)
    assert sum(int(lasted.split()[0]) for _, lasted in shown) == 3
    assert text.count("it &lt;hung&gt; up") == 1  # what happened then, and why
    found = await mailbox_overview.states_since(gateway.core.db, box["id"], START - 30 * DAY, 1_000)
    assert [state for _, state in found][-3:] == ["live", "backoff", "live"]
    assert [state for _, state in await mailbox_overview.states_since(gateway.core.db, box["id"], 0, 1)] == [
        "connecting"
    ]


async def test_of_thousands_of_folders_those_are_shown_that_need_a_look(gateway: Gateway) -> None:
    """The part of the page that moves is sent every few seconds."""
    await gateway.tenant("acme")
    id_ = (await gateway.mailbox("acme"))["id"]
    rows = [
        {
            "id": f"{n:026}",
            "tenant_id": "acme",
            "mailbox_id": id_,
            "name": f"Folder {n:04}",
            "selectable": True,
            "followed": True,
            "exists_count": 0,
            "progress_done": 0,
            "progress_total": 0,
            "imported_at": None if n == 700 else START,
            "last_error": "no entry" if n == 800 else None,
        }
        for n in range(900)
    ]

    async def work(tx: Transaction) -> None:
        await tx.conn.execute(insert(folders), rows)

    await gateway.core.db.transact(work)
    ann = await person(gateway)
    text = (await ann.get(f"/admin/tenants/acme/mailboxes/{id_}/standing")).text
    names = re.findall(r"Folder \d{4}", text)
    assert len(names) == 200
    assert names[:3] == ["Folder 0800", "Folder 0700", "Folder 0000"]
    assert "200 of 900 folders are shown" in text
