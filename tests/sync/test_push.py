"""What the CRM asks for reaches the server once, in order, whatever goes wrong on the way."""

from __future__ import annotations

from collections.abc import AsyncIterable, Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import pytest

from connectors.errors import NetworkError
from connectors.memory import MemoryAccount, target
from connectors.model import SpecialUse
from mailgate.clock import DAY, SECOND
from mailgate.sync.ownership import Leases, OwnershipLostError
from tests.sync.crm import Crm
from tests.sync.engine import NOW, Opened, mail

ABILITIES = {
    "all": {},
    "plain": {"condstore": False, "qresync": False},
    "no move": {"move": False},
    "no uidplus": {"uidplus": False},
}


def server(**abilities: Any) -> MemoryAccount:
    """An account with some folders and six messages in INBOX, UIDs 1 to 6; `mail(n)` has UID n + 1."""
    account = MemoryAccount(now=NOW, **abilities)
    account.create_folder("Archive", special_use=SpecialUse.ARCHIVE)
    account.create_folder("Trash", special_use=SpecialUse.TRASH)
    account.create_folder("Empty")
    account.create_folder("Work")
    account.create_folder("Work/Old")
    account.subscribed |= {"Archive", "Empty", "Work", "Work/Old"}
    for n in range(6):
        account.append("INBOX", mail(n), internal_date=NOW - n * DAY, flags=["\\Seen"] if n % 2 else [])
    account.append("Work", mail(50), internal_date=NOW - DAY)
    account.append("Work/Old", mail(51), internal_date=NOW - DAY)
    return account


@pytest.fixture(params=ABILITIES)
def account(request: pytest.FixtureRequest) -> MemoryAccount:
    return server(**ABILITIES[request.param])


async def start(opened: Opened, account: MemoryAccount) -> Crm:
    engine = await opened(account)
    await engine.sync()
    return Crm(engine)


@pytest.fixture
async def crm(opened: Opened, account: MemoryAccount) -> Crm:
    return await start(opened, account)


async def again(crm: Crm) -> None:
    crm.engine.clock.advance(600)
    await crm.engine.sync()


async def agrees(crm: Crm) -> bool:
    """Both sides have the same messages in the same folders, and nothing is on its way."""
    assert not [row for row in await crm.engine.rows("messages") if row.moving_to or row.deleted_at]
    folders = [row for row in await crm.engine.rows("folders") if row.gone_at is None]
    assert not [row for row in folders if row.wanted_name or row.on_its_way]
    assert sorted(row.name for row in folders) == sorted(crm.engine.account.folders)
    return await crm.engine.near() == crm.engine.far(since=NOW - 90 * DAY)


def changes(account: MemoryAccount) -> list[str]:
    """The commands that changed something at the server."""
    words = ("UID STORE", "UID MOVE", "UID COPY", "UID EXPUNGE", "APPEND", "CREATE", "RENAME", "DELETE")
    return [command for command in account.commands if command.startswith(words)]


# Each kind, and each way in which its answer can be lost.


@dataclass(frozen=True)
class Case:
    """What is asked for, and what the server is to have afterwards."""

    ask: Callable[[Crm], Awaitable[object]]
    look: Callable[[MemoryAccount], object]
    wanted: object
    needs_uidplus: bool = False


async def _flags(crm: Crm) -> None:
    await crm.flags(0, add=["\\Flagged", "$Deal"])
    await crm.flags(2, add=["\\Flagged", "$Deal"])
    await crm.flags(1, remove=["\\Seen"])


async def _moves(crm: Crm) -> None:
    for n in (1, 2, 4):
        await crm.move(n, "Archive")


async def _deletes(crm: Crm) -> None:
    for n in (0, 3):
        await crm.delete(n)


async def _folder_with_mail(crm: Crm) -> None:
    await crm.create("Deals")
    await crm.move(0, "Deals")
    await crm.append(60, "Deals", flags=["\\Seen"])


async def _one_after_the_other(crm: Crm) -> None:
    await crm.flags(0, add=["\\Flagged"])
    await crm.move(0, "Archive")
    await crm.flags(0, remove=["\\Flagged"], add=["$Deal"])
    await crm.move(0, "Work")


def raws(name: str) -> Callable[[MemoryAccount], object]:
    return lambda account: sorted(m.raw for m in account.folders[name].messages.values())


CASES = {
    "flags": Case(
        _flags,
        lambda a: [sorted(a.folders["INBOX"].messages[uid].flags) for uid in (1, 2, 3)],
        [["$Deal", "\\Flagged"], [], ["$Deal", "\\Flagged"]],
    ),
    "moves": Case(_moves, raws("Archive"), [mail(1), mail(2), mail(4)]),
    "deletes": Case(_deletes, raws("INBOX"), [mail(1), mail(2), mail(4), mail(5)], needs_uidplus=True),
    "append": Case(
        lambda crm: crm.append(60, "Archive", flags=["\\Seen", "$Deal"]),
        lambda a: [(m.raw, sorted(m.flags), m.internal_date) for m in a.folders["Archive"].messages.values()],
        [(mail(60), ["$Deal", "\\Seen"], NOW)],
    ),
    "create": Case(
        lambda crm: crm.create("Deals"), lambda a: ("Deals" in a.folders, "Deals" in a.subscribed), (True, True)
    ),
    "rename": Case(
        lambda crm: crm.rename("Work", "Jobs"),
        lambda a: (sorted(a.folders), sorted(a.subscribed)),
        (["Archive", "Empty", "INBOX", "Jobs", "Jobs/Old", "Trash"], ["Archive", "Empty", "Jobs", "Jobs/Old"]),
    ),
    "remove": Case(
        lambda crm: crm.remove("Empty"), lambda a: ("Empty" in a.folders, "Empty" in a.subscribed), (False, False)
    ),
    "a new folder with mail": Case(_folder_with_mail, raws("Deals"), [mail(0), mail(60)]),
    "one after the other": Case(
        _one_after_the_other,
        lambda a: [(m.raw, sorted(m.flags)) for m in a.folders["Work"].messages.values()],
        [(mail(50), []), (mail(0), ["$Deal"])],
    ),
}


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest, account: MemoryAccount) -> Case:
    found: Case = CASES[request.param]
    if found.needs_uidplus and not account.uidplus:
        pytest.skip("it needs UIDPLUS")
    return found


