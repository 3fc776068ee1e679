"""Search, page by page: the same as looking at every message, wherever pages and pieces of the index end, with many
messages of one second, and with filters that leave few of them.
"""

from __future__ import annotations

import random
from typing import Any

import pytest

from mailgate.clock import DAY, HOUR, SECOND, to_rfc3339
from mailgate.store import search
from tests.api.conftest import START, Gateway
from tests.api.mail import letter, postman

COUNT = 30


@pytest.fixture
async def mail(gateway: Gateway) -> dict[str, tuple[int, bool, str]]:
    """id → age, flagged, subject: a third of one second, some within the same, some far apart."""
    post, chance, made = await postman(gateway), random.Random(5), {}
    for n in range(COUNT):
        age = (DAY, DAY + 300_000 * (n % 3), chance.randrange(1, 20) * HOUR)[n % 3]
        subject = f"wood {'roof' if n % 2 else 'wall'} {n}"
        flags = frozenset({"\\Flagged"}) if n % 7 == 0 else frozenset[str]()
        id_ = await post.deliver(letter(subject), age=age, flags=flags, index=False)
        made[id_] = (age, bool(flags), subject)
    assert await post.index() == COUNT
    return made


async def pages(gateway: Gateway, limit: int, **params: Any) -> list[str]:
    found: list[str] = []
    cursor: str | None = None
    while True:
        asked = {"limit": limit, **params} | ({"cursor": cursor} if cursor else {})
        page = (await gateway.client.get("/v1/tenants/acme/messages", params=asked)).json()
        found += [item["id"] for item in page["items"]]
        cursor = page["next_cursor"]
        if cursor is None:
            return found


async def test_pages_are_what_a_look_at_everything_finds(
    gateway: Gateway, mail: dict[str, tuple[int, bool, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = search.newest

    async def small(*given: Any, most: int, **more: Any) -> Any:
        return await real(*given, most=2, **more)

    monkeypatch.setattr(search, "newest", small)
    newest = sorted(mail, key=lambda id_: (-mail[id_][0], id_), reverse=True)
    roofs = [id_ for id_ in newest if "roof" in mail[id_][2]]
    assert await pages(gateway, 7, q="wood") == newest
    assert await pages(gateway, 7, q="woo*") == newest
    assert await pages(gateway, 4, q="wood roo*") == roofs
    assert await pages(gateway, 200, q="roof wood") == roofs
    assert await pages(gateway, 3, q="roof", flagged="true") == [id_ for id_ in roofs if mail[id_][1]]
    assert await pages(gateway, 5, q="roof wall") == []
    for at in (START - DAY, START - DAY + 1, START - DAY - SECOND, START - 12 * HOUR):
        before = [id_ for id_ in roofs if START - mail[id_][0] < at]
        assert await pages(gateway, 9, q="roof", before=to_rfc3339(at)) == before
        since = [id_ for id_ in roofs if START - mail[id_][0] >= at]
        assert await pages(gateway, 9, q="roof", since=to_rfc3339(at)) == since


async def test_a_number_that_is_taken_is_drawn_again(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    """Chance may give two messages of one second the same number, also in the same batch."""
    drawn = iter([5, 5, 5, 5, 6, 7])
    monkeypatch.setattr(search.secrets, "randbits", lambda _: next(drawn))
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
