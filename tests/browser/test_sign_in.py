"""Signing in, in a real Chromium: by a password, and through an OpenID provider that is another site for it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import expect

from tests.browser.conftest import Seat, Site
from tests.browser.provider import provider
from tests.browser.test_pages import violations

pytestmark = pytest.mark.server

Sit = Callable[..., Seat]


def test_somebody_comes_in_through_the_provider_by_keyboard_and_goes_where_they_wanted(sit: Sit, site: Site) -> None:
    with provider(site.provider_port) as other:
        seat = sit(also=f"localhost:{other.port}")
        page, press = seat.page, seat.page.keyboard.press
        seat.go(f"/admin/purge-log/{site.room.tenant_ids[1]}?type=hold.place")
        assert violations(Axe(), seat) == []
        seat.tab_to(page.get_by_role("link", name="Sign in with Example ID"))
        press("Enter")
        expect(page.get_by_role("heading", name="Example ID")).to_be_visible()
        seat.tab_to(page.get_by_role("button", name="Go on as cleo"))
        press("Enter")
        page.wait_for_url(f"**/admin/purge-log/{site.room.tenant_ids[1]}?type=hold.place")
        expect(page.locator(".me")).to_contain_text("cleo")
        assert {cookie["name"] for cookie in seat.context.cookies()} & {"mailgate_oidc", "mailgate_visit"} == set()
        kept = next(cookie for cookie in seat.context.cookies() if cookie["name"] == "mailgate_session")
        assert (kept["httpOnly"], kept["sameSite"]) == (True, "Lax")
        page.click("text=Sign out")
        expect(page.locator(".done")).to_have_text("You are signed out.")
        seat.go("/admin/mailboxes")
        page.wait_for_url("**/admin/sign-in?next=*")


@pytest.mark.parametrize("script", [True, False])
def test_who_is_not_let_in_is_told_why_and_can_use_a_password(sit: Sit, site: Site, script: bool) -> None:
    with provider(site.provider_port) as other:
        seat = sit(also=f"localhost:{other.port}", java_script_enabled=script)
        page = seat.page
        for button, why in (("Go on as mallory", "nobody here has this name"), ("No", "access_denied")):
            seat.go("/admin/sign-in")
            page.click("text=Sign in with Example ID")
            page.get_by_role("button", name=button).click()
            page.wait_for_url("**/admin/sign-in/oidc/callback?*")
            expect(page.get_by_role("alert")).to_contain_text(why)
        if script:
            assert violations(Axe(), seat) == []
        page.fill("#name", "ann")
        page.fill("#password", "correct horse battery")
        page.click("button.main")
        page.wait_for_url("**/admin/mailboxes")


def test_nobody_comes_in_by_the_answer_that_another_browser_was_given(sit: Sit, site: Site) -> None:
    with provider(site.provider_port) as other:
        victim, attacker = sit(also=f"localhost:{other.port}"), sit(also=f"localhost:{other.port}")
        for seat in (attacker, victim):
            seat.go("/admin/sign-in")
            seat.page.click("text=Sign in with Example ID")
            expect(seat.page.get_by_role("heading", name="Example ID")).to_be_visible()
        victim.page.goto(other.consent(attacker.page.url, "cleo"))
        expect(victim.page.get_by_role("alert")).to_be_visible()
        victim.go("/admin/mailboxes")
        victim.page.wait_for_url("**/admin/sign-in?next=*")
