"""One gateway with everything in it, and one Chromium (Debian's, driven by Playwright) that looks at its pages.

The gateway is furnished (tests/browser/showroom.py) before it starts, and serves in a process of its own; what it meets
at mail servers is a real Dovecot's. No request may leave the host, and nothing may be refused by the pages' own policy.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from playwright.sync_api import Browser, BrowserContext, Locator, Page, sync_playwright

from mailgate.app.core import Core
from mailgate.clock import system_clock
from mailgate.settings import Settings
from tests.authserver import CLIENT_ID, CLIENT_SECRET
from tests.browser.showroom import PASSWORD, Showroom, furnish
from tests.servers import free_port, leave_out
from tests.waiting import PATIENCE_S

TOKEN = "a-token-of-the-browser-tests"
ARGUMENTS = [
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync"),
]
PICTURES = os.environ.get("PICTURES")
"""Where to put pictures of the pages; none are made without (`make picture`)."""


@dataclass
class Site:
    """The gateway: its address, and a client with the admin's token to prepare things and to look behind the pages."""

    base: str
    client: httpx.Client
    room: Showroom
    provider_port: int
    """Where an OpenID provider is looked for (tests/browser/provider.py)."""

    def tenant(self, tenant_id: str) -> None:
        self.client.put(f"/v1/tenants/{tenant_id}", json={"name": tenant_id.title()}).raise_for_status()
        plan = {"plan": "professional"}
        self.client.put(f"/v1/tenants/{tenant_id}/subscription", json=plan).raise_for_status()


@pytest.fixture(scope="package")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("site")
    settings = Settings(data_dir=folder / "data")

    async def prepare() -> Showroom:
        core = await Core.open(settings)
        try:
            return await furnish(core, system_clock(), copies_each=600 if PICTURES else 40)
        finally:
            await core.close()

    room = asyncio.run(prepare())
    port, provider_port = free_port(), free_port()
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("MAILGATE_")},
        "MAILGATE_DATA_DIR": str(settings.data_dir),
        "MAILGATE_ADMIN_TOKEN": TOKEN,
        "MAILGATE_HTTP__PORT": str(port),
        "MAILGATE_NET__ALLOW": json.dumps(["127.0.0.0/8"]),
        "MAILGATE_SYNC__POLL_INTERVAL_S": "1",
        "MAILGATE_ONBOARDING__LOOKUPS": "false",
        "MAILGATE_ONBOARDING__RETURN_URLS": f"http://127.0.0.1:{port}/healthz",
        "MAILGATE_ONBOARDING__SERVICE_NAME": "Example CRM",
        "MAILGATE_WEBHOOKS__ALLOW_HTTP": "true",
        "MAILGATE_OIDC__ISSUER": f"http://localhost:{provider_port}",
        "MAILGATE_OIDC__TITLE": "Example ID",
        "MAILGATE_OIDC__CLIENT_ID": CLIENT_ID,
        "MAILGATE_OIDC__CLIENT_SECRET": CLIENT_SECRET,
        "MAILGATE_OIDC__NAME_CLAIM": "preferred_username",
    }
    with (folder / "serve.log").open("wb") as log:
        process = subprocess.Popen([sys.executable, "-m", "mailgate.cli", "serve"], env=environment, stderr=log)
    base = f"http://127.0.0.1:{port}"
    with httpx.Client(base_url=base, headers={"authorization": f"Bearer {TOKEN}"}, timeout=120) as client:
        try:
            until(lambda: answers(client), "the gateway does not answer")
            yield Site(base, client, room, provider_port)
        finally:
            process.terminate()
            process.wait(200)


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    """Playwright holds an event loop as long as it runs, so it ends with the module: other tests have loops as well."""
    program = shutil.which("chromium")
    if program is None:
        leave_out("Chromium", "chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, headless=True, args=ARGUMENTS)
        yield browser
        browser.close()


@dataclass
class Seat:
    """Somebody at the browser. `faults` are what the console complains about, and requests that would have left."""

    site: Site
    context: BrowserContext
    page: Page
    faults: list[str] = field(default_factory=list)

    def go(self, path: str) -> None:
        self.page.goto(self.site.base + path)

    def sign_in(self, name: str = "ann") -> None:
        self.go("/admin")
        self.page.fill("#name", name)
        self.page.fill("#password", PASSWORD)
        self.page.click("button.main")
        self.page.wait_for_url("**/admin/mailboxes")

    def tab_to(self, target: Locator, most: int = 60) -> None:
        """Press Tab until this has the focus; every control must be reached so."""
        for _ in range(most):
            if target.evaluate("element => element === document.activeElement"):
                return
            self.page.keyboard.press("Tab")
        pytest.fail(f"the keyboard does not reach {target}")

    def picture(self, name: str, **more: Any) -> None:
        if PICTURES:
            self.page.screenshot(path=Path(PICTURES) / f"{name}.png", **more)


@pytest.fixture
def sit(site: Site, chromium: Browser) -> Iterator[Callable[..., Seat]]:
    """Sit down at the browser: `sit(width=…, …)`; with a profile of its own each time. `also`: a host that
    may be asked beside the gateway's.
    """
    seats: list[Seat] = []

    def sit_down(width: int = 1280, height: int = 800, also: str = "", **more: Any) -> Seat:
        wanted = {"locale": "en-GB", **more}
        context = chromium.new_context(viewport={"width": width, "height": height}, **wanted)
        context.set_default_timeout(PATIENCE_S * 1_000)
        seat = Seat(site, context, context.new_page())

        def watch(route: Any) -> None:
            host = urlsplit(route.request.url).netloc
            if host in (urlsplit(site.base).netloc, also):
                route.continue_()
            else:
                seat.faults.append(f"asked {host}")
                route.abort()

        context.route("**/*", watch)
        seat.page.on("console", lambda said: seat.faults.append(said.text) if said.type == "error" else None)
        seat.page.on("pageerror", lambda error: seat.faults.append(str(error)))
        seats.append(seat)
        return seat

    yield sit_down
    for seat in seats:
        seat.context.close()
    assert [fault for seat in seats for fault in seat.faults if "status of 4" not in fault] == []


def answers(client: httpx.Client) -> bool:
    try:
        return client.get("/healthz").status_code == 200
    except httpx.TransportError:
        return False


def until(true: Callable[[], object], why: str) -> None:
    """Returns when it is true."""
    deadline = time.monotonic() + PATIENCE_S
    while not true():
        if time.monotonic() > deadline:
            pytest.fail(why)
        time.sleep(0.05)  # between two looks at the condition
