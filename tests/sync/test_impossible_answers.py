"""Servers whose answers about deletions can't all be true: none of it is believed, the folder says why and goes on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest

from connectors.memory import MemoryAccount
from connectors.memory.source import MemorySource
from connectors.model import FolderStatus
from mailgate.clock import HOUR
from tests.sync.engine import NOW, Engine, mail


@pytest.fixture(params=["qresync", "condstore", "plain"])
def account(request: pytest.FixtureRequest) -> MemoryAccount:
    account = MemoryAccount(condstore=request.param != "plain", qresync=request.param == "qresync")
    for n in range(1, 7):
        account.append("INBOX", mail(n), internal_date=NOW - n * HOUR)
    return account


@pytest.fixture
def qresync() -> MemoryAccount:
    account = MemoryAccount()
    for n in range(1, 7):
        account.append("INBOX", mail(n), internal_date=NOW - n * HOUR)
    return account


async def again(engine: Engine) -> None:
    engine.clock.advance(600)
    await engine.sync()


async def agrees(engine: Engine) -> bool:
    return await engine.near() == engine.far()


async def inbox(engine: Engine) -> Any:
    return next(row for row in await engine.rows("folders") if row.name == "INBOX")


async def test_a_count_that_stays_wrong_is_explained_and_nothing_is_deleted(
    engine: Engine, account: MemoryAccount
) -> None:
    await engine.sync()
    account.faults.exists_lie["INBOX"] = 2
    account.expunge("INBOX", 3)
    if account.qresync:  # not even told
        account.folders["INBOX"].expunged.clear()
    await again(engine)
    await again(engine)
    assert len(await engine.rows("messages")) == 6
    folder = await inbox(engine)
    assert folder.last_error.startswith("the server counts 7 messages but lists 5; until it agrees with itself")
    account.append("INBOX", mail(7), internal_date=NOW)
    await again(engine)
    assert len(await engine.rows("messages")) == 7  # new mail arrives all the same
    assert (await engine.rows("mailboxes"))[0].state == "live"
    account.faults.exists_lie.clear()
    await again(engine)
    assert await agrees(engine)
    assert (await inbox(engine)).last_error is None


async def test_a_count_that_is_wrong_for_a_moment_is_not_worth_a_word(engine: Engine, account: MemoryAccount) -> None:
    await engine.sync()
    account.expunge("INBOX", 3)
    account.faults.exists_lie["INBOX"] = -1
    await again(engine)
    assert (await inbox(engine)).last_error is None
    account.faults.exists_lie.clear()
    await again(engine)
    assert await agrees(engine)
    assert (await inbox(engine)).last_error is None


@contextmanager
def looks_empty(account: MemoryAccount, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """INBOX opens as an empty folder; STATUS goes on to say what is in it."""
    truth = account.status_of

    def status_of(folder: Any) -> FolderStatus:
        status = truth(folder)
        opened = account.commands[-1] == "EXAMINE INBOX"
        return replace(status, exists=0) if opened and folder.name == "INBOX" else status

    async def nothing(self: MemorySource) -> list[int]:
        await self._step("SEARCH ALL")
        return []

    with monkeypatch.context() as patch:
        patch.setattr(account, "status_of", status_of)
        patch.setattr(MemorySource, "list_uids", nothing)
        yield


@pytest.mark.parametrize("renumbered", [False, True])
async def test_an_empty_folder_that_status_says_is_full(
    engine: Engine, account: MemoryAccount, monkeypatch: pytest.MonkeyPatch, renumbered: bool
) -> None:
    await engine.sync()
    before = {row.id for row in await engine.rows("messages")}
    if renumbered:
        account.change_uidvalidity("INBOX")
    with looks_empty(account, monkeypatch):
        await again(engine)
        assert {row.vanished_at for row in await engine.rows("origins")} == {None}
        error = (await inbox(engine)).last_error
        assert ("opens the folder as an empty one, but says that it holds 6" in error) is not renumbered
        assert ("contradicts" in error) is renumbered
    await again(engine)
    assert {row.id for row in await engine.rows("messages")} == before
    assert await agrees(engine)
    assert (await inbox(engine)).last_error is None
    assert not await engine.events("message.deleted")


async def test_an_empty_folder_is_believed_when_status_agrees(engine: Engine, account: MemoryAccount) -> None:
    await engine.sync()
    for uid in range(1, 7):
        account.expunge("INBOX", uid)
    await again(engine)
    assert await engine.rows("messages") == []
    assert (await inbox(engine)).last_error is None


def tell_gone(account: MemoryAccount, *uids: int) -> None:
    """VANISHED will name these, though they stand."""
    folder = account.folders["INBOX"]
    for uid in uids:
        folder.expunged.append((account._next_modseq(folder), uid))


async def test_vanished_messages_that_still_count_are_looked_for(
    database_url: str, tmp_path: Any, qresync: MemoryAccount
) -> None:
    engine = await Engine.open(database_url, tmp_path, qresync)
    await engine.sync()
    tell_gone(qresync, 2, 3, 4)
    qresync.expunge("INBOX", 5)
    await again(engine)
    assert len(await engine.rows("messages")) == 5
    assert await agrees(engine)
    assert (await inbox(engine)).last_error is None
    await engine.close()


async def test_vanished_messages_that_still_count_and_are_not_listed_are_kept(
    database_url: str, tmp_path: Any, qresync: MemoryAccount
) -> None:
    engine = await Engine.open(database_url, tmp_path, qresync)
    await engine.sync()
    qresync.faults.exists_lie["INBOX"] = 3
    for uid in (2, 3, 4):
        qresync.expunge("INBOX", uid)
    await again(engine)
    await again(engine)
    assert len(await engine.rows("messages")) == 6
    assert "counts 6 messages but lists 3" in (await inbox(engine)).last_error
    qresync.faults.exists_lie.clear()
    await again(engine)
    assert await agrees(engine)
    await engine.close()


async def test_messages_that_are_fewer_without_having_vanished_are_found(
    database_url: str, tmp_path: Any, qresync: MemoryAccount
) -> None:
    engine = await Engine.open(database_url, tmp_path, qresync)
    await engine.sync()
    qresync.expunge("INBOX", 5)
    qresync.folders["INBOX"].expunged.clear()
    await again(engine)
    assert len(await engine.rows("messages")) == 5
    assert await agrees(engine)
    await engine.close()
