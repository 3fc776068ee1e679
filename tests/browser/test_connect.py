"""The page behind a connect link in a real Chromium, with a real Dovecot behind the gateway; and the admin's way to
find servers. Scripts are off where nothing else is said: the page has none.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import expect

from tests.browser.conftest import Seat, Site, until
from tests.browser.test_pages import fill, violations
from tests.dovecot import Account, Dovecot

pytestmark = pytest.mark.server

Sit = Callable[..., Seat]


def link(site: Site, tenant: str, **body: Any) -> tuple[str, dict[str, Any]]:
    """The path of a new link's page, and the link."""
    site.tenant(tenant)
    made = site.client.post(f"/v1/tenants/{tenant}/connect-links", json=body).raise_for_status().json()
    return made["url"].removeprefix(site.base), made


def write_servers(seat: Seat, account: Account, password: str) -> None:
    page = seat.page
    page.fill("#imap_host", account.server.host)
    page.fill("#imap_port", str(account.server.port))
    page.select_option("#imap_security", "none")
    page.fill("#imap_username", account.name)
    page.fill("#imap_password", password)


@contextlib.contextmanager
def silent_server() -> Iterator[tuple[int, Callable[[], None]]]:
    """Accepts, and says nothing until it is told to hang up."""
    server = socket.create_server(("127.0.0.1", 0))
    over = threading.Event()

    def serve() -> None:
        with contextlib.suppress(OSError):
            taken, _ = server.accept()
            over.wait(200)
            taken.close()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield server.getsockname()[1], over.set
    finally:
        over.set()
        with contextlib.suppress(OSError):
            server.shutdown(socket.SHUT_RDWR)
        server.close()
        thread.join(30)


def test_a_person_connects_a_mailbox_by_a_link_and_its_mail_is_imported(sit: Sit, site: Site, dovecot: Dovecot) -> None:
    account = dovecot.account()
    fill(account, 30)
    path, made = link(site, "linked", owner="ann", address=account.address, return_url=f"{site.base}/healthz")
    seat = sit(java_script_enabled=False)
    page = seat.page
    seat.go(path)
    expect(page.locator(".lead")).to_have_text("Linked asks you to connect your mailbox with Example CRM.")
    expect(page.locator("#address")).to_have_value(account.address)
    page.click("text=Continue")
    expect(page.locator("text=The servers below are a guess.")).to_be_visible()
    write_servers(seat, account, "not the password")
    page.fill("#smtp_host", "")
    page.click("text=Check and connect")
    expect(page.locator("li.bad")).to_contain_text("IMAP: log in: failed")
    expect(page.locator("li.bad")).to_contain_text("User name or password is not right.")
    expect(page.locator("#imap_password")).to_have_value("")
    page.fill("#imap_password", account.password)
    page.click("text=Check and connect")
    expect(page.locator("p.done")).to_contain_text(f"{account.address} is connected.")
    mailbox = site.client.get(f"/v1/tenants/linked/connect-links/{made['id']}").json()["mailbox_id"]
    at = f"/v1/tenants/linked/mailboxes/{mailbox}"
    until(lambda: site.client.get(at).json()["imported_at"], "the import does not end")
    assert len(site.client.get("/v1/tenants/linked/messages").json()["items"]) == 30
    assert site.client.get(at).json()["owner"] == "ann"
    page.click("text=Back to Example CRM")
    page.wait_for_url(f"**/healthz?result=connected&connect_link_id={made['id']}&mailbox_id={mailbox}")
    assert page.evaluate("document.referrer") == ""
    seat.go(path)
    expect(page.locator("h1")).to_have_text("This link was used")


def test_each_step_is_shown_when_it_is_over(sit: Sit, site: Site, dovecot: Dovecot) -> None:
    account = dovecot.account()
    path, _ = link(site, "live", address=account.address)
    seat = sit(java_script_enabled=False)
    page = seat.page
    seat.go(path)
    page.click("text=Continue")
    with silent_server() as (port, hang_up):
        write_servers(seat, account, account.password)
        page.fill("#smtp_host", "127.0.0.1")
        page.fill("#smtp_port", str(port))
        page.select_option("#smtp_security", "none")
        page.click("text=Check and connect", no_wait_after=True)
        expect(page.locator("li.good")).to_have_count(5)  # reading, and the name of the server for sending
        expect(page.locator("ol.steps")).to_contain_text("IMAP: list the folders: well")
        assert page.locator("form").count() == 0  # it goes on
        hang_up()
        expect(page.locator("li.bad")).to_contain_text("SMTP: reach it: failed")
        expect(page.locator("#imap_password")).to_be_visible()


