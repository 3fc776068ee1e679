"""What no page answered is a page as well: in the reader's language, with pages' headers, and nothing from inside."""

from __future__ import annotations

import dataclasses
import html
from typing import Any

import httpx
import pytest
from sqlalchemy.exc import OperationalError

from mailgate.admin import application as pages
from mailgate.admin import details, faults
from mailgate.admin.languages import LANGUAGES, language
from mailgate.admin.purge_words import ALARMS
from mailgate.alarms import Alarm, Kind
from mailgate.api.application import create_app
from mailgate.errors import ConflictError
from mailgate.store import users
from tests.api.conftest import ADMIN, Gateway
from tests.api.people import person


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    """What is tested here does not hang on the database."""
    return sqlite_url


def looks_like_a_page(answer: httpx.Response, code: str) -> None:
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert f'<html lang="{code}">' in answer.text
    assert int(answer.headers["content-length"]) == len(answer.content)
    assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["x-request-id"]


@pytest.mark.parametrize("code", LANGUAGES)
async def test_what_the_gate_refuses_is_a_page_in_the_readers_language(gateway: Gateway, code: str) -> None:
    form = {"content-type": "application/x-www-form-urlencoded"}
    visitor = gateway.with_token(None)
    for method, path, status, more in (
        ("GET", "/admin/mailboxes?q=%FF", 400, {}),
        ("GET", f"/admin/mailboxes?q={'a' * 9_000}", 400, {}),
        ("GET", "/admin/mailboxes?q=a&q=b", 422, {}),
        ("GET", "/admin/mailboxes?q=%00", 422, {}),
        ("POST", "/admin/sign-in", 415, {"content": b"{}", "headers": {"content-type": "application/json"}}),
        ("POST", "/admin/sign-in", 413, {"content": b"a" * 2_000_000, "headers": form}),
        ("PUT", "/admin/account", 405, {}),
        ("POST", "/admin/nothing/there", 405, {"content": b"", "headers": form}),
    ):
        headers = {"accept-language": code, **more.get("headers", {})}
        answer = await visitor.request(method, path, **more | {"headers": headers})
        assert answer.status_code == status, path
        looks_like_a_page(answer, code)
        title, meaning = faults.refusal(language(code), status)
        assert title in html.unescape(answer.text)
        assert meaning in html.unescape(answer.text)
    answer = await visitor.head("/admin/mailboxes?q=%FF", headers={"accept-language": code})
    assert (answer.status_code, answer.content) == (400, b"")


async def test_programs_get_problem_documents_still(gateway: Gateway) -> None:
    for path in ("/v1/nothing", "/administrators", "/v1/tenants?limit=x"):
        assert (await gateway.client.get(path)).headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize(
    ("fault", "status", "said"),
    [
        (RuntimeError("the secret is hunter2"), 500, "Something went wrong inside mailgate"),
        (OperationalError("select hunter2", {}, Exception("gone")), 503, "The gateway can"),
    ],
)
async def test_a_fault_is_a_page_that_tells_nothing_from_inside(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch, fault: Exception, status: int, said: str
) -> None:
    ann = await person(gateway)
    await ann.post("/admin/account/language", {"language": "fr"})

    async def fails(*_: Any, **__: Any) -> None:
        raise fault

    monkeypatch.setattr("mailgate.store.tenant_overview.list_page", fails)
    answer = await ann.client.get("/admin/tenants", headers={"accept-language": "en"})
    assert answer.status_code == status
    looks_like_a_page(answer, "fr")  # ann's own language, whatever the browser says
    assert "hunter2" not in answer.text
    assert answer.headers["x-request-id"] in answer.text
    assert said not in answer.text
    assert language("fr").text(faults.STATUSES[status][0]) in html.unescape(answer.text)
    assert (answer.headers.get("retry-after") is not None) == (status == 503)


