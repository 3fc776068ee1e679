"""Folders that the server gives an identity of their own (RFC 8474 §4.2): alike in all else, they are told apart.

All folders have one UIDVALIDITY here, as at a server that takes it from the clock, and those that swap their names have
the same UIDNEXT, count and MODSEQ: nothing but their identity says which is which.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from connectors.memory import MemoryAccount, MemoryConnection
from connectors.model import QResync, Selected
from mailgate.clock import DAY, HOUR, SECOND, system_clock
from mailgate.settings import SyncSettings
from tests.sync.crm import Crm
from tests.sync.engine import NOW, Engine, Opened, mail
from tests.sync.test_supervisor import QUICK, is_, running
from tests.waiting import until

NAMES = ("Play", "Rest", "Work")
NUMBERS = {"Play": (10, 11, 12), "Rest": (20, 21, 22), "Work": (30, 31, 32)}


@pytest.fixture(params=["qresync", "condstore", "plain"])
def account(request: pytest.FixtureRequest) -> MemoryAccount:
    modseq = {"qresync": request.param == "qresync", "condstore": request.param != "plain"}
    account = MemoryAccount(**modseq, folder_ids=True, alike=True, now=NOW)
    for name in NAMES:
        account.create_folder(name)
        for n in NUMBERS[name]:
            account.append(name, mail(n), internal_date=NOW - n * HOUR)
    return account


@pytest.fixture
async def crm(engine: Engine) -> Crm:
    await engine.sync()
    return Crm(engine)


def rename(account: MemoryAccount, *renames: tuple[str, str]) -> None:
    for old, new in renames:
        account.rename_folder(old, new)


SWAP = (("Work", "Spare"), ("Play", "Work"), ("Spare", "Play"))
ROUND = (("Work", "Spare"), ("Rest", "Work"), ("Play", "Rest"), ("Spare", "Play"))
TAKEN = (("Work", "Elsewhere"), ("Play", "Work"))


async def again(crm: Crm) -> None:
    crm.engine.clock.advance(600)
    await crm.engine.sync()


async def ids(crm: Crm) -> dict[bytes, str]:
    return {await crm.engine.raw(row): row.id for row in await crm.engine.rows("messages")}


async def folder_ids(crm: Crm) -> dict[str, str]:
    return {row.name: row.id for row in await crm.engine.rows("folders", lambda c: c.gone_at.is_(None))}


@pytest.mark.parametrize("renames", [SWAP, ROUND, TAKEN], ids=["swap", "round", "taken"])
async def test_each_keeps_its_id_and_its_messages(
    crm: Crm, account: MemoryAccount, renames: Sequence[tuple[str, str]]
) -> None:
    messages, folders = await ids(crm), await folder_ids(crm)
    rename(account, *renames)
    await again(crm)
    called = {name: name for name in folders}
    for old, new in renames:
        called = {first: new if name == old else name for first, name in called.items()}
    assert await folder_ids(crm) == {called[name]: id_ for name, id_ in folders.items()}
    assert await ids(crm) == messages
    assert await crm.engine.near() == crm.engine.far()
    told = [event.payload["folder_id"] for event in await crm.engine.events("folder.renamed")]
    assert sorted(told) == sorted(id_ for name, id_ in folders.items() if called[name] != name)


async def test_a_deletion_reaches_the_message_that_was_meant(crm: Crm, account: MemoryAccount) -> None:
    await crm.delete(30)
    rename(account, *SWAP)
    await again(crm)
    assert await crm.states() == ["applied"]
    assert [m.raw for m in account.folders["Work"].messages.values()] == [mail(n) for n in NUMBERS["Play"]]
    assert [m.raw for m in account.folders["Play"].messages.values()] == [mail(31), mail(32)]
    assert await crm.engine.near() == crm.engine.far()


async def test_flags_and_moves_reach_what_was_meant(crm: Crm, account: MemoryAccount) -> None:
    await crm.flags(31, add=["\\Flagged"])
    await crm.move(10, "Work")
    await crm.append(40, "Play")
    rename(account, *SWAP)
    await again(crm)
    await again(crm)
    assert await crm.states() == ["applied"] * 3
    assert {m.raw for m in account.folders["Play"].messages.values()} == {mail(n) for n in (30, 31, 32, 10)}
    assert {m.raw for m in account.folders["Work"].messages.values()} == {mail(n) for n in (11, 12, 40)}
    flagged = [m.raw for f in account.folders.values() for m in f.messages.values() if "\\Flagged" in m.flags]
    assert flagged == [mail(31)]
    assert await crm.engine.near() == crm.engine.far()


async def test_the_folder_that_is_deleted_is_the_one_that_was_meant(crm: Crm, account: MemoryAccount) -> None:
    await crm.remove("Work", 3)
    rename(account, *SWAP)
    await again(crm)
    await again(crm)
    assert sorted(account.folders) == ["INBOX", "Rest", "Work"]
    assert [m.raw for m in account.folders["Work"].messages.values()] == [mail(n) for n in NUMBERS["Play"]]
    assert await crm.engine.near() == crm.engine.far()


async def test_the_folder_that_is_renamed_is_the_one_that_was_meant(crm: Crm, account: MemoryAccount) -> None:
    before = await folder_ids(crm)
    await crm.rename("Work", "Office")
    rename(account, *SWAP)
    await again(crm)
    await again(crm)
    assert [m.raw for m in account.folders["Office"].messages.values()] == [mail(n) for n in NUMBERS["Work"]]
    assert (await folder_ids(crm))["Office"] == before["Work"]
    assert await crm.engine.near() == crm.engine.far()


async def test_what_was_purged_in_one_hides_nothing_of_the_other(opened: Opened, account: MemoryAccount) -> None:
    """What is purged blocks its original by name, UIDVALIDITY and UID: those go along with the folder."""
    for uid, message in account.folders["Work"].messages.items():
        message.internal_date = NOW - 29 * DAY - uid * HOUR
    engine = await opened(account, plan="crm_plus")
    await engine.sync()
    engine.clock.advance(5 * 86_400)
    await engine.purge()
    crm = Crm(engine)
    rename(account, *SWAP)
    await engine.plan("professional")
    await again(crm)
    rename(account, ("Work", "Elsewhere"), ("Play", "Work"))
    account.append("Work", mail(40), internal_date=NOW)
    await again(crm)
    assert (await ids(crm)).keys() == {mail(n) for n in (*NUMBERS["Play"], *NUMBERS["Rest"], 40)}


async def test_one_of_the_same_name_and_numbers_with_other_messages(crm: Crm, account: MemoryAccount) -> None:
    """Deleted and made again within a second: no UID is trusted, and no message is taken for another."""
    before = await ids(crm)
    account.delete_folder("Work")
    account.create_folder("Work")
    for n in (50, 31, 52):
        account.append("Work", mail(n), internal_date=NOW - n * HOUR)
    await again(crm)
    await again(crm)
    after = await ids(crm)
    assert await crm.engine.near() == crm.engine.far()
    assert after.keys() == before.keys() - {mail(30), mail(32)} | {mail(50), mail(52)}
    assert after[mail(31)] == before[mail(31)]


async def test_identities_that_change_by_themselves_cost_no_message_its_id(
    crm: Crm, account: MemoryAccount, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server contradicts itself: each time that a folder is opened it is another one."""
    before = await ids(crm)
    count = 0
    opened = MemoryConnection.open

    async def another(self: MemoryConnection, name: str, qresync: QResync | None = None) -> Selected:
        nonlocal count
        count += 1
        account.folders[name].object_id = f"X{count}"
        return await opened(self, name, qresync)

    monkeypatch.setattr(MemoryConnection, "open", another)
    for _ in range(3):
        account.store_flags("Work", 1, ["\\Seen"] if count % 2 else [])
        account.append("Work", mail(100 + count), internal_date=NOW)
        await again(crm)
        assert await crm.engine.near() == crm.engine.far()
    assert before.items() <= (await ids(crm)).items()


