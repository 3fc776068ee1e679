"""Copies over HTTP: byte-identical, sanitised, filtered, paged, and gone when their time is over."""

from __future__ import annotations

import asyncio
import io
import threading
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import pytest
from sqlalchemy import select, update

from mailgate.clock import DAY, HOUR, SECOND, to_rfc3339
from mailgate.ids import new_id
from mailgate.reading import html
from mailgate.store.schema import blobs, messages
from tests.api.conftest import START, Gateway
from tests.api.mail import letter, postman
from tests.postgres import before_the_database

HTML = '<p onclick="x()">Hello <b>Ann</b></p><script>alert(1)</script><img src="https://tracker.example/a.gif">'


async def test_a_message_in_full(gateway: Gateway) -> None:
    post = await postman(gateway)
    raw = letter(
        "Ihr Angebot für Dächer",
        "Grüße\n",
        html=HTML,
        files=(("Preise – 2026.pdf", "application/pdf", b"%PDF-1"),),
        Message_ID="<m1@other.example>",
        References="<m0@other.example>",
        In_Reply_To="<m0@other.example>",
        Cc="Zoë <zoe@acme.example>",
        Date="Mon, 01 Jun 2026 10:00:00 +0200",
    )
    message_id = await post.deliver(raw, flags=frozenset({"\\Seen", "$Work"}))
    found = (await gateway.client.get(f"/v1/tenants/acme/messages/{message_id}")).json()
    assert found["subject"] == "Ihr Angebot für Dächer"
    assert found["from"] == [{"name": "Bob", "address": "bob@other.example"}]
    assert found["cc"] == [{"name": "Zoë", "address": "zoe@acme.example"}]
    assert found["date"] == "2026-06-01T08:00:00Z"
    assert found["rfc_message_id"] == "<m1@other.example>"
    assert (found["in_reply_to"], found["references"]) == (["<m0@other.example>"], ["<m0@other.example>"])
    assert (found["size"], found["flags"]) == (len(raw), ["$Work", "\\Seen"])
    assert found["anchor_at"] == found["received_at"] == to_rfc3339(START - DAY)
    assert found["stored_at"] == to_rfc3339(START)
    assert found["expires_at"] == to_rfc3339(START - DAY + 90 * DAY)
    assert (found["pins"], found["held"]) == ([], False)
    assert [folder["name"] for folder in found["folders"]] == ["INBOX"]
    assert found["origin"]["present"] is True
    assert found["text"].strip() == "Grüße"
    assert "Hello <b>Ann</b>" in found["html"]
    assert "script" not in found["html"]
    assert "onclick" not in found["html"]
    assert ' src="https://tracker' not in found["html"]
    files = [part for part in found["parts"] if not part["inline"]]
    assert [(part["filename"], part["content_type"], part["size"]) for part in files] == [
        ("Preise – 2026.pdf", "application/pdf", 6)
    ]


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"no header at all",
        b"Subject: x\r\n\r\n\0\xff\r\n",
        b"\n\n\nSubject: =?utf-8?b?/////?=\n\nbare\rline\nends\r\n",
        b"Subject: big\r\n\r\n" + bytes(range(256)) * 4_096,
    ],
)
async def test_raw_is_the_original_byte_for_byte(gateway: Gateway, raw: bytes) -> None:
    post = await postman(gateway)
    message_id = await post.deliver(raw, index=False)
    got = await gateway.client.get(f"/v1/tenants/acme/messages/{message_id}/raw")
    assert got.status_code == 200
    assert got.content == raw
    assert got.headers["content-type"] == "message/rfc822"
    assert got.headers["content-length"] == str(len(raw))
    assert got.headers["content-security-policy"] == "default-src 'none'; sandbox"
    again = await gateway.client.get(
        f"/v1/tenants/acme/messages/{message_id}/raw", headers={"if-none-match": got.headers["etag"]}
    )
    assert (again.status_code, again.content) == (304, b"")
    assert (await gateway.client.get(f"/v1/tenants/acme/messages/{message_id}")).status_code == 200


