"""The purge log as the store keeps it: signed, served as tiles, compared with what was signed before."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

import pytest
from sqlalchemy import delete, event, func, insert, select, update
from sqlalchemy.engine import Engine

from mailgate.actors import SYSTEM
from mailgate.clock import SECOND, Instant
from mailgate.errors import NotFoundError
from mailgate.store import kept_outside, log_search, tenants
from mailgate.store.log import LogPolicy, PurgeLog
from mailgate.store.log_reading import LogDivergedError
from mailgate.store.log_search import EntryFilter
from mailgate.store.overview import unsigned_logs
from mailgate.store.schema import log_checkpoints, log_leaves, log_tiles, tenant_heads
from mailgate.store.witness import Witness
from retention.ledger import leaves, tiles
from retention.ledger.checkpoint import open_checkpoint
from retention.ledger.leaves import parse_leaf
from retention.ledger.tree import Frontier, leaf_hash, tree_root
from tests.store.conftest import NOW, Store


async def _grown(store: Store, entries: int, tenant_id: str = "acme") -> tenants.Tenant:
    """A tenant whose log has so many entries."""
    tenant = (await tenants.put(store.db, store.ring, store.log, tenant_id, "Acme", NOW, SYSTEM))[0]
    await _grow(store, tenant, entries - 1)
    return tenant


async def _grow(store: Store, tenant: tenants.Tenant, count: int, at: Instant = NOW) -> None:
    async with store.db.write() as tx:
        for n in range(count):
            store.log.write(
                tx,
                tenant.id,
                tenant.ref,
                leaves.pin_remove,
                at=at,
                actor=SYSTEM,
                item_ref=f"i{n}",
                pin_ref="p",
                reason="unpinned",
            )


@pytest.mark.parametrize("entries", [1, 255, 256, 257, 70_000])
async def test_tiles_and_checkpoint_say_what_the_leaves_do(store: Store, entries: int) -> None:
    if not store.db.sqlite:
        entries = min(entries, 1_000)  # the same rows; only slower to make
    tenant = await _grown(store, entries)
    signed = await store.reader.checkpoint(tenant, NOW)
    checkpoint = open_checkpoint(signed.note, store.reader.verifier(tenant))
    frontier, bodies = Frontier(), []
    async for body in store.reader.entries(tenant, 0, entries):
        frontier.append(leaf_hash(body))
        bodies.append(body)
    assert (checkpoint.size, checkpoint.root) == (entries, frontier.root())
    files = {
        tile: await store.reader.tile(tenant, tile, NOW)
        for tile in tiles.tiles_of(entries)
        if entries < 1000 or tile.level > 0
    }
    if entries < 1000:
        assert tree_root(entries, tiles.TileNodes(entries, files.__getitem__)) == checkpoint.root
        served = [
            body
            for tile, data in files.items()
            if tile.level == tiles.ENTRIES
            for body in tiles.decode_bundle(data, tile.width)
        ]
        assert served == bodies
    with pytest.raises(NotFoundError):
        await store.reader.tile(tenant, tiles.Tile(0, entries // 256 + 1, 1), NOW)


async def test_signing_again_without_new_entries_gives_the_same_note(store: Store) -> None:
    tenant = await _grown(store, 300)
    first = await store.reader.checkpoint(tenant, NOW)
    assert await store.reader.checkpoint(tenant, NOW + 1) == first
    await _grow(store, tenant, 300)
    second = await store.reader.checkpoint(tenant, NOW + 2)
    assert second.size == 600
    async with store.db.read() as conn:
        stored = (await conn.execute(select(func.count()).select_from(log_tiles))).scalar_one()
    assert stored == 2  # 512 leaf hashes; level 1 has no full tile


async def test_concurrent_readers_get_one_checkpoint(store: Store) -> None:
    tenant = await _grown(store, 50)
    await store.reader.checkpoint(tenant, NOW)
    await _grow(store, tenant, 50)
    signed = await asyncio.gather(*(store.reader.checkpoint(tenant, NOW) for _ in range(5)))
    assert {checkpoint.size for checkpoint in signed} <= {50, 100}


async def test_a_restored_backup_is_not_signed(store: Store, tmp_path: Path) -> None:
    tenant = await _grown(store, 300)
    await store.reader.checkpoint(tenant, NOW)
    async with store.db.write() as tx:  # the database of some time ago, checkpoints and all
        frontier = Frontier()
        for body in (
            await tx.conn.execute(select(log_leaves.c.body).where(log_leaves.c.idx < 100).order_by(log_leaves.c.idx))
        ).scalars():
            frontier.append(leaf_hash(body))
        await tx.conn.execute(delete(log_leaves).where(log_leaves.c.idx >= 100))
        await tx.conn.execute(delete(log_checkpoints))
        await tx.conn.execute(update(tenant_heads).values(log_size=100, log_frontier=frontier.to_bytes()))
    with pytest.raises(LogDivergedError, match="300 were signed"):
        await store.reader.checkpoint(tenant, NOW)


async def test_a_checkpoint_that_was_kept_outside_and_is_gone_is_not_made_anew(store: Store, tmp_path: Path) -> None:
    """Nobody could tell any more that an older database was put in its place."""
    tenant, other = await _grown(store, 3), await _grown(store, 3, "other")
    signed = await store.reader.checkpoint(tenant, NOW)
    assert await store.reader.lost() == {}
    file = tmp_path / "witness" / f"{tenant.ref}.checkpoint"
    file.rename(tmp_path / "taken")
    for _ in range(2):
        with pytest.raises(LogDivergedError, match=r"is gone from ledger\.witness"):
            await store.reader.checkpoint(tenant, NOW)
    assert not file.exists()
    await store.reader.checkpoint(
        other, NOW
    )  # it holds up no other log, not even one that is signed for the first time
    assert list(await store.reader.lost()) == [tenant.id]
    (tmp_path / "taken").rename(file)
    assert await store.reader.checkpoint(tenant, NOW) == signed
    file.unlink()
    await kept_outside.begin_anew(store.db)
    assert await store.reader.lost() == {}
    assert (await store.reader.checkpoint(tenant, NOW)).root == signed.root
    assert file.exists()
    file.unlink()
    assert list(await store.reader.lost()) == [tenant.id]


async def test_a_process_that_died_before_it_kept_its_first_checkpoint_outside(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one in the database is the first and was never outside: that is nothing lost."""
    tenant = await _grown(store, 3)

    def cut(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Witness, "keep", cut)
        with pytest.raises(KeyboardInterrupt):
            await store.reader.checkpoint(tenant, NOW)
    assert await store.reader.lost() == {}
    await store.reader.checkpoint(tenant, NOW + 61 * SECOND)


