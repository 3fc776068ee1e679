"""Habits of real servers that the connectors know (`connectors.imap.quirks`), met where they live."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator

import pytest

from connectors.errors import AuthError, FolderGoneError, NetworkError, ThrottledError
from connectors.imap.connection import connect_imap
from connectors.imap.quirks import QUIRKS
from connectors.model import Endpoint, PasswordAuth, Security
from connectors.port import Connection
from tests.contract.accounts import LOOPBACK, OnCyrus, OnPymap, OverProxy, remote_of
from tests.cyrus import Cyrus
from tests.unpacked import Unpacked
from tests.wirelog import Bytes

pytestmark = pytest.mark.server

NOON = 1_700_000_000_000_000
RAW = b"From: a@mail.example\r\nSubject: One\r\n\r\nShort.\r\n"


async def login(port: int, name: str, password: str, context: ssl.SSLContext | None = None) -> Connection:
    security = Security.NONE if context is None else Security.STARTTLS
    return await connect_imap(
        Endpoint("127.0.0.1", port, security),
        PasswordAuth(name, password),
        ssl_context=context,
        allow_networks=LOOPBACK,
    )


@pytest.fixture(params=["cyrus", "courier", "pymap"])
async def remote(request: pytest.FixtureRequest) -> AsyncIterator[OverProxy]:
    async with remote_of(request) as made:
        assert isinstance(made, OverProxy)
        yield made


def test_every_habit_says_what_who_and_why() -> None:
    assert len({quirk.habit for quirk in QUIRKS}) == len(QUIRKS)
    for quirk in QUIRKS:
        assert all((quirk.seen, quirk.habit, quirk.answer, quirk.reason)), quirk
        assert "RFC" in quirk.reason or "no RFC" in quirk.reason, quirk


async def test_a_wrong_password(remote: OverProxy) -> None:
    with pytest.raises(AuthError):
        await login(remote.port, remote.name, "wrong")


async def test_a_server_that_cannot_reach_its_passwords(own_cyrus: Cyrus) -> None:
    name, password = own_cyrus.account()
    own_cyrus.hide_passwords()
    with pytest.raises(ThrottledError, match="generic failure"):
        await login(own_cyrus.port, name, password)


@pytest.mark.parametrize("server", ["cyrus", "courier"])
async def test_starttls(request: pytest.FixtureRequest, server: str) -> None:
    running: Unpacked = request.getfixturevalue(server)
    name, password = running.account()
    source = await login(running.port, name, password, running.ssl_context())
    assert (await source.list_folders())[0].name == "INBOX"
    await source.close()


async def test_equal_bytes_are_two_messages_whatever_their_emailid(cyrus: Cyrus) -> None:
    remote = OnCyrus(cyrus)
    for _ in range(2):
        await remote.append("INBOX", RAW, received_at=NOON)
    source = await remote.connect()
    try:
        assert "OBJECTID" in source.capabilities
        await source.open("INBOX")
        found = [fetched.meta async for fetched in source.fetch_bodies([1, 2], lambda _: Bytes())]
    finally:
        await source.close()
        await remote.aclose()
    assert [(meta.uid, meta.email_id) for meta in found] == [(1, None), (2, None)]


async def test_a_folder_deleted_while_it_is_open(remote: OverProxy) -> None:
    doomed = remote.folder("Doomed")
    await remote.create_folder(doomed)
    await remote.append(doomed, RAW, received_at=NOON)
    source = await remote.connect()
    await source.open(doomed)
    await remote.delete_folder(doomed)
    if isinstance(remote, OnPymap):
        with pytest.raises(NetworkError, match="no longer exists"):
            await source.list_folders()
    else:  # Cyrus and Courier say nothing of it
        assert doomed not in [folder.name for folder in await source.list_folders()]
        with pytest.raises(FolderGoneError):
            await source.open(doomed)
    await source.close()
