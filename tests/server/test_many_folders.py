"""A thousand folders, side by side and nested: a poll costs the same for each, and no more statements than for ten."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from connectors.imap.connection import ImapConnection, connect_imap
from connectors.memory import MemoryAccount
from connectors.model import Endpoint, PasswordAuth, Security
from mailgate.clock import system_clock
from mailgate.settings import SyncSettings
from tests.contract.accounts import LOOPBACK, OnDovecot, OverImap, OverProxy, remote_of
from tests.sync.engine import Engine
from tests.unchanged import Line, Watch, polls

pytestmark = pytest.mark.server


@pytest.fixture(params=["dovecot", "cyrus"])
async def remote(request: pytest.FixtureRequest) -> AsyncIterator[OverImap]:
    async with remote_of(request) as made:
        assert isinstance(made, OverImap)
        yield made


def login(remote: OverImap) -> tuple[int, str, str]:
    """Port, name and password."""
    if isinstance(remote, OnDovecot):
        return remote.account.server.port, remote.account.name, remote.account.password
    assert isinstance(remote, OverProxy)
    return remote.port, remote.name, remote.password


@pytest.fixture
async def line(remote: OverImap) -> AsyncIterator[Line]:
    async with Line(login(remote)[0]) as line:
        yield line


@pytest.fixture
async def engine(remote: OverImap, line: Line, sqlite_url: str, tmp_path: Path) -> AsyncIterator[Engine]:
    async def connect() -> ImapConnection:
        endpoint = Endpoint("127.0.0.1", line.port, Security.NONE)
        auth = PasswordAuth(*login(remote)[1:])
        return await connect_imap(endpoint, auth, ssl_context=None, allow_networks=LOOPBACK)

    engine = await Engine.open(
        sqlite_url,
        tmp_path,
        MemoryAccount(),
        connect=connect,
        clock=system_clock,  # type: ignore[arg-type]
        settings=SyncSettings(),
    )
    yield engine
    await engine.close(check=False)


def make(remote: OverImap, numbers: range) -> None:
    """Folders of a few levels, each with a message."""
    with remote._unopened() as client:
        for n in numbers:
            name = f'"{remote.folder("Many", str(n // 20), f"Folder {n}")}"'
            assert client.create(name)[0] == "OK"
            raw = f"Subject: {n}\r\n\r\nx\r\n".encode()
            assert client.append(name, "", None, raw)[0] == "OK"  # type: ignore[arg-type]  # now


@pytest.mark.parametrize("most", [60, pytest.param(1_000, marks=pytest.mark.soak)])
async def test_a_poll_costs_the_same_for_each(
    engine: Engine, remote: OverImap, line: Line, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    await asyncio.to_thread(make, remote, range(20))
    await engine.sync()
    with Watch(engine, line) as watch:
        async with polls(watch, monkeypatch) as costs:
            await engine.sync()
            await asyncio.to_thread(make, remote, range(20, most))
            await engine.sync()
            await engine.sync()
    few, first, many = costs
    assert len(await engine.rows("messages")) == most
    assert many.statements == few.statements
    assert many.received - few.received < (most - 20) * 300
    assert first.statements < most * 60
