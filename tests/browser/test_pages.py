"""The pages in a real Chromium: what an admin does all day, by mouse, by keyboard, on a phone, without script; and that
nobody is kept out (axe-core).
"""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import expect

from mailgate.clock import DAY, SECOND, system_clock
from tests.browser.conftest import PATIENCE_S, Seat, Site, until
from tests.dovecot import Account, Dovecot
from tests.sync.engine import mail

pytestmark = pytest.mark.server

Sit = Callable[..., Seat]
GUARDED = 60
"""More messages than may go from a folder without a question."""


def fill(account: Account, count: int, folder: str = "INBOX") -> None:
    at = (system_clock() - 2 * DAY) // SECOND * SECOND
    for n in range(count):
        account.add(mail(n), folder=folder, received_at=at + n * SECOND)


def empty(account: Account, folder: str) -> None:
    """Another client deletes everything in the folder."""
    client = account.imap()
    client.select(folder)
    client.uid("STORE", "1:*", "+FLAGS.SILENT", r"(\Deleted)")
    client.expunge()
    client.logout()


def write_account(seat: Seat, account: Account, password: str) -> None:
    page = seat.page
    page.fill("#address", account.address)
    page.fill("#imap_host", account.server.host)
    page.fill("#imap_port", str(account.server.port))
    page.select_option("#imap_security", "none")
    page.fill("#imap_username", account.name)
    page.fill("#imap_password", password)


def test_an_admin_connects_a_mailbox_watches_the_import_and_uses_the_switch(
    sit: Sit, site: Site, dovecot: Dovecot
) -> None:
    account = dovecot.account()
    fill(account, 120)
    site.tenant("acme")
    seat = sit()
    page = seat.page
    seat.sign_in()
    page.click("text=Tenants")
    page.click("a:has-text('Acme')")
    page.click("text=Connect a mailbox")
    write_account(seat, account, "not the password")
    page.click("text=Check and connect")
    expect(page.locator("#outcome")).to_contain_text("IMAP: log in: failed")
    expect(page.locator("#imap_username")).to_have_value(account.name)  # what was typed stays
    page.fill("#imap_password", account.password)
    page.click("text=Check and connect")
    expect(page.locator(".done")).to_contain_text("Its import begins now.")
    expect(page.locator("#standing .badge")).to_have_text("Live")  # without a reload
    expect(page.locator("#standing tr:has-text('INBOX')")).to_contain_text("complete")
    until(lambda: dovecot.sessions(account) > 0, "it is not connected")

    seat.go(f"/admin/mailboxes?q={account.address}")
    row = page.locator("tbody tr")
    switch = row.get_by_role("switch")
    expect(switch).to_have_attribute("aria-checked", "true")
    switch.click()
    expect(row.locator(".badge")).to_have_text("Off")
    expect(switch).to_have_attribute("aria-checked", "false")
    until(lambda: dovecot.sessions(account) == 0, "its connection was not closed")
    expect(row).not_to_contain_text("being closed")
    switch.click()
    expect(switch).to_have_attribute("aria-checked", "true")
    expect(row.locator(".badge")).to_have_text("Live")
    until(lambda: dovecot.sessions(account) > 0, "it is not connected again")
    log = site.client.get("/v1/access-log", params={"tenant": "acme", "kind": "change"}).json()["items"]
    routes = [entry["route"].rpartition("/")[2] for entry in log if entry["actor"].startswith("user:")]
    assert routes == ["switch", "switch", "connect", "connect"]


def test_an_admin_approves_exactly_what_a_guard_names(sit: Sit, site: Site, dovecot: Dovecot) -> None:
    account = dovecot.account()
    fill(account, GUARDED, "Archive")
    site.tenant("guarded")
    body = {
        "address": account.address,
        "imap": {
            "host": account.server.host,
            "port": account.server.port,
            "security": "none",
            "username": account.name,
            "auth": {"password": account.password},
        },
    }
    made = site.client.post("/v1/tenants/guarded/mailboxes", json=body).json()
    mailbox = f"/v1/tenants/guarded/mailboxes/{made['id']}"
    until(lambda: site.client.get(mailbox).json()["imported_at"], "the import does not end")
    empty(account, "Archive")
    site.client.post(f"{mailbox}/sync").raise_for_status()
    until(lambda: site.client.get(mailbox).json()["guards_open"], "no guard was raised")
    seat = sit()
    seat.sign_in()
    seat.go(f"/admin/mailboxes?q={account.address}&state=trouble")
    seat.page.click("text=1 guard waits")
    guards = seat.page.locator("#guards")
    expect(guards).to_contain_text(f"{GUARDED} of {GUARDED} messages are gone from the mail server")
    guards.get_by_role("button", name=f"Approve exactly these {GUARDED} deletions").click()
    expect(seat.page.locator(".done")).to_contain_text("Approved.")
    until(lambda: not site.client.get(mailbox).json()["guards_open"], "the guard was not carried out")
    messages = "/v1/tenants/guarded/messages"
    until(lambda: not site.client.get(messages).json()["items"], "the copies were not removed")
    seat.page.reload()
    expect(guards).to_contain_text("Carried out")
    expect(seat.page.locator(".facts")).to_contain_text(re.compile(r"Copies\s*0"), timeout=PATIENCE_S * 1_000)


