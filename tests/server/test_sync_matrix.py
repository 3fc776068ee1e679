"""The engine against each real server: what its users do there arrives here, byte for byte, on Dovecot, Cyrus, Courier
and pymap.

What a copy is judged against is what the server serves: some store other bytes than they were given.
"""

from __future__ import annotations

import asyncio
import imaplib
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from connectors.memory import MemoryAccount
from mailgate.clock import DAY, SECOND, system_clock
from mailgate.settings import SyncSettings
from tests.contract.accounts import OverImap, remote_of
from tests.corpus import NASTY
from tests.server.test_sync_dovecot import running
from tests.sync.engine import Engine, mail
from tests.waiting import until

pytestmark = pytest.mark.server

Opened = Callable[..., Awaitable[Engine]]

REFUSED = {
    "dovecot": {"empty"},
    "cyrus": {
        "empty", "one byte", "header without end", "text that is no mail", "header line without colon",
        "space before colon", "empty field names", "quoted mbox From line", "bare CR", "bare LF", "only newlines",
        "mixed line ends", "forwarded in base64", "nul bytes only", "all byte values", "nul in header",
        "body utf-16", "body with nul", "body charset hostile", "html nul and entities",
    },
    "courier": set(),
    "pymap": {"empty", "nested 300", "nested 3000", "messages in messages 600"},
}  # fmt: skip
"""Which mail of the corpus each server refuses to take by APPEND."""


@pytest.fixture(params=["dovecot", "cyrus", "courier", "pymap"])
async def remote(request: pytest.FixtureRequest) -> AsyncIterator[OverImap]:
    async with remote_of(request) as made:
        assert isinstance(made, OverImap)
        yield made


@pytest.fixture
async def engine(sqlite_url: str, tmp_path: Path, remote: OverImap) -> AsyncIterator[Engine]:
    made = await Engine.open(
        sqlite_url,
        tmp_path,
        MemoryAccount(),
        connect=remote.connect,
        clock=system_clock,  # type: ignore[arg-type]  # real servers have the real time
        settings=SyncSettings(poll_interval_s=1, backoff_min_s=0.05),
    )
    yield made
    await made.close()


def received(days: float) -> int:
    """A whole second, so many days ago: what INTERNALDATE can say."""
    return (system_clock() - int(days * DAY)) // SECOND * SECOND


async def fill(remote: OverImap, folder: str, numbers: range) -> list[int]:
    return [await remote.append(folder, mail(n), received_at=received(n % 20)) for n in numbers]


async def ids(engine: Engine) -> dict[bytes, str]:
    """Which message has which id, by what it is recognised by."""
    return {row.header_token: row.id for row in await engine.rows("messages")}


async def equal(engine: Engine, remote: OverImap, *folders: str) -> bool:
    """Whether in these folders every original has its copy, flags and bytes, and nothing else stands there."""
    near = await engine.near()
    for folder in folders:
        far = await remote.originals(folder)
        if near.get(folder, []) != sorted((raw, tuple(sorted(flags))) for flags, raw in far.values()):
            return False
    return True


async def passes(engine: Engine, condition: Callable[[], Awaitable[bool]], *, at_most: int = 4) -> None:
    """Complete passes until the condition holds: a disappearance may have to wait for the folders that come after."""
    for _ in range(at_most):
        await engine.sync()
        if await condition():
            return
    pytest.fail(f"not after {at_most} passes")


async def test_an_import_is_equal_in_every_folder(engine: Engine, remote: OverImap) -> None:
    folders = ["INBOX", remote.folder("Sent"), *map(remote.folder, remote.names), remote.folder("a", "b", "c")]
    for folder in (*folders[2:-1], remote.folder("a"), remote.folder("a", "b"), folders[-1]):
        await remote.create_folder(folder)
    for number, folder in enumerate(folders):
        await fill(remote, folder, range(number * 100, number * 100 + 8))
    await remote.store_flags("INBOX", 3, ["\\Seen", "\\Answered", "$Forwarded"])
    await remote.append("INBOX", mail(999), received_at=received(95))  # outside the plan's window
    await engine.sync()
    assert len((await engine.near())["INBOX"]) == 8
    await remote.expunge("INBOX", 9)
    assert await equal(engine, remote, *folders)
    uses = {row.name: row.special_use for row in await engine.rows("folders")}
    assert (uses["INBOX"], uses[remote.folder("Sent")]) == ("inbox", "sent")
    assert {flags for flags, _ in (await remote.originals("INBOX")).values()} <= {
        frozenset(), frozenset({"\\Seen", "\\Answered", "$Forwarded"} if remote.keywords else {"\\Seen", "\\Answered"}),
    }  # fmt: skip  # nothing was marked by reading it
    await engine.sync()
    assert len(await engine.events("message.created")) == len(folders) * 8


async def test_mail_that_is_broken_odd_or_hostile(engine: Engine, remote: OverImap) -> None:
    refused = await asyncio.to_thread(_append_all, remote, NASTY)
    assert refused == REFUSED[type(remote).__name__.removeprefix("On").lower()]
    await engine.sync()
    assert await engine.rows("quarantine") == []
    far = sorted(raw for _, raw in (await remote.originals("INBOX")).values())
    near = sorted(raw for raw, _ in (await engine.near())["INBOX"])
    assert len(near) == len(NASTY) - len(refused)
    assert near == far