async def test_identities_that_change_by_themselves_hold_up_no_change(
    crm: Crm, account: MemoryAccount, monkeypatch: pytest.MonkeyPatch
) -> None:
    count = 0
    connection = MemoryConnection

    def each(method: str) -> None:
        ordinary = getattr(connection, method)

        async def another(self: MemoryConnection, name: str, *rest: Any) -> Selected:
            nonlocal count
            count += 1
            account.folders[name].object_id = f"X{count}"
            selected: Selected = await ordinary(self, name, *rest)
            return selected

        monkeypatch.setattr(connection, method, another)

    each("open")
    each("select")
    await crm.flags(31, add=["\\Flagged"])
    await crm.move(10, "Work")
    await crm.delete(20)
    for _ in range(4):
        await again(crm)
    assert await crm.states() == ["applied"] * 3
    assert await crm.engine.near() == crm.engine.far()


async def test_one_identity_under_all_names_tells_nothing(crm: Crm, account: MemoryAccount) -> None:
    before, folders = await ids(crm), await folder_ids(crm)
    for folder in account.folders.values():
        folder.object_id = "same"
    account.append("Work", mail(40), internal_date=NOW)
    await again(crm)
    rename(account, ("Rest", "Pause"))
    await again(crm)
    assert await crm.engine.near() == crm.engine.far()
    assert before.items() <= (await ids(crm)).items()
    assert (await folder_ids(crm))["Work"] == folders["Work"]


