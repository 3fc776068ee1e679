"""Operations that the server refuses, puts off, or can't be asked for: rolled back with its reason, or tried again."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest
from sqlalchemy import insert, update

from connectors.errors import NetworkError, Retry, ServerError
from connectors.memory import MemoryAccount, MemoryConnection
from connectors.model import Selected
from connectors.port import Placed
from mailgate.clock import DAY, SECOND
from mailgate.errors import ConflictError
from mailgate.ids import new_id
from mailgate.settings import SyncSettings
from mailgate.store.schema import holds, messages
from mailgate.store.transaction import Transaction
from tests.sync.crm import Crm
from tests.sync.engine import NOW, Engine, Opened, mail
from tests.sync.test_push import again, agrees, changes, server, start


@pytest.fixture
def account() -> MemoryAccount:
    return server()


@pytest.fixture
async def crm(engine: Engine) -> Crm:
    await engine.sync()
    return Crm(engine)


async def news(crm: Crm, before: int) -> list[tuple[str, dict[str, Any]]]:
    """Events about messages and folders since then."""
    rows = (await crm.engine.events())[before:]
    return [(row.type, row.payload) for row in rows if row.type.startswith(("message.", "folder."))]


async def count(crm: Crm) -> int:
    return len(await crm.engine.events())


async def hold(crm: Crm) -> None:
    """All of the tenant's mail is held."""
    values = {"id": new_id(NOW), "scope": "tenant", "matter": "M", "reason": "r", "placed_at": NOW, "placed_by": "x"}

    async def work(tx: Transaction) -> None:
        await tx.conn.execute(insert(holds).values(tenant_id=crm.engine.tenant_id, **values))

    await crm.engine.db.transact(work)


# Refused.


async def test_a_refused_move_goes_back(crm: Crm, account: MemoryAccount) -> None:
    await crm.move(1, "Archive")
    before = await count(crm)
    account.faults.refusals["MOVE"] = "CANNOT"
    await again(crm)
    assert await crm.states() == ["failed CANNOT"]
    (row,) = await crm.operations()
    assert "NO" in row.reason
    assert await agrees(crm)
    ((type_, payload),) = await news(crm, before)
    assert type_ == "message.moved"
    assert payload["folder_id"] == await crm.folder("INBOX")
    assert payload["from_folder_id"] == await crm.folder("Archive")


async def test_a_refused_store_goes_back(crm: Crm, account: MemoryAccount) -> None:
    await crm.flags(0, add=["\\Flagged"])
    await crm.flags(1, add=["$Deal"], remove=["\\Seen"])
    before = await count(crm)
    account.faults.refusals["STORE"] = None
    await again(crm)
    assert await crm.states() == ["failed refused", "failed refused"]
    assert await agrees(crm)
    assert [type_ for type_, _ in await news(crm, before)] == ["message.updated", "message.updated"]
    assert (await crm.message(1)).seen


async def test_only_the_refused_flags_go_back(crm: Crm, account: MemoryAccount) -> None:
    """A later wish about the same flag stands."""
    await crm.flags(0, add=["\\Flagged"])
    account.faults.refusals["STORE"] = None
    await again(crm)
    del account.faults.refusals["STORE"]
    await crm.flags(0, add=["\\Flagged", "\\Answered"])
    await again(crm)
    assert await crm.states() == ["failed refused", "applied"]
    assert account.folders["INBOX"].messages[1].flags == {"\\Flagged", "\\Answered"}
    assert await agrees(crm)


async def test_flags_that_the_server_does_not_keep_go_back(opened: Opened) -> None:
    account = server(keeps_flags=frozenset({"\\Seen", "\\Flagged"}))
    crm = await start(opened, account)
    await crm.flags(0, add=["\\Flagged", "$Deal"])
    await crm.flags(2, add=["\\Flagged"])
    await crm.flags(4, add=["$Deal"])
    await again(crm)
    assert await crm.states() == ["failed flag_not_kept", "applied", "failed flag_not_kept"]
    assert "$Deal" in (await crm.operations())[0].reason
    assert (await crm.message(0)).flags == ["\\Flagged"]
    assert (await crm.message(4)).flags == []
    assert await agrees(crm)


