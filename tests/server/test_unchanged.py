"""A folder in which nothing changed costs the same whatever its size; a mailbox the same whatever its folders hold."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from connectors.imap.connection import ImapConnection, connect_imap
from connectors.memory import MemoryAccount
from connectors.model import Endpoint, PasswordAuth, Security
from connectors.net import parse_networks
from mailgate.clock import DAY, HOUR, SECOND, system_clock
from mailgate.settings import SyncSettings
from tests.dovecot import Account, Dovecot
from tests.sync.engine import Engine, mail
from tests.unchanged import Line, Watch, passes, polls

pytestmark = pytest.mark.server

SIZES = {"Small": 200, "Large": 1_000}


@pytest.fixture
def account(dovecot: Dovecot) -> Account:
    account = dovecot.account()
    at = (system_clock() - 5 * HOUR) // SECOND * SECOND
    for name, size in SIZES.items():
        account.seed(((mail(n), at + n * SECOND) for n in range(size)), folder=name)
    return account


@pytest.fixture
async def line(account: Account) -> AsyncIterator[Line]:
    async with Line(account.server.port) as line:
        yield line


@pytest.fixture
async def engine(account: Account, line: Line, sqlite_url: str, tmp_path: Path) -> AsyncIterator[Engine]:
    async def connect() -> ImapConnection:
        endpoint = Endpoint("127.0.0.1", line.port, Security.NONE)
        auth = PasswordAuth(account.name, account.password)
        networks = parse_networks(["127.0.0.0/8"])
        return await connect_imap(endpoint, auth, ssl_context=None, allow_networks=networks)

    engine = await Engine.open(
        sqlite_url,
        tmp_path,
        MemoryAccount(),
        connect=connect,
        clock=system_clock,
        settings=SyncSettings(),  # type: ignore[arg-type]
    )
    yield engine
    await engine.close(check=False)


@pytest.mark.parametrize("kind", ["qresync", "condstore"])
async def test_a_pass_costs_the_same_whatever_the_size(
    engine: Engine, line: Line, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    line.kind = kind
    await engine.sync()
    with Watch(engine, line) as watch, passes(watch, monkeypatch) as costs:
        await engine.sync()
    small, large = costs["Small"], costs["Large"]
    assert abs(large.octets - small.octets) < 20  # the digits of the numbers
    assert large.octets < 1_000
    assert large.round_trips <= 2
    assert (large.statements, small.statements) == (0, 0)


@pytest.mark.soak
@pytest.mark.timeout(1_500)
@pytest.mark.parametrize("kind", ["qresync", "condstore"])
async def test_a_folder_of_a_hundred_thousand_messages(
    engine: Engine, line: Line, account: Account, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All but a few are older than what is kept: what the server holds is what counts."""
    now = system_clock() // SECOND * SECOND
    ages = ((n, 200 * DAY if n < 99_900 else HOUR) for n in range(100_000))
    account.seed(((mail(n), now - age - n * SECOND) for n, age in ages), folder="Huge")
    line.kind = kind
    await engine.sync()
    with Watch(engine, line) as watch, passes(watch, monkeypatch) as costs:
        await engine.sync()
    assert (await engine.rows("folders", lambda c: c.name == "Huge"))[0].exists_count == 100_000
    assert costs["Huge"].octets < 1_000
    assert costs["Huge"].round_trips <= 2
    assert costs["Huge"].statements == 0


async def test_without_modseq_a_pass_costs_little_for_each_message(
    engine: Engine, line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    line.kind = "plain"
    await engine.sync()
    with Watch(engine, line) as watch, passes(watch, monkeypatch) as costs:
        await engine.sync()
    small, large = costs["Small"], costs["Large"]
    assert (large.octets - small.octets) / (SIZES["Large"] - SIZES["Small"]) <= 45


async def test_a_poll_costs_the_same_whatever_the_folders_hold(
    engine: Engine, line: Line, account: Account, monkeypatch: pytest.MonkeyPatch
) -> None:
    await engine.sync()
    with Watch(engine, line) as watch:
        async with polls(watch, monkeypatch) as costs:
            await engine.sync()
            for n in range(40):
                account.seed([(mail(9000 + n), system_clock() // SECOND * SECOND)], folder=f"More {n}")
            await engine.sync()
            await engine.sync()
    few, _, many = costs
    assert many.round_trips == few.round_trips
    assert many.statements == few.statements
    assert many.received - few.received < 40 * 250
