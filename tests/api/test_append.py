"""A message put into a folder over HTTP: byte-identical but for line ends, in bounded memory, once."""

from __future__ import annotations

import asyncio
import contextlib
import io
from collections.abc import AsyncIterator
from typing import Any

import pytest
from sqlalchemy import select

from mailgate.api import gate
from mailgate.clock import DAY, HOUR, SECOND, to_rfc3339
from mailgate.ids import new_id
from mailgate.store.schema import blobs, events, messages, origins
from mailgate.store.schema import operations as operations_table
from tests.api.conftest import ADMIN, START, Gateway
from tests.api.mail import Postman, letter, postman
from tests.postgres import before_the_database

T = "/v1/tenants/acme"
TYPE = {"content-type": "message/rfc822"}


@pytest.fixture
async def post(gateway: Gateway) -> Postman:
    return await postman(gateway)


async def rows(gateway: Gateway, table: Any) -> list[Any]:
    async with gateway.core.db.read() as conn:
        return list((await conn.execute(select(table))).all())


async def append(gateway: Gateway, post: Postman, raw: Any, headers: dict[str, str] | None = None, **query: str) -> Any:
    params = {"folder_id": await post.folder("Sent"), **query}
    address = f"{T}/mailboxes/{post.mailbox_id}/messages"
    return await gateway.client.post(address, params=params, content=raw, headers={**TYPE, **(headers or {})})


def refused(answer: Any) -> tuple[int, str]:
    return answer.status_code, answer.json()["type"]


async def pieces(*parts: bytes) -> AsyncIterator[bytes]:
    for part in parts:
        yield part


async def test_an_appended_message_is_there_at_once(gateway: Gateway, post: Postman) -> None:
    raw = letter("Our offer", Message_ID="<a@acme.example>")
    received_at = START - 3 * DAY + 123_456
    answer = await append(gateway, post, raw, flags="\\Seen $Work", received_at=to_rfc3339(received_at))
    assert answer.status_code == 202
    id_, operation_id = answer.json()["message_id"], answer.json()["operation_id"]
    assert answer.headers["location"] == f"{T}/messages/{id_}"
    assert gateway.sync.woken[-1] == post.mailbox_id
    found = (await gateway.client.get(answer.headers["location"])).json()
    assert (found["subject"], found["rfc_message_id"]) == ("Our offer", "<a@acme.example>")
    assert found["flags"] == ["$Work", "\\Seen"]
    assert [folder["name"] for folder in found["folders"]] == ["Sent"]
    assert found["origin"] == {"present": False, "locations": []}
    assert found["pending_operations"] == 1
    whole = received_at - received_at % SECOND
    assert found["received_at"] == found["anchor_at"] == to_rfc3339(whole)
    assert (await gateway.client.get(f"{T}/messages/{id_}/raw")).content == raw
    folder = await post.folder("Sent")
    assert len((await gateway.client.get(f"{T}/messages", params={"folder": folder})).json()["items"]) == 1
    (row,) = await rows(gateway, operations_table)
    assert (row.id, row.kind, row.message_id, row.folder_id) == (operation_id, "append", id_, folder)
    assert row.detail == {"flags": ["$Work", "\\Seen"], "received_at": whole}
    assert (await rows(gateway, messages))[0].moving_to == folder
    assert await rows(gateway, origins) == []
    created = [row for row in await rows(gateway, events) if row.type == "message.created"]
    assert [(row.message_id, row.payload["folder_id"]) for row in created] == [(id_, folder)]
    await post.index()
    assert len((await gateway.client.get(f"{T}/messages", params={"q": "offer"})).json()["items"]) == 1


@pytest.mark.parametrize(
    "raw",
    [
        letter("plain"),
        b"Subject: no body",
        b"Subject: x\r\n\r\n",
        b"Subject: 8 bit\r\n\r\n" + bytes(range(1, 10)) + bytes(range(11, 13)) + bytes(range(14, 256)) + b"\r\n",
        b"Subject: long line\r\n\r\n" + b"x" * 100_000 + b"\r\n",
        b"X: " + b"\xff" * 1_000 + b"\r\n\r\nbare \r in a line\r",
    ],
)
async def test_bytes_are_kept_as_they_came(gateway: Gateway, post: Postman, raw: bytes) -> None:
    id_ = (await append(gateway, post, raw)).json()["message_id"]
    assert (await gateway.client.get(f"{T}/messages/{id_}/raw")).content == raw