async def test_a_refused_deletion_is_shown_again(crm: Crm, account: MemoryAccount) -> None:
    await crm.delete(2)
    before = await count(crm)
    account.faults.refusals["EXPUNGE"] = "NOPERM"
    await again(crm)
    assert await crm.states() == ["failed NOPERM"]
    assert (await crm.message(2)).deleted_at is None
    events = await news(crm, before)
    assert ("message.updated", True) in [(type_, payload.get("restored")) for type_, payload in events]


async def test_a_refused_append_ends_the_copy(crm: Crm, account: MemoryAccount) -> None:
    await crm.append(60, "Archive")
    before = await count(crm)
    account.faults.refusals["APPEND"] = "OVERQUOTA"
    await again(crm)
    assert await crm.states() == ["failed OVERQUOTA"]
    assert [type_ for type_, _ in await news(crm, before)] == ["message.deleted"]
    assert await agrees(crm)
    (leaf,) = await crm.removals()
    assert b'"append_refused"' in leaf


async def test_a_refused_append_that_is_pinned_stays_without_an_original(crm: Crm, account: MemoryAccount) -> None:
    id_ = await crm.append(60, "Archive")
    await crm.engine.pin(id_)
    account.faults.refusals["APPEND"] = "OVERQUOTA"
    await again(crm)
    assert await crm.states() == ["failed OVERQUOTA"]
    assert (await crm.message(60)).moving_to is None
    assert await crm.stands(60) == []
    assert await agrees(crm)


async def test_refused_folders_go_back(crm: Crm, account: MemoryAccount) -> None:
    await crm.create("Deals")
    await crm.rename("Work", "Jobs")
    await crm.remove("Empty")
    before = await count(crm)
    account.faults.refusals.update({"CREATE": "NOPERM", "RENAME": "CANNOT", "DELETE": "INUSE"})
    account.faults.refusals["DELETE"] = "NOPERM"
    await again(crm)
    assert await crm.states() == ["failed NOPERM", "failed CANNOT", "failed NOPERM"]
    assert [type_ for type_, _ in await news(crm, before)] == ["folder.deleted", "folder.renamed", "folder.created"]
    assert await agrees(crm)


async def test_a_move_into_a_folder_that_was_refused_fails_with_it(crm: Crm, account: MemoryAccount) -> None:
    await crm.create("Deals")
    await crm.move(0, "Deals")
    account.faults.refusals["CREATE"] = "NOPERM"
    await again(crm)
    assert await crm.states() == ["failed NOPERM", "failed folder_gone"]
    assert await agrees(crm)
    assert await crm.stands(0) == [("INBOX", 1)]


async def test_a_folder_that_is_gone_at_the_server(crm: Crm, account: MemoryAccount) -> None:
    await crm.move(0, "Archive")
    await crm.append(60, "Archive")
    account.delete_folder("Archive")
    await again(crm)
    assert await crm.states() == ["failed folder_gone", "failed folder_gone"]
    assert await agrees(crm)


class Picky(MemoryConnection):
    """Refuses every command in which the message with UID 2 is named."""

    async def move(self, uids: Sequence[int], to: str) -> Placed | None:
        if 2 in uids:
            raise ServerError("MOVE was answered NO: not this one", retry=Retry.NEVER)
        return await super().move(uids, to)

    async def store_flags(
        self, uids: Sequence[int], *, add: frozenset[str] = frozenset(), remove: frozenset[str] = frozenset()
    ) -> dict[int, frozenset[str]]:
        if 2 in uids:
            raise ServerError("STORE was answered NO: not this one", retry=Retry.NEVER)
        return await super().store_flags(uids, add=add, remove=remove)


async def test_what_is_refused_for_one_is_done_for_the_others(opened: Opened) -> None:
    account = server()

    async def connect() -> MemoryConnection:
        connection = Picky(account)
        account.connections.append(connection)
        return connection

    engine = await opened(account, connect=connect)
    await engine.sync()
    crm = Crm(engine)
    for n in range(4):
        await crm.flags(n, add=["\\Flagged"])
    for n in range(4):
        await crm.move(n, "Archive")
    await again(crm)
    assert await crm.states() == ["applied", "failed refused", "applied", "applied"] * 2
    assert sorted(m.raw for m in account.folders["Archive"].messages.values()) == [mail(0), mail(2), mail(3)]
    assert await agrees(crm)


