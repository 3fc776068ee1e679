"""Rows that are written past SQLAlchemy's types are what a Core insert writes, in any number."""

from __future__ import annotations

from dataclasses import replace

import pytest
from sqlalchemy import select
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError

from mailgate.actors import SYSTEM
from mailgate.events.types import TYPES
from mailgate.store import tenants
from mailgate.store.bulk import AMONG, Insert, Step, ids_of, in_turn, insert_many
from mailgate.store.schema import blob_erasures, events
from mailgate.store.transaction import Transaction
from tests.store.conftest import NOW, Store

PAYLOAD = {"anchor_at": -(2**53), "text": "Ü \" ' \\ 例", "none": None, "list": [1, True], "nested": {"a": {}}}
COLUMNS = ("blob_id", "tenant_id", "item_ref", "run_id", "stored_size", "queued_at", "next_at")


@pytest.mark.parametrize("number", [1, 15, 16, 17, 600])
async def test_events_come_back_as_they_were_emitted(
    store: Store, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    purged = TYPES["message.purged"]
    odd = dict.fromkeys([*PAYLOAD, "n"], "of this test")
    monkeypatch.setitem(TYPES, "message.purged", replace(purged, data=odd))  # the data are no event's
    await tenants.put(store.db, store.ring, store.log, "acme", "acme", NOW, SYSTEM)
    async with store.db.write() as tx:
        for n in range(number):
            tx.emit("acme", "message.purged", at=NOW + n, message_id=f"{n:026d}", payload={**PAYLOAD, "n": n})
        tx.emit("acme", "message.sent", at=NOW)
    async with store.db.read() as conn:
        query = select(events.c.at, events.c.message_id, events.c.mailbox_id, events.c.payload).order_by(events.c.seq)
        rows = [tuple(row) for row in (await conn.execute(query)).all()]
    assert rows == [
        *((NOW + n, f"{n:026d}", None, {**PAYLOAD, "n": n}) for n in range(number)),
        (NOW, None, None, {}),
    ]


@pytest.mark.parametrize("number", [1, 40])
async def test_defaults_fill_what_is_left_out(store: Store, number: int) -> None:
    rows = [(f"b{n}", "acme", None, None, 7, NOW, NOW) for n in range(number)]
    async with store.db.write() as tx:
        await insert_many(tx.conn, blob_erasures, COLUMNS, [], sqlite=tx.sqlite)
        await insert_many(tx.conn, blob_erasures, COLUMNS, rows, sqlite=tx.sqlite)
    async with store.db.read() as conn:
        found = (await conn.execute(select(blob_erasures.c.blob_id, blob_erasures.c.attempts))).all()
    assert sorted(tuple(row) for row in found) == sorted((f"b{n}", 0) for n in range(number))


@pytest.mark.parametrize("number", [2, 40])
async def test_a_row_that_is_there_already_is_refused_and_nothing_stays(store: Store, number: int) -> None:
    rows = [(f"b{n // 2}", "acme", None, None, 7, NOW, NOW) for n in range(number)]
    with pytest.raises(IntegrityError):
        async with store.db.write() as tx:
            await insert_many(tx.conn, blob_erasures, COLUMNS, rows, sqlite=tx.sqlite)
    async with store.db.read() as conn:
        assert (await conn.execute(select(blob_erasures.c.blob_id))).all() == []


@pytest.mark.parametrize("at_once", [False, True])
async def test_steps_are_carried_out_in_order_and_give_their_rows(store: Store, at_once: bool) -> None:
    async def work(tx: Transaction) -> list[list[tuple[object, ...]]]:
        of_size = "DELETE FROM blob_erasures WHERE stored_size = " + ("?" if tx.sqlite else "$1")  # noqa: S608
        mine_only = "SELECT blob_id, stored_size FROM blob_erasures WHERE blob_id " + AMONG[tx.sqlite] + " ORDER BY 1"  # noqa: S608
        mine = (ids_of(["b0", "b2", "nobody"], sqlite=tx.sqlite),)
        steps: list[Step | Insert] = [
            Insert(blob_erasures, COLUMNS, [(f"b{n}", "acme", None, None, n, NOW, NOW) for n in range(3)]),
            Insert(blob_erasures, COLUMNS, []),
            Step(of_size, [(7,), (1,)], many=True),
            Step(mine_only, mine),
            Step("SELECT count(*) FROM blob_erasures"),
        ]
        return await in_turn(tx.conn, steps, sqlite=tx.sqlite)

    found = await store.db.transact(work, at_once=at_once)
    assert [[tuple(row) for row in rows] for rows in found] == [[], [], [], [("b0", 0), ("b2", 2)], [(2,)]]


@pytest.mark.parametrize("at_once", [False, True])
async def test_a_step_that_fails_undoes_what_came_before(store: Store, at_once: bool) -> None:
    row = ("b1", "acme", None, None, 7, NOW, NOW)

    async def work(tx: Transaction) -> None:
        twice = [Insert(blob_erasures, COLUMNS, [row]), Insert(blob_erasures, COLUMNS, [row])]
        await in_turn(tx.conn, twice, sqlite=tx.sqlite)

    with pytest.raises(IntegrityError):
        await store.db.transact(work, at_once=at_once)
    async with store.db.read() as conn:
        assert (await conn.execute(select(blob_erasures.c.blob_id))).all() == []


async def test_what_the_database_refuses_is_told_as_sqlalchemy_tells_it(store: Store) -> None:
    async def wrong(tx: Transaction) -> None:
        await in_turn(tx.conn, [Step("SELECT 1 FROM nowhere")], sqlite=tx.sqlite)

    async def too_long(tx: Transaction) -> None:
        await in_turn(tx.conn, [Step("SELECT 'abc'::varchar(2)::int")], sqlite=tx.sqlite)

    with pytest.raises(DBAPIError):
        await store.db.transact(wrong)
    if not store.db.sqlite:  # SQLite takes any length
        with pytest.raises(DataError):
            await store.db.transact(too_long)
