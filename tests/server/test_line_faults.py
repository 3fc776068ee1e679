"""What a line can do to a session at every byte: cut, half-close, fall silent, lose, split; and servers that break off.

One session is recorded with Dovecot and replayed from memory, once for each fault and offset (`make soak`: each offset;
else a stride that is prime to the lengths of lines). Whatever happens, a session ends in bounded time with an error of
the right kind, gives out only messages that are whole, and the next one goes as if nothing had been.
"""

from __future__ import annotations

import asyncio
import imaplib
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from connectors.errors import NetworkError, ProtocolError
from connectors.imap.settings import Timeouts
from connectors.memory import MemoryAccount
from connectors.model import Folder, FolderStatus, MessageMeta, Selected
from connectors.port import Connection, FolderChange
from mailgate.clock import DAY, system_clock
from tests.corpus import NASTY
from tests.dovecot import Account, Dovecot
from tests.proxy import Faults, Proxy
from tests.replay import Connecting, Fault, Recording, connecting, replayed
from tests.soak import SOAK
from tests.sync.engine import Engine, mail
from tests.wirelog import Bytes

pytestmark = pytest.mark.server

STRIDE = 1 if SOAK else 7
TIMEOUTS = Timeouts()
RAWS = [
    b"From: a@mail.example\r\nSubject: One\r\n\r\nShort.\r\n",
    NASTY["ends like a literal"],
    b"Subject: bytes\r\n\r\n" + bytes({*range(1, 256)} - {ord("\n")}),
    b"Subject: * 5 EXPUNGE\r\n\r\n)\r\n* BYE\r\nA1 OK\r\n* 1 FETCH (UID 1 BODY[] {3}\r\nabc)\r\n",
]


@dataclass
class Heard:
    """What a session learnt, as far as it came."""

    folders: list[Folder] | None = None
    status: dict[str, FolderStatus | None] | None = None
    selected: Selected | None = None
    uids: list[int] | None = None
    metas: list[MessageMeta] = field(default_factory=list)
    headers: dict[int, bytes] = field(default_factory=dict)
    bodies: dict[int, bytes] = field(default_factory=dict)
    news: FolderChange | None = None
    more: dict[int, bytes] = field(default_factory=dict)
    closed: bool = False


async def converse(connect: Connecting, heard: Heard, *, news: Callable[[], None]) -> None:
    """A session with all that reading a mailbox needs. `news` lets a message arrive."""
    source = await connect()
    try:
        heard.folders = await source.list_folders()
        heard.status = await source.status([f.name for f in heard.folders if f.selectable])
        heard.selected = await source.open("INBOX")
        heard.uids = await source.list_uids()
        async for batch in source.fetch_meta([range(1, 1 << 32)]):
            heard.metas += batch
        async for meta, header in source.fetch_headers(heard.uids):
            heard.headers[meta.uid] = header
        async for fetched in source.fetch_bodies(heard.uids, lambda _: Bytes()):
            heard.bodies[fetched.meta.uid] = bytes(fetched.sink.data)
        waiting = asyncio.ensure_future(source.idle(20))
        await asyncio.sleep(0)
        news()
        heard.news = await waiting
        await source.open("INBOX")
        async for fetched in source.fetch_bodies(
            [uid for uid in await source.list_uids() if uid > 4], lambda _: Bytes()
        ):
            heard.more[fetched.meta.uid] = bytes(fetched.sink.data)
        await source.idle(0.1)
        await source.noop()
    finally:
        await source.close()
    heard.closed = True


@pytest.fixture(scope="module")
def recorded(dovecot: Dovecot) -> tuple[Recording, Heard, Account]:
    """A session with Dovecot, what was learnt in it, and with whom."""
    account = dovecot.account()
    for raw in RAWS:
        account.add(raw, received_at=1_700_000_000_000_000)
    account.add(RAWS[0], folder="Größe & Zahl")
    with account.imap() as client:
        client.select()  # now nothing is \\Recent any more

    async def record() -> tuple[Recording, Heard]:
        heard = Heard()
        async with Proxy("127.0.0.1", dovecot.port) as proxy:
            proxy.tape = []
            await converse(connecting(account, proxy.port), heard, news=lambda: say_new(account))
            return Recording.of(proxy.tape), heard

    with asyncio.Runner() as runner:
        return *runner.run(record()), account


def say_new(account: Account) -> None:
    with account.imap() as client:
        client.append("INBOX", "", imaplib.Time2Internaldate(1_700_000_000), RAWS[0])


def test_the_recording_says_again_what_was_heard(recorded: tuple[Recording, Heard, Account]) -> None:
    recording, heard, account = recorded
    assert list(heard.bodies.values()) == RAWS
    assert heard.more == {5: RAWS[0]}
    assert heard.news is not None
    (again,) = replayed(recording, account, [(None, 0)], Heard, again_in_memory)
    assert again[:2] == (heard, None)


