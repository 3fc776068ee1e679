"""What servers may answer to a change, done or not: nothing is lost, nothing comes twice, and the operation says true.

Each answer is given to the same command again and again, until the server is honest; then both sides agree.
"""

from __future__ import annotations

import contextlib
import copy
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path

import pytest

from connectors.errors import ConnectorError
from connectors.imap.connection import connect_imap
from connectors.imap.settings import Timeouts
from connectors.memory import MemoryAccount
from connectors.model import Endpoint, PasswordAuth, Security
from connectors.net import parse_networks
from connectors.port import Connection
from mailgate.clock import HOUR
from mailgate.errors import MailgateError
from mailgate.settings import SyncSettings
from tests.fakeimap import FakeImap, Mail, Talk
from tests.sync.crm import Crm
from tests.sync.engine import NOW, Engine, Opened, mail

LOOPBACK = parse_networks(["127.0.0.0/8"])
SHORT = Timeouts(command_s=0.5)
"""While the server lies: it may say nothing at all."""
PATIENT = Timeouts()
DATE = b"01-Oct-2024 10:00:00 +0000"
SETTINGS = SyncSettings(backoff_min_s=0.01, push_attempts=4)

Said = Callable[[Talk, Sequence[bytes], bytes], Awaitable[None]]
"""Says something about a change, given what is to be said of it: before and with the OK."""


def code(*arguments: bytes) -> Said:
    """OK, and these places instead of the true ones."""

    async def say(talk: Talk, lines: Sequence[bytes], text: bytes) -> None:
        name = b"APPENDUID" if b"APPENDUID" in text else b"COPYUID"
        told = [b"* OK [%s %s] x" % (name, b" ".join(arguments))] if arguments else []
        await talk.send(*told, *(line for line in lines if b"COPYUID" not in line))
        await talk.ok(b"[%s %s] x" % (name, b" ".join(arguments)) if arguments else b"done")

    return say


def no(what: bytes) -> Said:
    async def say(talk: Talk, lines: Sequence[bytes], text: bytes) -> None:
        await talk.send(talk.tag + b" " + what)

    return say


def first(*noise: bytes, times: int = 1) -> Said:
    """These lines, then the truth."""

    async def say(talk: Talk, lines: Sequence[bytes], text: bytes) -> None:
        for _ in range(times):
            await talk.send(*noise)
        await talk.send(*lines)
        await talk.ok(text)

    return say


def only(data: bytes) -> Said:
    """This, and the line ends."""

    async def say(talk: Talk, lines: Sequence[bytes], text: bytes) -> None:
        await talk.raw(data)
        raise ConnectionResetError

    return say


async def nothing(talk: Talk, lines: Sequence[bytes], text: bytes) -> None:
    """No answer at all."""


CODES = (
    *("TRYCREATE", "OVERQUOTA", "LIMIT", "ALREADYEXISTS", "NONEXISTENT"),
    *("CANNOT", "INUSE", "EXPIRED", "UNAVAILABLE"),
)

ANSWERS: dict[str, Said] = {
    "OK without a code": code(),
    "other counts": code(b"1", b"1:2", b"50:52"),
    "ranges the wrong way round": code(b"1", b"9:1", b"99:91"),
    "sets without end": code(b"1", b"1:4294967295", b"1:4294967295"),
    "UIDs that are taken": code(b"1", b"1", b"1"),
    "another UIDVALIDITY": code(b"77", b"1", b"500"),
    "no numbers": code(b"\x00", b"x", b""),
    "the OK of another": only(b"A9999 OK done\r\n"),
    "no answer": nothing,
    **{f"NO [{word}]": no(b"NO [" + word.encode() + b"] no") for word in CODES},
    "BAD": no(b"BAD what"),
    "BYE": only(b"* BYE so long\r\n"),
    "a line without end": only(b"* OK " + b"x" * 3_000_000),
    "a literal without end": only(b"* 1 FETCH (UID 1 BODY[] {9223372036854775808}\r\n" + b"x" * 1_000),
}
"""What may be said whether the command was carried out or not."""

