"""The whole gateway in one process: HTTP, sync, schedule and index together, over a mail account in memory."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from standardwebhooks.webhooks import Webhook

from connectors.memory import MemoryAccount
from connectors.port import Connect
from mailgate.app.application import Application
from mailgate.app.core import Core, Secrets
from mailgate.clock import DAY, SECOND, system_clock, to_rfc3339
from mailgate.settings import NetSettings, Settings, SyncSettings, WebhooksSettings
from mailgate.store.check import doctor
from mailgate.sync.state import MailboxConfig
from tests.api.conftest import ADMIN, mailbox_body
from tests.api.mail import letter
from tests.receiver import ok, serving
from tests.waiting import until


@dataclass
class Running:
    """A started application, its client, and the account at the other end."""

    application: Application
    client: httpx.AsyncClient
    account: MemoryAccount

    async def until(self, holds: Callable[[], Awaitable[Any]]) -> Any:
        """Ask again until the answer is true."""
        return await until(holds, pause_s=0.02)

    async def get(self, path: str, **params: Any) -> Any:
        answer = await self.client.get(path, params=params)
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def state(self, mailbox_id: str) -> str:
        found = await self.get(f"/v1/tenants/acme/mailboxes/{mailbox_id}")
        return str(found["state"])

    async def connect(self, plan: str = "standard") -> str:
        await self.client.put("/v1/tenants/acme", json={"name": "Acme"})
        await self.client.put("/v1/tenants/acme/subscription", json={"plan": plan})
        made = await self.client.post("/v1/tenants/acme/mailboxes", json=mailbox_body())
        assert made.status_code == 201, made.text
        return str(made.json()["id"])


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[Running]:
    account = MemoryAccount()
    core = await Core.open(
        Settings(
            data_dir=tmp_path / "data",
            sync=SyncSettings(poll_interval_s=1, backoff_min_s=0.05),
            net=NetSettings(allow="127.0.0.0/8"),
            webhooks=WebhooksSettings(allow_http=True),
        )
    )
    secrets = Secrets(admin_token=ADMIN)

    def connector(_config: MailboxConfig) -> Connect:
        return account.connect

    application = Application(core, secrets=secrets, connector=connector)
    await application.start()
    transport = httpx.ASGITransport(application.api, raise_app_exceptions=False)
    headers = {"authorization": f"Bearer {ADMIN}"}
    async with httpx.AsyncClient(transport=transport, base_url="http://gateway.test", headers=headers) as client:
        yield Running(application, client, account)
    await application.stop()
    report = await doctor(core.db, core.blobs, core.ring, deep=True)
    await core.close()
    assert report.healthy, report.findings


async def test_what_happens_is_posted_to_a_receiver(running: Running) -> None:
    await running.client.put("/v1/tenants/acme", json={"name": "Acme"})
    async with serving(ok(b"")) as (receiver, port):
        wanted = {"url": f"http://127.0.0.1:{port}/hook", "types": ["message.created"], "tenant_id": "acme"}
        made = (await running.client.post("/v1/webhooks", json=wanted)).json()
        tried = (await running.client.post(f"/v1/webhooks/{made['id']}/test")).json()
        assert (tried["state"], tried["status"]) == ("delivered", 200)
        for n in range(3):
            running.account.append("INBOX", letter(f"offer {n}"), internal_date=system_clock() - DAY)
        await running.connect()

        async def delivered() -> bool:
            listed = await running.get(f"/v1/webhooks/{made['id']}/deliveries", state="delivered")
            return len(listed["items"]) == 4

        await running.until(delivered)
    events = []
    for request in receiver.requests:
        head, _, body = request.partition(b"\r\n\r\n")
        sent = dict(line.split(": ", 1) for line in head.decode().split("\r\n")[1:])
        events.append(Webhook(made["secret"]).verify(body, sent))
    assert [event["type"] for event in events] == ["webhook.test", *["message.created"] * 3]
    assert [event["message"]["id"] for event in events[1:]] == [event["message_id"] for event in events[1:]]


async def test_mail_is_imported_then_new_mail_appears_and_is_found(running: Running) -> None:
    now = system_clock()
    raws = [letter(f"offer {n}", f"words of {n}") for n in range(5)]
    for n, raw in enumerate(raws):
        running.account.append("INBOX", raw, internal_date=now - (n + 1) * DAY)
    running.account.append("INBOX", letter("too old"), internal_date=now - 61 * DAY)
    mailbox_id = await running.connect()

    async def live() -> bool:
        return await running.state(mailbox_id) == "live"

    await running.until(live)
    items = (await running.get("/v1/tenants/acme/messages"))["items"]
    assert [item["subject"] for item in items] == [f"offer {n}" for n in range(5)]
    for item, raw in zip(items, raws, strict=True):
        got = await running.client.get(f"/v1/tenants/acme/messages/{item['id']}/raw")
        assert got.content == raw

    async def found() -> Any:
        return (await running.get("/v1/tenants/acme/messages", q="words offer"))["items"][4:]

    await running.until(found)
    running.account.append("INBOX", letter("just now"), internal_date=system_clock())

    async def arrived() -> bool:
        items = (await running.get("/v1/tenants/acme/messages", limit=1))["items"]
        return bool(items[0]["subject"] == "just now")

    await running.until(arrived)
    mailbox = await running.get(f"/v1/tenants/acme/mailboxes/{mailbox_id}")
    assert [folder["name"] for folder in mailbox["folders"]] == ["INBOX"]
    assert mailbox["lag_s"] is not None


async def test_switching_off_closes_connections_and_keeps_everything(running: Running) -> None:
    running.account.append("INBOX", letter("kept"), internal_date=system_clock() - DAY)
    mailbox_id = await running.connect()

    async def live() -> bool:
        return await running.state(mailbox_id) == "live"

    await running.until(live)
    assert running.account.connections
    await running.client.patch(f"/v1/tenants/acme/mailboxes/{mailbox_id}", json={"enabled": False})

    async def closed() -> bool:
        return not running.account.connections

    await running.until(closed)
    assert await running.state(mailbox_id) == "disabled"
    assert len((await running.get("/v1/tenants/acme/messages"))["items"]) == 1
    await running.client.patch(f"/v1/tenants/acme/mailboxes/{mailbox_id}", json={"enabled": True})
    await running.until(live)


async def test_free_and_paid_again(running: Running) -> None:
    """Becoming Free closes every connection, and what is attached to nothing goes by itself; what is attached stays.
    Paid again, all go on without being set up anew; what was purged comes back only when it is asked for.
    """
    account, client = running.account, running.client
    for subject in ("gone", "kept"):
        account.append("INBOX", letter(subject), internal_date=system_clock() - DAY)
    await running.connect()
    more = await client.post("/v1/tenants/acme/mailboxes", json=mailbox_body("bob@acme.example"))
    assert more.status_code == 201, more.text
    boxes = [box["id"] for box in (await running.get("/v1/tenants/acme/mailboxes"))["items"]]
    assert len(boxes) == 2

    async def all_are(state: str) -> bool:
        return {await running.state(box) for box in boxes} == {state}

    async def subjects() -> list[str]:
        return sorted(item["subject"] for item in (await running.get("/v1/tenants/acme/messages"))["items"])

    await running.until(lambda: all_are("live"))
    assert await subjects() == ["gone", "gone", "kept", "kept"]
    items = (await running.get("/v1/tenants/acme/messages", mailbox=boxes[0]))["items"]
    ids = {item["subject"]: item["id"] for item in items}
    pin = await client.put(f"/v1/tenants/acme/messages/{ids['kept']}/pins/deal/D-1")
    assert pin.status_code == 201
    await client.put("/v1/tenants/acme/subscription", json={"plan": "free"})

    async def closed() -> bool:
        return not account.connections and await all_are("not_entitled")

    await running.until(closed)
    path = f"/v1/tenants/acme/messages/{ids['gone']}"
    assert (await client.get(path)).status_code == 410

    async def purged() -> bool:
        return bool((await client.get(path)).json()["type"] == "purged")

    await running.until(purged)
    assert await subjects() == ["kept"]
    assert (await client.get(f"/v1/tenants/acme/messages/{ids['kept']}/raw")).content == letter("kept")
    originals = [message.raw for message in account.folders["INBOX"].messages.values()]
    assert originals == [letter("gone"), letter("kept")]  # retention never reaches the mail server

    said = len(account.commands)
    account.append("INBOX", letter("meanwhile"), internal_date=system_clock())
    await client.put("/v1/tenants/acme/subscription", json={"plan": "standard"})

    async def new() -> bool:
        return await subjects() == ["kept", "meanwhile", "meanwhile"]

    await running.until(new)
    await running.until(lambda: all_are("live"))
    assert len(account.commands) > said
    assert await subjects() == ["kept", "meanwhile", "meanwhile"]

    run = (await client.post(f"/v1/tenants/acme/mailboxes/{boxes[0]}/backfill", json={"days": 30})).json()

    async def back() -> bool:
        return await subjects() == ["gone", "kept", "meanwhile", "meanwhile"]

    await running.until(back)
    (leaf,) = (await running.get("/v1/purge-log", tenant="acme", type="rehydrate"))["items"]
    assert (run["kind"], leaf["leaf"]["actor"]["kind"]) == ("backfill", "token")

    # A plan that merely runs out does the same, without anybody saying so.
    now = system_clock()
    short = {"id": "short", "type": "set", "effective_at": to_rfc3339(now), "period_end": to_rfc3339(now + SECOND)}
    told = await client.post("/v1/tenants/acme/subscription/events", json={**short, "plan": "standard"})
    assert told.status_code == 200, told.text
    await running.until(closed)
    assert await subjects() == ["kept"]


async def test_a_pass_that_was_asked_for_is_made(running: Running) -> None:
    mailbox_id = await running.connect()

    async def live() -> bool:
        return await running.state(mailbox_id) == "live"

    await running.until(live)
    asked = (await running.client.post(f"/v1/tenants/acme/mailboxes/{mailbox_id}/sync")).json()

    async def done() -> bool:
        runs = (await running.get(f"/v1/tenants/acme/mailboxes/{mailbox_id}/runs"))["items"]
        return any(run["id"] == asked["id"] and run["state"] == "completed" for run in runs)

    await running.until(done)


async def test_an_alarm_comes_and_goes_by_itself(running: Running) -> None:
    """Looked for by the process, told in its feed, and over when the cause is."""
    witness = running.application.core.settings.witness_dir
    aside = witness.rename(witness.with_name("elsewhere"))
    running.application.jobs.wake("alarms")

    async def stands() -> Any:
        return (await running.get("/v1/alarms", standing=True))["items"]

    (alarm,) = await running.until(stands)
    assert (alarm["kind"], alarm["tenant_id"]) == ("witness_missing", None)
    aside.rename(witness)
    running.application.jobs.wake("alarms")

    async def told() -> Any:
        items = (await running.get("/v1/events", types="alarm.*"))["items"]
        return [item["type"] for item in items] == ["alarm.raised", "alarm.cleared"]

    await running.until(told)
    assert not await stands()


async def test_readyz_names_what_does_not_work(running: Running) -> None:
    ready = await running.get("/readyz")
    assert {part["name"]: part["ok"] for part in ready["parts"]} == {
        "database": True,
        "blobs": True,
        "scheduler": True,
        "log": True,
        "plans": True,
        "witness": True,
        "events": True,
        "imports": True,
        "alarms": True,
    }
    assert "same disk" in next(part["detail"] for part in ready["parts"] if part["name"] == "witness")
    running.application.supervisor.workers._outdated = True

    async def slower() -> Any:
        found = (await running.get("/readyz"))["parts"]
        return next((part for part in found if part["name"] == "imports" and not part["ok"]), None)

    part = await running.until(slower)
    assert not part["needed"]
    assert "the program was replaced" in part["detail"]
    running.application.supervisor.workers.on_lost()
    assert "mailgate_preparing_processes_lost_total 1.0" in (await running.client.get("/metrics")).text
    assert running.application._syncing is not None
    running.application._syncing.cancel()

    async def noticed() -> Any:
        answer = await running.client.get("/readyz")
        return answer.status_code == 503 and answer.json()

    found = await running.until(noticed)
    assert "sync" in next(part["detail"] for part in found["parts"] if part["name"] == "scheduler")
