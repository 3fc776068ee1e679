"""A purged copy comes back when somebody asks for it: the same id and bytes, its pins, and one entry in the log."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

import pytest
from sqlalchemy import delete, insert, select, update

from connectors.errors import NetworkError
from connectors.memory import MemoryAccount
from mailgate.actors import SYSTEM, Actor
from mailgate.clock import DAY
from mailgate.errors import ConflictError, GoneError, NotFoundError, PreconditionError
from mailgate.ids import new_id
from mailgate.store import operations as operation_rows
from mailgate.store.expiry import Expiry
from mailgate.store.mailboxes import MailboxSpec
from mailgate.store.pins import Pins
from mailgate.store.schema import log_leaves, operations, tombstones
from mailgate.store.wishes.locks import Locks
from mailgate.store.wishes.rehydrate import PinWanted, Rehydrations
from retention.ledger.replay import replay_leaves
from retention.ledger.report import Verdict
from retention.ledger.schema import parse_leaf
from retention.model import Graces
from retention.policy import ClockLimits
from tests.sync.engine import NOW, Engine, mail

USER = Actor("token", "T1")
OLD = NOW - 29 * DAY


class Purged:
    """An engine whose first messages were purged; `ids` by number of the mail."""

    def __init__(self, engine: Engine, account: MemoryAccount, ids: dict[int, str]) -> None:
        self.engine, self.account, self.ids = engine, account, ids
        expiry = Expiry(engine.subscriptions, Graces())
        locks = Locks(engine.subscriptions, expiry, ClockLimits(), engine.log)
        self.wishes = Rehydrations(engine.db, engine.ring, locks)
        self.pins = Pins(engine.db, engine.ring, engine.log, expiry)

    async def ask(self, n: int, *pins: PinWanted) -> str:
        engine = self.engine
        asked = await self.wishes.ask(engine.tenant_id, self.ids[n], pins, engine.clock(), USER)
        return asked.operation_ids[0]

    async def pin(self, n: int) -> None:
        engine = self.engine
        await self.pins.put(engine.tenant_id, self.ids[n], "deal", "D", note=None, now=engine.clock(), actor=USER)

    async def sync(self) -> None:
        self.engine.clock.advance(600)
        await self.engine.sync()

    async def operation(self, id_: str) -> operation_rows.OperationRecord:
        return await operation_rows.get(self.engine.db, self.engine.tenant_id, id_)

    async def message(self, n: int) -> Any:
        (row,) = await self.engine.rows("messages", lambda c: c.id == self.ids[n])
        return row

    async def graves(self, n: int) -> Sequence[Any]:
        return await self.engine.rows("tombstones", lambda c: c.message_id == self.ids[n])

    async def log(self) -> list[dict[str, Any]]:
        async with self.engine.db.read() as conn:
            bodies = list((await conn.execute(select(log_leaves.c.body).order_by(log_leaves.c.idx))).scalars())
        report = replay_leaves(bodies)
        assert report.verdict is Verdict.OK, report.lines()
        return [parse_leaf(body) for body in bodies]

    async def is_here(self, n: int) -> Any:
        """It has its old id, its bytes and an original, no tombstone, and was announced once."""
        row = await self.message(n)
        assert await self.engine.raw(row) == mail(n)
        assert await self.graves(n) == []
        assert len(await self.engine.rows("origins", lambda c: (c.message_id == row.id) & c.vanished_at.is_(None))) == 1
        created = await self.engine.events("message.created")
        assert [event.message_id for event in created].count(row.id) == 1
        return row


@pytest.fixture
async def purged(engine: Engine, account: MemoryAccount) -> Purged:
    """Mails 0 and 1 were purged, mail 2 is young; all are still at the server."""
    await engine.plan("crm_plus")
    account.create_folder("Archive")
    for n, days in enumerate((29, 28, 1)):
        account.append("INBOX", mail(n), internal_date=NOW - days * DAY)
    await engine.sync()
    ids = {}
    for row in await engine.rows("messages"):
        raw = await engine.raw(row)
        ids[next(n for n in range(3) if mail(n) == raw)] = row.id
    engine.clock.advance(5 * 86_400)
    await engine.purge()
    assert len(await engine.rows("messages")) == 1
    return Purged(engine, account, ids)


async def test_it_is_the_same_message(purged: Purged) -> None:
    operation = await purged.ask(0)
    await purged.sync()
    assert (await purged.operation(operation)).state == "applied"
    row = await purged.is_here(0)
    assert (row.anchor_at, row.anchor_source, row.pins) == (OLD, "rehydrated", 0)
    assert row.keep_until_at == row.stored_at + 7 * DAY or row.keep_until_at > row.stored_at + 6 * DAY
    (event,) = await purged.engine.events("message.rehydrated")
    assert (event.message_id, event.payload["expires_at"]) == (row.id, row.keep_until_at)
    (leaf,) = [leaf for leaf in await purged.log() if leaf["type"] == "rehydrate"]
    assert (leaf["item_ref"], leaf["pins"], leaf["actor"]) == (row.item_ref, 0, {"kind": "token", "ref": "T1"})
    purge = next(leaf for leaf in await purged.log() if leaf.get("item_ref") == row.item_ref)
    assert (purge["type"], purge["content_commit"]) == ("item.purge", leaf["content_commit"])
    assert await purged.graves(1) != []  # what nobody asked for stays away


async def test_an_original_that_is_gone_does_not_matter_while_another_stands(purged: Purged) -> None:
    engine = purged.engine
    (grave,) = await purged.graves(0)
    other = {"id": new_id(engine.clock()), "folder": "Archive", "uid": 99, "gone_at": engine.clock()}
    async with engine.db.write() as tx:
        await tx.conn.execute(insert(tombstones).values(grave._asdict() | other))
    await purged.ask(0)
    await purged.sync()
    await purged.is_here(0)


async def test_it_goes_when_its_time_is_over_and_may_come_again(purged: Purged) -> None:
    for _ in range(2):
        await purged.ask(0)
        await purged.sync()
        row = await purged.is_here(0)
        purged.engine.clock.now = row.keep_until_at - 10
        await purged.engine.purge()
        assert (await purged.message(0)).id == row.id
        purged.engine.clock.now = row.keep_until_at
        await purged.engine.purge()
        assert await purged.graves(0) != []
    kinds = [leaf["type"] for leaf in await purged.log() if leaf.get("item_ref") == row.item_ref]
    assert kinds == ["item.purge", "rehydrate", "item.purge", "rehydrate", "item.purge"]


async def test_it_comes_with_its_pins(purged: Purged) -> None:
    deal, task = PinWanted("deal", "D-1", "why"), PinWanted("task", "T-1")
    operation = await purged.ask(0, deal)
    assert await purged.ask(0, task, PinWanted("deal", "D-1")) == operation
    async with purged.engine.db.read() as conn:
        assert "why" not in str((await conn.execute(select(operations.c.detail))).scalar_one())
    await purged.sync()
    assert (await purged.is_here(0)).pins == 2
    pins = (await purged.pins.list_page(purged.engine.tenant_id)).items
    assert [(pin.entity_type, pin.entity_id, pin.note) for pin in pins] == [
        ("deal", "D-1", "why"),
        ("task", "T-1", None),
    ]
    kinds = [leaf["type"] for leaf in await purged.log()]
    assert kinds[-3:] == ["rehydrate", "pin.add", "pin.add"]
    told = [event.type for event in await purged.engine.events() if event.message_id == purged.ids[0]]
    assert told[-4:] == ["message.rehydrated", "message.pinned", "message.pinned", "operation.applied"]
    (event,) = await purged.engine.events("message.rehydrated")
    assert event.payload["expires_at"] is None
    purged.engine.clock.advance(365 * 86_400)
    await purged.engine.purge()
    assert (await purged.message(0)).pins == 2


async def test_it_is_found_in_a_folder_that_was_renumbered(purged: Purged) -> None:
    purged.account.change_uidvalidity("INBOX")
    await purged.ask(0)
    await purged.sync()
    await purged.is_here(0)


async def test_it_is_found_where_it_was_moved(purged: Purged) -> None:
    purged.account.move("INBOX", 1, "Archive")
    await purged.ask(0)
    await purged.sync()
    await purged.is_here(0)
    assert await purged.engine.near() == {
        "Archive": [(mail(0), ())],
        "INBOX": [(mail(2), ())],
    }


async def test_it_is_found_in_a_renamed_folder(purged: Purged) -> None:
    purged.account.move("INBOX", 1, "Archive")
    await purged.sync()
    purged.account.rename_folder("Archive", "Old")
    purged.account.change_uidvalidity("Old")
    await purged.ask(0)
    await purged.sync()
    await purged.is_here(0)


async def test_another_message_under_its_number_is_not_it(purged: Purged) -> None:
    """Where numbers were given again, the header tells."""
    async with purged.engine.db.write() as tx:
        other = update(tombstones).where(tombstones.c.message_id == purged.ids[0])
        await tx.conn.execute(other.values(uid=3))
    await purged.ask(0)
    await purged.sync()
    await purged.is_here(0)


async def test_what_is_gone_fails_and_is_known_to_be_gone(purged: Purged) -> None:
    purged.account.expunge("INBOX", 1)
    operation = await purged.ask(0)
    await purged.sync()
    record = await purged.operation(operation)
    assert (record.state, record.code) == ("failed", "gone_at_server")
    with pytest.raises(GoneError) as refused:
        await purged.ask(0)
    assert refused.value.slug == "original_gone"
    for n, said in ((0, "gone as well, and nothing brings it back"), (1, "rehydrate brings it back, with this pin")):
        with pytest.raises(ConflictError, match=said) as late:
            await purged.pin(n)
        assert (late.value.slug, late.value.extra["original_gone"]) == ("purged", n == 0)
    assert [event.payload["code"] for event in await purged.engine.events("operation.failed")] == ["gone_at_server"]


async def test_a_folder_that_cannot_be_read_proves_nothing(purged: Purged) -> None:
    purged.account.expunge("INBOX", 1)
    purged.account.faults.refuse.add("Archive")
    operation = await purged.ask(0)
    await purged.sync()
    record = await purged.operation(operation)
    assert record.state == "pending"
    assert record.reason is not None
    purged.account.faults.refuse.clear()
    await purged.sync()
    assert (await purged.operation(operation)).state == "failed"


async def test_equal_messages_come_back_one_by_one(engine: Engine, account: MemoryAccount) -> None:
    await engine.plan("crm_plus")
    for _ in range(3):
        account.append("INBOX", mail(0), internal_date=OLD)
    await engine.sync()
    ids = dict(enumerate(row.id for row in await engine.rows("messages")))
    engine.clock.advance(5 * 86_400)
    await engine.purge()
    account.change_uidvalidity("INBOX")
    account.expunge("INBOX", 2)
    purged = Purged(engine, account, ids)
    wanted = [await purged.ask(n) for n in range(3)]
    await purged.sync()
    states = sorted([(await purged.operation(id_)).state.value for id_ in wanted])
    assert states == ["applied", "applied", "failed"]
    assert len(await engine.rows("messages")) == 2
    assert len({row.uid for row in await engine.rows("origins")}) == 2


async def test_cut_anywhere_it_ends_in_the_same_state(purged: Purged) -> None:
    purged.account.move("INBOX", 1, "Archive")
    await purged.ask(0, PinWanted("deal", "D"))
    await purged.ask(1)
    for steps in range(60):
        purged.account.faults.cut_after = steps
        with contextlib.suppress(NetworkError):
            await purged.sync()
    purged.account.faults.cut_after = None
    await purged.sync()
    await purged.is_here(0)
    await purged.is_here(1)
    assert [leaf["type"] for leaf in await purged.log()].count("rehydrate") == 2
    assert len(await purged.engine.events("message.rehydrated")) == 2


async def test_a_copy_that_came_back_meanwhile_gets_the_pins(purged: Purged) -> None:
    """Two processes at once: the second finds the copy and adds what is missing."""
    await purged.ask(0)
    await purged.sync()
    engine = purged.engine

    async def again(tx: Any) -> None:
        pin = {"entity_type": "deal", "entity_id": "D", "note": None}
        await operation_rows.ask(
            tx,
            tenant_id=engine.tenant_id,
            mailbox_id=engine.mailbox_id,
            kind=operation_rows.OperationKind.REHYDRATE,
            now=engine.clock(),
            actor=USER,
            message_id=purged.ids[0],
            detail={"pins": [pin]},
        )

    await engine.db.transact(again)
    await purged.sync()
    assert (await purged.is_here(0)).pins == 1
    assert [leaf["type"] for leaf in await purged.log()].count("rehydrate") == 1


async def test_what_was_pruned_meanwhile_fails(purged: Purged) -> None:
    operation = await purged.ask(0)
    async with purged.engine.db.write() as tx:
        await tx.conn.execute(delete(tombstones).where(tombstones.c.message_id == purged.ids[0]))
    purged.account.expunge("INBOX", 1)
    await purged.sync()
    assert (await purged.operation(operation)).code == "gone_at_server"


async def test_what_is_too_large_by_now_fails_and_says_so(purged: Purged) -> None:
    purged.engine.settings = purged.engine.settings.model_copy(update={"max_message_bytes": 10})
    operation = await purged.ask(0)
    await purged.sync()
    assert (await purged.operation(operation)).code == "too_large"


async def test_an_account_that_is_connected_again(purged: Purged) -> None:
    engine = purged.engine
    await engine.mailboxes.remove(engine.tenant_id, engine.mailbox_id, engine.clock(), SYSTEM)
    with pytest.raises(ConflictError) as refused:
        await purged.ask(0)
    assert refused.value.slug == "mailbox_removed"
    imap = {"host": "imap.example.com", "port": 993, "security": "tls", "username": "bob"}
    spec = MailboxSpec("bob@example.com", imap, {"imap": {"password": "secret"}})
    engine.mailbox_id = (await engine.mailboxes.create(engine.tenant_id, spec, engine.clock(), SYSTEM)).id
    await purged.ask(0)
    await purged.sync()
    assert (await purged.is_here(0)).mailbox_id == engine.mailbox_id


async def test_refusals(purged: Purged) -> None:
    engine = purged.engine

    async def slug(n: int, *pins: PinWanted) -> str:
        with pytest.raises((ConflictError, NotFoundError, GoneError, PreconditionError)) as refused:
            await purged.ask(n, *pins)
        said.append(refused.value.detail)
        return refused.value.slug

    said: list[str] = []

    purged.ids[9] = "0" * 26
    assert await slug(2) == "not_purged"
    assert await slug(9) == "message_not_found"
    assert await slug(0, PinWanted("deal", "D\0")) == "entity_id_invalid"
    await engine.enable(False)
    assert await slug(0) == "mailbox_disabled"
    await engine.enable(True)
    await engine.plan("free")
    assert await slug(0) == "not_entitled"
    assert "nothing is fetched from the mail server" in said[-1]
    assert "until the tenant is on a plan that has it" in said[-1]
    async with engine.db.write() as tx:
        mine = update(tombstones).where(tombstones.c.message_id == purged.ids[0])
        await tx.conn.execute(mine.values(reason="user_deleted"))
        mine = update(tombstones).where(tombstones.c.message_id == purged.ids[1])
        await tx.conn.execute(mine.values(reason="erasure_request"))
    assert await slug(0) == "message_not_found"
    assert await slug(1) == "gone"