def test_everything_can_be_done_by_keyboard(sit: Sit, site: Site) -> None:
    seat = sit()
    page, press = seat.page, seat.page.keyboard.press
    seat.go("/admin")
    page.keyboard.type("ann")
    press("Tab")
    page.keyboard.type("correct horse battery")
    press("Enter")
    page.wait_for_url("**/admin/mailboxes")
    press("Tab")
    expect(page.locator(".skip")).to_be_focused()
    press("Enter")
    press("Tab")
    expect(page.locator("#q")).to_be_focused()
    page.keyboard.type("ben@northwind")
    press("Enter")
    page.wait_for_url("**q=ben*")
    switch = page.get_by_role("switch")
    for _ in range(40):
        press("Tab")
        if switch.evaluate("element => element === document.activeElement"):
            break
    expect(switch).to_be_focused()
    for checked in ("false", "true"):
        press("Space")
        expect(switch).to_have_attribute("aria-checked", checked)
        expect(switch).to_be_focused()  # though its row is a new one


def test_it_works_without_script(sit: Sit, site: Site) -> None:
    seat = sit(java_script_enabled=False)
    seat.sign_in()
    seat.go("/admin/mailboxes?q=carla@bluefield")
    for checked, said in (("false", "It is switched off."), ("true", "It is switched on")):
        seat.page.get_by_role("switch").click()
        expect(seat.page.locator(".done")).to_contain_text(said)
        expect(seat.page.get_by_role("switch")).to_have_attribute("aria-checked", checked)


def pages_of(site: Site) -> dict[str, str]:
    """Every kind of page, on something that has all of it."""
    boxes = site.client.get(f"/v1/tenants/{site.room.tenant_ids[0]}/mailboxes").json()["items"]
    boxes += site.client.get(f"/v1/tenants/{site.room.tenant_ids[1]}/mailboxes").json()["items"]
    found = {box["state"]: f"/admin/tenants/{box['tenant_id']}/mailboxes/{box['id']}" for box in boxes}
    tenant = f"/admin/tenants/{site.room.tenant_ids[1]}"
    return {
        "mailboxes": "/admin/mailboxes",
        "nothing": "/admin/mailboxes?q=nobody",
        "guard": found["needs_approval"],
        "mailbox": found["importing"],
        "refused login": found["auth_failed"],
        "settings": f"{found['live']}/edit",
        "remove": f"{found['live']}/remove",
        "tenants": "/admin/tenants",
        "tenant": tenant,
        "connect": f"{tenant}/connect",
        "connect links": f"{tenant}/links",
        "retention": "/admin/retention?show=1",
        "purges": "/admin/retention/runs",
        "purge": f"/admin/retention/runs/{site.room.run_id}",
        "holds": f"/admin/retention/holds/{site.room.tenant_ids[1]}",
        "purge log": f"/admin/purge-log/{site.room.tenant_ids[1]}",
        "entry": f"/admin/purge-log/{site.room.tenant_ids[1]}/0",
        "events": "/admin/events",
        "event": f"/admin/events/{site.room.tenant_ids[0]}%3A7",
        "webhooks": "/admin/webhooks",
        "webhook": f"/admin/webhooks/{site.room.webhook_ids[1]}",
        "new webhook": "/admin/webhooks/new",
        "webhook settings": f"/admin/webhooks/{site.room.webhook_ids[0]}/edit",
        "remove webhook": f"/admin/webhooks/{site.room.webhook_ids[2]}/remove",
        "system": "/admin/system?hours=24",
        "access log": "/admin/access-log",
        "account": "/admin/account",
        "codes": "/admin/account/codes",
        "not there": "/admin/nothing",
    }