def test_the_link_can_be_used_by_keyboard(sit: Sit, site: Site) -> None:
    path, _ = link(site, "keys")
    seat = sit()
    page, press = seat.page, seat.page.keyboard.press
    seat.go(path)
    press("Tab")
    expect(page.locator("#address")).to_be_focused()
    page.keyboard.type("ann@gmail.com")
    press("Enter")
    expect(page.locator("h1")).to_have_text("ann@gmail.com")
    press("Tab")
    expect(page.get_by_role("link", name="How that is done at Gmail")).to_be_focused()
    press("Tab")
    expect(page.locator("#imap_password")).to_be_focused()
    expect(page.locator("#imap_host")).not_to_be_visible()  # what is known need not be looked at


@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 360)])
def test_nobody_is_kept_out_of_the_link(sit: Sit, site: Site, dovecot: Dovecot, scheme: str, width: int) -> None:
    account = dovecot.account()
    path, made = link(site, f"axe-{scheme}", return_url=f"{site.base}/healthz")
    seat = sit(width=width, color_scheme=scheme)
    page, axe = seat.page, Axe()
    found: dict[str, list[str]] = {}

    def look(name: str) -> None:
        found[name] = violations(axe, seat)
        assert page.evaluate("document.documentElement.scrollWidth") <= width, name

    seat.go(path)
    look("start")
    for address, name in (
        ("ann@gmail.com", "known"),
        ("ann@tuta.com", "impossible"),
        ("ann@gm\u0430il.com", "letters"),
    ):
        page.fill("#address", address)
        page.click("text=Continue")
        expect(page.locator("h1")).to_be_visible()
        look(name)
        seat.go(path)
    page.fill("#address", account.address)
    page.click("text=Continue")
    write_servers(seat, account, "not the password")
    page.fill("#smtp_host", "")
    page.click("text=Check and connect")
    expect(page.locator("li.bad")).to_be_visible()
    look("failed")
    page.fill("#imap_password", account.password)
    page.click("text=Check and connect")
    expect(page.locator("p.done")).to_be_visible()
    look("connected")
    seat.go(path)
    look("used")
    assert made["state"] == "open"
    assert {name: faults for name, faults in found.items() if faults} == {}


def test_an_admin_makes_a_link_hands_it_over_and_withdraws_it(sit: Sit, site: Site) -> None:
    site.tenant("handing")
    seat = sit(permissions=["clipboard-read", "clipboard-write"])
    page = seat.page
    seat.sign_in()
    seat.go("/admin/tenants/handing")
    page.click("text=Connect links")
    seat.tab_to(page.locator("#address"))
    page.keyboard.type("ann@gmail.com")
    page.keyboard.press("Enter")
    seat.tab_to(page.get_by_role("button", name="Copy"))
    page.keyboard.press("Enter")
    expect(page.locator("[role=status]")).to_have_text("Copied.")
    assert violations(Axe(), seat) == []
    copied = page.evaluate("navigator.clipboard.readText()")
    assert copied == page.locator("#secret").inner_text()
    visitor = sit(java_script_enabled=False)
    visitor.go(copied.removeprefix(site.base))
    expect(visitor.page.locator("#address")).to_have_value("ann@gmail.com")
    page.get_by_role("button", name="Withdraw the link for ann@gmail.com").click()
    expect(page.locator(".done")).to_contain_text("The link is withdrawn")
    visitor.page.reload()
    expect(visitor.page.locator("h1")).to_have_text("This link was withdrawn")


def test_an_admin_finds_the_servers_of_an_address(sit: Sit, site: Site) -> None:
    site.tenant("finding")
    seat = sit()
    seat.sign_in()
    seat.go("/admin/tenants/finding/connect")
    page = seat.page
    page.fill("#find", "ann@web.de")
    page.click("text=Find the servers")
    expect(page.locator("#found")).to_contain_text("These are the servers of WEB.DE.")
    expect(page.locator("#found")).to_contain_text("must be switched on")
    for name, value in (("address", "ann@web.de"), ("imap_host", "imap.web.de"), ("imap_username", "ann")):
        expect(page.locator(f"#{name}")).to_have_value(value)
    assert violations(Axe(), seat) == []