NOISE: dict[str, Said] = {
    "flags of messages that nobody asked for": first(
        b"* 1 FETCH (UID 4294967295 FLAGS (\\Deleted))", b"* 9 FETCH (FLAGS (\\Deleted))"
    ),
    "EXPUNGE of no message": first(b"* 0 EXPUNGE", b"* 4000 EXPUNGE", b"* VANISHED (EARLIER) 900:4294967295"),
    "counts that can't be": first(b"* 4294967295 EXISTS", b"* 0 EXISTS"),
    "a flood": first(b"\r\n".join([b"* 1 FETCH (UID 77 FLAGS ($x))"] * 500), times=20),
    "NUL": first(b"* OK [\x00] \x00\x00", b"* \x00", b"* 1 FETCH (UID 1 FLAGS (\x00))"),
}
"""What may be said on the way to a true answer."""


def answers(*, done: bool) -> list[tuple[str, Said]]:
    return [*ANSWERS.items(), *(NOISE.items() if done else ())]


class Story:
    """A gateway, and a server that lies of one command."""

    def __init__(self, server: FakeImap, crm: Crm) -> None:
        self.server, self.crm = server, crm
        self.engine = crm.engine

    async def tell(self, command: str, say: Said, *, done: bool) -> None:
        """The operations that wait are brought while the server answers so, then while it is honest."""

        async def lie(talk: Talk, rest: bytes) -> None:
            kept = copy.deepcopy((self.server.folders, self.server.uidnext))
            lines, text = talk.change(command, rest)
            if not done:
                self.server.folders, self.server.uidnext = kept
            await say(talk, lines, text)

        self.server.lies[command] = lie
        await self.sync(1)
        self.server.lies.clear()
        await self.sync(2)

    async def sync(self, times: int) -> None:
        for _ in range(times):
            self.engine.clock.advance(600)
            with contextlib.suppress(ConnectorError, MailgateError):
                await self.engine.sync()

    def there(self) -> Counter[bytes]:
        return Counter(item.raw for box in self.server.folders.values() for item in box)

    async def agrees(self) -> bool:
        far = {
            name: sorted((item.raw, tuple(sorted(item.flags.decode().split()))) for item in box)
            for name, box in self.server.folders.items()
            if box
        }
        return await self.engine.near() == far


@pytest.fixture
async def story(sqlite_url: str, tmp_path: Path) -> AsyncIterator[Story]:
    server = FakeImap(
        {"INBOX": [Mail(n + 1, mail(n), date=DATE) for n in range(len(ANSWERS) + len(NOISE))], "Archive": []},
        capabilities=b"IMAP4rev1 IDLE LITERAL+ UIDPLUS MOVE",
    )

    async def connect() -> Connection:
        endpoint = Endpoint("127.0.0.1", server.port, Security.NONE)
        auth = PasswordAuth("bob", "x")
        timeouts = SHORT if server.lies else PATIENT
        return await connect_imap(endpoint, auth, ssl_context=None, allow_networks=LOOPBACK, timeouts=timeouts)

    async with server:
        engine = await Engine.open(sqlite_url, tmp_path, MemoryAccount(), connect=connect, settings=SETTINGS)
        await engine.sync()
        yield Story(server, Crm(engine))
        await engine.close()


@pytest.mark.parametrize("done", [True, False])
async def test_flags(story: Story, done: bool) -> None:
    before = story.there()
    for n, (name, say) in enumerate(answers(done=done)):
        await story.crm.flags(n, add=["\\Flagged"])
        await story.tell("UID STORE", say, done=done)
        assert (await story.crm.states())[-1].startswith(("applied", "failed")), name
        assert await story.agrees(), name
    assert story.there() == before


