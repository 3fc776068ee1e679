"""The double's faults and bookkeeping; that it behaves like a server is shown by tests/contract."""

from __future__ import annotations

import pytest

from connectors.errors import AuthError, NetworkError, ServerError
from connectors.memory import MemoryAccount
from connectors.model import QResync
from tests.wirelog import Bytes


def account(count: int = 4) -> MemoryAccount:
    made = MemoryAccount()
    for n in range(count):
        made.append("INBOX", b"Subject: %d\r\n\r\nbody" % n, internal_date=n)
    return made


async def read(account: MemoryAccount) -> dict[int, bytes]:
    source = await account.connect()
    await source.list_folders()
    await source.open("INBOX")
    uids = await source.list_uids()
    found: dict[int, bytes] = {}
    async for fetched in source.fetch_bodies(uids, lambda _: Bytes()):
        found[fetched.meta.uid] = bytes(fetched.sink.data)
        assert len(fetched.sink.data) == fetched.octets
    await source.close()
    return found


async def test_a_cut_may_fall_on_every_step() -> None:
    server = account()
    steps = 0
    while True:
        server.faults.cut_after = steps
        try:
            found = await read(server)
        except NetworkError:
            assert server.faults.cut_after is None
            assert server.connections == []
            steps += 1
        else:
            break
    assert steps > 8
    assert len(found) == 4


async def test_connecting_may_fail() -> None:
    server = account()
    server.faults.reject_login = True
    with pytest.raises(AuthError):
        await server.connect()
    server.faults.unreachable = True
    with pytest.raises(NetworkError):
        await server.connect()
    assert server.connections == []


async def test_a_refused_folder_a_lie_and_a_withheld_message() -> None:
    server = account()
    server.create_folder("b")
    server.faults.refuse.add("b")
    server.faults.exists_lie["INBOX"] = -4
    server.faults.withheld.add(("INBOX", 2))
    source = await server.connect()
    with pytest.raises(ServerError):
        await source.open("b")
    assert list(await source.status(["INBOX", "b"])) == ["INBOX"]
    assert await source.status(["c"]) == {"c": None}
    assert (await source.open("INBOX")).status.exists == 0
    assert await source.list_uids() == [1, 2, 3, 4]
    assert sorted(await read(server)) == [1, 3, 4]


async def test_uids_and_uidvalidities_are_never_used_again() -> None:
    server = account()
    server.expunge("INBOX", 4)
    assert server.append("INBOX", b"x", internal_date=0) == 5
    first = server.create_folder("a").uidvalidity
    server.delete_folder("a")
    assert server.create_folder("a").uidvalidity != first


async def test_a_move_keeps_bytes_and_date_and_gives_a_new_uid() -> None:
    server = account()
    server.create_folder("Archive")
    server.store_flags("INBOX", 2, ["\\Seen"])
    new = server.move("INBOX", 2, "Archive")
    assert 2 not in server.folders["INBOX"].messages
    moved = server.folders["Archive"].messages[new]
    assert (moved.raw, moved.internal_date, moved.flags) == (b"Subject: 1\r\n\r\nbody", 1, {"\\Seen"})


async def test_a_new_uidvalidity_renumbers_and_resyncs_nothing() -> None:
    server = account()
    server.expunge("INBOX", 1)
    source = await server.connect()
    before = (await source.open("INBOX")).status
    assert server.change_uidvalidity("INBOX") == {2: 1, 3: 2, 4: 3}
    with pytest.raises(NetworkError):
        await source.noop()
    source = await server.connect()
    selected = await source.open("INBOX", QResync(before.uidvalidity, before.highestmodseq or 0))
    assert selected.status.uidvalidity != before.uidvalidity
    assert (selected.resynced, selected.status.exists) == (False, 3)


async def test_renaming_takes_children_along_and_keeps_uidvalidity() -> None:
    server = account(0)
    validity = server.create_folder("a/b").uidvalidity
    server.create_folder("a")
    server.create_folder("ab")
    server.rename_folder("a", "c")
    assert sorted(server.folders) == ["INBOX", "ab", "c", "c/b"]
    assert server.folders["c/b"].uidvalidity == validity


async def test_equal_flags_are_no_change() -> None:
    server = account()
    server.store_flags("INBOX", 1, ["\\Seen"])
    before = server.folders["INBOX"].highestmodseq
    server.store_flags("INBOX", 1, ["\\Seen"])
    assert server.folders["INBOX"].highestmodseq == before


async def test_every_command_is_written_down() -> None:
    server = account()
    await read(server)
    assert server.commands == ["LOGIN", "LIST", "EXAMINE INBOX", "SEARCH ALL", "FETCH bodies"]
