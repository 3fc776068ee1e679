"""Every kind of operation on each real server, over a good line and over one that breaks all the time."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from connectors.errors import ConnectorError
from connectors.imap.connection import connect_imap
from connectors.memory import MemoryAccount
from connectors.model import Endpoint, PasswordAuth, Security
from connectors.port import Connection
from mailgate.settings import SyncSettings
from tests.contract.accounts import LOOPBACK, OverImap, OverProxy, remote_of
from tests.proxy import Faults, Proxy
from tests.server.test_sync_matrix import received
from tests.sync.crm import Crm
from tests.sync.engine import Engine, RealClock, mail

pytestmark = pytest.mark.server


@pytest.fixture(params=["dovecot", "dovecot-plain", "cyrus", "courier", "pymap"])
async def remote(request: pytest.FixtureRequest) -> AsyncIterator[OverImap]:
    async with remote_of(request) as made:
        assert isinstance(made, OverImap)
        yield made


@pytest.fixture
def faults() -> list[Faults]:
    """What happens to the next connections, one each."""
    return []


@pytest.fixture
async def crm(sqlite_url: str, tmp_path: Path, remote: OverImap, faults: list[Faults]) -> AsyncIterator[Crm]:
    proxies: list[Proxy] = []

    async def connect() -> Connection:
        if not faults:
            return await remote.connect()
        assert isinstance(remote, OverProxy)
        proxy = await Proxy("127.0.0.1", remote.port, faults.pop()).start()
        proxies.append(proxy)
        endpoint = Endpoint("127.0.0.1", proxy.port, Security.NONE)
        auth = PasswordAuth(remote.name, remote.password)
        return await connect_imap(endpoint, auth, ssl_context=None, allow_networks=LOOPBACK)

    engine = await Engine.open(
        sqlite_url,
        tmp_path,
        MemoryAccount(),
        connect=connect,
        clock=RealClock(),  # type: ignore[arg-type]
        settings=SyncSettings(poll_interval_s=3_600, backoff_min_s=0.05),
    )
    for name in ("Target", "Other", "Empty"):
        await remote.create_folder(remote.folder(name))
    for n in range(6):
        await remote.append("INBOX", mail(n), received_at=received(n))
    await remote.append(remote.folder("Other"), mail(50), received_at=received(1))
    await engine.sync()
    yield Crm(engine)
    await engine.close()
    for proxy in proxies:
        await proxy.close()


async def ask(crm: Crm, remote: OverImap) -> None:
    await crm.flags(0, add=["\\Flagged", "\\Seen"])
    await crm.flags(2, add=["\\Flagged", "\\Seen"])
    await crm.move(1, remote.folder("Target"))
    await crm.move(4, remote.folder("Target"))
    await crm.delete(3)
    await crm.append(60, remote.folder("Target"), flags=["\\Seen"], received_at=received(0))
    await crm.create(remote.folder("Deals"))
    await crm.move(5, remote.folder("Deals"))
    await crm.rename(remote.folder("Other"), remote.folder("Jobs"))
    await crm.remove(remote.folder("Empty"))


def lines(raw: bytes) -> bytes:
    """The same whatever the line ends: pymap gives what is appended its own."""
    return raw.replace(b"\r\n", b"\n")


async def holds(crm: Crm, remote: OverImap) -> None:
    """Everything is done, once, on both sides."""
    assert [(row.kind, row.code, row.reason) for row in await crm.operations() if row.state != "applied"] == []
    near = {
        name: sorted((lines(raw), flags) for raw, flags in found) for name, found in (await crm.engine.near()).items()
    }
    far = {}
    for name, kind in (("INBOX", None), ("Target", 1), ("Deals", 1), ("Jobs", 1)):
        folder = name if kind is None else remote.folder(name)
        originals = (await remote.originals(folder)).values()
        far[folder] = sorted((lines(raw), tuple(sorted(flags))) for flags, raw in originals)
    assert near == far
    there = {name: [raw for raw, _ in entries] for name, entries in far.items()}
    assert there == {
        name: sorted(lines(mail(n)) for n in numbers)
        for name, numbers in (
            ("INBOX", (0, 2)),
            (remote.folder("Target"), (1, 4, 60)),
            (remote.folder("Deals"), (5,)),
            (remote.folder("Jobs"), (50,)),
        )
    }
    assert [flags for _, flags in far["INBOX"]] == [("\\Flagged", "\\Seen")] * 2
    names = {row.name for row in await crm.engine.rows("folders") if row.gone_at is None}
    assert remote.folder("Empty") not in names
    assert not await crm.engine.events("message.moved", "message.deleted")
    assert len(await crm.engine.events("message.created")) == 8
    assert len(await crm.removals()) == 1


async def test_every_kind(crm: Crm, remote: OverImap) -> None:
    await ask(crm, remote)
    await crm.engine.sync()
    await holds(crm, remote)
    await crm.engine.sync()
    await holds(crm, remote)


async def test_over_a_line_that_breaks_all_the_time(crm: Crm, remote: OverImap, faults: list[Faults]) -> None:
    """Cut by octets that came from the server, a little later each time, until all of it got through."""
    if not isinstance(remote, OverProxy):
        pytest.skip("Dovecot's lines break in test_push_dovecot")
    await ask(crm, remote)
    cuts = 0
    for octets in range(300, 30_000, 170):
        faults[:] = [Faults(cut_after=octets)]
        try:
            await crm.engine.sync()
        except ConnectorError:
            cuts += 1
            crm.engine.clock.advance(120)  # no answer to it could come any more
            continue
        break
    faults.clear()
    assert cuts > 10
    await crm.engine.sync()
    await holds(crm, remote)


async def test_a_folder_by_a_plain_name(crm: Crm, remote: OverImap) -> None:
    """It is made where the account's own folders stand, and the list agrees."""
    id_ = await crm.create("Projects")
    await crm.move(1, "Projects")
    await crm.engine.sync()
    await crm.engine.sync()
    assert await crm.states() == ["applied", "applied"]
    assert await crm.folder(remote.folder("Projects")) == id_
    assert len(await remote.originals(remote.folder("Projects"))) == 1