@pytest.mark.parametrize("done", [True, False])
async def test_moves(story: Story, done: bool) -> None:
    before = story.there()
    ids = {await story.engine.raw(row): row.id for row in await story.engine.rows("messages")}
    for n, (name, say) in enumerate(answers(done=done)):
        await story.crm.move(n, "Archive")
        await story.tell("UID MOVE", say, done=done)
        assert (await story.crm.states())[-1].startswith(("applied", "failed")), name
        assert await story.agrees(), name
        assert story.there() == before, name
    assert {await story.engine.raw(row): row.id for row in await story.engine.rows("messages")} == ids


@pytest.mark.parametrize("done", [True, False])
async def test_appends(story: Story, done: bool) -> None:
    before = story.there()
    for n, (name, say) in enumerate(answers(done=done), start=100):
        if done and name in ("NO [TRYCREATE]", "NO [NONEXISTENT]"):
            continue  # said where there is no folder to put it into
        await story.crm.append(n, "Archive")
        await story.tell("APPEND", say, done=done)
        state = (await story.crm.states())[-1]
        assert state.startswith(("applied", "failed")), name
        assert await story.agrees(), name
        if state == "applied" or done:
            before[mail(n)] += 1
        assert story.there() == before, name


@pytest.mark.parametrize("done", [True, False])
async def test_deletions(story: Story, done: bool) -> None:
    before = story.there()
    for n, (name, say) in enumerate(answers(done=done)):
        await story.crm.delete(n)
        await story.tell("UID EXPUNGE", say, done=done)
        state = (await story.crm.states())[-1]
        assert state.startswith(("applied", "failed")), name
        assert await story.agrees(), name
        if state == "applied" or done:
            del before[mail(n)]
        assert story.there() == before, name


async def test_a_line_that_ends_in_the_middle_of_a_message(story: Story) -> None:
    before = story.there()
    await story.crm.append(100, "Archive")
    story.server.cut_in_literal = True
    await story.tell("APPEND", nothing, done=False)
    assert story.there() == before
    story.server.cut_in_literal = False
    await story.tell("NOOP", nothing, done=False)
    assert await story.crm.states() == ["applied"]
    assert story.there() == before + Counter([mail(100)])
    assert await story.agrees()


async def ask(crm: Crm) -> Counter[bytes]:
    """One operation of each kind; what they make of the messages that there are."""
    await crm.flags(0, add=["\\Flagged"])
    await crm.move(1, "Archive")
    await crm.append(100, "Archive")
    await crm.delete(2)
    return Counter({mail(100): 1, mail(2): -1})


@pytest.mark.parametrize("shown", [1, 3, 4_294_967_295])
async def test_a_uidnext_that_cannot_be(story: Story, shown: int) -> None:
    expected = story.there()
    expected.update(await ask(story.crm))
    story.server.shown_uidnext = shown
    await story.sync(2)
    story.server.shown_uidnext = None
    await story.sync(3)
    assert {*await story.crm.states()} == {"applied"}
    assert story.there() == +expected
    assert await story.agrees()


@pytest.mark.parametrize("modseq", ["none", "back", "in turns"])
async def test_a_modseq_that_falls_or_is_gone(opened: Opened, modseq: str) -> None:
    account = MemoryAccount(now=NOW)
    account.create_folder("Archive")
    for n in range(6):
        account.append("INBOX", mail(n), internal_date=NOW - n * HOUR)
    account.append("Archive", mail(50), internal_date=NOW)
    engine = await opened(account)
    await engine.sync()
    crm = Crm(engine)
    expected = Counter(m.raw for folder in account.folders.values() for m in folder.messages.values())
    expected.update(await ask(crm))
    for turn in range(4):
        if modseq == "back":
            for folder in account.folders.values():
                folder.highestmodseq = 1
        else:
            account.condstore = account.qresync = turn % 2 == 0 and modseq == "in turns"
        engine.clock.advance(600)
        await engine.sync()
    account.condstore = account.qresync = True
    for _ in range(2):
        engine.clock.advance(600)
        await engine.sync()
    assert {*await crm.states()} == {"applied"}
    assert Counter(m.raw for folder in account.folders.values() for m in folder.messages.values()) == +expected
    assert await engine.near() == engine.far()


