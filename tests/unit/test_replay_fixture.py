"""The replayed sessions, and the loop whose clock jumps, that other tests break lines with."""

from __future__ import annotations

import asyncio

import pytest

from tests.replay import TAG, Exchange, HangError, Recording, VirtualLoop

TAPE = [
    (True, b"* OK hello\r\n"),
    (False, b"A1 NOOP\r\nA2 APPEND x {5+}\r\na\r\n"),
    (True, b"* 1 FETCH (BODY[] {7}\r\nA2 OK\r\n)\r\nA1 OK do"),
    (False, b"bc\r\n"),
    (True, b"ne\r\nA2 OK [APPENDUID 1 2] x\r\n"),
    (False, b"A3 IDLE\r\n"),
    (True, b"+ idling\r\n* 2 EXISTS\r\n"),
    (False, b"DONE\r\n"),
    (True, b"A3 OK\r\n"),
]


def test_a_tape_becomes_commands_and_their_answers() -> None:
    recording = Recording.of(TAPE)
    assert recording.greeting == b"* OK hello\r\n"
    assert recording.exchanges == (
        Exchange(b"NOOP\r\n", b"* 1 FETCH (BODY[] {7}\r\nA2 OK\r\n)\r\n" + TAG + b" OK done\r\n"),
        Exchange(b"APPEND x {5+}\r\na\r\nbc\r\n", TAG + b" OK [APPENDUID 1 2] x\r\n"),
        Exchange(b"IDLE\r\n", b"+ idling\r\n* 2 EXISTS\r\n"),
        Exchange(b"DONE\r\n", TAG + b" OK\r\n"),
    )


def test_an_hour_passes_at_once() -> None:
    async def wait() -> float:
        await asyncio.sleep(3_600)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.Event().wait(), 60)
        return asyncio.get_running_loop().time()

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        assert runner.run(wait()) == 3_660


def test_waiting_for_nothing_is_a_hang() -> None:
    async def wait() -> None:
        await asyncio.Event().wait()

    loop = VirtualLoop()
    task = loop.create_task(wait())
    with pytest.raises(HangError):
        loop.run_until_complete(task)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        loop.run_until_complete(task)
    loop.close()
