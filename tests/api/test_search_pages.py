"""Search, page by page: the same as looking at every message, in whatever way they are found, wherever pages and pieces
end, with many messages of one second, and with filters that leave few of them.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

import pytest
from sqlalchemy import Engine, event

from mailgate.clock import DAY, HOUR, SECOND, to_rfc3339
from mailgate.store import listing, searching
from tests.api.conftest import START, Gateway
from tests.api.mail import letter, postman

COUNT = 30


@dataclass(frozen=True)
class Mail:
    age: int
    subject: str
    flags: frozenset[str]
    folder: str
    thread: str
    pinned: bool

    @property
    def flagged(self) -> bool:
        return "\\Flagged" in self.flags

    @property
    def seen(self) -> bool:
        return "\\Seen" in self.flags


@pytest.fixture
async def mail(gateway: Gateway) -> dict[str, Mail]:
    """By id, the newest first: a third of one second, some within the same, some far apart."""
    post, chance, made = await postman(gateway), random.Random(5), {}
    for n in range(COUNT):
        age = (DAY, DAY + 300_000 * (n % 3), chance.randrange(1, 20) * HOUR)[n % 3]
        subject = f"wood {'roof' if n % 2 else 'wall'} {n}"
        flags = frozenset(flag for flag, every in (("\\Flagged", 7), ("\\Seen", 3)) if n % every == 0)
        folder = "Archive" if n % 5 == 0 else "INBOX"
        id_ = await post.deliver(letter(subject), age=age, flags=flags, folder=folder, index=False)
        path = f"/v1/tenants/acme/messages/{id_}"
        if pinned := n % 4 == 0:
            assert (await gateway.client.put(f"{path}/pins/deal/D-{n}")).status_code == 201
        thread = (await gateway.client.get(path)).json()["thread_id"]
        made[id_] = Mail(age, subject, flags, await post.folder(folder), thread, pinned)
    assert await post.index() == COUNT
    return {id_: made[id_] for id_ in sorted(made, key=lambda id_: (-made[id_].age, id_), reverse=True)}


async def pages(gateway: Gateway, limit: int, **params: Any) -> list[str]:
    found: list[str] = []
    cursor: str | None = None
    for _ in range(2 * COUNT):
        asked = {"limit": limit, **params} | ({"cursor": cursor} if cursor else {})
        page = (await gateway.client.get("/v1/tenants/acme/messages", params=asked)).json()
        found += [item["id"] for item in page["items"]]
        assert len(page["items"]) <= limit
        cursor = page["next_cursor"]
        if cursor is None:
            return found
    raise AssertionError("the pages have no end")


def _walk(search: searching.Search) -> bool:
    return True


def _list(search: searching.Search) -> bool:
    return False


@pytest.mark.parametrize(
    ("near", "few"),
    [(searching.Search._near, 2), (searching.Search._near, 1_000), (_walk, 0), (_list, 0)],
    ids=["chosen", "few", "walked", "listed"],
)
async def test_pages_are_what_a_look_at_everything_finds(
    gateway: Gateway, mail: dict[str, Mail], monkeypatch: pytest.MonkeyPatch, near: Any, few: int
) -> None:
    monkeypatch.setattr(searching.Search, "_near", near)
    for name, value in {"SAMPLE": 3, "WALK": 4, "COMMON": 2, "LISTED": 3}.items():
        monkeypatch.setattr(searching, name, value)
    for name, value in {"WINDOW": 5, "ENOUGH": 2, "FEW": few, "CHECKED": 2}.items():
        monkeypatch.setattr(listing, name, value)
    roofs = [id_ for id_ in mail if "roof" in mail[id_].subject]
    assert await pages(gateway, 7, q="wood") == list(mail)
    assert await pages(gateway, 4, q="wood roo*") == roofs
    assert await pages(gateway, 200, q="roof wood") == roofs
    assert await pages(gateway, 5, q="roof wall") == []
    for words, among in (({}, list(mail)), ({"q": "roof"}, roofs), ({"q": "woo*"}, list(mail))):
        thread = mail[roofs[4]].thread
        assert await pages(gateway, 2, thread=thread, **words) == [i for i in among if mail[i].thread == thread]
        for flag in (True, False):
            assert await pages(gateway, 3, flagged=flag, **words) == [i for i in among if mail[i].flagged is flag]
            assert await pages(gateway, 3, unseen=flag, **words) == [i for i in among if mail[i].seen is not flag]
            assert await pages(gateway, 3, pinned=flag, **words) == [i for i in among if mail[i].pinned is flag]
            assert await pages(gateway, 9, has_files=flag, **words) == ([] if flag else among)
        assert await pages(gateway, 3, pinned=True, flagged=True, unseen=True, **words) == [
            i for i in among if mail[i].pinned and mail[i].flagged and not mail[i].seen
        ]
        for folder in {of.folder for of in mail.values()}:
            there = [i for i in among if mail[i].folder == folder]
            assert await pages(gateway, 4, folder=folder, **words) == there
            assert await pages(gateway, 4, folder=folder, unseen=True, **words) == [
                i for i in there if not mail[i].seen
            ]
        for at in (START - DAY, START - DAY + 1, START - DAY - SECOND, START - 12 * HOUR):
            before = [i for i in among if START - mail[i].age < at]
            assert await pages(gateway, 9, before=to_rfc3339(at), **words) == before
            since = [i for i in among if START - mail[i].age >= at]
            assert await pages(gateway, 9, since=to_rfc3339(at), **words) == since


async def test_a_number_that_is_taken_is_drawn_again(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    """Chance may give two messages of one second the same number, also in the same batch."""
    drawn = iter([5, 5, 5, 5, 6, 7])
    monkeypatch.setattr("mailgate.store.search.secrets.randbits", lambda _: next(drawn))
    post = await postman(gateway)
    ids = [await post.deliver(letter(f"wood {n}"), index=False) for n in range(3)]
    assert await post.index() == 3
    assert sorted(await pages(gateway, 2, q="wood")) == sorted(ids)


async def test_an_answer_says_whether_words_are_missing(gateway: Gateway) -> None:
    post = await postman(gateway)
    await post.deliver(letter("wood"), index=False)

    async def look(**params: str) -> tuple[int, bool]:
        page = (await gateway.client.get("/v1/tenants/acme/messages", params=params)).json()
        return len(page["items"]), page["complete"]

    assert await look(q="wood") == (0, False)
    assert await look(subject="woo*") == (0, False)
    assert await look(unseen="true") == (1, True)
    await post.index()
    assert await look(q="wood") == (1, True)
    assert await look(q="steel") == (0, True)


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
@pytest.mark.parametrize(
    ("asked", "index"),
    [
        ({}, "ix_messages_tenant_id_anchor_at"),
        ({"pinned": True, "has_files": True}, "ix_messages_pinned"),
        ({"flagged": True}, "ix_messages_flagged"),
        ({"unseen": True}, "ix_messages_unseen"),
        ({"folder": "a folder"}, "sqlite_autoindex_messages_1"),
        ({"q": "wood"}, "sqlite_autoindex_messages_1"),
        ({"q": "wood", "flagged": True}, "sqlite_autoindex_messages_1"),
    ],
    ids=lambda of: "+".join(of) if isinstance(of, dict) else "",
)
async def test_sqlite_looks_at_what_it_must(
    gateway: Gateway, mail: dict[str, Mail], asked: dict[str, Any], index: str
) -> None:
    """It has no statistics, so it plans for a million messages as for these thirty: rather by the tenant's index than
    by that of a thousand ids, if it is let.
    """
    if "folder" in asked:
        asked = {"folder": next(iter(mail.values())).folder}
    plans: list[str] = []

    def explain(_conn: Any, cursor: Any, statement: str, given: Any, *_: Any) -> None:
        if " messages." in statement and not statement.startswith("EXPLAIN"):
            cursor.execute(f"EXPLAIN QUERY PLAN {statement}", given)
            plan = "; ".join(row[3] for row in cursor.fetchall())
            if "messages.summary" in statement:
                plans.append(plan)
            elif "messages.indexed = 0" in statement:
                assert "ix_messages_unindexed" in plan, plan

    event.listen(Engine, "before_cursor_execute", explain)
    try:
        assert (await gateway.client.get("/v1/tenants/acme/messages", params=asked)).status_code == 200
    finally:
        event.remove(Engine, "before_cursor_execute", explain)
    assert plans
    assert all(f"messages USING INDEX {index} " in plan for plan in plans), plans
