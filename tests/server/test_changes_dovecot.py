"""Changes at a real server over lines that break, and messages that are larger than memory should know of."""

from __future__ import annotations

import contextlib
import hashlib
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from connectors.errors import NetworkError
from connectors.imap.connection import ImapConnection, connect_imap
from connectors.imap.upload import COLLECTED
from connectors.model import Endpoint, PasswordAuth, Security
from tests import waiting
from tests.contract.accounts import LOOPBACK, OnDovecot
from tests.dovecot import Dovecot
from tests.proxy import Faults, Proxy

pytestmark = pytest.mark.server

RECEIVED_AT = 1_700_000_000_000_000
SEEN = frozenset({"\\Seen"})
RAWS = [b"From: a@mail.example\r\nSubject: Number %d\r\n\r\nBody.\r\n" % n for n in range(3)]
LARGE = b"Subject: Large\r\n\r\n" + b"0123456789abcdef 0123456789abcdef\r\n" * 6_000


async def pieces(raw: bytes, size: int = 50_000) -> AsyncIterator[bytes]:
    for at in range(0, len(raw), size):
        yield raw[at : at + size]


async def through(remote: OnDovecot, proxy: Proxy) -> ImapConnection:
    return await connect_imap(
        Endpoint("127.0.0.1", proxy.port, Security.NONE),
        PasswordAuth(remote.account.name, remote.account.password),
        ssl_context=None,
        allow_networks=LOOPBACK,
    )


async def contents(remote: OnDovecot, folder: str) -> list[tuple[frozenset[str], bytes]]:
    return sorted((await remote.originals(folder)).values(), key=lambda item: item[1])


NONE: frozenset[str] = frozenset()
Found = list[tuple[frozenset[str], bytes]]
Change = Callable[[ImapConnection, list[int]], Awaitable[object]]


def moved(inbox: Found, archive: Found) -> bool:
    """Each message once, wherever."""
    return sorted(raw for _, raw in inbox + archive) == RAWS


def copied(inbox: Found, archive: Found) -> bool:
    return [raw for _, raw in inbox] == RAWS and [raw for _, raw in archive] in ([], RAWS)


def flagged(inbox: Found, archive: Found) -> bool:
    return [raw for _, raw in inbox] == RAWS and {flags for flags, _ in inbox} <= {NONE, SEEN} and not archive


def expunged(inbox: Found, archive: Found) -> bool:
    return {flags for flags, _ in inbox} <= {NONE, frozenset({"\\Deleted"})} and not archive


def appended(inbox: Found, archive: Found) -> bool:
    return [raw for _, raw in inbox] == RAWS and archive in ([], [(SEEN, LARGE)], [(SEEN, RAWS[0])])


CHANGES: dict[str, tuple[Change, Callable[[Found, Found], bool], int]] = {
    "move": (lambda line, uids: line.move(uids, "Archive"), moved, 5),
    "copy": (lambda line, uids: line.copy(uids, "Archive"), copied, 5),
    "store": (lambda line, uids: line.store_flags(uids, add=SEEN), flagged, 7),
    "expunge": (lambda line, uids: line.expunge(uids), expunged, 9),
    "append": (lambda line, _: line.append("Archive", len(RAWS[0]), pieces(RAWS[0]), flags=SEEN), appended, 11),
    "append-large": (lambda line, _: line.append("Archive", len(LARGE), pieces(LARGE), flags=SEEN), appended, 17_011),
}


@pytest.mark.parametrize("direction", ["client_cut_after", "cut_after"])
@pytest.mark.parametrize("kind", CHANGES)
async def test_a_change_over_a_line_that_breaks_is_done_or_not(dovecot: Dovecot, kind: str, direction: str) -> None:
    """Cut within the command, or within its answer: every message stays whole, and is where it may be."""
    change, holds, stride = CHANGES[kind]
    remote = OnDovecot(dovecot, condstore=True)
    uids = await filled(remote)
    async with Proxy(dovecot.host, dovecot.port) as proxy:
        line = await through(remote, proxy)
        await line.select("INBOX")
        offset = proxy.to_server if direction == "client_cut_after" else proxy.to_client
        await line.close()
        cut = 0
        done = False
        while not done:
            offset += stride if direction == "client_cut_after" else 9
            proxy.faults = Faults(**{direction: offset})
            with contextlib.suppress(NetworkError):
                line = await through(remote, proxy)
                try:
                    await line.select("INBOX")
                    await change(line, uids)
                    done = True
                finally:
                    await line.close()
            cut += not done
            await until(remote, holds)
            uids = await filled(remote)
    assert cut > 2


async def filled(remote: OnDovecot) -> list[int]:
    """INBOX holds three messages that nothing happened to, Archive none. Their UIDs."""
    for folder in ("INBOX", "Archive"):
        for uid in await remote.originals(folder):
            await remote.expunge(folder, uid)
    return [await remote.append("INBOX", raw, received_at=RECEIVED_AT) for raw in RAWS]


async def until(remote: OnDovecot, holds: Callable[[Found, Found], bool]) -> None:
    """The server may still be at work for a line that is down; then all is as it may be."""

    async def so() -> bool:
        return holds(await contents(remote, "INBOX"), await contents(remote, "Archive"))

    await waiting.until(so)


@pytest.mark.parametrize("security", [Security.NONE, Security.TLS])
async def test_a_very_large_message_is_never_in_memory(dovecot: Dovecot, security: Security) -> None:
    count = 2_000
    piece = b"0123456789abcdef" * 1_999 + b"0123456789abcd\r\n"
    digest = hashlib.sha256()

    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(count):
            digest.update(piece)
            yield piece

    remote = OnDovecot(dovecot, condstore=True, security=security)
    line = await remote.connect()
    tracemalloc.start()
    try:
        await line.append("INBOX", count * len(piece), chunks())
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
        await line.close()
    assert peak < 16 * COLLECTED, f"{peak} of {count * len(piece)} bytes"
    ((_, raw),) = (await remote.originals("INBOX")).values()
    assert hashlib.sha256(raw).digest() == digest.digest()