def _append_all(remote: OverImap, mails: dict[str, bytes]) -> set[str]:
    """Appends these, unchanged; returns the names of those that were refused."""
    refused: set[str] = set()
    client = remote._client()
    when = imaplib.Time2Internaldate(received(1) / SECOND)
    for name, raw in mails.items():
        client.literal = raw  # type: ignore[attr-defined]  # as `append` sets it, but for its repair of line ends
        try:
            status, _ = client._simple_command("APPEND", "INBOX", "()", when)  # type: ignore[attr-defined]
        except client.abort:
            status = "NO"  # pymap hangs up on some
            client.shutdown()
            client = remote._client()
        if status != "OK":
            refused.add(name)
    client.logout()
    return refused


async def test_what_others_do_arrives(engine: Engine, remote: OverImap) -> None:
    archive = remote.folder("Archive")
    uids = await fill(remote, "INBOX", range(8))
    await fill(remote, archive, range(100, 103))
    await engine.sync()
    assert await equal(engine, remote, "INBOX", archive)
    before = await ids(engine)

    new = await remote.append("INBOX", mail(50), received_at=received(0))
    await remote.store_flags("INBOX", uids[1], ["\\Seen", "\\Flagged"])
    await remote.move("INBOX", uids[2], archive)
    await remote.expunge("INBOX", uids[3])

    async def arrived() -> bool:
        return await equal(engine, remote, "INBOX", archive) and len(await engine.rows("messages")) == 11

    await passes(engine, arrived)
    after = await ids(engine)
    assert len(set(after.values()) - set(before.values())) == 1  # the new one; the moved one kept its id
    assert len(await engine.events("message.created")) == 12
    assert len(await engine.events("message.moved")) == 1
    assert len(await engine.events("message.deleted")) == 1

    await remote.move(archive, 1, "INBOX")
    await remote.store_flags("INBOX", uids[1], [])
    await remote.store_flags("INBOX", new, ["\\Deleted"])  # a flag to show, no deletion
    await passes(engine, arrived)
    assert await ids(engine) == after


async def test_folders_come_go_and_change_their_names(engine: Engine, remote: OverImap) -> None:
    old, new, going = remote.folder("Größe"), remote.folder("Umbenannt"), remote.folder("Projects")
    below_old, below_new = remote.folder("Größe", "Kind"), remote.folder("Umbenannt", "Kind")
    for folder in (old, below_old, going):
        await remote.create_folder(folder)
    await fill(remote, old, range(5))
    await fill(remote, below_old, range(10, 12))
    await fill(remote, going, range(20, 23))
    await engine.sync()
    before = await ids(engine)
    assert len(before) == 10

    await remote.rename_folder(old, new)
    await remote.delete_folder(going)

    async def settled() -> bool:
        names = {row.name for row in await engine.rows("folders") if row.gone_at is None}
        return not names & {old, below_old, going} and await equal(engine, remote, new, below_new)

    await passes(engine, settled)
    after = await ids(engine)
    assert len(after) == 7
    assert set(after.values()) <= set(before.values())
    assert len(await engine.events("message.created")) == 10

    await remote.create_folder(going)
    await fill(remote, going, range(30, 32))
    await engine.sync()
    assert await equal(engine, remote, going, new, below_new)


async def test_another_uidvalidity_costs_no_message_its_id(engine: Engine, remote: OverImap) -> None:
    folder = remote.folder("Projects")
    await remote.create_folder(folder)
    for n in range(12):
        await remote.append(folder, mail(n % 9), received_at=received(n % 9))  # three of them twice
    await engine.sync()
    before = sorted(row.id for row in await engine.rows("messages"))
    assert len(before) == 12
    await remote.renew_uidvalidity(folder)
    await passes(engine, lambda: equal(engine, remote, folder))
    assert sorted(row.id for row in await engine.rows("messages")) == before
    assert len(await engine.events("message.created")) == 12
    assert await engine.events("message.deleted") == []


async def test_news_arrive_while_it_listens(engine: Engine, remote: OverImap) -> None:
    await fill(remote, "INBOX", range(3))
    sent = remote.folder("Sent")

    async def same() -> bool:
        return await equal(engine, remote, "INBOX", sent)

    async with running(engine):
        await until(lambda: _is(engine, "live"))
        await until(same)
        await remote.append("INBOX", mail(10), received_at=received(0))
        await until(same)
        await remote.append(sent, mail(11), received_at=received(0))
        await until(same)
        await remote.store_flags("INBOX", 1, ["\\Seen"])
        await until(same)
        await remote.drop_connections()
        await remote.append("INBOX", mail(12), received_at=received(0))
        await until(same)
    assert len(await engine.events("message.created")) == 6


async def _is(engine: Engine, state: str) -> bool:
    rows: list[Any] = await engine.rows("mailboxes")
    return bool(rows[0].state == state)