async def again_in_memory(connect: Connecting, heard: Heard) -> None:
    await converse(connect, heard, news=lambda: None)


def is_true(heard: Heard, truth: Heard) -> bool:
    """Nothing that was learnt is wrong; what is missing is merely missing."""
    return (
        heard.folders in (None, truth.folders)
        and heard.status in (None, truth.status)
        and heard.selected in (None, truth.selected)
        and heard.uids in (None, truth.uids)
        and heard.metas == truth.metas[: len(heard.metas)]
        and heard.headers.items() <= truth.headers.items()
        and heard.bodies.items() <= truth.bodies.items()
        and heard.more.items() <= truth.more.items()
    )


SILENCE_S = 20 + TIMEOUTS.command_s + TIMEOUTS.logout_s + 1
"""How long silence may go unnoticed: in the worst case while waiting for news, so for the whole wait and then for the
answer to DONE.
"""


@pytest.mark.parametrize("fault", list(Fault))
def test_at_every_byte(recorded: tuple[Recording, Heard, Account], fault: Fault) -> None:
    recording, truth, account = recorded
    offsets = range(0, recording.octets, STRIDE)
    assert len(offsets) > 4_000 // STRIDE
    faults = [*((fault, at) for at in offsets), (None, 0)]
    *cases, (afterwards, none, _, _) = replayed(recording, account, faults, Heard, again_in_memory)
    assert (afterwards, none) == (truth, None)
    complete = 0
    for at, (heard, error, server, lasted_s) in zip(offsets, cases, strict=True):
        assert server.met, at
        assert lasted_s <= (SILENCE_S if fault in (Fault.STALL, Fault.LOSE, Fault.SPLIT) else 0), (at, error)
        if fault is Fault.LOSE:
            # Flags and numbers may be wrong then, since TCP would have to fail; but no message's bytes.
            assert set(heard.bodies.values()) <= set(truth.bodies.values()), (at, error)
            continue
        assert not server.surprise, (at, server.surprise)
        assert is_true(heard, truth), (at, error, heard)
        complete += heard == truth
        if fault is Fault.SPLIT:
            assert (heard, error) == (truth, None), at
        elif error is None:
            assert heard == truth, at  # it met only the answer to LOGOUT
        else:
            assert type(error) is NetworkError or (fault is Fault.BYE and type(error) is ProtocolError), (at, error)
    assert fault in (Fault.SPLIT, Fault.LOSE) or complete <= 100 // STRIDE + 1


def impatient_while_it_fails(account: Account, proxy: Proxy) -> Connecting:
    async def connect() -> Connection:
        short = Timeouts(connect_s=2, command_s=0.3, idle_s=1, logout_s=0.1)
        return await connecting(account, proxy.port, TIMEOUTS if proxy.faults == Faults() else short)()

    return connect


FAULTS = [
    lambda at: Faults(cut_after=at),
    lambda at: Faults(half_close_after=at),
    lambda at: Faults(stall_after=at),
    lambda at: Faults(split=7, cut_after=at),
]


@pytest.mark.timeout(1_800 if SOAK else 900)
async def test_an_import_over_a_line_that_fails(dovecot: Dovecot, sqlite_url: str, tmp_path: Path) -> None:
    account = dovecot.account()
    for n in range(12):
        account.add(
            mail(n, body="Text. )\r\n" * 20), received_at=system_clock() - DAY, flags=[r"\Seen"] if n % 2 else []
        )
    account.add(mail(50), folder="Archive", received_at=system_clock() - DAY)
    account.imap(readonly_folder="INBOX").logout()  # gives the messages their UIDs
    database = Path(sqlite_url.removeprefix("sqlite:///"))
    truth = sorted((raw, tuple(sorted(flags))) for flags, raw in account.originals().values())
    failed = held = 0
    for number, at in enumerate(range(40, 9_000, 23 if SOAK else 367)):
        folder = tmp_path / str(number)
        folder.mkdir()
        shutil.copyfile(database, folder / "mailgate.db")
        proxy = Proxy("127.0.0.1", dovecot.port, FAULTS[number % len(FAULTS)](at))
        async with proxy:
            engine = await Engine.open(
                f"sqlite:///{folder}/mailgate.db",
                folder,
                MemoryAccount(),
                connect=impatient_while_it_fails(account, proxy),
                clock=system_clock,  # type: ignore[arg-type]  # a real server has the real time
            )
            try:
                await engine.sync()
            except NetworkError:
                failed += 1
            near = (await engine.near()).get("INBOX", [])
            held += len(near)
            assert set(near) <= set(truth), at
            proxy.faults = Faults()
            await engine.sync()
            near_now = await engine.near()
            assert near_now["INBOX"] == truth, at
            assert [raw for raw, _ in near_now["Archive"]] == [mail(50)], at
            assert len(await engine.events("message.created")) == 13, at
            assert await engine.rows("quarantine") == [], at
            await engine.close()
    assert failed > number // 2  # so many sessions met their fault
    assert held > 0  # and some had stored messages before
