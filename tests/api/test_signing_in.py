"""Signing in to the pages: what lets in, what keeps out, what slows down, and what ends a session."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import pyotp
import pytest

from mailgate.clock import DAY, HOUR, MINUTE, SECOND, Instant
from mailgate.store import users
from mailgate.store.prune import prune
from mailgate.store.sign_in_failures import FIRST_PAUSE, LONGEST_PAUSE, pause
from tests.api.conftest import Gateway
from tests.api.people import PASSWORD, Person, add, person

HOME = "/admin/mailboxes"


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    """What is tested here does not hang on the database."""
    return sqlite_url


async def is_in(someone: Person) -> bool:
    answer = await someone.client.get(HOME)
    assert answer.status_code in (200, 303)
    return answer.status_code == 200


async def test_the_first_page_says_how_to_make_the_first_admin(gateway: Gateway) -> None:
    ann = Person(gateway)
    assert "mailgate user add NAME --role admin" in (await ann.get("/admin/sign-in")).text
    await add(gateway)
    assert "mailgate user add" not in (await ann.get("/admin/sign-in")).text


async def test_who_is_not_signed_in_is_led_there_and_back(gateway: Gateway) -> None:
    await add(gateway)
    ann = Person(gateway)
    for path in ("/admin", "/admin/", HOME):
        answer = await ann.client.get(path)
        assert (answer.status_code, answer.headers["location"].partition("?")[0]) == (303, "/admin/sign-in")
    answer = await ann.client.get("/admin/tenants?q=a%20b")
    await ann.get(answer.headers["location"])
    found = await ann.post("/admin/sign-in", {"name": "ANN ", "password": PASSWORD, "next": "/admin/tenants?q=a%20b"})
    assert found.headers["location"] == "/admin/tenants?q=a%20b"
    assert await is_in(ann)


@pytest.mark.parametrize(
    "target",
    ["https://evil.example/", "//evil.example", "/admin/\\evil", "/admin//evil", "/v1/tenants", "javascript:x"],
)
async def test_nobody_is_led_elsewhere(gateway: Gateway, target: str) -> None:
    await add(gateway)
    ann = Person(gateway)
    await ann.get("/admin/sign-in", params={"next": target})
    answer = await ann.post("/admin/sign-in", {"name": "ann", "password": PASSWORD, "next": target})
    assert answer.headers["location"] == HOME


async def test_refusals_say_nothing_of_what_was_wrong(gateway: Gateway, log: Any) -> None:
    left = await add(gateway, "left")
    await users.disable(gateway.core.db, left.id, gateway.clock())
    await add(gateway)
    texts = set()
    for name, password in (("ann", "a wrong password"), ("nobody", PASSWORD), ("left", PASSWORD)):
        someone = Person(gateway, name)
        answer = await someone.try_to_sign_in(password)
        assert answer.status_code == 401
        assert password not in answer.text
        texts.add(re.sub(r'value="[^"]*"', "", answer.text))
        assert not await is_in(someone)
    assert len(texts) == 1
    assert PASSWORD not in log.getvalue()


async def test_attempts_are_slowed_down_by_name(gateway: Gateway) -> None:
    await add(gateway)
    ann = Person(gateway)
    for _ in range(5):
        assert (await ann.try_to_sign_in("wrong")).status_code == 401
    answer = await ann.try_to_sign_in()
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "15")
    gateway.clock.forward(15 * SECOND)
    assert (await ann.try_to_sign_in("wrong")).status_code == 401
    gateway.clock.forward(15 * SECOND)
    assert (await ann.try_to_sign_in()).status_code == 429
    gateway.clock.forward(15 * SECOND)
    await ann.sign_in()
    assert (await Person(gateway).try_to_sign_in("wrong")).status_code == 401  # forgotten: it begins anew
    await Person(gateway).sign_in()


async def test_a_clock_that_is_set_back_keeps_nobody_out(gateway: Gateway) -> None:
    await add(gateway)
    gateway.clock.forward(400 * DAY)
    for _ in range(6):
        await Person(gateway).try_to_sign_in("wrong")
    assert (await Person(gateway).try_to_sign_in()).status_code == 429
    gateway.clock.forward(-400 * DAY)
    await Person(gateway).sign_in()


async def test_attempts_are_slowed_down_by_address_whatever_the_names(gateway: Gateway) -> None:
    await add(gateway)
    for n in range(21):
        assert (await Person(gateway, f"guess{n}").try_to_sign_in()).status_code == 401
    assert (await Person(gateway).try_to_sign_in()).status_code == 429
    gateway.clock.forward(DAY)
    await Person(gateway).sign_in()
    await prune(gateway.core.db, gateway.clock() + 2 * DAY, longest_days=90, idempotency_hours=24)


async def test_of_many_attempts_at_once_no_more_than_the_free_ones_are_looked_at(gateway: Gateway) -> None:
    await add(gateway)
    people = [Person(gateway) for _ in range(12)]
    answers = await asyncio.gather(*(someone.try_to_sign_in("wrong") for someone in people))
    assert sorted(answer.status_code for answer in answers) == [401] * 5 + [429] * 7


@pytest.mark.parametrize(
    ("failures", "expected"),
    [(0, 0), (4, 0), (5, FIRST_PAUSE), (6, 2 * FIRST_PAUSE), (11, LONGEST_PAUSE), (10**6, LONGEST_PAUSE)],
)
def test_pauses_grow_and_end(failures: int, expected: Instant) -> None:
    assert pause(failures, 4) == expected


async def test_a_session_ends_when_idle_when_old_and_by_signing_out(gateway: Gateway) -> None:
    ann = await person(gateway)
    for _ in range(11):
        gateway.clock.forward(59 * MINUTE)
        assert await is_in(ann)
    gateway.clock.forward(2 * HOUR)
    assert not await is_in(ann)
    await ann.sign_in()
    for _ in range(12):
        assert await is_in(ann)
        gateway.clock.forward(HOUR - SECOND)
    gateway.clock.forward(12 * SECOND)
    assert not await is_in(ann)
    await ann.sign_in()
    kept = dict(ann.client.cookies)
    answer = await ann.post("/admin/sign-out")
    assert answer.headers["location"] == "/admin/sign-in?done=signed_out"
    ann.client.cookies.update(kept)  # the cookie opens nothing any more
    assert not await is_in(ann)
    assert (await prune(gateway.core.db, gateway.clock(), longest_days=90, idempotency_hours=24)).sessions == 2


async def test_a_page_that_keeps_itself_up_to_date_keeps_no_session_alive(gateway: Gateway) -> None:
    ann = await person(gateway)
    for _ in range(5):
        gateway.clock.forward(11 * MINUTE)
        assert (await ann.client.get("/admin/mailboxes/rows", headers={"hx-request": "true"})).status_code == 200
    gateway.clock.forward(6 * MINUTE)
    over = await ann.client.get("/admin/mailboxes/rows", headers={"hx-request": "true"})
    assert (over.status_code, over.headers["hx-redirect"]) == (200, "/admin/sign-in")


async def test_signing_out_everywhere_and_being_disabled_ends_every_session(gateway: Gateway) -> None:
    first = await person(gateway)
    second = await Person(gateway).sign_in()
    assert (await second.get("/admin/account")).text.count("last used") == 2
    await second.post("/admin/sign-out-everywhere")
    assert not await is_in(first)
    assert not await is_in(second)
    third = await Person(gateway).sign_in()
    await users.disable(gateway.core.db, (await users.named(gateway.core.db, "ann")).id, gateway.clock())
    assert not await is_in(third)


async def test_a_new_password_needs_the_old_one_and_ends_the_other_sessions(gateway: Gateway) -> None:
    ann = await person(gateway)
    other = await Person(gateway).sign_in()
    new = "a much longer password"
    for form, said in (
        ({"old": "wrong", "new": new, "again": new}, "The password is not right."),
        ({"old": PASSWORD, "new": new, "again": new + "!"}, "The two new passwords differ."),
        ({"old": PASSWORD, "new": "short", "again": "short"}, "at least 12 characters"),
    ):
        answer = await ann.post("/admin/account/password", form)
        assert answer.status_code in (401, 422)
        assert said in answer.text
    answer = await ann.post("/admin/account/password", {"old": PASSWORD, "new": new, "again": new})
    assert answer.headers["location"] == "/admin/account?done=password"
    assert await is_in(ann)
    assert not await is_in(other)
    assert (await Person(gateway).try_to_sign_in()).status_code == 401
    await Person(gateway, password=new).sign_in()


async def set_up_codes(gateway: Gateway, ann: Person) -> tuple[pyotp.TOTP, list[str]]:
    shown = (await ann.get("/admin/account/codes")).text
    secret = re.search(r'class="secret">([A-Z2-7]{32})<', shown)
    assert secret is not None
    assert "<svg" in shown
    totp = pyotp.TOTP(secret[1])
    assert (await ann.post("/admin/account/codes", {"code": "000000", "password": PASSWORD})).status_code == 422
    now = gateway.clock() // SECOND
    answer = await ann.post("/admin/account/codes", {"code": totp.at(now), "password": PASSWORD})
    codes = re.findall(r"<li><code>([a-z2-7-]{19})</code>", answer.text)
    assert len(set(codes)) == 10
    return totp, codes


async def test_a_one_time_code_is_asked_for_and_counts_once(gateway: Gateway) -> None:
    ann = await person(gateway)
    totp, _ = await set_up_codes(gateway, ann)
    used = totp.at(gateway.clock() // SECOND)
    bea = Person(gateway)
    assert (await bea.try_to_sign_in()).headers["location"].startswith("/admin/sign-in")
    assert not await is_in(bea)  # the password alone shows nothing
    await bea.get("/admin/sign-in")
    assert (await bea.post("/admin/sign-in/code", {"code": used})).status_code == 401
    gateway.clock.forward(30 * SECOND)
    code = totp.at(gateway.clock() // SECOND)
    assert (await bea.post("/admin/sign-in/code", {"code": f"{code[:3]} {code[3:]}"})).status_code == 303
    assert await is_in(bea)
    again = Person(gateway)
    await again.try_to_sign_in()
    await again.get("/admin/sign-in")
    assert (await again.post("/admin/sign-in/code", {"code": code})).status_code == 401


async def test_a_recovery_code_lets_in_once_and_codes_can_be_given_up(gateway: Gateway) -> None:
    ann = await person(gateway)
    _, codes = await set_up_codes(gateway, ann)
    for expected in (303, 401):
        bea = Person(gateway)
        await bea.try_to_sign_in()
        await bea.get("/admin/sign-in")
        answer = await bea.post("/admin/sign-in/code", {"code": codes[3].upper().replace("-", "")})
        assert answer.status_code == expected
    assert "9 recovery codes are left" in (await ann.get("/admin/account")).text
    assert (await ann.post("/admin/account/codes/forget", {"password": "wrong"})).status_code == 401
    gateway.clock.forward(MINUTE)
    await ann.post("/admin/account/codes/forget", {"password": PASSWORD})
    await Person(gateway).sign_in()


async def test_who_has_the_password_can_not_try_codes_without_end(gateway: Gateway) -> None:
    ann = await person(gateway)
    await set_up_codes(gateway, ann)
    gateway.clock.forward(HOUR)
    seen = []
    for n in range(8):
        someone = Person(gateway)
        seen.append((await someone.try_to_sign_in()).status_code)
        if seen[-1] == 303:
            await someone.get("/admin/sign-in")
            seen.append((await someone.post("/admin/sign-in/code", {"code": f"{n:06d}"})).status_code)
    assert seen[:5] == [303, 401, 303, 401, 303]
    assert set(seen[5:]) == {429}


async def test_signing_in_is_in_the_access_log_without_what_was_typed(gateway: Gateway) -> None:
    ann = await add(gateway)
    await Person(gateway).try_to_sign_in("wrong")
    await Person(gateway, "my-secret-in-the-wrong-field").try_to_sign_in()
    await Person(gateway).sign_in()
    found = (await gateway.client.get("/v1/access-log", params={"kind": "sign_in"})).json()["items"]
    assert [(e["actor"], e["status"]) for e in found] == [
        (f"user:{ann.id}", 200),
        ("user:unknown", 401),
        (f"user:{ann.id}", 401),
    ]
    assert {e["address"] for e in found} == {"127.0.0.1"}
    assert "my-secret" not in str(found)
