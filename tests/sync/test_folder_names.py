"""Folders that get a name which another had a moment ago, and still has at the server."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import insert

from connectors.errors import NetworkError, Retry, ServerError
from connectors.memory import MemoryAccount, MemoryConnection
from mailgate.ids import new_id
from mailgate.settings import SyncSettings
from mailgate.store.near_folders import Renames, renames
from mailgate.store.schema import folders
from mailgate.store.transaction import Transaction
from tests.property.reconcile_machine import template
from tests.property.reconcile_world import MemoryFar, World
from tests.sync.crm import Crm
from tests.sync.engine import NOW, Engine, TestClock, mail

OTHERS = ["Archive", "INBOX", "Trash"]


@pytest.fixture
def far() -> MemoryFar:
    far = MemoryFar("qresync", NOW)
    far.create("A")
    far.deliver("A", mail(1), NOW, frozenset())
    return far


@pytest.fixture
def world(far: MemoryFar) -> Iterator[World]:
    made = World(far, template(), TestClock(), SyncSettings())
    try:
        made.sync()
        yield made
    finally:
        made.close()


def near(world: World) -> dict[str, str]:
    """The folders that the CRM sees, but for those that every account has."""

    async def read() -> Renames:
        async with world.engine.db.read() as conn:
            return await renames(conn, [world.engine.mailbox_id])

    on_the_way = world.run(read())
    rows = [row for row in world.rows("folders") if row.gone_at is None]
    named = [(on_the_way.name_of(row.id, row.mailbox_id, row.name), row.id) for row in rows]
    assert len(dict(named)) == len(named)
    return {name: id_ for name, id_ in sorted(named) if name not in OTHERS}


def at_server(far: MemoryFar) -> list[str]:
    return [name for name in far.names() if name not in OTHERS]


def rename(world: World, name: str, *names: str) -> str:
    """One after the other; the folder's id."""
    id_ = near(world)[name]
    for to in names:
        assert world.crm_rename_folder(id_, to)
    return id_


def create(world: World, name: str) -> str:
    assert world.crm_create_folder(name)
    return near(world)[name]


def later(world: World) -> None:
    world.engine.clock.advance(12 * 3600)
    world.sync()


def cut(world: World, far: MemoryFar, after: int) -> None:
    """A pass whose line drops when the server did so many changes."""
    far.account.faults.cut_before = after
    with pytest.raises(NetworkError):
        world.sync()


def ends(world: World) -> list[str]:
    assert not world.open_operations()
    assert not [row for row in world.rows("folders") if row.gone_at is None and (row.wanted_name or row.on_its_way)]
    return [row.state for row in world.operations()]


@pytest.mark.parametrize("after", [None, 1, 2])
def test_a_name_given_to_a_new_folder(world: World, far: MemoryFar, after: int | None) -> None:
    """Each folder keeps its id, its name and what is in it, also where the line drops in the middle."""
    old = rename(world, "A", "B", "C")
    new = create(world, "B")
    assert world.crm_append(new, mail(2), NOW, [])
    if after is not None:
        cut(world, far, after)
        assert near(world) == {"B": new, "C": old}
    later(world)
    assert ends(world) == ["applied"] * 4
    assert near(world) == {"B": new, "C": old}
    assert at_server(far) == ["B", "C"]
    assert [(at.folder, at.raw) for at in far.originals()] == [("B", mail(2)), ("C", mail(1))]
    assert {seen.folder: seen.raw for seen in world.visible()} == {"B": mail(2), "C": mail(1)}


def test_names_below_it(world: World, far: MemoryFar) -> None:
    far.create("A/Sub")
    world.sync()
    old, inner = rename(world, "A", "B", "C"), near(world)["C/Sub"]
    new = [create(world, name) for name in ("B", "B/Other", "B/Sub")]
    cut(world, far, 1)
    wanted = dict(zip(("B", "B/Other", "B/Sub", "C", "C/Sub"), (*new, old, inner), strict=True))
    assert near(world) == wanted
    later(world)
    assert ends(world) == ["applied"] * 5
    assert near(world) == wanted
    assert at_server(far) == ["B", "B/Other", "B/Sub", "C", "C/Sub"]