async def test_an_empty_folder_may_have_another_uidvalidity_each_time(opened: Opened) -> None:
    """An empty mbox has, until something is put there; a message that is moved there does not wait for ever."""
    server = FakeImap({"INBOX": [Mail(1, mail(1), date=DATE)], "Sent": []})

    async def other(talk: Talk, rest: bytes) -> None:
        if b'"Sent"' in rest and not server.folders["Sent"]:
            server.uidvalidity["Sent"] = server.uidvalidity.get("Sent", 1) + 1
        await talk.truth(rest.split(b" ")[0].decode(), rest)

    server.lies |= {"STATUS": other, "EXAMINE": other, "SELECT": other}

    async def connect() -> Connection:
        endpoint = Endpoint("127.0.0.1", server.port, Security.NONE)
        return await connect_imap(endpoint, PasswordAuth("bob", "x"), ssl_context=None, allow_networks=LOOPBACK)

    async with server:
        server.capabilities += b" UIDPLUS MOVE"
        engine = await opened(MemoryAccount(), connect=connect, settings=SETTINGS)
        await engine.sync()
        crm = Crm(engine)
        await crm.move(1, "Sent")
        await engine.sync()
        await engine.sync()
        assert await crm.states() == ["applied"]
        assert [found.raw for found in server.folders["Sent"]] == [mail(1)]
        assert len(await engine.rows("messages")) == 1


@pytest.mark.parametrize("command", ["UID MOVE", "APPEND"])
async def test_a_server_that_goes_on_when_the_line_is_lost(story: Story, command: str) -> None:
    """What is under way there is not asked for again, as long as its answer could have come."""
    late: list[Callable[[], object]] = []

    async def begin(talk: Talk, rest: bytes) -> None:
        literal = talk.literal
        behind = Talk(story.server, talk.reader, talk.writer)
        behind.folder, behind.literal = talk.folder, literal
        late.append(lambda: behind.change(command, rest))
        raise ConnectionResetError

    before = story.there()
    await (story.crm.move(1, "Archive") if command == "UID MOVE" else story.crm.append(100, "Archive"))
    story.server.lies[command] = begin
    for _ in range(4):
        with contextlib.suppress(ConnectorError, MailgateError):
            await story.engine.sync()
        story.engine.clock.advance(0.05)
    assert len(late) == 1
    for done in late:
        done()
    story.server.lies.clear()
    await story.sync(1)
    assert await story.crm.states() == ["applied"]
    assert story.there() == before + (Counter() if command == "UID MOVE" else Counter([mail(100)]))
    assert await story.agrees()


@pytest.mark.parametrize("command", ["UID MOVE", "APPEND"])
async def test_what_was_lost_with_the_line_is_asked_for_again(story: Story, command: str) -> None:
    before = story.there()
    await (story.crm.move(1, "Archive") if command == "UID MOVE" else story.crm.append(100, "Archive"))
    story.server.lies[command] = _reset
    with contextlib.suppress(ConnectorError, MailgateError):
        await story.engine.sync()
    story.server.lies.clear()
    await story.sync(2)
    assert await story.crm.states() == ["applied"]
    assert story.there() == before + (Counter() if command == "UID MOVE" else Counter([mail(100)]))
    assert await story.agrees()


async def _reset(talk: Talk, rest: bytes) -> None:
    raise ConnectionResetError


async def test_a_server_that_takes_a_message_and_shows_it_nowhere(story: Story) -> None:
    """It said OK, so it is not sent for ever: whatever it did with the message, it would do again."""
    before = story.there()
    await story.crm.append(100, "Archive")

    async def swallow(talk: Talk, rest: bytes) -> None:
        await talk.ok()

    story.server.lies["APPEND"] = swallow
    await story.sync(6)
    assert sum(line.startswith(b"APPEND") for line in story.server.heard) == 1
    assert await story.crm.states() == ["failed not_kept"]
    assert story.there() == before
    assert await story.agrees()