async def test_a_quota_is_no_matter_of_single_messages(opened: Opened) -> None:
    account = server(move=False)
    crm = await start(opened, account)
    account.quota = account.octets + 10
    for n in range(4):
        await crm.move(n, "Archive")
    await again(crm)
    assert await crm.states() == ["failed OVERQUOTA"] * 4
    assert len(changes(account)) == 1
    assert await agrees(crm)


async def test_a_folder_that_can_only_be_read(crm: Crm, account: MemoryAccount) -> None:
    account.folders["INBOX"].read_only = True
    await crm.flags(0, add=["\\Flagged"])
    await crm.move(1, "Archive")
    await crm.delete(2)
    sent = len(changes(account))
    await again(crm)
    assert await crm.states() == ["failed READ-ONLY"] * 3
    assert len(changes(account)) == sent
    assert await agrees(crm)


# Half of it.


async def test_a_copy_whose_original_the_server_keeps_is_taken_back(opened: Opened) -> None:
    account = server(move=False)
    crm = await start(opened, account)
    await crm.move(0, "Archive")
    account.faults.lose_answer = 1  # that of \Deleted, after COPY
    with pytest.raises(NetworkError):
        await again(crm)
    account.folders["INBOX"].read_only = True
    await again(crm)
    assert await crm.states() == ["failed READ-ONLY"]
    assert account.folders["Archive"].messages == {}
    account.folders["INBOX"].read_only = False
    await again(crm)
    assert await crm.stands(0) == [("INBOX", 1)]


async def test_a_move_that_was_done_for_some(crm: Crm, account: MemoryAccount) -> None:
    for n in range(4):
        await crm.move(n, "Archive")
    account.faults.move_only = 2
    with pytest.raises(NetworkError):
        await again(crm)
    await again(crm)
    assert await crm.states() == ["applied"] * 4
    assert sorted(m.raw for m in account.folders["Archive"].messages.values()) == [mail(n) for n in range(4)]
    assert await agrees(crm)
    assert not await crm.engine.events("message.moved", "message.deleted")


# Without what it takes.


async def test_without_move_and_uidplus_nothing_is_sent(opened: Opened) -> None:
    account = server(move=False, uidplus=False)
    crm = await start(opened, account)
    await crm.move(0, "Archive")
    await crm.delete(1)
    await crm.append(60, "Archive")
    await again(crm)
    assert await crm.states() == ["failed no_move", "failed no_uidplus", "applied"]
    assert [command.split()[0] for command in changes(account)] == ["APPEND"]
    assert await agrees(crm)


async def test_labels(opened: Opened) -> None:
    account = server(labels=True)
    account.store_labels("INBOX", 1, ["Old"])
    crm = await start(opened, account)
    await crm.labels(0, add=["Deal"], remove=["Old"])
    await crm.labels(1, add=["Deal"])
    await again(crm)
    assert await crm.states() == ["applied", "applied"]
    assert account.folders["INBOX"].messages[1].labels == {"Deal"}
    assert (await crm.message(0)).labels == ["Deal"]
    assert await agrees(crm)


async def test_labels_where_there_are_none(crm: Crm) -> None:
    await crm.labels(0, add=["Deal"])
    await again(crm)
    assert await crm.states() == ["failed no_labels"]


# Put off.


@pytest.mark.parametrize(("word", "ask"), [("MOVE", Crm.move), ("APPEND", Crm.append)])
async def test_what_is_put_off_is_tried_again(crm: Crm, account: MemoryAccount, word: str, ask: Any) -> None:
    await ask(crm, 1 if word == "MOVE" else 60, "Archive")
    account.faults.refusals[word] = "INUSE"
    await again(crm)
    (row,) = await crm.operations()
    assert (row.finished_at, row.attempts) == (None, 1)
    assert row.next_at > crm.engine.clock.now - 1000 * 600
    assert "INUSE" in row.reason
    del account.faults.refusals[word]
    await again(crm)
    assert await crm.states() == ["applied"]
    assert await agrees(crm)
    assert len(account.folders["Archive"].messages) == 1