async def test_the_language_is_remembered_for_when_nobody_can_be_asked(gateway: Gateway) -> None:
    ann = await person(gateway)
    await ann.post("/admin/account/language", {"language": "vi"})
    await ann.get("/admin/account")
    await ann.post("/admin/sign-out")
    looks_like_a_page(await ann.client.get("/admin/mailboxes?q=%FF", headers={"accept-language": "fr"}), "vi")
    assert '<html lang="vi">' in (await ann.get("/admin/sign-in", headers={"accept-language": "fr"})).text
    await ann.sign_in()
    await ann.post("/admin/account/language", {"language": ""})
    await ann.get("/admin/account")
    looks_like_a_page(await ann.client.get("/admin/mailboxes?q=%FF", headers={"accept-language": "fr"}), "fr")
    ann.client.cookies.set("mailgate_language", "<script>")
    looks_like_a_page(await ann.client.get("/admin/mailboxes?q=%FF", headers={"accept-language": "it"}), "it")


async def test_a_gateway_that_waits_for_a_restore_says_so_on_a_page(gateway: Gateway) -> None:
    services = dataclasses.replace(gateway.app.state.services, closed=lambda: "run <b>mailgate restore</b>")
    app = create_app(services)
    pages.install(app, services)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://gateway.test") as visitor:
        answer = await visitor.get("/admin", headers={"accept-language": "it"})
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "60")
        looks_like_a_page(answer, "it")
        assert "run &lt;b&gt;mailgate restore&lt;/b&gt;" in answer.text
        told = await visitor.get("/v1/tenants", headers={"authorization": f"Bearer {ADMIN}"})
        assert told.json()["type"] == "backup_restored"


async def test_reasons_of_the_core_come_in_the_readers_language(gateway: Gateway) -> None:
    await gateway.tenant("acme")
    ann = await person(gateway)
    english = (await ann.post("/admin/retention/holds/acme", {"kind": "mailbox", "matter": "m", "reason": "r"})).text
    assert "say what to hold: everything, a mailbox, or messages by their ids" in english
    await users.change(gateway.core.db, (await users.find(gateway.core.db, "ann"))[0].id, language="fr")  # type: ignore[index]
    french = (await ann.post("/admin/retention/holds/acme", {"kind": "mailbox", "matter": "m", "reason": "r"})).text
    assert "say what" not in french
    assert html.escape(language("fr").text(faults.FAULTS["scope_invalid"]), quote=False) in french.replace("&#39;", "'")


def test_what_a_mailbox_says_of_itself_is_said_in_the_readers_language() -> None:
    french = language("fr")
    known = {
        "switched off": "switched off",
        "plan free has no synchronization": "the plan has no synchronization",
        "waiting in line": "waiting in line",
        "switched off: all 3 seats are in use; add seats": "switched off: all seats are in use",
        "switched off: plan demo allows 3": "switched off: the plan allows no more mailboxes",
        "no process has this mailbox since 2026-11-29T10:00:00Z": "no process of the gateway has this mailbox",
        "the server has no IDLE: it is asked at an interval": "the server has no IDLE: it is asked at an interval",
    }
    for text, english in known.items():
        assert details.said(french, text) == french.text(english) != english
        assert details.said(language("en"), text) == text
    nested = "the server refused the user name or password: [AUTH] 100% no; enter the credentials again"
    assert "[AUTH] 100% no" in details.said(french, nested)
    assert "enter the" not in details.said(french, nested)
    later = details.said(french, "the connection was lost; tried again at 2026-11-29T10:00:00Z")
    assert "29 nov. 2026 10:00" in later
    assert "lost" not in later
    assert "tried" not in details.said(french, "x; tried again at never")
    assert details.said(french, "anything else") == "anything else"
    assert faults.why(french, ConflictError("only here", slug="never_heard")) == "only here"


async def test_every_alarm_has_words(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = [Alarm(kind, None, "what is wrong") for kind in Kind]

    async def judge(_now: int) -> tuple[list[Alarm], dict[Any, str]]:
        return wanted, {}

    monkeypatch.setattr(gateway.core.alarms, "judge", judge)
    await gateway.core.alarms.look(gateway.clock())
    ann = await person(gateway)
    text = html.unescape((await ann.get("/admin/retention")).text)
    for kind in Kind:
        for words in ALARMS[kind]:
            assert words in text