async def test_a_folder_that_was_known_before_gets_its_identity(opened: Opened, account: MemoryAccount) -> None:
    """After an update of the server, or of the gateway."""
    for folder in account.folders.values():
        folder.object_id = None
    crm = Crm(await opened(account))
    await crm.engine.sync()
    folders = await folder_ids(crm)
    for folder in account.folders.values():
        folder.object_id = f"new-{folder.name}"
    account.append("Work", mail(41), internal_date=NOW)
    account.append("Play", mail(42), internal_date=NOW)
    await again(crm)
    rename(account, *SWAP)
    await again(crm)
    after = await folder_ids(crm)
    assert (after["Work"], after["Play"]) == (folders["Play"], folders["Work"])
    assert await crm.engine.near() == crm.engine.far()


async def test_names_are_swapped_while_it_is_live(opened: Opened, account: MemoryAccount) -> None:
    for folder in account.folders.values():
        for uid, message in folder.messages.items():
            message.internal_date = system_clock() // SECOND * SECOND - uid * HOUR
    engine = await opened(account, settings=QUICK, clock=system_clock)
    crm = Crm(engine)
    async with running(engine):
        await until(is_(engine, "live"))
        messages, folders = await ids(crm), await folder_ids(crm)
        rename(account, *SWAP)

        async def known() -> bool:
            return (await folder_ids(crm))["Work"] == folders["Play"]

        await until(known)
        account.append("Work", mail(40), internal_date=system_clock())
        if account.condstore:
            account.store_flags("Play", 2, ["\\Seen"])

        async def equal() -> bool:
            return await engine.near() == engine.far()

        await until(equal)
    assert messages.items() <= (await ids(crm)).items()
    assert len(await ids(crm)) == len(messages) + 1


async def test_what_was_set_aside_is_not_fetched_from_another_folder(opened: Opened, account: MemoryAccount) -> None:
    """It is tried again at the beginning of a poll, before anybody knows that names were swapped."""
    large = mail(40, body="x" * (2 << 20))
    account.append("Work", large, internal_date=NOW)
    account.append("Play", mail(41), internal_date=NOW)
    engine = await opened(account, settings=SyncSettings(max_message_bytes=1 << 20))
    await engine.sync()
    assert len(await engine.rows("quarantine")) == 1
    crm, before = Crm(engine), await ids(Crm(engine))
    engine.settings = SyncSettings()
    rename(account, *SWAP)
    await again(crm)
    await again(crm)
    assert await engine.near() == engine.far()
    assert not await engine.rows("quarantine")
    assert before.items() <= (await ids(crm)).items()
