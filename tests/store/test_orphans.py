"""Objects that a kill left behind are swept once they are old; what is referred to, queued or young stays."""

from __future__ import annotations

from mailgate.actors import SYSTEM
from mailgate.clock import DAY
from mailgate.ids import made_at, new_id
from mailgate.store import orphans, tenants
from mailgate.store.schema import blob_erasures
from tests.store.conftest import NOW, Store


def test_an_id_tells_when_it_was_made() -> None:
    assert made_at(new_id(NOW + 5_999)) == NOW + 5_000


async def test_only_what_nothing_refers_to_goes(store: Store) -> None:
    tenant = (await tenants.put(store.db, store.ring, store.log, "acme", "Acme", NOW, SYSTEM))[0]
    key = store.ring.tenant(tenant.ref).new_data_key(NOW).key
    orphan, young, queued = new_id(NOW - 2 * DAY), new_id(NOW), new_id(NOW - 2 * DAY)
    for blob_id in (orphan, young, queued):
        store.blobs.put("acme", blob_id, b"left behind", key)
    async with store.db.write() as tx:
        row = {"blob_id": queued, "tenant_id": "acme", "queued_at": NOW, "next_at": NOW}
        await tx.conn.execute(blob_erasures.insert().values(row))
    assert await orphans.sweep(store.db, store.blobs, NOW - DAY) == 1
    assert set(store.blobs.list_ids()) == {young, queued}
    assert await orphans.sweep(store.db, store.blobs, NOW - DAY) == 0


async def test_what_shares_a_file_goes_one_by_one(store: Store) -> None:
    tenant = (await tenants.put(store.db, store.ring, store.log, "acme", "Acme", NOW, SYSTEM))[0]
    key = store.ring.tenant(tenant.ref).new_data_key(NOW).key
    ids = []
    for at in (NOW - 2 * DAY, NOW):
        batch = store.blobs.batch("acme", at, 3)
        ids += [batch.put(b"left behind", key)[0] for _ in range(3)]
        batch.finish()
    async with store.db.write() as tx:
        row = {"blob_id": ids[1], "tenant_id": "acme", "queued_at": NOW, "next_at": NOW}
        await tx.conn.execute(blob_erasures.insert().values(row))
    assert await orphans.sweep(store.db, store.blobs, NOW - DAY) == 2
    assert set(store.blobs.list_ids()) == {ids[1], *ids[3:]}
    assert await orphans.sweep(store.db, store.blobs, NOW - DAY) == 0
