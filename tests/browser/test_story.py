"""What compliance and admins do in a real Chromium, from the first page to the last: without a mouse, with real
programs at the other ends.
"""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from playwright.sync_api import expect
from standardwebhooks.webhooks import Webhook

from tests.browser.conftest import PATIENCE_S, Seat, Site, until

pytestmark = [pytest.mark.server, pytest.mark.timeout(600)]

Sit = Callable[..., Seat]
MAILGATE = f"{shlex.quote(sys.executable)} -m mailgate.cli"


def run(command: str, folder: Path) -> str:
    """Run what a page says, as a person would, in the folder of the downloads."""
    assert command.startswith(("mailgate ", "tar ")), command
    line = re.sub(r"(^|&& )mailgate ", rf"\1{MAILGATE} ", command)
    done = subprocess.run(["bash", "-c", line], cwd=folder, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_compliance_proves_it_by_keyboard_alone(sit: Sit, site: Site, tmp_path: Path) -> None:
    seat = sit()
    page, press = seat.page, seat.page.keyboard.press
    seat.sign_in("cleo")
    tenant_id = site.room.tenant_ids[2]

    # What will go?
    seat.tab_to(page.get_by_role("link", name="Retention"))
    press("Enter")
    seat.tab_to(page.get_by_label("Tenant"))
    page.keyboard.type(tenant_id)
    seat.tab_to(page.get_by_role("button", name="Preview"))
    press("Enter")
    expect(page.get_by_role("heading", name="A purge then would take")).to_be_visible()
    seat.tab_to(page.locator("summary", has_text="The same as a table"))
    press("Enter")
    expect(page.locator("details table")).to_be_visible()

    # A hold.
    seat.tab_to(page.get_by_role("link", name="Holds"))
    press("Enter")
    seat.tab_to(page.get_by_label("Tenant"))
    page.keyboard.type(tenant_id)
    press("Enter")
    expect(page.get_by_role("heading", name="Place a hold")).to_be_visible()
    seat.tab_to(page.get_by_label("The matter"))
    page.keyboard.type("2026-77")
    seat.tab_to(page.get_by_label("Why", exact=True))
    page.keyboard.type("a letter of a court")
    seat.tab_to(page.get_by_role("button", name="Place the hold"))
    press("Enter")
    expect(page.locator(".done")).to_contain_text("The hold stands.")
    expect(page.locator("li.held")).to_contain_text("a letter of a court")

    # What went, and why not.
    seat.tab_to(page.get_by_role("link", name="What went"))
    press("Enter")
    seat.tab_to(page.locator("tbody th a").first)
    press("Enter")
    expect(page.get_by_role("heading", name="The counts balance")).to_be_visible()
    assert page.get_by_role("button", name="Approve").count() == 0  # that is for an admin

    # Prove it.
    seat.tab_to(page.get_by_role("link", name="Purge log", exact=True))
    press("Enter")
    seat.tab_to(page.locator(f"a[href='/admin/purge-log/{tenant_id}']"))
    press("Enter")
    seat.tab_to(page.get_by_role("button", name="Verify here now"))
    press("Enter")
    expect(page.locator("[role=status]")).to_contain_text("This gateway finds that everything holds.")
    command = page.locator("pre").first.inner_text()
    downloads = [page.get_by_role("button", name="Take the log away"), page.get_by_role("link", name="Key")]
    for control in downloads:
        seat.tab_to(control)
        with page.expect_download() as waiting:
            press("Enter")
        waiting.value.save_as(tmp_path / waiting.value.suggested_filename)
    assert "ok" in run(command, tmp_path).lower()
    seat.tab_to(page.locator("tbody th a").first)
    press("Enter")
    expect(page.get_by_role("heading", name="Its proof")).to_be_visible()
    command = (
        page.locator("pre").last.inner_text()
        if page.locator("pre").count() == 2
        else page.locator("pre").nth(1).inner_text()
    )
    seat.tab_to(page.get_by_role("link", name="Download"))
    with page.expect_download() as waiting:
        press("Enter")
    waiting.value.save_as(tmp_path / waiting.value.suggested_filename)
    assert "ok" in run(command, tmp_path).lower()


@dataclass
class Receiver:
    """The other end of a webhook: what it got, and where it is."""

    port: int = 0
    requests: list[tuple[dict[str, str], bytes]] = field(default_factory=list)


@contextmanager
def receiver(said: bytes) -> Iterator[Receiver]:
    """Takes everything and says the same; in a thread of its own, since Playwright has this one's event loop."""
    made = Receiver()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            made.requests.append(({name.lower(): value for name, value in self.headers.items()}, body))
            self.send_response(200)
            self.end_headers()
            self.wfile.write(said)

        def log_message(self, *_: object) -> None:
            """Nothing."""

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        made.port = server.server_address[1]
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield made
        finally:
            server.shutdown()
            thread.join(30)


def test_an_admin_makes_a_webhook_and_hears_from_it(sit: Sit, site: Site) -> None:
    site.tenant("hooked")
    with receiver(b"<b>thanks</b>") as got:
        seat = sit()
        page = seat.page
        seat.sign_in()
        page.click("nav >> text=Events")
        page.click("text=Webhooks")
        page.click("text=New endpoint")
        page.fill("#url", f"http://127.0.0.1:{got.port}/hook")
        page.fill("#of", "hooked")
        page.check("input[name='type:subscription.*']")
        page.click("text=Make it")
        secret = page.locator("pre.secret").inner_text()
        page.click("text=I have kept it")
        page.click("text=Send a test")
        expect(page.locator("[role=status]")).to_contain_text("The receiver took it. It answered 200.")
        expect(page.locator("[role=status] pre")).to_have_text("<b>thanks</b>")
        plan = {"plan": "standard"}
        site.client.put("/v1/tenants/hooked/subscription", json=plan).raise_for_status()
        until(lambda: len(got.requests) >= 2, "the event was not delivered")
        standing = page.locator("#standing")  # without a reload
        expect(standing).to_contain_text(re.compile(r"Last delivered\s*\d"), timeout=PATIENCE_S * 1_000)
        headers, body = got.requests[-1]
        told = Webhook(secret).verify(body, headers)
        assert told["type"] == "subscription.changed"
        page.reload()
        page.click("tbody >> text=The subscription changed")
        expect(page.locator("h1")).to_contain_text("subscription.changed")
        expect(page.get_by_role("heading", name="Who has it").locator("..")).to_contain_text("Delivered")
        page.go_back()
        page.click("text=Pause")
        expect(page.locator(".done")).to_contain_text("It is paused.")
        page.click("text=Remove")
        page.check("input[name=sure]")
        page.click("button.danger")
        expect(page.locator(".done")).to_contain_text("The endpoint is removed")


def test_the_system_page_keeps_itself_up_to_date(sit: Sit, site: Site) -> None:
    seat = sit()
    seat.sign_in()
    seat.go("/admin/system")
    seat.page.get_by_role("link", name="72 hours").click()
    expect(seat.page.locator(".plots figure")).to_have_count(10)
    with seat.page.expect_response("**/admin/system/now") as answered:
        pass
    assert answered.value.status == 200
    expect(seat.page.get_by_role("heading", name="What waits")).to_be_visible()
