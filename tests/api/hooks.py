"""Receivers of webhooks, and a gateway that delivers to them, for the tests."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from mailgate.app.outside import deliverer_of
from mailgate.jobs.deliver import Deliverer
from mailgate.metrics import Metrics
from mailgate.store.feed import Publisher
from mailgate.store.transaction import Transaction
from mailgate.webhooks.model import Answer
from tests.api.conftest import Gateway

URL = "https://crm.example/hook"
MAILBOXES = ("01KSKBP800DNN0GF2D5XF3BNE8", "01KSKBP800DNN0GF2D5XF3BNE9")


@dataclass(frozen=True, slots=True)
class Got:
    """One request that came."""

    url: str
    headers: Mapping[str, str]
    body: dict[str, Any]
    raw: bytes

    @property
    def number(self) -> int:
        """The event's number within its tenant."""
        return int(self.body["id"].rpartition(":")[2])


@dataclass
class Receiver:
    """Takes what comes. `answer` decides what it says; `held` keeps requests until it is set."""

    answer: Callable[[Got], Answer] = lambda _got: Answer(204)
    got: list[Got] = field(default_factory=list)
    held: asyncio.Event | None = None
    most: int = 0
    flying: int = 0
    came: asyncio.Event = field(default_factory=asyncio.Event)

    async def until(self, count: int) -> None:
        """Wait until so many requests came."""
        while len(self.got) < count:
            self.came.clear()
            await self.came.wait()

    async def __call__(self, url: str, headers: Mapping[str, str], body: bytes) -> Answer:
        got = Got(url, headers, json.loads(body), body)
        self.got.append(got)
        self.came.set()
        self.flying += 1
        self.most = max(self.most, self.flying)
        try:
            if self.held is not None:
                await self.held.wait()
        finally:
            self.flying -= 1
        return self.answer(got)

    def numbers(self, mailbox_id: str | None = None) -> list[int]:
        return [got.number for got in self.got if mailbox_id is None or got.body.get("mailbox_id") == mailbox_id]


@dataclass
class Delivering:
    """A gateway, a receiver, and the deliverer between them, which works when it is told to."""

    gateway: Gateway
    receiver: Receiver
    metrics: Metrics
    deliverer: Deliverer

    async def make(self, **more: Any) -> dict[str, Any]:
        made = await self.gateway.client.post("/v1/webhooks", json={"url": URL, **more})
        assert made.status_code == 201, made.text
        found: dict[str, Any] = made.json()
        return found

    async def emit(self, *mailboxes: str | None, tenant_id: str = "acme") -> None:
        """An event of each mailbox (None: of none), in the feed."""

        async def work(tx: Transaction) -> None:
            for mailbox_id in mailboxes:
                type_ = "mailbox.import_finished" if mailbox_id else "retention.run_completed"
                tx.emit(tenant_id, type_, at=self.gateway.clock(), mailbox_id=mailbox_id)

        await self.gateway.core.db.transact(work)
        await self.publish()

    async def publish(self) -> None:
        publisher = Publisher(self.gateway.core.db, "test")
        while await publisher.publish(self.gateway.clock()):
            pass

    async def settle(self) -> None:
        """Deliver until nothing is due."""
        await self.publish()
        before = -1
        while before != len(self.receiver.got):
            before = len(self.receiver.got)
            await self.deliverer.work()
            await self.deliverer.idle()
            await self.deliverer.work()

    async def kill(self) -> None:
        """The deliverer is killed, and seen to be: of its requests nothing is known."""
        await self.deliverer._reset()
        await self.deliverer._journal.release()

    async def another(self) -> Deliverer:
        """What another process, or the next start, would have: it knows what was written down only."""
        return deliverer_of(self.gateway.core, self.receiver, self.metrics)

    async def deliveries(self, webhook_id: str, **params: Any) -> list[dict[str, Any]]:
        page = await self.gateway.client.get(f"/v1/webhooks/{webhook_id}/deliveries", params=params)
        found: list[dict[str, Any]] = page.json()["items"]
        return found

    async def look(self, webhook_id: str) -> dict[str, Any]:
        found: dict[str, Any] = (await self.gateway.client.get(f"/v1/webhooks/{webhook_id}")).json()
        return found


async def delivered_hook(gateway: Gateway, tenant_id: str = "acme") -> tuple[str, str]:
    """An endpoint and a delivery to it that is over; their ids."""
    made = (await gateway.client.post("/v1/webhooks", json={"url": URL, "tenant_id": tenant_id})).json()
    one = Delivering(gateway, receiver := Receiver(), Metrics(), deliverer_of(gateway.core, receiver, Metrics()))
    await one.emit(None)
    await one.settle()
    await one.deliverer.stop()
    return made["id"], (await one.deliveries(made["id"]))[0]["id"]


@asynccontextmanager
async def delivering(gateway: Gateway) -> AsyncIterator[Delivering]:
    await gateway.tenant("acme")
    receiver, metrics = Receiver(), Metrics()
    deliverer = deliverer_of(gateway.core, receiver, metrics)
    made = Delivering(gateway, receiver, metrics, deliverer)
    await made.publish()  # what happened before is nothing to a new endpoint
    yield made
    await made.deliverer.stop()
