"""Cyrus and Courier as the tests run them: several at once, ended without a trace, their mail kept over a restart."""

from __future__ import annotations

import imaplib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.courier import Courier
from tests.cyrus import Cyrus
from tests.servers import listening
from tests.unpacked import Unpacked

pytestmark = pytest.mark.server

RAW = b"Subject: One\r\n\r\nShort.\r\n"


@pytest.fixture(params=[Cyrus, Courier], ids=["cyrus", "courier"])
def two(request: pytest.FixtureRequest) -> Iterator[tuple[Unpacked, Unpacked]]:
    start = contextmanager(request.param.fixture)
    with start() as one, start() as other:
        yield one, other


def login(server: Unpacked, account: tuple[str, str]) -> imaplib.IMAP4:
    client = imaplib.IMAP4("127.0.0.1", server.port)
    client.login(*account)
    return client


def processes(server: Unpacked) -> list[int]:
    """All that know the server's folder: its own, and those that its first process started."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            if str(server.folder).encode() in entry.read_bytes():
                found.append(int(entry.parent.name))
    return found


def test_two_at_once_have_their_own_mail(two: tuple[Unpacked, Unpacked]) -> None:
    accounts = [server.account() for server in two]
    assert accounts[0][0] == accounts[1][0]
    with login(two[0], accounts[0]) as client:
        client.append("INBOX", "", imaplib.Time2Internaldate(0), RAW)
    counts = []
    for server, account in zip(two, accounts, strict=True):
        with login(server, account) as client:
            counts.append(client.select()[1])
    assert counts == [[b"1"], [b"0"]]


@pytest.mark.parametrize("end", ["stop", "kill"])
def test_mail_stays_and_processes_go(two: tuple[Unpacked, Unpacked], end: str) -> None:
    server, other = two
    account = server.account()
    with login(server, account) as client:
        client.append("INBOX", "", imaplib.Time2Internaldate(0), RAW)
    client = login(server, account)
    assert processes(server)
    getattr(server, end)()
    client.shutdown()
    assert not listening(server.port)
    assert not processes(server)
    login(other, other.account()).logout()
    server.start()
    with login(server, account) as again:
        assert again.select()[1] == [b"1"]