async def asked(crm: Crm, case: Case) -> int:
    """Ask; how many events there are then."""
    await case.ask(crm)
    return len(await crm.engine.events())


async def holds(crm: Crm, case: Case, before: int) -> None:
    """It is done, once, on both sides, and the feed says no more than that."""
    account = crm.engine.account
    assert case.look(account) == case.wanted
    assert await agrees(crm)
    assert set(await crm.states()) == {"applied"}
    news = [event.type for event in (await crm.engine.events())[before:]]
    assert [type_ for type_ in news if type_.startswith(("message.", "folder."))] == []
    assert news.count("operation.applied") == len(await crm.operations())
    sent = len(changes(account))
    await again(crm)
    assert len(changes(account)) == sent
    assert case.look(account) == case.wanted


async def test_done(crm: Crm, case: Case) -> None:
    before = await asked(crm, case)
    await again(crm)
    await holds(crm, case, before)


async def test_a_server_may_store_what_was_long_on_its_way_after_the_line_broke(
    opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sending took longer than any answer may; what was sent whole is waited for from then on."""
    account = server()
    crm = await start(opened, account)
    await crm.append(70, "Work")
    engine, collect = crm.engine, target._collect

    async def slowly(size: int, chunks: AsyncIterable[bytes]) -> bytes:
        engine.clock.advance(62)  # of the 60 that an answer may take
        return await collect(size, chunks)

    with monkeypatch.context() as patch:
        patch.setattr(target, "_collect", slowly)
        account.faults.cut_before = 0
        with pytest.raises(NetworkError):
            await engine.sync()
    engine.clock.advance(5)
    await engine.sync()
    account.append("Work", mail(70), internal_date=(await crm.operations())[0].detail["received_at"])
    await again(crm)
    await again(crm)
    assert [message.raw for message in account.folders["Work"].messages.values()].count(mail(70)) == 1
    assert await crm.states() == ["applied"]


async def test_who_is_killed_while_it_sends_a_large_message_is_followed_soon(
    opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    account = server()
    crm = await start(opened, account)
    await crm.append(70, "Work", raw=mail(70, body="x" * 900_000))
    engine, collect = crm.engine, target._collect
    held_s: list[float] = []

    async def looked_at(size: int, chunks: AsyncIterable[bytes]) -> bytes:
        held_s.append((await engine.store.leased_until(engine.mailbox_id) - engine.clock()) / SECOND)
        return await collect(size, chunks)

    monkeypatch.setattr(target, "_collect", looked_at)
    await engine.sync()
    assert await crm.states() == ["applied"]
    assert len(held_s) == 1
    assert 60 < held_s[0] < 120  # an answer may take 60, however long sending takes


async def test_who_lost_its_mailbox_while_it_sends_a_large_message_does_not_send_the_last_octet(
    opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    account = server()
    crm = await start(opened, account)
    await crm.append(70, "Work")
    engine, collect = crm.engine, target._collect

    async def too_slow(size: int, chunks: AsyncIterable[bytes]) -> bytes:
        engine.clock.advance(3_600)
        other = Leases(engine.store, "other", 30, engine.clock)
        lease = await other.take(engine.mailbox_id, engine.tenant_id)
        assert lease is not None
        try:
            return await collect(size, chunks)
        finally:
            await other.give_back(lease)

    with monkeypatch.context() as patch:
        patch.setattr(target, "_collect", too_slow)
        with pytest.raises(OwnershipLostError):
            await engine.sync()
    there = account.folders["Work"].messages
    assert mail(70) not in [message.raw for message in there.values()]
    await again(crm)
    assert [message.raw for message in there.values()].count(mail(70)) == 1
    assert await crm.states() == ["applied"]


@pytest.mark.parametrize("fault", ["lose_answer", "cut_before"])
async def test_an_answer_that_is_lost(crm: Crm, case: Case, account: MemoryAccount, fault: str) -> None:
    """At every change that is made, until it is done undisturbed."""
    before = await asked(crm, case)
    for nth in range(8):
        setattr(account.faults, fault, nth % 2)
        try:
            await again(crm)
        except NetworkError:
            continue
        break
    setattr(account.faults, fault, None)
    await again(crm)
    await holds(crm, case, before)


async def test_cut_at_every_step(crm: Crm, case: Case, account: MemoryAccount) -> None:
    """A session goes one step further than the last, and is cut there."""
    if account.can_move and account.uidplus and not account.qresync:
        pytest.skip("how folders are read makes no difference here")
    before = await asked(crm, case)
    for step in range(200):
        account.faults.cut_after = step
        try:
            await again(crm)
        except NetworkError:
            continue
        account.faults.cut_after = None
        break
    await again(crm)
    await holds(crm, case, before)
