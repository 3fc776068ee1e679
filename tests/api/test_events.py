"""The feed over HTTP: pages, long polls, streams, and whom they are for."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import httpx
import pytest

from mailgate.clock import DAY
from mailgate.store.feed import Publisher
from mailgate.store.feed import prune as prune_feed
from tests.api.conftest import ADMIN, Gateway
from tests.api.mail import letter, postman


async def publish(gateway: Gateway) -> None:
    """What the publisher of a serving process does after a commit."""
    await Publisher(gateway.core.db, "test").publish(gateway.clock())
    gateway.core.feed.arrivals.announce()


async def events(client: httpx.AsyncClient, **params: Any) -> dict[str, Any]:
    answer = await client.get("/v1/events", params=params)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def begun(gateway: Gateway) -> None:
    """A reader waits."""
    while not gateway.app.state.services.readers.taken:  # noqa: ASYNC110 - the place is taken in the loop's next turns
        await asyncio.sleep(0)


async def problem(client: httpx.AsyncClient, path: str = "/v1/events", **params: Any) -> tuple[int, str]:
    answer = await client.get(path, params=params)
    return answer.status_code, answer.json()["type"]


class Stream:
    """A client of `GET /v1/events/stream`, in process. It takes what is sent only when it reads."""

    def __init__(self, gateway: Gateway, query: str = "", **headers: str) -> None:
        self.status = 0
        self.sent: list[bytes] = []
        self.ended = asyncio.Event()
        self.gone = asyncio.Event()
        self._taken = asyncio.Semaphore(0)
        named = {"authorization": f"Bearer {ADMIN}", **headers}
        scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": "GET",
            "scheme": "http",
            "path": "/v1/events/stream",
            "raw_path": b"/v1/events/stream",
            "query_string": query.encode(),
            "headers": [(name.replace("_", "-").encode(), value.encode()) for name, value in named.items()],
            "client": ("127.0.0.1", 1),
            "server": ("gateway.test", 80),
        }
        self._asked = False
        self._pieces: asyncio.Queue[bytes] = asyncio.Queue()
        self.task = asyncio.ensure_future(gateway.app(scope, self._receive, self._send))

    async def _receive(self) -> dict[str, Any]:
        if not self._asked:
            self._asked = True
            return {"type": "http.request", "body": b"", "more_body": False}
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Any) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
        elif message["body"]:
            self.sent.append(message["body"])
            self._pieces.put_nowait(message["body"])
            await self._taken.acquire()
        if message["type"] == "http.response.body" and not message.get("more_body"):
            self.ended.set()

    async def piece(self) -> str:
        """What comes next."""
        text = (await self._pieces.get()).decode()
        self._taken.release()
        return text

    async def event(self) -> dict[str, Any]:
        """The one event that comes next; keep-alives are left out."""
        while (text := await self.piece()).startswith(":"):
            pass
        fields = dict(line.split(": ", 1) for line in text.strip().split("\n"))
        found: dict[str, Any] = json.loads(fields["data"])
        assert (fields["id"], fields["event"]) == (found["cursor"], found["type"])
        return found

    async def leave(self) -> None:
        self.gone.set()
        self._taken.release()
        await self.task


@asynccontextmanager
async def streaming(gateway: Gateway, query: str = "", **headers: str) -> AsyncIterator[Stream]:
    stream = Stream(gateway, query, **headers)
    yield stream
    await stream.leave()


async def test_events_say_what_happened_and_how_the_message_is_now(gateway: Gateway) -> None:
    post = await postman(gateway)
    message_id = await post.deliver(letter(), flags=frozenset({"\\Seen"}), index=False)
    await gateway.client.put(f"/v1/tenants/acme/messages/{message_id}/pins/deal/D-1")
    await publish(gateway)
    page = await events(gateway.client, types="message.*")
    created, pinned = page["items"]
    assert (created["type"], pinned["type"]) == ("message.created", "message.pinned")
    assert created["id"] == f"acme:{int(pinned['id'].partition(':')[2]) - 1}"
    assert created["data"]["folder_id"] == await post.folder()
    assert created["data"]["expires_at"] is not None
    assert pinned["data"] == {
        "anchor_at": created["data"]["anchor_at"],
        "expires_at": None,
        "entity_type": "deal",
        "entity_id": "D-1",
    }
    state = created["message"]
    assert state == pinned["message"]
    assert state["pins"] == [{"entity_type": "deal", "entity_id": "D-1"}]
    assert (state["flags"], state["expires_at"], state["held"]) == (["\\Seen"], None, False)
    assert "subject" not in json.dumps(page).lower()
    assert (await events(gateway.client, after=page["next_cursor"]))["items"] == []
    assert (await events(gateway.client, after=created["cursor"]))["items"][0]["id"] == pinned["id"]
    await gateway.client.delete(f"/v1/tenants/acme/messages/{message_id}/pins/deal/D-1")
    await gateway.client.delete(f"/v1/tenants/acme/messages/{message_id}?permanent=true")
    await publish(gateway)
    later = await events(gateway.client, types="message.created,message.deleted")
    assert [item["message"] for item in later["items"]] == [None, None]
    assert later["items"][1]["data"].keys() >= {"anchor_at", "expires_at"}


async def test_a_change_of_plan_says_for_how_long_copies_stay_and_what_comes_after(gateway: Gateway) -> None:
    await gateway.tenant("acme", "free")
    body = {"plan": "standard", "period_end": "2026-07-01T00:00:00Z"}
    await gateway.client.put("/v1/tenants/acme/subscription", json=body)
    await publish(gateway)
    item = (await events(gateway.client, types="subscription.changed"))["items"][-1]
    assert item["data"]["plan"] == "standard"
    now, after = item["retention"]["steps"]
    assert (now["plan"], now["days"]) == ("standard", 60)
    assert after == {"at": "2026-07-01T00:00:00Z", "plan": "free", "days": 0}


async def test_a_bound_token_sees_its_own_tenant_only(gateway: Gateway) -> None:
    for tenant_id in ("acme", "other"):
        await gateway.mailbox(await gateway.tenant(tenant_id), f"ann@{tenant_id}.example")
    await publish(gateway)
    async with await gateway.token("crm", tenant_id="other") as client:
        items = (await events(client))["items"]
        assert {item["tenant_id"] for item in items} == {"other"}
        assert items == (await events(gateway.client, tenant="other"))["items"]
        assert await problem(client, tenant="acme") == (404, "tenant_not_found")
        assert await problem(client, "/v1/snapshot", tenant="acme") == (404, "tenant_not_found")
        assert (await client.get("/v1/snapshot")).json()["items"] == []
    assert {item["tenant_id"] for item in (await events(gateway.client))["items"]} == {"acme", "other"}
    assert await problem(gateway.client, tenant="nobody") == (404, "tenant_not_found")
    assert await problem(gateway.client, "/v1/snapshot") == (422, "tenant_needed")


async def test_what_can_not_be_read_says_why(gateway: Gateway) -> None:
    await gateway.mailbox(await gateway.tenant())
    await publish(gateway)
    assert await problem(gateway.client, types="massage.*") == (422, "type_unknown")
    assert await problem(gateway.client, after="nonsense") == (400, "bad_cursor")
    assert await problem(gateway.client, "/v1/events/stream", after="nonsense") == (400, "bad_cursor")
    assert await problem(gateway.client, wait=61) == (422, "invalid")
    first = (await events(gateway.client))["items"][0]
    gateway.clock.forward(40 * DAY)
    await gateway.core.db.transact(lambda tx: prune_feed(tx, gateway.clock(), 100))
    answer = await gateway.client.get("/v1/events", params={"after": first["cursor"]})
    assert (answer.status_code, answer.json()["type"]) == (410, "cursor_expired")
    assert (await events(gateway.client, after=answer.json()["oldest_cursor"]))["items"] == []
    assert (await events(gateway.client))["items"] == []


async def test_a_long_poll_is_answered_as_soon_as_something_comes(gateway: Gateway) -> None:
    post = await postman(gateway)
    await publish(gateway)
    after = (await events(gateway.client, after="latest"))["next_cursor"]
    waiting = asyncio.ensure_future(events(gateway.client, after=after, wait=60, types="message.created"))
    await begun(gateway)
    await gateway.client.put("/v1/tenants/acme/subscription", json={"plan": "standard"})
    await publish(gateway)  # nothing that it waits for
    message_id = await post.deliver(letter(), index=False)
    await publish(gateway)
    assert [item["message_id"] for item in (await waiting)["items"]] == [message_id]
    assert gateway.app.state.services.readers.taken == 0


async def test_a_long_poll_ends_empty(gateway: Gateway) -> None:
    await gateway.tenant()
    await publish(gateway)
    page = await events(gateway.client, after="latest", wait=0.01)
    assert page["items"] == []
    # When the process ends, those that wait are answered.
    waiting = asyncio.ensure_future(events(gateway.client, after=page["next_cursor"], wait=60))
    await begun(gateway)
    gateway.core.feed.arrivals.close()
    assert await waiting == page


async def test_places_are_limited_and_given_back(gateway: Gateway) -> None:
    await gateway.tenant()
    await publish(gateway)
    readers = gateway.app.state.services.readers
    readers._most = 1
    async with streaming(gateway, "after=latest") as stream:
        await stream.piece()
        assert await problem(gateway.client, after="latest", wait=60) == (503, "too_many_readers")
        assert await problem(gateway.client, "/v1/events/stream", after="latest") == (503, "too_many_readers")
        assert (await events(gateway.client, after="latest"))["items"] == []  # who does not wait needs none
        assert "mailgate_feed_readers 1.0" in (await gateway.client.get("/metrics")).text
    assert readers.taken == 0


async def test_one_tenants_readers_leave_places_for_the_others(gateway: Gateway) -> None:
    await gateway.tenant()
    await publish(gateway)
    readers = gateway.app.state.services.readers
    readers._most = 4
    with readers.place("acme"), readers.place("acme"):
        async with await gateway.token("crm", tenant_id="acme") as bound:
            assert await problem(bound, after="latest", wait=60) == (503, "too_many_readers")
            assert await problem(bound, "/v1/events/stream", after="latest") == (503, "too_many_readers")
        async with streaming(gateway, "after=latest") as stream:
            await stream.piece()
    assert readers.taken == 0


async def test_a_client_that_goes_away_frees_its_place(gateway: Gateway) -> None:
    await gateway.tenant()
    await publish(gateway)
    readers = gateway.app.state.services.readers
    stream = Stream(gateway, "after=latest")
    await stream.piece()
    assert readers.taken == 1
    stream.gone.set()
    await stream.task
    assert readers.taken == 0


async def test_a_stream_brings_events_as_they_come_and_resumes(gateway: Gateway) -> None:
    post = await postman(gateway)
    await publish(gateway)
    async with streaming(gateway, "types=message.*") as stream:
        assert (await stream.piece()).startswith(":")
        first = await post.deliver(letter(), index=False)
        await publish(gateway)
        seen = await stream.event()
        assert (stream.status, seen["message_id"]) == (200, first)
        second = await post.deliver(letter("Second"), index=False)
        await publish(gateway)
        assert (await stream.event())["message_id"] == second
    async with streaming(gateway, "types=message.*&after=latest", last_event_id=seen["cursor"]) as again:
        assert (await again.event())["message_id"] == second


async def test_a_stream_ends_when_the_process_does(gateway: Gateway) -> None:
    await gateway.mailbox(await gateway.tenant())
    await publish(gateway)
    stream = Stream(gateway, "types=mailbox.*")
    await stream.piece()
    gateway.core.feed.arrivals.close()
    assert (await stream.event())["type"] == "mailbox.state_changed"  # what was there is still told
    await stream.ended.wait()
    await stream.task


async def test_who_reads_slowly_costs_no_memory(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mailgate.api.routes.events._AT_ONCE", 2)
    post = await postman(gateway)
    for _ in range(6):
        await post.deliver(letter(), index=False)
    await publish(gateway)
    stream = Stream(gateway, "types=message.created")
    await stream.piece()
    for batch in (1, 2):
        await stream._pieces.get()
        for _ in range(20):
            await asyncio.sleep(0)
        assert len(stream.sent) == 1 + batch  # nothing is read on while nothing is taken
        stream._taken.release()
    # One that takes nothing any more is cut off.
    monkeypatch.setattr("mailgate.api.waiting.STUCK_S", 0.01)
    stuck = Stream(gateway, "types=message.created")
    async with asyncio.TaskGroup() as group:
        group.create_task(asyncio.wait_for(stuck.task, 30))
    await stream.leave()


async def test_streams_say_that_they_are_alive_and_end_with_their_token(gateway: Gateway) -> None:
    await gateway.tenant()
    await publish(gateway)
    services = gateway.app.state.services
    quick = services.settings.events.model_copy(update={"keep_alive_s": 0.01})
    gateway.app.state.services = replace(services, settings=services.settings.model_copy(update={"events": quick}))
    made = (await gateway.client.post("/v1/tokens", json={"name": "x", "scopes": ["crm"]})).json()
    stream = Stream(gateway, "after=latest", authorization=f"Bearer {made['token']}")
    await stream.piece()
    assert await stream.piece() == ": alive\n\n"
    await gateway.client.delete(f"/v1/tokens/{made['id']}")
    while not stream.ended.is_set():
        stream._taken.release()
        await asyncio.sleep(0.001)
    await stream.task


async def test_head_of_a_stream_ends(gateway: Gateway) -> None:
    answer = await gateway.client.head("/v1/events/stream")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "text/event-stream; charset=utf-8")


async def test_metrics_tell_of_what_waits(gateway: Gateway) -> None:
    await gateway.mailbox(await gateway.tenant())
    gateway.clock.forward(5_000_000)
    text = (await gateway.client.get("/metrics")).text
    assert "mailgate_feed_lag_seconds 5.0" in text
    assert "mailgate_feed_events_waiting 0.0" not in text
    await publish(gateway)
    text = (await gateway.client.get("/metrics")).text
    assert "mailgate_feed_lag_seconds 0.0" in text
    assert "mailgate_feed_events_waiting 0.0" in text