@pytest.fixture
def busy(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Put the names of calls in: the server puts them off, and takes others."""
    found: set[str] = set()

    def wrap(name: str) -> None:
        real = getattr(MemoryConnection, name)

        async def call(line: MemoryConnection, *args: Any) -> Any:
            if name in found:
                raise ServerError("not now", code="SERVERBUG", retry=Retry.LATER)
            return await real(line, *args)

        monkeypatch.setattr(MemoryConnection, name, call)

    for name in ("create_folder", "rename_folder"):
        wrap(name)
    return found


def test_it_waits_for_the_one_that_is_to_leave(world: World, far: MemoryFar, busy: set[str]) -> None:
    old = rename(world, "A", "B", "C")
    new = create(world, "B")
    cut(world, far, 1)
    busy.add("rename_folder")
    later(world)
    assert at_server(far) == ["B"]
    assert near(world) == {"B": new, "C": old}
    busy.clear()
    later(world)
    assert ends(world) == ["applied"] * 3
    assert near(world) == {"B": new, "C": old}
    assert at_server(far) == ["B", "C"]


def test_the_one_that_does_not_leave_keeps_the_name(world: World, far: MemoryFar) -> None:
    old = rename(world, "A", "B", "C")
    create(world, "B")
    cut(world, far, 1)
    far.account.faults.refusals = {"RENAME": "NOPERM"}
    later(world)
    assert ends(world) == ["applied", "failed", "failed"]
    assert near(world) == {"B": old}
    assert at_server(far) == ["B"]


def test_the_one_that_had_the_name_is_deleted_at_the_server(world: World, far: MemoryFar) -> None:
    rename(world, "A", "B", "C")
    new = create(world, "B")
    cut(world, far, 1)
    far.delete("B")
    later(world)
    assert ends(world) == ["applied", "failed", "applied"]
    assert near(world) == {"B": new}
    assert at_server(far) == ["B"]


@pytest.mark.parametrize("after", [1, 2])
def test_a_name_wanted_again_is_shown_all_the_while(world: World, far: MemoryFar, after: int) -> None:
    old = rename(world, "A", "B", "C", "B")
    new = create(world, "C")
    cut(world, far, after)
    assert near(world) == {"B": old, "C": new}
    later(world)
    assert ends(world) == ["applied"] * 4
    assert near(world) == {"B": old, "C": new}
    assert at_server(far) == ["B", "C"]


def test_a_new_folder_that_was_put_off_goes_along(world: World, far: MemoryFar, busy: set[str]) -> None:
    """It was asked for before the one above it got another name."""
    inner = create(world, "A/New")
    old = rename(world, "A", "B")
    busy.add("create_folder")
    world.sync()
    assert at_server(far) == ["B"]
    busy.clear()
    later(world)
    assert ends(world) == ["applied"] * 2
    assert near(world) == {"B": old, "B/New": inner}
    assert at_server(far) == ["B", "B/New"]


def test_a_list_showed_the_new_name_first(world: World, far: MemoryFar) -> None:
    """The answer to the rename was lost, and the folder is known under its new name, as another."""
    rename(world, "A", "B")
    far.account.faults.lose_answer = 0
    with pytest.raises(NetworkError):
        world.sync()
    engine = world.engine
    row = {"id": new_id(NOW), "name": "B", "delimiter": "/", "selectable": True, "followed": True}

    async def listed(tx: Transaction) -> None:
        values = {**row, "tenant_id": engine.tenant_id, "mailbox_id": engine.mailbox_id}
        await tx.conn.execute(insert(folders).values(values))

    world.run(engine.db.transact(listed))
    later(world)
    later(world)
    assert ends(world) == ["applied"]
    assert near(world) == {"B": row["id"]}
    assert [(seen.folder, seen.raw) for seen in world.visible()] == [("B", mail(1))]


async def test_on_each_database(engine: Engine, account: MemoryAccount) -> None:
    account.create_folder("A")
    await engine.sync()
    crm = Crm(engine)
    old = await crm.folder("A")
    for name, to in (("A", "B"), ("B", "C"), ("C", "D")):
        await crm.rename(name, to)
    new = [await crm.create(name) for name in ("B", "B/Sub", "C")]
    await engine.sync()
    assert await crm.states() == ["applied"] * 6
    assert [await crm.folder(name) for name in ("D", "B", "B/Sub", "C")] == [old, *new]
    assert sorted(account.folders) == ["B", "B/Sub", "C", "D", "INBOX"]