@pytest.mark.parametrize("harm", ["key gone", "row damaged"])
async def test_a_copy_that_can_not_be_opened_hides_no_other(gateway: Gateway, log: io.StringIO, harm: str) -> None:
    """As after the restore of a backup that is older than its keys were kept."""
    post = await postman(gateway)
    lost, other = [await post.deliver(letter(subject), index=False) for subject in ("Lost", "Other")]
    at = f"/v1/tenants/acme/messages/{lost}"
    assert (await gateway.client.put(f"{at}/pins/deal/D-1", json={"note": "why"})).status_code == 201
    core = gateway.core
    async with core.db.read() as conn:
        row = (await conn.execute(select(messages).where(messages.c.id == lost))).one()
    good = {"key_epoch": row.key_epoch, "data_key": row.data_key, "summary": row.summary}
    bad = {"key_epoch": 201001} if harm == "key gone" else {"summary": row.summary[:-1] + b"x"}
    async with core.db.write() as tx:
        await tx.conn.execute(update(messages).where(messages.c.id == lost).values(**bad))
        await tx.conn.execute(update(blobs).where(blobs.c.id == row.blob_id).values(key_epoch=201001))
    listed = (await gateway.client.get("/v1/tenants/acme/messages")).json()["items"]
    assert {item["id"]: item["subject"] for item in listed} == {lost: "", other: "Other"}
    (pin,) = next(item["pins"] for item in listed if item["id"] == lost)
    assert (pin["entity_id"], pin["note"]) == ("D-1", None if harm == "key gone" else "why")
    assert "message_not_opened" in log.getvalue()
    for path in (at, f"{at}/raw"):
        refused = await gateway.client.get(path)
        assert (refused.status_code, refused.json()["type"]) == (500, "key_missing")
    async with core.db.write() as tx:  # as it was, for the doctor at the end
        await tx.conn.execute(update(messages).where(messages.c.id == lost).values(**good))
        await tx.conn.execute(update(blobs).where(blobs.c.id == row.blob_id).values(key_epoch=row.key_epoch))


async def test_a_damaged_copy_is_an_error_never_other_bytes(gateway: Gateway, log: io.StringIO) -> None:
    post = await postman(gateway)
    message_id = await post.deliver(letter(), index=False)
    (path,) = [path for path in (gateway.core.settings.data_dir / "blobs").rglob("*") if path.is_file()]
    good = path.read_bytes()
    path.write_bytes(good[:40] + bytes([good[40] ^ 1]) + good[41:])
    for what in ("", "/raw", "/parts/1"):
        refused = await gateway.client.get(f"/v1/tenants/acme/messages/{message_id}{what}")
        assert (refused.status_code, refused.json()["type"]) == (500, "blob_corrupt")
    assert '"slug": "blob_corrupt"' in log.getvalue()
    path.unlink()
    refused = await gateway.client.get(f"/v1/tenants/acme/messages/{message_id}/raw")
    assert (refused.status_code, refused.json()["type"]) == (500, "blob_missing")
    path.write_bytes(good)


async def test_a_part_is_saved_never_run(gateway: Gateway) -> None:
    post = await postman(gateway)
    evil = 'we"ird\r\nX-Evil: 1/..\\名前.html'
    message_id = await post.deliver(letter(files=((evil, "text/html", b"<script>alert(1)</script>"),)))
    parts = (await gateway.client.get(f"/v1/tenants/acme/messages/{message_id}")).json()["parts"]
    (file,) = [part for part in parts if not part["inline"]]
    got = await gateway.client.get(f"/v1/tenants/acme/messages/{message_id}/parts/{file['part_id']}")
    assert got.content == b"<script>alert(1)</script>"
    assert got.headers["x-content-type-options"] == "nosniff"
    assert got.headers["content-security-policy"] == "default-src 'none'; sandbox"
    assert got.headers["content-disposition"].startswith("attachment; ")
    assert "x-evil" not in got.headers
    assert "\r" not in got.headers["content-disposition"]


@pytest.mark.parametrize("part_id", ["9", "1.1.1", "0"])
async def test_a_part_that_is_not_there(gateway: Gateway, part_id: str) -> None:
    post = await postman(gateway)
    message_id = await post.deliver(letter())
    refused = await gateway.client.get(f"/v1/tenants/acme/messages/{message_id}/parts/{part_id}")
    assert refused.status_code == 404


@before_the_database
@pytest.mark.parametrize("part_id", ["x", "1.", "-1", "1..2"])
async def test_what_is_no_part_id_is_refused(gateway: Gateway, part_id: str) -> None:
    post = await postman(gateway)
    message_id = await post.deliver(letter())
    refused = await gateway.client.get(f"/v1/tenants/acme/messages/{message_id}/parts/{part_id}")
    assert refused.status_code == 422


