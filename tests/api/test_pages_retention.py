"""The pages of retention: what will go, what went and what was kept, holds; who sees and does what; markup is text."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import pytest
from sqlalchemy import event
from sqlalchemy.engine import Engine

from mailgate.admin import retention as pages
from mailgate.admin.languages import language
from mailgate.clock import DAY, SECOND, to_rfc3339
from mailgate.store.preview import Days
from mailgate.store.users import Role
from mailgate.usecases import retention
from tests.api.conftest import START, Gateway
from tests.api.mail import letter, postman, two_at_the_brake
from tests.api.people import person
from tests.api.test_retention import purged_tenant

HOSTILE = "<script>alert(1)</script>"


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    """What is tested here does not hang on the database."""
    return sqlite_url


def bars(text: str) -> list[tuple[str, str]]:
    """The table beside the plot: day and copies."""
    return re.findall(r'data-label="From">([^<]+)</th><td data-label="Copies" class="num">([^<]+)<', text)


async def test_what_will_go_day_by_day_is_what_the_evaluator_says(gateway: Gateway) -> None:
    post = await postman(gateway, plan="standard")
    for age in (59, 58, 58, 50, 1):
        await post.deliver(letter(), age=age * DAY)
    pinned = await post.deliver(letter(), age=58 * DAY)
    await gateway.client.put(f"/v1/tenants/acme/messages/{pinned}/pins/deal/D-1")
    cleo = await person(gateway, "cleo", Role.COMPLIANCE)
    fast = (await cleo.get("/admin/retention")).text
    assert 'hx-get="/admin/retention?show=1"' in fast  # nothing is counted before the page stands
    text = (await cleo.get("/admin/retention?tenant=acme")).text
    days = [START + n * DAY for n in (1, 2, 10, 59)]
    words = [language("en").day(at) for at in days]
    assert bars(text) == list(zip(words, ("1", "2", "1", "1"), strict=True))
    assert '<svg class="plot' in text
    assert ">59<" not in text
    total = sum(int(count) for _, count in bars(text))
    preview = {"tenant": "acme", "at": to_rfc3339(START + 62 * DAY)}
    assert (await gateway.client.get("/v1/retention/preview", params=preview)).json()["purged"] == total
    everybody = (await cleo.get("/admin/retention?show=1")).text
    assert sum(int(count) for _, count in bars(everybody)) == total
    wished = (await cleo.get("/admin/retention?tenant=acme&plan=free")).text
    assert re.search(r'class="figure">5 ', wished)
    assert "the plan keeps nothing" in wished
    assert "pinned to a record" in wished
    for bad in ("at=2001-01-01", "at=yesterday", f"plan={HOSTILE}"):
        refused = await cleo.get(f"/admin/retention?tenant=acme&{bad}")
        assert refused.status_code == 422
        assert HOSTILE not in refused.text


async def test_the_preview_says_that_the_brake_would_halt_a_purge(gateway: Gateway) -> None:
    await two_at_the_brake(gateway)
    cleo = await person(gateway, "cleo", Role.COMPLIANCE)
    assert "The brake would halt" not in (await cleo.get("/admin/retention?show=1")).text
    gateway.clock.forward(2 * DAY)
    cleo = await person(gateway, "cora", Role.COMPLIANCE)
    assert "The brake would halt" in (await cleo.get("/admin/retention?tenant=acme")).text
    tomorrow = to_rfc3339(gateway.clock() + DAY)[:10]
    assert "It would halt for 1 tenant: acme<" in (await cleo.get(f"/admin/retention?at={tomorrow}")).text


async def test_alarms_say_what_to_do(gateway: Gateway) -> None:
    for name in ("acme", "other"):
        await gateway.tenant(name)
    gateway.clock.forward(2 * DAY)
    await gateway.core.alarms.look(gateway.clock())
    ann, bob = await person(gateway), await person(gateway, "bob", Role.COMPLIANCE, "other")
    text = (await ann.get("/admin/retention")).text
    assert "No purge for too long" in text
    assert text.count("The purge log is not signed") == 2
    assert "Look at the gateway&#39;s log for the reason." in text
    text = (await bob.get("/admin/retention")).text
    assert text.count("The purge log is not signed") == 1
    assert ">acme<" not in text


async def test_a_run_balances_and_has_its_certificate(gateway: Gateway) -> None:
    await purged_tenant(gateway)
    await gateway.tenant("other")
    gateway.clock.forward(SECOND)
    await gateway.client.post("/v1/retention/runs")
    await gateway.core.retention.work()
    cleo = await person(gateway, "cleo", Role.COMPLIANCE)
    text = (await cleo.get("/admin/retention/runs")).text
    everybody, one = re.findall(r'href="(/admin/retention/runs/\w{26})"', text)
    assert '<svg class="plot' in text
    text = (await cleo.get(one)).text
    assert re.findall(r"<b>(\d+)</b>", text) == ["2", "1", "1", "0"]
    assert "pinned to a record" in text
    printed = await cleo.get(f"{one}/certificate")
    assert printed.status_code == 200
    assert "style-src 'sha256-" in printed.headers["content-security-policy"]
    assert "frame-ancestors 'none'" in printed.headers["content-security-policy"]
    assert (await cleo.post(f"{one}/approve")).status_code == 403
    ann = await person(gateway)
    assert (await ann.post(f"{one}/approve")).status_code == 409
    for name, status in (("acme", 200), ("other", 404)):
        bound = await person(gateway, f"b-{name}", Role.COMPLIANCE, name)
        assert (await bound.get(one)).status_code == status
        assert (await bound.get(everybody)).status_code == 404
        assert everybody not in (await bound.get("/admin/retention/runs")).text
        wanted = await bound.get("/admin/retention/runs?tenant=acme")
        assert wanted.status_code == status
    assert (await ann.get("/admin/retention/runs/nothing")).status_code == 404


async def test_an_admin_approves_a_halted_run(gateway: Gateway) -> None:
    await purged_tenant(gateway)
    gateway.clock.forward(200 * DAY)  # further than a clock may jump
    asked = (await gateway.client.post("/v1/retention/runs", json={"tenant": "acme"})).json()["id"]
    await gateway.core.retention.work()
    cleo = await person(gateway, "cleo", Role.COMPLIANCE)
    text = (await cleo.get(f"/admin/retention/runs/{asked}")).text
    assert "An admin may approve it." in text
    assert "/approve" not in text
    ann = await person(gateway)
    assert "Approve one purge by this clock" in (await ann.get(f"/admin/retention/runs/{asked}")).text
    done = await ann.post(f"/admin/retention/runs/{asked}/approve")
    assert done.status_code == 303
    await gateway.core.retention.work()
    text = (await ann.get(done.headers["location"])).text
    assert "the time of a clock that jumped" in text
    assert '<span class="dim">ann</span>' in text  # by her name
    assert ">Completed<" in text


async def test_holds_are_placed_and_released_by_compliance(gateway: Gateway) -> None:
    post = await postman(gateway, plan="standard")
    kept = await post.deliver(letter())
    await gateway.tenant("other")
    cleo = await person(gateway, "cleo", Role.COMPLIANCE)
    at = "/admin/retention/holds/acme"
    await cleo.get(at)
    wish = {"kind": "messages", "messages": f" {kept}\n", "matter": f"M-1 {HOSTILE}", "reason": HOSTILE}
    assert (await cleo.post(at, wish)).headers["location"] == f"{at}?done=hold_placed"
    text = (await cleo.get(at)).text
    assert HOSTILE not in text
    assert "1 message: &lt;script&gt;" in text
    assert ">Stands<" in text
    assert re.search(r'href="/admin/retention/holds/acme">Acme</a>', (await cleo.get("/admin/retention/holds")).text)
    (hold,) = (await gateway.client.get("/v1/tenants/acme/holds")).json()["items"]
    assert (hold["scope"]["messages"], hold["placed_by"][:5]) == (1, "user:")
    for bad in (
        {"kind": "messages", "messages": "nonsense"},
        {"kind": "mailbox"},
        {"kind": "tenant", "matter": ""},
        {"kind": "nothing"},
    ):
        refused = await cleo.post(at, wish | bad)
        assert refused.status_code == 422
        assert 'role="alert"' in refused.text
        assert HOSTILE not in refused.text  # what was typed stays, as text
    bob = await person(gateway, "bob", Role.ADMIN, "other")
    assert (await bob.get("/admin/retention/holds")).headers["location"] == "/admin/retention/holds/other"
    for path in (at, f"{at}/{hold['id']}/release", f"/admin/retention/holds/other/{hold['id']}/release"):
        assert (await bob.post(path, wish)).status_code == 404
    assert (await cleo.post(f"{at}/{hold['id']}/release", {"reason": ""})).status_code == 422
    done = await cleo.post(f"{at}/{hold['id']}/release", {"reason": "settled"})
    assert done.headers["location"] == f"{at}?done=hold_released"
    assert (await cleo.post(f"{at}/{hold['id']}/release", {"reason": "again"})).status_code == 409
    text = (await cleo.get(at)).text
    assert "Released, protects until" in text
    assert text.count("cleo") >= 2


async def test_everybody_is_counted_in_as_few_statements_as_one(gateway: Gateway) -> None:
    """The page of all tenants stands as soon with many of them as with few."""

    async def statements() -> int:
        asked: list[str] = []

        def count(_conn: object, _cursor: object, statement: str, *_: object) -> None:
            asked.append(statement)

        event.listen(Engine, "before_cursor_execute", count)
        try:
            services = gateway.app.state.services
            assert (await services.retention.preview(None)).going.copies == 0
            now = gateway.clock()
            await retention.ahead(services, None, Days(now, now + DAY, DAY, 90))
        finally:
            event.remove(Engine, "before_cursor_execute", count)
        return len(asked)

    for number in range(2):
        await gateway.tenant(f"t{number}")
        await gateway.mailbox(f"t{number}")
    few = await statements()
    for number in range(2, 12):
        await gateway.tenant(f"t{number}")
        await gateway.mailbox(f"t{number}")
    assert await statements() == few


async def test_everybody_is_counted_once_for_all_who_ask_at_once(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    await gateway.tenant("acme")
    ann = await person(gateway)
    real, counted = pages._count, []

    async def count(*asked: Any) -> Any:
        counted.append(asked[1:])
        return await real(*asked)

    monkeypatch.setattr(pages, "_count", count)
    monkeypatch.setattr(pages, "monotonic_s", lambda: 7.0)  # nothing took any time: what was counted is old at once
    await asyncio.gather(*(ann.client.get("/admin/retention?show=1") for _ in range(2)))
    assert len(counted) == 2
    seconds = iter(range(10, 100))
    monkeypatch.setattr(pages, "monotonic_s", lambda: next(seconds))
    answers = await asyncio.gather(*(ann.client.get("/admin/retention?show=1") for _ in range(5)))
    assert [answer.status_code for answer in answers] == [200] * 5
    assert len(counted) == 3
    await ann.client.get("/admin/retention?show=1&plan=free")
    await ann.client.get("/admin/retention?tenant=acme")
    assert counted[3:] == [(None, None, "free"), ("acme", None, None)]