@pytest.mark.parametrize("cut", [1, 2, 3, 7])
async def test_lines_end_as_mail_servers_keep_them(gateway: Gateway, post: Postman, cut: int) -> None:
    raw = b"Subject: x\nTo: a\r\n\n1\r\r\n2\r\n\n\r3\r"
    parts = [raw[start : start + cut] for start in range(0, len(raw), cut)]
    id_ = (await append(gateway, post, pieces(*parts))).json()["message_id"]
    found = (await gateway.client.get(f"{T}/messages/{id_}/raw")).content
    assert found == b"Subject: x\r\nTo: a\r\n\r\n1\r\r\n2\r\n\r\n\r3\r"


async def test_a_huge_message_goes_through_the_disk(gateway: Gateway, post: Postman) -> None:
    body = (b"0123456789abcdef" * 4 + b"\n") * 40_000
    raw = b"Subject: huge\n\n" + body
    parts = [raw[start : start + 65_000] for start in range(0, len(raw), 65_000)]
    id_ = (await append(gateway, post, pieces(*parts))).json()["message_id"]
    got = await gateway.client.get(f"{T}/messages/{id_}/raw")
    assert got.content == raw.replace(b"\n", b"\r\n")
    assert (await gateway.client.get(f"{T}/messages/{id_}")).json()["size"] == len(got.content)


@before_the_database
@pytest.mark.parametrize(
    "raw", [b"", b"\r\n\r\nbody", b"no header", b" Subject: x\r\n", b": x\r\n", b"From ann Mon\r\n", b"S: x\r\n\r\n\0"]
)
async def test_what_is_no_message(gateway: Gateway, post: Postman, raw: bytes) -> None:
    assert refused(await append(gateway, post, raw)) == (422, "message_invalid")
    assert await rows(gateway, messages) == []


