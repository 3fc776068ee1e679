"""What tests/conftest.py promises to every other test."""

from __future__ import annotations

import asyncio
import os
import socket

import pytest
import uvloop

from tests import conftest


async def test_async_tests_run_on_uvloop() -> None:
    assert isinstance(asyncio.get_running_loop(), uvloop.Loop)


async def test_no_async_connection_leaves_this_machine() -> None:
    for host in ("192.0.2.1", "2001:db8::1", "mail.example"):
        with pytest.raises(OSError, match="may not leave"):
            await asyncio.open_connection(host, 143)
    with pytest.raises(OSError, match="may not leave"):
        await asyncio.get_running_loop().getaddrinfo("mail.example", 143)
    assert conftest._refused == ["192.0.2.1", "2001:db8::1", "mail.example", "mail.example"]
    conftest._refused.clear()  # this test tried on purpose


def test_no_blocking_connection_leaves_this_machine() -> None:
    with socket.socket() as line, pytest.raises(OSError, match="may not leave"):
        line.connect(("192.0.2.1", 143))
    assert conftest._refused == ["192.0.2.1"]
    conftest._refused.clear()


def test_settings_of_the_developer_do_not_reach_a_test() -> None:
    assert not [name for name in os.environ if name.startswith("MAILGATE_")]


async def test_one_that_takes_too_long_says_what_it_waits_for() -> None:
    async def waiting() -> None:
        await asyncio.Event().wait()

    async def never() -> None:
        await asyncio.gather(waiting())

    with pytest.raises(
        pytest.fail.Exception, match=r"still running after 0.05 s; [\s\S]*test_isolation.py:\d+ .*waiting"
    ):
        await conftest._limited(never, 0.05)()
