"""Mail that lies about its age, plans that go and come back, and a purge that no mail server hears of."""

from __future__ import annotations

import pytest

from connectors.memory import MemoryAccount
from mailgate.clock import DAY, from_rfc3339
from tests.sync.crm import Crm
from tests.sync.engine import NOW, Engine, mail


async def test_free_and_paid_again_the_next_day_brings_nothing_back(engine: Engine, account: MemoryAccount) -> None:
    for n in range(3):
        account.append("INBOX", mail(n), internal_date=NOW - (n + 1) * DAY)
    await engine.sync()
    (kept, *_) = sorted(row.id for row in await engine.rows("messages"))
    await engine.pin(kept)
    await engine.plan("free")
    engine.clock.advance(60)
    await engine.purge()
    assert [row.id for row in await engine.rows("messages")] == [kept]
    engine.clock.advance(86_400)
    await engine.plan("professional")
    account.append("INBOX", mail(9), internal_date=engine.clock())
    await engine.sync()
    assert len(await engine.rows("messages")) == 2
    assert len(await engine.events("message.created")) == 4  # the new one, and none that was there before


@pytest.mark.parametrize("date", ["Thu, 1 Jan 1970 00:00:00 +0000", "Fri, 31 Dec 2038 23:59:59 +0000", "nonsense"])
async def test_a_forged_date_header_makes_nothing_older_or_younger(
    engine: Engine, account: MemoryAccount, date: str
) -> None:
    raw = mail(1).replace(b"Date: Mon, 1 Jan 2024 00:00:00 +0000", f"Date: {date}".encode())
    assert date.encode() in raw
    account.append("INBOX", raw, internal_date=NOW - 10 * DAY)
    await engine.sync()
    (row,) = await engine.rows("messages")
    assert (row.anchor_at, row.anchor_source) == (NOW - 10 * DAY, "internaldate")
    engine.clock.advance(79 * 86_400)
    await engine.purge()
    assert len(await engine.rows("messages")) == 1
    engine.clock.advance(86_400)
    await engine.purge()
    assert await engine.rows("messages") == []


async def test_an_internaldate_that_makes_no_sense_counts_from_storing(engine: Engine, account: MemoryAccount) -> None:
    """1970 counts as missing; 2038 lies ahead, and nothing is younger than when it was stored."""
    for n, at in enumerate(("1970-01-01T00:00:01Z", "2038-01-19T03:14:07Z")):
        account.append("INBOX", mail(n), internal_date=from_rfc3339(at))
    await engine.sync()
    for row in await engine.rows("messages"):
        assert row.anchor_at == row.stored_at
        assert row.anchor_source == "stored"


async def test_a_purge_makes_the_next_pass_ask_for_nothing_more(engine: Engine, account: MemoryAccount) -> None:
    """Not by the way either: no folder is read anew because copies of it went."""
    account.create_folder("Archive")
    for n, days in enumerate((89, 1, 89, 89)):
        account.append("INBOX" if n < 3 else "Archive", mail(n), internal_date=NOW - days * DAY)
    await engine.sync()

    async def asked() -> list[str]:
        said = len(account.commands)
        await engine.sync()
        return account.commands[said:]

    engine.clock.advance(2 * 86_400)
    before = await asked()
    await engine.purge()
    assert len(await engine.rows("messages")) == 1
    assert await asked() == before


async def test_a_purge_says_nothing_to_the_server_and_two_way_sync_goes_on(
    engine: Engine, account: MemoryAccount
) -> None:
    for n, days in enumerate((89, 1)):
        account.append("INBOX", mail(n), internal_date=NOW - days * DAY)
    await engine.sync()
    young = max(await engine.rows("messages"), key=lambda row: row.anchor_at)
    said, originals = list(account.commands), account.folders["INBOX"].messages.keys()
    engine.clock.advance(2 * 86_400)
    await engine.purge()
    assert [row.id for row in await engine.rows("messages")] == [young.id]
    assert account.commands == said
    assert account.folders["INBOX"].messages.keys() == originals

    await Crm(engine).flags(1, add=("\\Flagged",))
    await engine.sync()
    flags = [message.flags for message in account.folders["INBOX"].messages.values()]
    assert [("\\Flagged" in each) for each in flags] == [False, True]
    assert len(await engine.rows("messages")) == 1