@pytest.mark.parametrize("code", ["SERVERBUG", "EXPUNGEISSUED"])
async def test_what_broke_at_the_server_is_tried_again(crm: Crm, account: MemoryAccount, code: str) -> None:
    await crm.move(1, "Archive")
    await crm.flags(0, add=["\\Flagged"])
    account.faults.refusals["MOVE"] = code
    await again(crm)
    assert (await crm.states())[1] == "applied"  # nobody asked for a pause
    del account.faults.refusals["MOVE"]
    await again(crm)
    assert await crm.states() == ["applied", "applied"]
    assert await agrees(crm)


async def test_a_pause_does_not_wait_out_a_clock_that_is_set_back(crm: Crm, account: MemoryAccount) -> None:
    crm.engine.clock.advance(400 * 86_400)
    await crm.move(1, "Archive")
    account.faults.refusals["MOVE"] = "INUSE"
    await crm.engine.sync()
    assert (await crm.operations())[0].attempts == 1
    del account.faults.refusals["MOVE"]
    crm.engine.clock.advance(-400 * 86_400)
    await crm.engine.sync()
    assert await crm.states() == ["applied"]
    assert await agrees(crm)


async def test_a_pause_is_kept(crm: Crm, account: MemoryAccount) -> None:
    await crm.move(1, "Archive")
    account.faults.refusals["MOVE"] = "LIMIT"
    await again(crm)
    sent = len(changes(account))
    await crm.engine.sync()  # at once: it is not tried before its time
    assert len(changes(account)) == sent
    assert (await crm.operations())[0].attempts == 1


@pytest.mark.parametrize("word", ["STORE", "MOVE", "EXPUNGE", "CREATE"])
async def test_what_is_put_off_for_ever_fails(opened: Opened, word: str) -> None:
    account = server()
    settings = SyncSettings(poll_interval_s=1, backoff_min_s=0.01, backoff_max_s=1, push_attempts=3)
    engine = await opened(account, settings=settings)
    await engine.sync()
    crm = Crm(engine)
    ask = {
        "STORE": crm.flags(0, add=["\\Flagged"]),
        "MOVE": crm.move(0, "Archive"),
        "EXPUNGE": crm.delete(0),
        "CREATE": crm.create("Deals"),
    }
    for name, asking in ask.items():
        if name == word:
            await asking
        else:
            asking.close()
    account.faults.refusals[word] = "UNAVAILABLE"
    for _ in range(3):
        assert await crm.states() in (["pending"], ["sent"])
        await again(crm)
    assert await crm.states() == ["failed server_busy"]
    account.faults.refusals.clear()
    await again(crm)
    assert [row for row in await engine.rows("messages") if row.deleted_at or row.moving_to] == []


async def test_an_append_whose_bytes_are_lost_fails(opened: Opened) -> None:
    settings = SyncSettings(poll_interval_s=1, backoff_min_s=0.01, backoff_max_s=1, push_attempts=2)
    engine = await opened(server(), settings=settings)
    await engine.sync()
    crm = Crm(engine)
    await crm.append(60, "Archive")
    (row,) = [row for row in await engine.rows("messages") if row.moving_to is not None]
    await engine.blobs.erase(row.blob_id)
    for state in ("sent", "failed unreadable"):
        with pytest.raises(NetworkError):
            await again(crm)
        assert await crm.states() == [state]
    await again(crm)
    assert await agrees(crm)


# Not to be sent.


class Stolen(MemoryConnection):
    """As it opens a folder for writing, this process is stopped for longer than its lease, and another one comes."""

    steal: Callable[[], Awaitable[object]] | None = None

    async def select(self, name: str) -> Selected:
        steal, Stolen.steal = Stolen.steal, None
        if steal is not None:
            await steal()
        return await super().select(name)