@pytest.mark.parametrize("where", ["database", "witness"])
async def test_a_checkpoint_that_is_not_what_was_signed_is_neither_served_nor_signed_upon(
    store: Store, tmp_path: Path, where: str
) -> None:
    """Damaged, or written by somebody else; no entry came since."""
    tenant = await _grown(store, 3)
    signed = await store.reader.checkpoint(tenant, NOW)
    forged = signed.note.replace(b"\n3\n", b"\n3\nx\n")
    if where == "witness":
        Witness(tmp_path / "witness").keep(tenant.ref, forged)
    else:
        async with store.db.write() as tx:
            await tx.conn.execute(update(log_checkpoints).values(note=forged.decode()))
    with pytest.raises(LogDivergedError, match=f"in .*{where} is damaged"):
        await store.reader.checkpoint(tenant, NOW)
    if where == "witness":
        Witness(tmp_path / "witness").keep(tenant.ref, signed.note)
    else:
        async with store.db.write() as tx:
            await tx.conn.execute(update(log_checkpoints).values(note=signed.note.decode()))
    assert await store.reader.checkpoint(tenant, NOW) == signed


async def test_what_somebody_plants_in_the_witness_is_neither_followed_nor_harmed(store: Store, tmp_path: Path) -> None:
    """The folder may stand where others write: links in it must not lead the gateway to files of its own."""
    tenant = await _grown(store, 3)
    signed = await store.reader.checkpoint(tenant, NOW)
    outside, mine = tmp_path / "witness", tmp_path / "mine"
    mine.mkdir()
    (mine / "1").write_bytes(signed.note)
    kept = outside / f"{tenant.ref}.checkpoint"
    kept.unlink()
    kept.symlink_to(mine / "1")  # or to /dev/zero, which has no end
    assert Witness(outside).last(tenant.ref) == b""
    with pytest.raises(LogDivergedError, match=r"in ledger\.witness is damaged"):
        await store.reader.checkpoint(tenant, NOW)
    kept.unlink()
    Witness(outside).keep(tenant.ref, signed.note)
    kept.with_name(f"{kept.name}.new").symlink_to(mine / "1")
    partial = outside / f"{tenant.ref}.log/tile/entries/000.p"
    partial.rename(mine / "000.p")
    partial.symlink_to(mine / "000.p")
    before = {path: path.read_bytes() for path in mine.rglob("*") if path.is_file()}
    await _grow(store, tenant, 2)
    assert (await store.reader.checkpoint(tenant, NOW)).size == 5
    assert kept.read_bytes() != signed.note
    assert {path: path.read_bytes() for path in before} == before


@pytest.mark.parametrize("harm", ["edited", "missing"])
async def test_entries_that_are_not_what_was_hashed_are_not_signed_nor_kept_outside(
    store: Store, tmp_path: Path, harm: str
) -> None:
    """Somebody wrote to the database: the copy outside must not be replaced by that."""
    tenant = await _grown(store, 10)
    await store.reader.checkpoint(tenant, NOW)
    outside = Witness(tmp_path / "witness")
    good = list(outside.entries(tenant.ref, 10))
    here = log_leaves.c.idx == 7
    async with store.db.write() as tx:
        row = (await tx.conn.execute(select(log_leaves).where(here))).one()
        if harm == "edited":
            forged = row.body.replace(b'"unpinned"', b'"whatever"')
            await tx.conn.execute(update(log_leaves).where(here).values(body=forged))
        else:
            await tx.conn.execute(delete(log_leaves).where(here))
    await _grow(store, tenant, 1)
    for _ in range(2):
        with pytest.raises(LogDivergedError, match="not those that were written"):
            await store.reader.checkpoint(tenant, NOW)
    assert list(outside.entries(tenant.ref, 10)) == good
    assert await unsigned_logs(store.db) == ["acme"]  # the alarm stands
    async with store.db.write() as tx:
        await tx.conn.execute(delete(log_leaves).where(here))
        await tx.conn.execute(insert(log_leaves).values(row._asdict()))
    assert (await store.reader.checkpoint(tenant, NOW)).size == 11


