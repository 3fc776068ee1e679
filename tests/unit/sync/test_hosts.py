"""What mailboxes at one mail server have in common: width, pauses, places."""

from __future__ import annotations

import asyncio

import pytest

from mailgate.settings import SyncSettings
from mailgate.sync import hosts
from mailgate.sync.hosts import LONGEST_PAUSE_S, Hosts

SETTINGS = SyncSettings(host_connects_at_once=8, backoff_min_s=5, backoff_max_s=900)


@pytest.fixture
def seconds(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    seconds = [1_000.0]
    monkeypatch.setattr(hosts, "monotonic_s", lambda: seconds[0])
    return seconds


def test_a_server_is_one_whatever_its_case() -> None:
    known = Hosts(SETTINGS)
    assert known.of("IMAP.example.com") is known.of("imap.example.com")
    assert known.of("imap.example.com") is not known.of("imap.example.org")


async def width(hosts_: Hosts) -> int:
    """How many connections are opened at once."""
    opening = hosts_.of("h").opening
    tasks = [asyncio.create_task(opening.take("t")) for _ in range(20)]
    for _ in range(3):
        await asyncio.sleep(0)
    found = opening.taken
    for task in tasks:
        task.cancel()
    done = await asyncio.gather(*tasks, return_exceptions=True)
    for outcome in done:
        if outcome is None:
            opening.give_back("t")
    return found


async def test_fewer_at_once_while_it_fails_one_more_with_each_success() -> None:
    known = Hosts(SETTINGS)
    host = known.of("h")
    assert await width(known) == 8
    host.failed()
    assert await width(known) == 4
    for _ in range(5):
        host.failed()
    assert await width(known) == 1
    for _ in range(3):
        host.let_in()
    assert await width(known) == 4
    for _ in range(30):
        host.let_in()
    assert await width(known) == 8


def test_one_mailbox_that_is_throttled_hardly_holds_up_the_others(seconds: list[float]) -> None:
    host = Hosts(SETTINGS).of("h")
    for _ in range(10):
        host.throttled("a", 3_600.0)
        assert host.quiet_s == 5
        seconds[0] += 60
    assert host.quiet_s == 0


def test_several_mean_all_and_what_the_server_says_is_obeyed(seconds: list[float]) -> None:
    host = Hosts(SETTINGS).of("h")
    host.throttled("a", None)
    host.throttled("b", None)
    assert host.quiet_s == 10
    host.throttled("c", 300.0)
    assert host.quiet_s == 300
    host.throttled("d", None)
    assert host.quiet_s == 300
    seconds[0] += 301
    host.let_in()
    host.throttled("a", None)
    assert host.quiet_s == 5


def test_no_pause_is_endless(seconds: list[float]) -> None:
    host = Hosts(SETTINGS).of("h")
    for n in range(2_000):
        host.throttled(str(n), 1e12)
    assert host.quiet_s == LONGEST_PAUSE_S


def test_a_limit_of_open_connections_is_optional() -> None:
    assert not Hosts(SETTINGS).of("h").places.full
    one = Hosts(SyncSettings(host_connections=1)).of("h").places
    asyncio.run(one.take("t"))
    assert one.full