@pytest.mark.parametrize("taken", [True, False])
async def test_who_lost_the_mailbox_sends_nothing(opened: Opened, *, taken: bool) -> None:
    account = server()

    async def connect() -> MemoryConnection:
        connection = Stolen(account)
        account.connections.append(connection)
        return connection

    engine = await opened(account, connect=connect)
    await engine.sync()
    crm = Crm(engine)
    await crm.flags(0, add=["\\Flagged"])

    async def steal() -> None:
        engine.clock.advance(10 * engine.settings.lease_s)
        if taken:
            store, now = engine.store, engine.clock()
            assert await store.acquire(engine.mailbox_id, engine.tenant_id, "another", 3_600 * SECOND, now)

    Stolen.steal = steal
    sent = len(changes(account))
    if taken:
        with pytest.raises(ConflictError, match="another owner"):
            await engine.sync()
        assert len(changes(account)) == sent
        assert await crm.states() == ["pending"]
        assert account.connections == []
    else:  # nobody has it: the lease is made longer before the command
        await engine.sync()
        assert await crm.states() == ["applied"]


async def test_what_was_purged_is_not_touched_at_the_server(crm: Crm, account: MemoryAccount) -> None:
    await crm.move(1, "Archive")
    await crm.flags(2, add=["\\Flagged"])
    await crm.delete(3)
    crm.engine.clock.advance(200 * 86_400)
    await crm.engine.purge()
    sent = len(changes(account))
    await again(crm)
    assert await crm.states() == ["failed purged"] * 3
    assert len(changes(account)) == sent
    assert len(account.folders["INBOX"].messages) == 6


async def test_what_is_pinned_after_all_is_not_deleted(crm: Crm, account: MemoryAccount) -> None:
    id_ = await crm.id(1)
    await crm.engine.pin(id_)
    await crm.delete(1)
    sent = len(changes(account))
    await again(crm)
    assert await crm.states() == ["failed pinned"]
    assert len(changes(account)) == sent
    assert await agrees(crm)


async def test_what_is_held_loses_its_original_and_stays_hidden(crm: Crm, account: MemoryAccount) -> None:
    await hold(crm)
    id_ = await crm.id(1)
    await crm.delete(1)
    before = await count(crm)
    await again(crm)
    assert await crm.states() == ["applied"]
    assert 2 not in account.folders["INBOX"].messages
    (row,) = await crm.engine.rows("messages", lambda c: c.id == id_)
    assert row.deleted_at is not None
    assert await news(crm, before) == []
    assert await crm.removals() == []


async def test_without_an_entitlement_nothing_is_sent(crm: Crm, account: MemoryAccount) -> None:
    await crm.move(1, "Archive")
    await crm.engine.plan("free")
    logins = account.commands.count("LOGIN")
    await again(crm)
    assert account.commands.count("LOGIN") == logins
    assert await crm.states() == ["pending"]
    await crm.engine.plan("professional")
    await again(crm)
    assert await crm.states() == ["applied"]


async def test_the_folder_changed_since_the_user_saw_it(crm: Crm, account: MemoryAccount) -> None:
    await crm.remove("Empty")
    account.append("Empty", mail(70), internal_date=NOW - DAY)
    await again(crm)
    assert await crm.states() == ["failed folder_changed"]
    assert await agrees(crm)
    assert await crm.stands(70) == [("Empty", 1)]


async def test_a_folder_goes_with_what_is_in_it(crm: Crm, account: MemoryAccount) -> None:
    """Its messages are not known to be deleted one by one: they end with it."""
    pinned = await crm.id(50)
    account.append("Work", mail(52), internal_date=NOW - DAY)
    account.delete_folder("Work/Old")
    await again(crm)
    await again(crm)

    async def work(tx: Transaction) -> None:
        await tx.conn.execute(update(messages).where(messages.c.id == pinned).values(deleted_at=None))

    await crm.engine.db.transact(work)
    await crm.engine.pin(pinned)
    before = await count(crm)
    await crm.remove("Work", exists=2)
    await again(crm)
    assert await crm.states() == ["applied"]
    assert "Work" not in account.folders
    assert [type_ for type_, _ in await news(crm, before)] == ["message.deleted", "message.updated"]
    assert await crm.stands(50) == []
    assert await agrees(crm)