async def test_a_tile_that_is_whole_hides_no_entry_that_is_missing(store: Store, tmp_path: Path) -> None:
    """Of full tiles the hashes are stored: the root is right whatever became of the entries below."""
    tenant = await _grown(store, 300)
    await store.reader.checkpoint(tenant, NOW)
    shutil.rmtree(tmp_path / "witness" / f"{tenant.ref}.log")  # the entries are kept outside anew
    here = log_leaves.c.idx == 7
    async with store.db.write() as tx:
        row = (await tx.conn.execute(select(log_leaves).where(here))).one()
        await tx.conn.execute(delete(log_leaves).where(here))
    await _grow(store, tenant, 1)
    with pytest.raises(LogDivergedError, match="an entry is missing"):
        await store.reader.checkpoint(tenant, NOW)
    async with store.db.write() as tx:
        await tx.conn.execute(insert(log_leaves).values(row._asdict()))
    assert (await store.reader.checkpoint(tenant, NOW)).size == 301


async def test_a_changed_history_is_not_signed(store: Store) -> None:
    tenant = await _grown(store, 100)
    await store.reader.checkpoint(tenant, NOW)
    async with store.db.read() as conn:
        row = (await conn.execute(select(log_leaves).where(log_leaves.c.idx == 7))).one()
    forged = row.body.replace(b'"unpinned"', b'"whatever"')
    async with store.db.write() as tx:
        await tx.conn.execute(
            update(log_leaves).where(log_leaves.c.idx == 7).values(body=forged, hash=leaf_hash(forged))
        )
    await _grow(store, tenant, 1)
    with pytest.raises(LogDivergedError, match="not those that"):
        await store.reader.checkpoint(tenant, NOW)
    async with store.db.write() as tx:
        await tx.conn.execute(update(log_leaves).where(log_leaves.c.idx == 7).values(body=row.body, hash=row.hash))


async def test_entries_newest_first_with_filters(store: Store) -> None:
    tenant = await _grown(store, 5)
    await _grow(store, tenant, 2, at=NOW + 10)
    page = await log_search.page(store.db, tenant.id, EntryFilter(), before=None, limit=3)
    assert [entry.index for entry in page.items] == [6, 5, 4]
    page = await log_search.page(
        store.db, tenant.id, EntryFilter(), before=page.next_key[0] if page.next_key else None, limit=10
    )  # type: ignore[arg-type]
    assert ([entry.index for entry in page.items], page.next_key) == ([3, 2, 1, 0], None)
    recent = await log_search.page(store.db, tenant.id, EntryFilter(since=NOW + 10), before=None, limit=10)
    assert len(recent.items) == 2
    policy = await log_search.page(store.db, tenant.id, EntryFilter(types=("policy.set",)), before=None, limit=10)
    assert [parse_leaf(entry.body)["type"] for entry in policy.items] == ["policy.set"]
    item = await log_search.page(store.db, tenant.id, EntryFilter(item_ref="i1"), before=None, limit=10)
    assert [entry.index for entry in item.items] == [6, 2]


async def test_a_new_policy_is_announced_once_in_every_log(store: Store) -> None:
    await _grown(store, 1)
    newer = PurgeLog(origin="mail.example", policy=LogPolicy(2, {"days": 60}), version="1", commit="test")
    told = await asyncio.gather(*(newer.announce_everywhere(store.db, at=NOW, actor=SYSTEM) for _ in range(3)))
    assert sum(told) == 1
    assert await newer.announce_everywhere(store.db, at=NOW, actor=SYSTEM) == 0
    async with store.db.read() as conn:
        types = (await conn.execute(select(log_leaves.c.type).order_by(log_leaves.c.idx))).scalars().all()
    assert types == ["policy.set", "policy.set"]


async def test_a_proof_in_a_longer_log_takes_no_more_statements(store: Store) -> None:
    """However many full tiles a tile stands upon that is not full itself."""

    async def statements(tenant: tenants.Tenant) -> int:
        signed = await store.reader.checkpoint(tenant, NOW)
        asked: list[str] = []

        def count(_conn: object, _cursor: object, statement: str, *_: object) -> None:
            asked.append(statement)

        event.listen(Engine, "before_cursor_execute", count)
        try:
            await store.reader.proofs(tenant, signed, [7])
        finally:
            event.remove(Engine, "before_cursor_execute", count)
        return len(asked)

    tenant = await _grown(store, 2 * tiles.TILE_WIDTH + 9)
    few = await statements(tenant)
    await _grow(store, tenant, 6 * tiles.TILE_WIDTH)
    assert await statements(tenant) == few