async def test_a_message_beyond_the_limit(gateway: Gateway, post: Postman) -> None:
    most = 1 << 20
    gateway.core.wishes.appends._max_bytes = most  # the setting's least is more than the test wants to send
    head = b"Subject: x\r\n\r\n"
    assert (await append(gateway, post, head + b"y" * (most - len(head)))).status_code == 202
    answer = await append(gateway, post, head + b"y" * (most - len(head) + 1))
    assert refused(answer) == (413, "too_large")
    assert answer.headers["connection"] == "close"
    # One that does not say how large it is, and one that grows by its line ends.
    assert refused(await append(gateway, post, pieces(head, b"y" * most))) == (413, "too_large")
    assert refused(await append(gateway, post, pieces(head, b"\n" * (most // 2 + 1)))) == (413, "too_large")
    objects = [path for path in (gateway.core.settings.data_dir / "blobs").rglob("*") if path.is_file()]
    assert len(objects) == len(await rows(gateway, blobs)) == 1, "nothing is left behind"


async def test_a_body_of_another_type(gateway: Gateway, post: Postman) -> None:
    answer = await append(gateway, post, b"{}", {"content-type": "application/json"})
    assert refused(answer) == (415, "unsupported_media_type")
    assert "message/rfc822" in answer.json()["detail"]
    answer = await append(gateway, post, letter(), {"content-type": "message/rfc822; charset=utf-8"})
    assert answer.status_code == 202
    # The other routes take no message.
    address = f"{T}/mailboxes/{post.mailbox_id}/folders"
    assert refused(await gateway.client.post(address, content=letter(), headers=TYPE)) == (
        415,
        "unsupported_media_type",
    )


async def test_what_is_refused_is_refused_before_it_is_read(gateway: Gateway, post: Postman) -> None:
    read = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal read
        while True:
            read += 1
            yield b"Subject: x\r\n"

    params = {"folder_id": await post.folder("Sent")}
    address = f"{T}/mailboxes/{post.mailbox_id}/messages"

    async def refusal(params: dict[str, str], address: str = address) -> tuple[int, str]:
        return refused(await gateway.client.post(address, params=params, content=endless(), headers=TYPE))

    assert await refusal({"folder_id": new_id(START)}) == (404, "folder_not_found")
    assert await refusal(params, f"{T}/mailboxes/{new_id(START)}/messages") == (404, "mailbox_not_found")
    assert await refusal({"folder_id": await post.folder("Out", followed=False)}) == (409, "folder_not_followed")
    for received_at in (to_rfc3339(START - 90 * DAY), "1989-12-31T23:59:59Z", "0001-01-01T00:00:00Z"):
        old = {**params, "received_at": received_at}
        assert await refusal(old) == (422, "received_at_invalid")
    assert await refusal({**params, "flags": "\\Deleted"}) == (422, "flag_invalid")
    assert await refusal({**params, "flags": "a  b"}) == (422, "flag_invalid")
    await gateway.client.patch(f"{T}/mailboxes/{post.mailbox_id}", json={"enabled": False})
    assert await refusal(params) == (409, "mailbox_disabled")
    await gateway.client.patch(f"{T}/mailboxes/{post.mailbox_id}", json={"enabled": True})
    await gateway.client.put(f"{T}/subscription", json={"plan": "free"})
    assert await refusal(params) == (409, "not_entitled")
    async with gateway.with_token(None) as client:
        assert (await client.post(address, params=params, content=endless(), headers=TYPE)).status_code == 401
    async with await gateway.token("compliance") as client:
        assert (await client.post(address, params=params, content=endless(), headers=TYPE)).status_code == 403
    assert read == 0


async def test_a_time_in_the_future_is_now(gateway: Gateway, post: Postman) -> None:
    answer = await append(gateway, post, letter(), received_at=to_rfc3339(START + HOUR))
    found = (await gateway.client.get(f"{T}/messages/{answer.json()['message_id']}")).json()
    assert found["received_at"] == found["anchor_at"] == to_rfc3339(START)


# Idempotency.


async def test_a_repeated_append_makes_one_message(gateway: Gateway, post: Postman) -> None:
    key = {"idempotency-key": "k-1"}
    first = await append(gateway, post, letter("1"), key)
    again = await append(gateway, post, letter("1"), key)
    assert first.status_code == again.status_code == 202
    assert first.json() == again.json()
    assert (again.headers["idempotent-replayed"], again.headers["location"]) == ("true", first.headers["location"])
    # However the body is cut, and whether it has the line ends of a mail server already: it is the same message.
    unix = letter("1").replace(b"\r\n", b"\n")
    assert (await append(gateway, post, pieces(unix[:10], unix[10:]), key)).json() == first.json()
    assert refused(await append(gateway, post, letter("2"), key)) == (422, "idempotency_key_reused")
    assert refused(await append(gateway, post, letter("1"), key, flags="\\Seen")) == (422, "idempotency_key_reused")
    assert len(await rows(gateway, messages)) == 1
    other = await append(gateway, post, letter("1"), {"idempotency-key": "k-2"})
    assert other.json() != first.json()
    assert len(await rows(gateway, messages)) == 2, "equal content is not one message"


async def test_two_at_once_with_one_key_make_one_message(gateway: Gateway, post: Postman) -> None:
    key = {"idempotency-key": "k-1"}
    await post.folder("Sent")
    answers = await asyncio.gather(*(append(gateway, post, letter("1"), key) for _ in range(5)))
    made = {answer.json()["message_id"] for answer in answers if answer.status_code == 202}
    others = [refused(answer) for answer in answers if answer.status_code != 202]
    assert len(made) == 1
    assert set(others) <= {(409, "idempotency_in_progress")}
    assert len(await rows(gateway, messages)) == 1


async def test_a_refused_append_frees_its_key(gateway: Gateway, post: Postman) -> None:
    key = {"idempotency-key": "k-1"}
    assert refused(await append(gateway, post, b"no header", key)) == (422, "message_invalid")
    assert (await append(gateway, post, letter(), key)).status_code == 202


async def test_too_many_at_a_time_are_refused_before_they_are_read(gateway: Gateway, post: Postman) -> None:
    async def never() -> AsyncIterator[bytes]:
        raise AssertionError("it was read")
        yield b""

    key = {"idempotency-key": "k-1"}
    with contextlib.ExitStack() as going:
        for _ in range(gateway.core.settings.limits.uploads_at_once):
            going.enter_context(gateway.core.wishes.appends.coming())
        answer = await append(gateway, post, never(), key)
        assert refused(answer) == (429, "too_many_uploads")
        assert int(answer.headers["retry-after"]) > 0
    assert (await append(gateway, post, letter(), key)).status_code == 202
    assert refused(await append(gateway, post, b"no header")) == (422, "message_invalid")
    with contextlib.ExitStack() as going:  # each gave its place back, however it ended
        for _ in range(gateway.core.settings.limits.uploads_at_once):
            going.enter_context(gateway.core.wishes.appends.coming())


@pytest.mark.parametrize("kind", ["message/rfc822", "application/json"])
async def test_who_sends_nothing_more_keeps_no_place(
    gateway: Gateway, post: Postman, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr(gate, "_PATIENCE_S", 0.01)

    async def stalled() -> AsyncIterator[bytes]:
        yield b"From: "
        await asyncio.Event().wait()

    path = {"message/rfc822": f"{T}/mailboxes/{post.mailbox_id}/messages", "application/json": "/v1/tokens"}[kind]
    params = {"folder_id": await post.folder("Sent")} if kind == "message/rfc822" else {}
    answer = await gateway.client.post(path, content=stalled(), params=params, headers={"content-type": kind})
    assert refused(answer) == (408, "too_slow")
    assert answer.headers["connection"] == "close"
    assert await rows(gateway, messages) == []
    with contextlib.ExitStack() as going:
        for _ in range(gateway.core.settings.limits.uploads_at_once):
            going.enter_context(gateway.core.wishes.appends.coming())


async def test_a_client_that_goes_away_leaves_nothing(gateway: Gateway, post: Postman, log: io.StringIO) -> None:
    query = f"folder_id={await post.folder('Sent')}"
    headers = [(b"content-type", b"message/rfc822"), (b"idempotency-key", b"k-1"), (b"transfer-encoding", b"chunked")]
    path = f"{T}/mailboxes/{post.mailbox_id}/messages"
    scope = {
        "type": "http",
        "http_version": "1.1",
        "method": "POST",
        "path": path,
        "raw_path": path.encode(),
        "query_string": query.encode(),
        "headers": [*headers, (b"authorization", f"Bearer {ADMIN}".encode())],
        "scheme": "http",
        "server": ("gateway.test", 80),
        "client": ("127.0.0.1", 1),
        "root_path": "",
    }
    came: list[dict[str, Any]] = [
        {"type": "http.request", "body": b"Subject: x\r\n\r\n" + b"y" * (3 << 20), "more_body": True},
        {"type": "http.disconnect"},
    ]

    async def receive() -> dict[str, Any]:
        return came.pop(0) if len(came) > 1 else came[0]

    async def send(_message: Any) -> None:
        """Nobody listens."""

    await gateway.app(scope, receive, send)
    assert "Traceback" not in log.getvalue()
    assert await rows(gateway, messages) == []
    folder = gateway.core.settings.data_dir / "blobs"
    assert [path for path in folder.rglob("*") if path.is_file()] == []
    assert (await append(gateway, post, letter(), {"idempotency-key": "k-1"})).status_code == 202


async def test_a_mailbox_that_is_switched_off_meanwhile_refuses_what_was_sent(gateway: Gateway, post: Postman) -> None:
    async def slow() -> AsyncIterator[bytes]:
        yield b"Subject: x\r\n\r\n"
        await gateway.client.patch(f"{T}/mailboxes/{post.mailbox_id}", json={"enabled": False})
        yield b"body\r\n"

    assert refused(await append(gateway, post, slow())) == (409, "mailbox_disabled")
    assert await rows(gateway, messages) == []
