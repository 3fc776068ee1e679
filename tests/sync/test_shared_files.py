"""Files that the messages of one piece of an import share, through all that befalls those messages: after the eraser
and the sweep of the next day each file holds what is kept, and not a byte of anything else.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from connectors.memory import MemoryAccount
from mailgate.actors import SYSTEM
from mailgate.blobs import packs
from mailgate.clock import DAY
from mailgate.jobs.erase import EraseWorker
from mailgate.store import orphans
from mailgate.store.erasures import Erasures
from mailgate.store.expiry import Expiry
from mailgate.store.legal_holds import LegalHolds, Scope
from mailgate.store.pins import Pins
from mailgate.sync import prepare
from retention.model import Graces
from tests.sync.engine import NOW, Engine, mail

_MESSAGES = 25


async def clean(engine: Engine) -> None:
    """Erase what is queued, and a day later what nobody refers to."""
    engine.clock.advance(86_400 + 1)
    assert (await EraseWorker(Erasures(engine.db, engine.log), engine.blobs, engine.clock, "test").work())[1] == 0
    await orphans.sweep(engine.db, engine.blobs, engine.clock() - DAY)


async def check(engine: Engine, folder: Path, raws: list[bytes]) -> list[Path]:
    """These are kept and can be read; the files that they share have nothing else."""
    assert sorted([await engine.raw(row) for row in await engine.rows("messages")]) == sorted(raws)
    stored = {row.id: row.stored_size for row in await engine.rows("blobs")}
    assert sorted(engine.blobs.list_ids()) == sorted(stored)
    assert await Erasures(engine.db, engine.log).pending() == (0, None)
    found = sorted(path for path in (folder / "blobs").rglob("*") if path.is_file())
    for path in found:
        with path.open("rb") as file:
            table, whole = packs.entries(file.fileno()), file.read()
        at = packs.HEAD.size + packs.ENTRY.size * len(table)
        for start, length in [*(entry for entry in table if entry != (0, 0)), (len(whole), 0)]:
            assert whole[at:start] == bytes(start - at)
            at = start + length
        assert sum(length for _, length in table) == sum(n for id_, n in stored.items() if id_[:24] == path.name)
    return found


async def test_through_dedup_what_is_set_aside_pins_holds_and_purges(
    engine: Engine, account: MemoryAccount, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raws = [mail(n % 20) for n in range(_MESSAGES)]  # the last five are equal to the first
    for n, raw in enumerate(raws):
        account.append("INBOX", raw, internal_date=NOW - (1 if n in (7, 8) else 80) * DAY)
    links = prepare.Preparer._links

    def broken(self: prepare.Preparer, reading: prepare._Reading) -> tuple[bytes, ...]:
        if b"12@" in (reading.msgid or b""):
            raise RecursionError
        return links(self, reading)

    monkeypatch.setattr(prepare.Preparer, "_links", broken)  # its bytes are in the pack by then
    await engine.sync()
    assert len(await engine.rows("quarantine")) == 1
    assert len(set(engine.blobs.list_ids())) > 19
    await clean(engine)
    shared = await check(engine, tmp_path, raws[:12] + raws[13:])
    assert len(shared) < 4

    rows = {await engine.raw(row): row.id for row in await engine.rows("messages")}
    pinned, held = rows[raws[3]], rows[raws[6]]
    expiry = Expiry(engine.subscriptions, Graces())
    pins, holds = (
        Pins(engine.db, engine.ring, engine.log, expiry),
        LegalHolds(engine.db, engine.ring, engine.log, expiry, release_days=0),
    )
    await engine.pin(pinned)
    place = partial(holds.place, matter="M", reason="r", actor=SYSTEM)
    hold = await place("acme", Scope(message_ids=(held,)), now=engine.clock())
    engine.clock.advance(11 * 86_400)
    await engine.purge()
    await clean(engine)
    assert set(await check(engine, tmp_path, [raws[3], *raws[6:9]])) <= set(shared)

    await pins.remove("acme", pinned, "deal", "D", now=engine.clock(), actor=SYSTEM)
    await holds.release("acme", hold.id, reason="r", now=engine.clock(), actor=SYSTEM)
    engine.clock.advance(1)
    await engine.purge()
    await clean(engine)
    assert set(await check(engine, tmp_path, raws[7:9])) <= set(shared)

    engine.clock.advance(90 * 86_400)
    await engine.purge()
    await clean(engine)
    assert await check(engine, tmp_path, []) == []