async def test_listing_is_newest_first_and_pages_miss_nothing(gateway: Gateway) -> None:
    post = await postman(gateway)
    made = [await post.deliver(letter(f"m{n}"), age=(n // 2 + 1) * HOUR) for n in range(7)]
    seen: list[str] = []
    cursor: str | None = None
    while True:
        params: dict[str, str | int] = {"limit": 3} | ({"cursor": cursor} if cursor else {})
        page = (await gateway.client.get("/v1/tenants/acme/messages", params=params)).json()
        seen += [item["id"] for item in page["items"]]
        if cursor is None:  # what arrives between two pages moves nothing
            await post.deliver(letter("late"), age=SECOND)
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert len(seen) == len(set(seen))
    assert set(seen) == set(made)
    anchors = [made.index(message_id) // 2 for message_id in seen]
    assert anchors == sorted(anchors)
    assert all("text" not in item for item in page["items"])


async def test_filters(gateway: Gateway) -> None:
    post = await postman(gateway)
    other = await gateway.mailbox("acme", "ben@acme.example")
    seen = await post.deliver(letter("seen"), age=1 * DAY, flags=frozenset({"\\Seen"}))
    flagged = await post.deliver(letter("flagged"), age=2 * DAY, flags=frozenset({"\\Flagged"}))
    filed = await post.deliver(letter("filed", files=(("a.txt", "text/plain", b"x"),)), age=3 * DAY, folder="Deals/Ünï")
    pinned = await post.deliver(letter("pinned"), age=4 * DAY)
    await gateway.client.put(f"/v1/tenants/acme/messages/{pinned}/pins/deal/D-1")
    deals = await post.folder("Deals/Ünï")

    async def listed(**params: str) -> list[str]:
        answer = await gateway.client.get("/v1/tenants/acme/messages", params=params)
        assert answer.status_code == 200, answer.text
        return [item["id"] for item in answer.json()["items"]]

    assert await listed() == [seen, flagged, filed, pinned]
    assert await listed(unseen="true") == [flagged, filed, pinned]
    assert await listed(unseen="false") == [seen]
    assert await listed(flagged="true") == [flagged]
    assert await listed(has_files="true") == [filed]
    assert await listed(has_files="false") == [seen, flagged, pinned]
    assert await listed(pinned="true") == [pinned]
    assert await listed(pinned="false") == [seen, flagged, filed]
    assert await listed(folder=deals) == [filed]
    assert await listed(mailbox=post.mailbox_id) == [seen, flagged, filed, pinned]
    assert await listed(mailbox=other["id"]) == []
    assert await listed(since=to_rfc3339(START - 2 * DAY)) == [seen, flagged]
    assert await listed(before=to_rfc3339(START - 2 * DAY)) == [filed, pinned]
    assert await listed(since=to_rfc3339(START - 3 * DAY), before=to_rfc3339(START - DAY)) == [flagged, filed]
    assert await listed(unseen="true", has_files="false", pinned="false") == [flagged]


SCRIPTS = {
    "latin": ("Angebot für Müller", "Die Dächer sind gedeckt, naïve Façade", ["muller", "MÜLLER", "dacher", "facade"]),
    "cyrillic": ("Счёт за март", "Прошу оплатить счёт", ["счет", "СЧЁТ", "март"]),
    "greek": ("Προσφορά", "Καλημέρα σας", ["προσφορα", "ΚΑΛΗΜΕΡΑ"]),
    "japanese": ("見積書の件", "お世話になっております", ["見積", "積書", "お世話"]),
    "chinese": ("报价单", "请查收附件", ["报价", "附件"]),
    "korean": ("견적서", "안녕하세요", ["견적서"]),
    "arabic": ("عرض السعر", "السلام عليكم", ["السعر", "السلام"]),
    "hebrew": ("הצעת מחיר", "שלום רב", ["מחיר"]),
    "thai": ("ใบเสนอราคา", "สวัสดีครับ", ["เสนอ", "สวัสดี"]),
    "hindi": ("मूल्य प्रस्ताव", "नमस्ते", ["मूल्य", "नमस्ते"]),
    "digits": ("Invoice 2026-00417", "IBAN DE89 3704", ["2026", "00417", "de89"]),
}


async def test_words_are_found_in_any_script(gateway: Gateway) -> None:
    post = await postman(gateway)
    made = {
        name: await post.deliver(letter(subject, text), index=False) for name, (subject, text, _) in SCRIPTS.items()
    }
    assert await post.index() == len(made)
    for name, (_, _, queries) in SCRIPTS.items():
        for query in queries:
            answer = await gateway.client.get("/v1/tenants/acme/messages", params={"q": query})
            assert [item["id"] for item in answer.json()["items"]] == [made[name]], (name, query)


async def test_words_by_field(gateway: Gateway) -> None:
    post = await postman(gateway)
    one = await post.deliver(letter("Roof", "tiles", From="Zoë Müller <zoe@roofs.example>"), age=DAY)
    two = await post.deliver(
        letter("Tiles", "roof", To="sales@acme.example", files=(("roof plan.pdf", "application/pdf", b"x"),)),
        age=2 * DAY,
    )

    async def listed(**params: str) -> list[str]:
        answer = await gateway.client.get("/v1/tenants/acme/messages", params=params)
        return [item["id"] for item in answer.json()["items"]]

    assert await listed(subject="roof") == [one]
    assert await listed(subject="tiles") == [two]
    assert await listed(q="roof") == [one, two]
    assert await listed(q="roof tiles") == [one, two]
    assert await listed(q="roof nothing") == []
    assert await listed(q="plan") == [two]
    assert await listed(**{"from": "zoe@roofs.example"}) == [one]
    assert await listed(**{"from": "muller"}) == [one]
    assert await listed(**{"from": "roofs.example"}) == [one]
    assert await listed(to="sales@acme.example") == [two]
    assert await listed(to="zoe@roofs.example") == []
    assert await listed(q="zoe@roofs.example", subject="roof") == [one]
    assert await listed(q="!!! ?") == []
    assert await listed(q="\"' OR 1=1 --") == []


async def test_prefixes(gateway: Gateway) -> None:
    post = await postman(gateway)
    one = await post.deliver(
        letter("Rechnungsübersicht", "tiles", From="Zoë Müller <zoe.m@roofs.example>"), age=DAY, folder="Archive"
    )
    two = await post.deliver(
        letter("Tiles", "Rechnung roof 안녕하세요", files=(("roof plan.pdf", "application/pdf", b"x"),)), age=2 * DAY
    )

    async def listed(**params: str) -> list[str]:
        answer = await gateway.client.get("/v1/tenants/acme/messages", params=params)
        return [item["id"] for item in answer.json()["items"]]

    assert await listed(q="rech*") == [one, two]
    assert await listed(q="RECHNUNGSÜ*") == [one]
    assert await listed(subject="rechn*") == [one]
    assert await listed(q="rechnung") == [two]
    assert await listed(q="rech* tile* roof") == [two]
    assert await listed(q="pla*") == [two]
    assert await listed(q="안녕*") == [two]
    assert await listed(**{"from": "mull*"}) == [one]
    assert await listed(**{"from": "zoe.m@roo*"}) == await listed(**{"from": "@roof*"}) == [one]
    assert await listed(to="@roof*") == []
    assert await listed(q="echnung*") == []
    assert await listed(q="rech*", folder=await post.folder("Archive")) == [one]
    assert await listed(q="rech*", folder=await post.folder(), mailbox=post.mailbox_id) == [two]
    for refused_query in ("re*", "rechnungsübers*"):
        refused = await gateway.client.get("/v1/tenants/acme/messages", params={"q": refused_query})
        assert (refused.status_code, refused.json()["type"]) == (422, "prefix_invalid")


async def test_words_in_a_folder_follow_a_move(gateway: Gateway) -> None:
    post = await postman(gateway)
    inbox, away = await post.folder(), await post.folder("Away")
    id_ = await post.deliver(letter("roof"))

    async def listed(folder: str) -> list[str]:
        answer = await gateway.client.get("/v1/tenants/acme/messages", params={"q": "roo*", "folder": folder})
        return [item["id"] for item in answer.json()["items"]]

    assert (await listed(inbox), await listed(away)) == ([id_], [])
    moved = await gateway.client.patch(f"/v1/tenants/acme/messages/{id_}", json={"folder_id": away})
    assert moved.status_code == 202
    assert (await listed(inbox), await listed(away)) == ([], [id_])


async def test_words_are_found_within_a_tenant_only(gateway: Gateway) -> None:
    here, there = await postman(gateway, "acme"), await postman(gateway, "other")
    mine = await here.deliver(letter("secret roof"))
    await there.deliver(letter("secret roof"))
    answer = await gateway.client.get("/v1/tenants/acme/messages", params={"q": "secret"})
    assert [item["id"] for item in answer.json()["items"]] == [mine]


async def test_no_word_stands_in_the_database(gateway: Gateway) -> None:
    post = await postman(gateway)
    await post.deliver(letter("Xylophon", "Quetzalcoatl", files=(("Zugspitze.txt", "text/plain", b"Brontosaurus"),)))
    await gateway.core.db.truncate_wal()
    if gateway.core.db.sqlite:
        data = (await asyncio.to_thread(Path(str(gateway.core.db.url.database)).read_bytes)).lower()
        assert b"create table messages" in data
        for word in (b"xylophon", b"quetzalcoatl", b"zugspitze", b"brontosaurus"):
            assert word not in data


async def test_a_thread_is_listed_oldest_first(gateway: Gateway) -> None:
    post = await postman(gateway)
    answer = await post.deliver(letter("Re: roof", Message_ID="<b@x.example>", References="<a@x.example>"), age=HOUR)
    first = await post.deliver(letter("roof", Message_ID="<a@x.example>"), age=2 * HOUR)
    await post.deliver(letter("something else", Message_ID="<c@x.example>"), age=HOUR)
    thread_id = (await gateway.client.get(f"/v1/tenants/acme/messages/{first}")).json()["thread_id"]
    thread = (await gateway.client.get(f"/v1/tenants/acme/threads/{thread_id}")).json()
    assert [item["id"] for item in thread["items"]] == [first, answer]
    listed = await gateway.client.get("/v1/tenants/acme/messages", params={"thread": thread_id})
    assert [item["id"] for item in listed.json()["items"]] == [answer, first]
    refused = await gateway.client.get(f"/v1/tenants/acme/threads/{new_id(START)}")
    assert (refused.status_code, refused.json()["type"]) == (404, "thread_not_found")


async def test_at_its_instant_a_copy_is_expired_everywhere(gateway: Gateway) -> None:
    post = await postman(gateway, plan="standard")
    message_id = await post.deliver(letter("roof"), age=DAY)
    path = f"/v1/tenants/acme/messages/{message_id}"
    thread_id = (await gateway.client.get(path)).json()["thread_id"]
    usage = (await gateway.client.get("/v1/tenants/acme/subscription")).json()["usage"]["storage_bytes"]
    assert usage > 0
    gateway.clock.at = START - DAY + 60 * DAY - 1
    assert (await gateway.client.get(path)).status_code == 200
    gateway.clock.forward(1)
    for what in ("", "/raw", "/parts/1"):
        refused = await gateway.client.get(f"{path}{what}")
        assert (refused.status_code, refused.json()["type"]) == (410, "expired")
    assert (await gateway.client.get("/v1/tenants/acme/messages")).json()["items"] == []
    assert (await gateway.client.get("/v1/tenants/acme/messages?q=roof")).json()["items"] == []
    assert (await gateway.client.get(f"/v1/tenants/acme/threads/{thread_id}")).status_code == 404
    found = (await gateway.client.get("/v1/tenants/acme/subscription")).json()
    assert found["usage"]["storage_bytes"] == 0
    saved = await gateway.client.put(f"{path}/pins/deal/D-1")
    assert saved.status_code == 201
    assert (await gateway.client.get(path)).json()["expires_at"] is None


async def test_html_that_would_take_minutes_is_shown_as_its_words_and_tried_once(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(html, "PROCESSOR_S", 1)
    run = MagicMock(wraps=html.limited.run)
    monkeypatch.setattr(html.limited, "run", run)
    post = await postman(gateway)
    costly = await post.deliver(letter(html="<table>" + "<i></i>" * 80_000 + "the words"), index=False)
    for _ in range(3):
        shown = await gateway.client.get(f"/v1/tenants/acme/messages/{costly}")
        assert shown.json()["html"] == "<pre>the words</pre>"
        assert run.call_count == 1


async def test_many_who_open_a_costly_message_at_once_cost_one_process(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also one that is made safe in the end."""
    asked, all_asked = 0, threading.Event()
    reader = gateway.core.reader
    blob_of = reader._blob

    async def asking(*about: Any) -> Any:
        nonlocal asked
        found = await blob_of(*about)
        asked += 1
        if asked == 5:
            all_asked.set()
        return found

    def run(*words: Any, **more: Any) -> tuple[bytes, int]:
        assert all_asked.wait(200)
        return b"<p>made safe</p>", 0

    run_once = MagicMock(side_effect=run)
    monkeypatch.setattr(reader, "_blob", asking)
    monkeypatch.setattr(html.limited, "run", run_once)
    post = await postman(gateway)
    costly = await post.deliver(letter(html="<i></i>" * 80_000), index=False)
    path = f"/v1/tenants/acme/messages/{costly}"
    shown = await asyncio.gather(*(gateway.client.get(path) for _ in range(5)))
    assert [found.json()["html"] for found in shown] == ["<p>made safe</p>"] * 5
    assert run_once.call_count == 1
    await gateway.client.get(path)
    assert run_once.call_count == 2  # nothing of it is kept: a purge would have to look for it


async def test_an_unknown_message_and_another_tenants(gateway: Gateway) -> None:
    await gateway.tenant("acme")
    there = await postman(gateway, "other")
    theirs = await there.deliver(letter())
    for message_id in (new_id(START), theirs):
        for what in ("", "/raw", "/parts/1"):
            refused = await gateway.client.get(f"/v1/tenants/acme/messages/{message_id}{what}")
            assert (refused.status_code, refused.json()["type"]) == (404, "message_not_found")


async def test_compliance_reads_metadata_and_no_bodies(gateway: Gateway) -> None:
    post = await postman(gateway)
    message_id = await post.deliver(letter("roof", "the body of the letter", html="<p>the body</p>"))
    path = f"/v1/tenants/acme/messages/{message_id}"
    async with await gateway.token("compliance") as client:
        found = await client.get(path)
        assert found.json()["subject"] == "roof"
        assert (found.json()["text"], found.json()["html"], found.json()["snippet"]) == (None, None, None)
        listed = await client.get("/v1/tenants/acme/messages", params={"subject": "roof"})
        assert [item["id"] for item in listed.json()["items"]] == [message_id]
        assert "the body" not in found.text + listed.text
        assert (await client.get("/v1/tenants/acme/messages?q=body")).status_code == 403
        for what in ("/raw", "/parts/1"):
            assert (await client.get(f"{path}{what}")).status_code == 403
        assert (await client.put(f"{path}/pins/deal/D-1")).status_code == 403


async def test_a_message_too_large_to_take_apart_is_served_raw(gateway: Gateway) -> None:
    post = await postman(gateway)
    raw = letter("large", "x" * 5_000)
    message_id = await post.deliver(raw)
    gateway.core.reader._parse_bytes = 4_000
    path = f"/v1/tenants/acme/messages/{message_id}"
    found = (await gateway.client.get(path)).json()
    assert (found["subject"], found["text"], found["html"]) == ("large", None, None)
    refused = await gateway.client.get(f"{path}/parts/1")
    assert (refused.status_code, refused.json()["type"]) == (422, "too_large_to_parse")
    assert (await gateway.client.get(f"{path}/raw")).content == raw


@before_the_database
@pytest.mark.parametrize(
    "params",
    [
        {"since": "yesterday"},
        {"before": "2026-01-01"},
        {"unseen": "perhaps"},
        {"mailbox": "1"},
        {"folder": "x" * 26},
        {"limit": "1000000"},
        {"q": ""},
        {"q": "x" * 501},
        {"from_": "x"},
        {"sort": "asc"},
    ],
)
async def test_bad_filters_are_named(gateway: Gateway, params: dict[str, str]) -> None:
    await gateway.tenant()
    refused = await gateway.client.get("/v1/tenants/acme/messages", params=params)
    assert refused.status_code == 422, refused.text
    assert refused.json()["errors"][0]["pointer"] == f"#/{next(iter(params))}"


async def test_a_cursor_with_other_filters_is_refused(gateway: Gateway) -> None:
    post = await postman(gateway)
    for _ in range(2):
        await post.deliver(letter())
    cursor = (await gateway.client.get("/v1/tenants/acme/messages?limit=1")).json()["next_cursor"]
    for params in ({"cursor": cursor, "unseen": "true"}, {"cursor": cursor[:-2]}, {"cursor": "A" + cursor[1:]}):
        refused = await gateway.client.get("/v1/tenants/acme/messages", params=params)
        assert (refused.status_code, refused.json()["type"]) == (400, "bad_cursor")
