"""A year of a tenant's life, told through the interface with the clock moved: trial, purchase, upgrade, failed renewal,
recovery, cancellation, Free, purchase again. At each step exactly those copies are there that the offer says, and the
purge log replays it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from mailgate.clock import DAY, Instant, from_rfc3339, to_rfc3339
from mailgate.store import tenants
from mailgate.tenants.calendar import add_months
from retention.ledger.export import export_directory
from retention.ledger.replay import replay_directory
from retention.ledger.report import Verdict
from retention.ledger.verify import verify_directory
from tests.api.conftest import START, Gateway
from tests.api.mail import Postman, letter

SUBSCRIPTION = "/v1/tenants/acme/subscription"
STEP = 6 * DAY
DAYS = {"free": 0, "crm_plus": 30, "demo": 30, "standard": 60, "professional": 90}
"""The offer, said once more."""


class Life:
    """The tenant, the mail that it gets, and what ought to be left of it."""

    def __init__(self, gateway: Gateway, post: Postman) -> None:
        self._gateway = gateway
        self._post = post
        self._loose: dict[str, Instant] = {}
        self._pinned: set[str] = set()
        self._sent = 0
        self.plans: list[str] = []

    @property
    def now(self) -> Instant:
        return self._gateway.clock()

    async def tell(self, path: str, **body: Any) -> dict[str, Any]:
        """Give a command that the rules allow."""
        done = await self._gateway.client.post(f"{SUBSCRIPTION}/{path}", json=body)
        assert done.status_code == 200, done.text
        found: dict[str, Any] = done.json()
        return found

    async def refused(self, path: str, **body: Any) -> tuple[str, str | None]:
        """Give one that they forbid."""
        done = await self._gateway.client.post(f"{SUBSCRIPTION}/{path}", json=body)
        assert done.status_code == 409, done.text
        return done.json()["type"], done.json().get("allowed_at")

    async def subscription(self) -> dict[str, Any]:
        found: dict[str, Any] = (await self._gateway.client.get(SUBSCRIPTION)).json()
        return found

    async def until(self, at: Instant, plan: Callable[[Instant], str]) -> None:
        """Live on until `at`: mail comes while there is a paid plan, the purge runs, and what is there is compared with
        what `plan`, by the offer, ought to leave.
        """
        while self.now < at:
            self._gateway.clock.forward(min(STEP, at - self.now))
            await self._gateway.core.subscriptions.announce_lapses(self.now)
            expected = plan(self.now)
            assert (await self.subscription())["plan"] == expected
            self.plans.append(expected)
            if expected != "free":
                await self._mail()
            self._loose = {id_: day for id_, day in self._loose.items() if self.now < day + DAYS[expected] * DAY}
            assert await self._listed() == self._loose.keys() | self._pinned
            await self._purge()
            assert await self._listed() == self._loose.keys() | self._pinned

    async def _mail(self) -> None:
        self._sent += 1
        message_id = await self._post.deliver(letter(f"Number {self._sent}"), age=0, index=False)
        if self._sent % 5:
            self._loose[message_id] = self.now
            return
        pin = f"/v1/tenants/acme/messages/{message_id}/pins/deal/D-{self._sent}"
        assert (await self._gateway.client.put(pin)).status_code == 201
        self._pinned.add(message_id)

    async def _listed(self) -> set[str]:
        listed = await self._gateway.client.get("/v1/tenants/acme/messages", params={"limit": 200})
        assert listed.json()["next_cursor"] is None
        return {item["id"] for item in listed.json()["items"]}

    async def _purge(self) -> None:
        asked = await self._gateway.client.post("/v1/retention/runs", json={"tenant": "acme"})
        await self._gateway.core.retention.work()
        run = (await self._gateway.client.get(f"/v1/retention/runs/{asked.json()['id']}")).json()
        assert run["state"] == "completed", run


def always(plan: str) -> Callable[[Instant], str]:
    return lambda now: plan


def then(first: str, at: Instant, second: str) -> Callable[[Instant], str]:
    """`first` until `at`, from then on `second`."""
    return lambda now: first if now < at else second


async def test_a_year_of_a_tenants_life(gateway: Gateway, tmp_path: Path) -> None:
    await gateway.tenant("acme", "free")
    trial = await gateway.client.post(
        f"{SUBSCRIPTION}/events",
        json={"id": "trial-1", "type": "trial_started", "effective_at": to_rfc3339(START), "plan": "demo"},
    )
    assert trial.json()["subscription"]["period_end"] == to_rfc3339(START + 14 * DAY)
    mailbox = await gateway.mailbox("acme")
    life = Life(gateway, Postman(gateway, "acme", mailbox["id"]))

    await life.until(START + 10 * DAY, always("demo"))
    bought = await life.tell("purchase", plan="standard", term_months=1)
    assert (bought["status"], bought["auto_renew"]) == ("active", True)
    end = from_rfc3339(bought["period_end"])

    await life.until(START + 24 * DAY, always("standard"))
    assert (await life.refused("downgrade", plan="crm_plus"))[0] == "downgrade_too_early"
    assert (await life.tell("upgrade", plan="professional"))["period_end"] == to_rfc3339(end)

    # Nobody pays: the plan holds for ten days of grace, and a payment on the ninth makes all of it good.
    await life.until(end + 9 * DAY, always("professional"))
    assert (await life.subscription())["status"] == "past_due"
    assert (await life.refused("renew"))[0] == "past_due"
    end = from_rfc3339((await life.tell("retry"))["period_end"])

    await life.until(end - 5 * DAY, always("professional"))
    renewed = await life.tell("renew", term_months=3)
    assert renewed["pending_change"]["effective_at"] == to_rfc3339(end)
    again = to_rfc3339(add_months(end, 3) - 30 * DAY)
    assert await life.refused("renew", term_months=1) == ("change_pending", again)
    await life.until(end + DAY, always("professional"))
    end = from_rfc3339((await life.subscription())["period_end"])

    # A bought downgrade acts when the period ends.
    await life.until(end - DAY, always("professional"))
    lower = await life.tell("downgrade", plan="standard", term_months=1)
    assert (lower["plan"], lower["pending_change"]["plan"]) == ("professional", "standard")
    await life.until(end + 5 * DAY, then("professional", end, "standard"))

    # Cancelled: it runs to the end of its period, then Free: what is attached to nothing goes.
    end = from_rfc3339((await life.tell("cancel"))["period_end"])
    await life.until(end + 40 * DAY, then("standard", end, "free"))
    found = await life.subscription()
    assert (found["plan"], found["status"], found["entitlements"]["sync"]) == ("free", "canceled", False)
    assert (await gateway.client.get(f"/v1/tenants/acme/mailboxes/{mailbox['id']}")).json()["enabled"]

    # Paid again: nothing comes back by itself, and what comes from now on stays thirty days.
    bought = await life.tell("purchase", plan="crm_plus", term_months=12)
    await life.until(START + 365 * DAY, always("crm_plus"))
    assert [plan for plan, before in zip(life.plans, ["", *life.plans], strict=False) if plan != before] == [
        "demo",
        "standard",
        "professional",
        "standard",
        "free",
        "crm_plus",
    ]
    await _history_tells_it(gateway)
    await _log_replays(gateway, tmp_path / "log")


async def _history_tells_it(gateway: Gateway) -> None:
    items = (await gateway.client.get(f"{SUBSCRIPTION}/history")).json()["items"]
    assert [(item["plan"], item["status"], item["event_type"]) for item in reversed(items)] == [
        ("demo", "trialing", "trial_started"),
        ("standard", "active", "purchased"),
        ("professional", "active", "upgraded"),
        ("professional", "past_due", "period_ended"),
        ("professional", "active", "renewed"),
        ("professional", "active", "renewal_bought"),
        ("professional", "active", "period_ended"),
        ("professional", "active", "downgrade_bought"),
        ("standard", "active", "period_ended"),
        ("standard", "canceled", "canceled"),
        ("free", "canceled", "period_ended"),
        ("crm_plus", "active", "purchased"),
    ]
    bought = {item["event_type"]: (item["term_months"], item["source"]) for item in reversed(items)}
    assert bought["purchased"] == (12, "direct")
    pending = [item["pending_change"] for item in items if item["event_type"] == "renewal_bought"]
    assert [(change["kind"], change["plan"], change["term_months"]) for change in pending] == [
        ("renewal", "professional", 3)
    ]


async def _log_replays(gateway: Gateway, path: Path) -> None:
    reader = gateway.core.log_reader
    tenant = await tenants.get(gateway.core.db, "acme")
    key = reader.verifier(tenant)
    signed = await reader.checkpoint(tenant, gateway.clock())
    bodies = [body async for body in reader.entries(tenant, 0, signed.size)]
    export_directory(path, key, signed.note, bodies)
    for report in (verify_directory(path, key), replay_directory(path, key)):
        assert report.verdict is Verdict.OK, report.lines()