@pytest.mark.parametrize(("scheme", "width", "locale"), [("light", 1280, "en-GB"), ("dark", 360, "fr-FR")])
def test_nobody_is_kept_out(sit: Sit, site: Site, scheme: str, width: int, locale: str) -> None:
    """axe-core finds nothing; nothing is wider than the screen, in the language with the longest words either."""
    seat = sit(width=width, color_scheme=scheme, locale=locale)
    axe = Axe()
    seat.go("/admin/sign-in")
    found = {"sign in": violations(axe, seat)}
    seat.sign_in()
    for name, path in pages_of(site).items():
        seat.go(path)
        found[name] = violations(axe, seat)
        assert seat.page.evaluate("document.documentElement.scrollWidth") <= width, name
    assert {name: faults for name, faults in found.items() if faults} == {}


def test_names_of_any_length_and_direction_stay_within_the_page(sit: Sit, site: Site) -> None:
    tenant, name = "x" * 64, "\u202e\u0634\u0631\u0643\u0629 " + "Wolfeschlegelsteinhausenbergerdorff" * 5
    site.client.put(f"/v1/tenants/{tenant}", json={"name": name}).raise_for_status()
    site.client.put(f"/v1/tenants/{tenant}/subscription", json={"plan": "professional"}).raise_for_status()
    account = {"host": "127.0.0.1", "port": 9, "security": "none", "username": "u" * 320, "auth": {"password": "x"}}
    body = {"address": f"{'a' * 60}@{'b' * 200}", "owner": "o" * 200, "imap": account}
    box = site.client.post(f"/v1/tenants/{tenant}/mailboxes", json=body).raise_for_status().json()["id"]
    hold = {"scope": {"tenant": True}, "matter": "m" * 100, "reason": "w" * 900}
    site.client.post(f"/v1/tenants/{tenant}/holds", json=hold).raise_for_status()
    link = {"owner": "o" * 200, "address": f"{'z' * 60}@{'y' * 200}"}
    site.client.post(f"/v1/tenants/{tenant}/connect-links", json=link).raise_for_status()
    at = f"/admin/tenants/{tenant}"
    of_mailbox = [f"{at}/mailboxes/{box}", f"{at}/mailboxes/{box}/edit", f"{at}/mailboxes/{box}/remove"]
    about = [f"/admin/{page}{tenant}" for page in ("mailboxes?tenant=", "retention?tenant=", "retention/holds/")]
    log = [f"/admin/purge-log/{tenant}", f"/admin/purge-log/{tenant}/0", "/admin/purge-log"]
    for width in (320, 1280):
        seat = sit(width=width)
        seat.sign_in()
        for path in (at, f"{at}/links", f"{at}/connect", *of_mailbox, *about, *log, "/admin/tenants", "/admin/events"):
            seat.go(path)
            assert seat.page.evaluate("document.documentElement.scrollWidth") <= width, path
            if width == 1280:
                assert violations(Axe(), seat) == [], path


def violations(axe: Axe, seat: Seat) -> list[str]:
    seat.page.wait_for_load_state("load")  # before its style sheet is here, a page has the browser's colours
    found = axe.run(seat.page).response["violations"]
    return [f"{fault['id']}: {fault['nodes'][0]['html'][:200]}" for fault in found]


def test_pictures_of_the_pages(sit: Sit, site: Site) -> None:
    """Made for the documentation when PICTURES names a folder; looked at in any case."""
    seat = sit(width=1240, height=760)
    seat.sign_in()
    expect(seat.page.locator(".chips")).to_contain_text(re.compile("Trouble [4-9]"))  # others connect mailboxes too
    seat.picture("pages-mailboxes")
    paths = pages_of(site)
    for name in ("guard", "mailbox", "tenant", "retention", "purge log", "events", "webhook", "system"):
        seat.go(paths[name])
        expect(seat.page.locator("h1")).to_be_visible()
        seat.picture(f"pages-{name.replace(' ', '-')}", full_page=name != "events")
    phone = sit(width=390, height=760, color_scheme="dark")
    phone.sign_in()
    phone.picture("pages-phone")


def test_a_picture_of_the_page_behind_a_connect_link(sit: Sit, site: Site) -> None:
    made = site.client.post(f"/v1/tenants/{site.room.tenant_ids[1]}/connect-links", json={"address": "ann@gmail.com"})
    seat = sit(width=720, height=760)
    seat.go(made.json()["url"].removeprefix(site.base))
    seat.picture("pages-connect", full_page=True)
    seat.page.click("text=Continue")
    expect(seat.page.locator("h1")).to_have_text("ann@gmail.com")
    seat.picture("pages-connect-password", full_page=True)
