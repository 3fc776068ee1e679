"""A reader that lists a snapshot and applies the feed ends with what `GET /messages` shows, whatever happened
meanwhile, also between the pages of the snapshot; and hides at every instant what it hides.
"""

from __future__ import annotations

import random
from typing import Any

import pytest

from mailgate.clock import DAY, HOUR, Instant
from mailgate.store.feed import Publisher
from tests.api.conftest import Gateway
from tests.api.mail import Postman, letter, postman
from tests.consumer import Consumer, of_answer, of_state

PLANS = ["free", "crm_plus", "standard", "professional"]


async def listed(gateway: Gateway, tenant_id: str) -> dict[str, dict[str, Any]]:
    """All of `GET /messages`."""
    found, cursor = {}, None
    while True:
        params = {"limit": 200, **({} if cursor is None else {"cursor": cursor})}
        page = (await gateway.client.get(f"/v1/tenants/{tenant_id}/messages", params=params)).json()
        found.update((message["id"], of_answer(message)) for message in page["items"])
        cursor = page["next_cursor"]
        if cursor is None:
            return found


async def publish(gateway: Gateway) -> None:
    while await Publisher(gateway.core.db, "test").publish(gateway.clock(), limit=7) == 7:
        pass


async def follow(gateway: Gateway, reader: Consumer, limit: int = 5) -> None:
    """Read on to the end."""
    await publish(gateway)
    while True:
        params = {"tenant": reader.tenant_id, "limit": limit}
        if reader.cursor is not None:
            params["after"] = reader.cursor
        page = (await gateway.client.get("/v1/events", params=params)).json()
        reader.apply(page["items"])
        reader.cursor = page["next_cursor"]
        if not page["items"]:
            return


class Story:
    """Random changes of one tenant's mail, as its users and the world make them."""

    def __init__(self, gateway: Gateway, post: Postman, seed: int) -> None:
        self.gateway = gateway
        self.post = post
        self.chance = random.Random(seed)
        self.client = gateway.client
        self.path = f"/v1/tenants/{post.tenant_id}"
        self.ids: list[str] = []

    async def step(self) -> None:
        await self.chance.choice(
            [
                self._arrives,
                self._arrives,
                self._flags,
                self._moves,
                self._deletes,
                self._pins,
                self._unpins,
                self._record_goes,
                self._plan,
                self._purge,
                self._time,
            ]
        )()

    def _id(self) -> str:
        return self.chance.choice(self.ids)

    async def _arrives(self) -> None:
        folder = self.chance.choice(["INBOX", "Work", "Trash"])
        age = self.chance.choice([0, 1, 25, 29, 55, 85]) * DAY + HOUR
        flags = frozenset(self.chance.sample(["\\Seen", "\\Flagged", "$Work"], self.chance.randint(0, 2)))
        message = letter(f"Number {self.chance.random()}")
        self.ids.append(await self.post.deliver(message, age=age, folder=folder, flags=flags, index=False))

    async def _flags(self) -> None:
        flag = self.chance.choice(["\\Seen", "\\Flagged", "$Work"])
        word = self.chance.choice(["add", "remove"])
        await self.client.patch(f"{self.path}/messages/{self._id()}", json={"flags": {word: [flag]}})

    async def _moves(self) -> None:
        folder_id = await self.post.folder(self.chance.choice(["INBOX", "Work"]))
        await self.client.patch(f"{self.path}/messages/{self._id()}", json={"folder_id": folder_id})

    async def _deletes(self) -> None:
        params = {"permanent": self.chance.choice(["true", "false"])}
        await self.client.delete(f"{self.path}/messages/{self._id()}", params=params)

    async def _pins(self) -> None:
        await self.client.put(f"{self.path}/messages/{self._id()}/pins/deal/{self.chance.randint(1, 3)}")

    async def _unpins(self) -> None:
        await self.client.delete(f"{self.path}/messages/{self._id()}/pins/deal/{self.chance.randint(1, 3)}")

    async def _record_goes(self) -> None:
        await self.client.delete(f"{self.path}/pins/deal/{self.chance.randint(1, 3)}")

    async def _plan(self) -> None:
        body: dict[str, Any] = {"plan": self.chance.choice(PLANS)}
        if body["plan"] != "free" and self.chance.random() < 0.5:
            ends = {True: "2026-06-20T00:00:00Z", False: "2026-08-01T00:00:00Z"}
            body["period_end"] = ends[self.chance.random() < 0.5]
        await self.client.put(f"{self.path}/subscription", json=body)

    async def _purge(self) -> None:
        await self.client.post("/v1/retention/runs", json={"tenant": self.post.tenant_id})
        await self.gateway.core.retention.work()

    async def _time(self) -> None:
        self.gateway.clock.forward(self.chance.choice([1, 5, 12]) * DAY)
        await self.gateway.core.retention.note_time(self.gateway.clock())


def agree(reader: Consumer, found: dict[str, dict[str, Any]], now: Instant) -> None:
    assert {id_: of_state(row) for id_, row in reader.visible(now).items()} == found


@pytest.mark.parametrize("seed", range(6))
async def test_a_reader_ends_equal_whatever_happens(gateway: Gateway, seed: int) -> None:
    post = await postman(gateway)
    await post.folder("Trash", special_use="trash")
    story = Story(gateway, post, seed)
    for _ in range(8):
        await story._arrives()
    from_the_start = Consumer("acme")
    from_snapshot = Consumer("acme")
    for _ in range(30):
        await story.step()
    await follow(gateway, from_the_start)

    # The snapshot's pages are far apart: things go on between them, published or not.
    cursor, first = None, True
    while first or cursor is not None:
        first = False
        params = {"tenant": "acme", "limit": 3, **({} if cursor is None else {"cursor": cursor})}
        page = (await gateway.client.get("/v1/snapshot", params=params)).json()
        from_snapshot.begin(page)
        cursor = page["next_cursor"]
        for _ in range(3):
            await story.step()
        if story.chance.random() < 0.5:
            await publish(gateway)

    for reader in (from_the_start, from_snapshot):
        await follow(gateway, reader)
        agree(reader, await listed(gateway, "acme"), gateway.clock())
    assert from_the_start.seen == list(range(1, len(from_the_start.seen) + 1))

    for _ in range(10):
        await story.step()
        await follow(gateway, from_snapshot)
        agree(from_snapshot, await listed(gateway, "acme"), gateway.clock())
    # Nothing more happens but time; the plan may end, and nobody looked yet.
    for _ in range(12):
        gateway.clock.forward(7 * DAY)
        await gateway.core.retention.note_time(gateway.clock())
        agree(from_snapshot, await listed(gateway, "acme"), gateway.clock())


async def test_a_removed_mailbox_ends_its_copies_for_readers_too(gateway: Gateway) -> None:
    post = await postman(gateway)
    kept, gone = [await post.deliver(letter(f"{n}")) for n in range(2)]
    await gateway.client.put(f"/v1/tenants/acme/messages/{kept}/pins/deal/1")
    reader = Consumer("acme")
    reader.begin((await gateway.client.get("/v1/snapshot", params={"tenant": "acme"})).json())
    await gateway.client.delete(f"/v1/tenants/acme/mailboxes/{post.mailbox_id}")
    await follow(gateway, reader)
    found = await listed(gateway, "acme")
    assert set(found) == {kept}
    agree(reader, found, gateway.clock())
    assert gone in reader.rows  # hidden, and not purged yet
    again = Consumer("acme")
    again.begin((await gateway.client.get("/v1/snapshot", params={"tenant": "acme"})).json())
    agree(again, found, gateway.clock())
