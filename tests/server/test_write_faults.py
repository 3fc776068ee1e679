"""What a line can do to changes at every byte of what the server says of them (see `test_line_faults`).

A change whose answer was lost is never taken for done, nor for refused: its caller hears of a line that failed, and
finds out what became of it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from connectors.errors import NetworkError, ProtocolError
from connectors.imap.settings import Timeouts
from connectors.port import Placed
from tests.dovecot import Account, Dovecot
from tests.proxy import Proxy
from tests.replay import Connecting, Fault, Recording, connecting, replayed
from tests.soak import SOAK

pytestmark = pytest.mark.server

STRIDE = 1 if SOAK else 7
RAW = b"From: a@mail.example\r\nSubject: One\r\n\r\n* 1 EXPUNGE\r\n)\r\n"
NOON = 1_700_000_000_000_000


async def change(connect: Connecting, done: list[Any]) -> None:
    """A session with every kind of change; what the server answered to each is noted once it is done."""
    target = await connect()
    try:
        done.append(await target.namespace())
        done.append(await target.create_folder("Work"))
        done.append(await target.append("INBOX", len(RAW), chunks(), flags=frozenset({"\\Seen"}), internal_date=NOON))
        done.append(await target.append("INBOX", len(RAW), chunks(), flags=frozenset({"$Label1"})))
        done.append(await target.append("INBOX", len(RAW), chunks(), internal_date=NOON))
        done.append((await target.select("INBOX")).status.exists)
        done.append(await target.store_flags([1, 3], add=frozenset({"\\Flagged"}), remove=frozenset({"\\Seen"})))
        done.append(await target.copy([1], "Work"))
        if target.abilities.move and target.abilities.expunge:  # not when a byte of CAPABILITY is missing
            done.append(await target.move([2], "Work"))
            done.append(await target.expunge([1]))
        done.append(await target.rename_folder("Work", "Done"))
        done.append(await target.delete_folder("Done"))
    finally:
        await target.close()


async def chunks() -> AsyncIterator[bytes]:
    yield RAW[:20]
    yield RAW[20:]


@pytest.fixture(scope="module")
def recorded(dovecot: Dovecot) -> tuple[Recording, list[Any], Account]:
    """A session with Dovecot, what it answered, and with whom."""
    account = dovecot.account()

    async def record() -> tuple[Recording, list[Any]]:
        done: list[Any] = []
        async with Proxy("127.0.0.1", dovecot.port) as proxy:
            proxy.tape = []
            await change(connecting(account, proxy.port), done)
            return Recording.of(proxy.tape), done

    with asyncio.Runner() as runner:
        return *runner.run(record()), account


def same(answer: Any, truth: Any) -> bool:
    """A change that was done may also be told without where to: BYE came in the middle of the UIDs."""
    return bool(answer == truth) or (answer is None and isinstance(truth, Placed))


@pytest.mark.parametrize("fault", list(Fault))
def test_at_every_byte(recorded: tuple[Recording, list[Any], Account], fault: Fault) -> None:
    recording, truth, account = recorded
    assert truth[5:7] == [3, {1: {"\\Flagged"}, 3: {"\\Flagged"}}]
    offsets = range(0, recording.octets, STRIDE)
    faults = [*((fault, at) for at in offsets), (None, 0)]
    *cases, (afterwards, none, _, _) = replayed(recording, account, faults, list, change)
    assert (afterwards, none) == (truth, None)
    timeouts = Timeouts()
    for at, (done, error, server, lasted_s) in zip(offsets, cases, strict=True):
        assert server.met, at
        if fault is Fault.LOSE:
            assert lasted_s <= 10 * timeouts.folder_s, (at, error)  # a damaged answer may be asked for again
            continue
        assert not server.surprise, (at, server.surprise)
        assert all(map(same, done, truth)), (at, error, done)
        if fault is Fault.SPLIT:
            assert (done, error) == (truth, None), at
        elif error is None:
            assert len(done) == len(truth), at  # it met only the answer to LOGOUT
        else:
            assert len(done) < len(truth), at
            assert type(error) is NetworkError or (fault is Fault.BYE and type(error) is ProtocolError), (at, error)
        assert lasted_s <= (timeouts.folder_s + 1 if fault in (Fault.STALL, Fault.SPLIT) else 0), (at, error, lasted_s)
