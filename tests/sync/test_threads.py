"""Threads on the store: replies join what they refer to, and what comes late joins the threads that waited for it."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, text

from connectors.memory import MemoryAccount
from mailgate.clock import DAY
from mailgate.messages.parser import parse_summary
from mailgate.messages.threads import bounded
from mailgate.store import threads as placing
from mailgate.store.schema import message_links
from mailgate.store.threads import _LOOK_UP
from tests.property.test_threads import Mail, components
from tests.sync.engine import NOW, Engine, Opened, mail


def letter(n: int, *, answers: int | None = None, references: tuple[int, ...] = ()) -> bytes:
    """Message n, and what its headers say of others."""
    extra = "" if answers is None else f"In-Reply-To: <{answers}@example.org>\r\n"
    if references:
        extra += f"References: {' '.join(f'<{id_}@example.org>' for id_ in references)}\r\n"
    return mail(n, extra=extra)


async def arrive(engine: Engine, *letters: bytes, account: MemoryAccount | None = None) -> None:
    for raw in letters:
        (account or engine.account).append("INBOX", raw, internal_date=NOW - DAY)
    await engine.sync()


async def threads(engine: Engine) -> set[frozenset[int]]:
    """Which messages are together."""
    found: dict[str, set[int]] = {}
    for row in await engine.rows("messages"):
        found.setdefault(row.thread_id, set()).add(await number(engine, row))
    return {frozenset(part) for part in found.values()}


async def number(engine: Engine, row: Any) -> int:
    return int(parse_summary(await engine.raw(row)).subject.split()[-1])


async def by_number(engine: Engine) -> dict[int, Any]:
    return {await number(engine, row): row for row in await engine.rows("messages")}


async def links(engine: Engine) -> int:
    async with engine.db.read() as conn:
        return len((await conn.execute(select(message_links))).all())


async def test_answers_by_in_reply_to_alone_are_one_thread_however_deep(engine: Engine) -> None:
    for n in range(4):
        await arrive(engine, letter(n, answers=n - 1 if n else None))
    assert await threads(engine) == {frozenset(range(4))}
    assert await engine.events("message.updated") == []  # each joined what was there


async def test_a_link_that_comes_late_joins_both_and_their_messages_say_so(engine: Engine) -> None:
    await arrive(engine, letter(0), letter(2, answers=1), letter(3, answers=2), letter(9))
    assert await threads(engine) == {frozenset({0}), frozenset({2, 3}), frozenset({9})}
    before = await by_number(engine)
    await arrive(engine, letter(1, answers=0))
    after = await by_number(engine)
    assert await threads(engine) == {frozenset(range(4)), frozenset({9})}
    least = min(before[0].thread_id, before[2].thread_id)
    assert {after[n].thread_id for n in range(4)} == {least}
    changed = {row.id for n, row in before.items() if row.thread_id != after[n].thread_id}
    assert changed
    assert {event.message_id for event in await engine.events("message.updated")} == changed


async def test_answers_whose_original_never_came_are_together(engine: Engine) -> None:
    await arrive(engine, letter(5, answers=1))
    await arrive(engine, letter(6, references=(0, 1)))  # 5 knows 1 only
    await arrive(engine, letter(7, references=(0, 3, 4)))  # 3 and 4 never came either
    assert await threads(engine) == {frozenset({5, 6, 7})}


async def test_doubles_and_cycles_are_one_thread(engine: Engine) -> None:
    await arrive(engine, letter(1, answers=2), letter(2, answers=1), letter(3, answers=3))
    await arrive(engine, mail(4, message_id="1@example.org"))
    assert await threads(engine) == {frozenset({1, 2, 4}), frozenset({3})}


async def test_a_forged_message_joins_few(engine: Engine) -> None:
    await arrive(engine, *(letter(n) for n in range(12)))
    await arrive(engine, letter(99, answers=5, references=tuple(range(12))))
    assert await threads(engine) == {frozenset({0, 5, 10, 11, 99})} | {frozenset({n}) for n in (1, 2, 3, 4, 6, 7, 8, 9)}


async def test_any_order_and_any_batches_give_the_same_threads(opened: Opened) -> None:
    chance = random.Random(22)
    letters = [
        letter(
            n,
            answers=chance.choice([None, *range(70)]),
            references=tuple(chance.sample(range(70), chance.choice([0, 0, 0, 1, 2]))),
        )
        for n in chance.sample(range(70), 16)
    ]
    expected = components(Mail(int(parse_summary(raw).subject.split()[-1]), parse_summary(raw)) for raw in letters)
    assert 2 < len(expected) < 14
    engine = await opened(MemoryAccount())
    for _ in range(3):
        chance.shuffle(letters)
        left = list(letters)
        while left:
            size = chance.randint(1, 5)
            await arrive(engine, *left[:size])
            left = left[size:]
        assert await threads(engine) == expected
        for uid in list(engine.account.folders["INBOX"].messages):
            engine.account.expunge("INBOX", uid)
        await engine.sync()
        engine.clock.advance(86_400)
        await engine.sync()
        assert await engine.rows("messages") == []
        assert await links(engine) == 0


async def test_what_a_purged_message_linked_stays_together(engine: Engine) -> None:
    engine.account.append("INBOX", letter(0), internal_date=NOW - DAY)
    engine.account.append("INBOX", letter(1, answers=0), internal_date=NOW - 80 * DAY)
    engine.account.append("INBOX", letter(2, answers=1), internal_date=NOW - DAY)
    await engine.sync()
    assert await threads(engine) == {frozenset({0, 1, 2})}
    before = await links(engine)
    engine.clock.advance(20 * 86_400)
    await engine.purge()
    assert await threads(engine) == {frozenset({0, 2})}
    assert await links(engine) == before - 1
    await arrive(engine, letter(3, answers=1))  # of 1 nothing is here; 2 refers to it as well
    assert await threads(engine) == {frozenset({0, 2, 3})}


async def test_two_mailboxes_of_a_tenant_share_threads(engine: Engine) -> None:
    other = MemoryAccount()
    second = await engine.add_mailbox("ann", other)
    await arrive(engine, letter(2, answers=1))
    other.append("INBOX", letter(1), internal_date=NOW - DAY)
    await engine.supervisor().sync_once(second)
    assert await threads(engine) == {frozenset({1, 2})}


async def test_few_messages_move_at_once(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(placing, "MOVED", 3)
    monkeypatch.setattr(placing, "bounded", partial(bounded, most=3))
    await arrive(engine, *(letter(n, answers=0) for n in range(1, 6)), *(letter(n, answers=10) for n in range(11, 16)))
    await arrive(engine, letter(20), letter(21, answers=20))
    before = await engine.events("message.updated")
    await arrive(engine, letter(90, references=(0, 20)))  # two of seven move
    one = {*range(1, 6), 20, 21, 90}
    assert await threads(engine) == {frozenset(one), frozenset(range(11, 16))}
    moved = len(await engine.events("message.updated")) - len(before)
    assert 0 < moved <= 3
    engine.clock.advance(1)  # of those that name 0 the oldest one is asked where an answer belongs: not the next one
    await arrive(engine, letter(91, references=(0, 10)))  # five of eight would
    assert {len(part) for part in await threads(engine)} in ({9, 5}, {8, 6})
    assert len(await engine.events("message.updated")) - len(before) == moved
    await arrive(engine, letter(92, answers=0))
    assert {*range(1, 6), 20, 21, 90, 92} <= max(await threads(engine), key=len)


@pytest.fixture
async def on_postgresql(postgresql_url: str, tmp_path: Path) -> AsyncIterator[Engine]:
    made = await Engine.open(postgresql_url, tmp_path, MemoryAccount())
    yield made
    await made.close()


@pytest.mark.postgresql
async def test_what_two_mailboxes_store_at_the_same_moment_is_joined(
    on_postgresql: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither transaction sees what the other has not committed: the second one to look waits for the first."""
    engine, other = on_postgresql, MemoryAccount()
    second = await engine.add_mailbox("ann", other)
    await engine.sync()
    await engine.supervisor().sync_once(second)
    engine.account.append("INBOX", letter(3, answers=2), internal_date=NOW - DAY)
    other.append("INBOX", letter(2, answers=1), internal_date=NOW - DAY)
    place, asked, looked = placing.place, [], asyncio.Event()
    waiting = text("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted")

    async def together(*args: Any) -> dict[str, str]:
        asked.append(args)
        first = len(asked) == 1
        found = await place(*args)
        while first and not looked.is_set():
            async with engine.db.read() as conn:
                if (await conn.execute(waiting)).scalar_one():
                    break
        looked.set()
        return found

    monkeypatch.setattr(placing, "place", together)
    await asyncio.gather(engine.sync(), engine.supervisor("test-2").sync_once(second))
    assert await threads(engine) == {frozenset({2, 3})}


async def test_a_look_up_reads_an_index_only(opened: Opened) -> None:
    engine = await opened(MemoryAccount())
    async with engine.db.read() as conn:
        plan = (await conn.exec_driver_sql(f"EXPLAIN QUERY PLAN {_LOOK_UP[True]}", ("acme", 2, bytes(64)))).all()
    steps = [row[-1] for row in plan if "each" not in row[-1]]
    assert any("ix_messages_tenant_id_msgid_token" in step for step in steps)
    assert not [step for step in steps if step.startswith("SCAN ") and "CONSTANT" not in step], steps
