"""Rows that are written past SQLAlchemy's types are what a Core insert writes, in any number."""

from __future__ import annotations

from dataclasses import replace

import pytest
from sqlalchemy import select
from sqlalchemy.exc import IntegrityError

from mailgate.actors import SYSTEM
from mailgate.events.types import TYPES
from mailgate.store import tenants
from mailgate.store.bulk import insert_many
from mailgate.store.schema import blob_erasures, events
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
