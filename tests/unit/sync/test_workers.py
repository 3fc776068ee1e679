"""Preparing in threads and in a process beside: the same result whoever does it, and nothing lost when it goes."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from structlog.testing import CapturingLogger

from connectors.model import MessageMeta
from mailgate.blobs import BlobStore
from mailgate.blobs.batch import PackedBlobs
from mailgate.clock import DAY
from mailgate.keys import KeyMissingError, KeyRing, TenantKeys
from mailgate.sync import preparing
from mailgate.sync import program as program_module
from mailgate.sync import workers as module
from mailgate.sync.arriving import Arrived, MemorySink
from mailgate.sync.incoming import Cause
from mailgate.sync.prepare import Prepared, Preparer
from mailgate.sync.preparing import LANES, PreparingProcess
from mailgate.sync.workers import Workers
from retention.model import AnchorFrom
from tests.waiting import PATIENCE_S

NOW = 20_000 * DAY
REF = "ab" * 16
COUNT = 120


class Parts:
    """A preparer over a directory."""

    def __init__(self, folder: Path, blobs_url: str | None = None) -> None:
        self.ring = KeyRing.open(f"file://{folder}/keys", create=True)
        self.keys: TenantKeys = self.ring.create_tenant(REF, NOW)
        self.blobs = BlobStore.open(blobs_url or f"file://{folder}/blobs")
        self.preparer = Preparer("acme", self.keys, self.blobs, max_bytes=1 << 30, anchor_from=next(iter(AnchorFrom)))

    def arrived(self) -> list[Arrived]:
        batch = []
        for n in range(COUNT):
            raw = b"Message-ID: <%d@example.org>\r\nSubject: number %d\r\n\r\n" % (n, n) + b"text %d\r\n" % n * n
            meta = MessageMeta(n + 1, frozenset({"\\Seen"}), NOW - n, len(raw), 7)
            batch.append(Arrived(meta, MemorySink(raw), len(raw)))
        self.preparer.add_tokens(batch)
        return batch

    def verify(self, prepared: Prepared, batch: list[bytes]) -> None:
        """All are there, in order, and their blobs open under the tenant's keys."""
        assert [message.uid for message in prepared.messages] == list(range(1, COUNT + 1))
        assert not prepared.aside
        for message, raw in zip(prepared.messages, batch, strict=True):
            key = self.keys.unwrap(message.blob.data_key, message.blob.key_epoch)
            assert self.blobs.read_bytes("acme", message.blob.id, key, message.size, limit=1 << 20) == raw
            assert message.flags == ("\\Seen",)
            assert message.msgid_token == self.keys.mac("msgid", b"<%d@example.org>" % (message.uid - 1))


class Clock:
    """Seconds that pass when a test says so."""

    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def workers(clock: Clock) -> AsyncIterator[Workers]:
    opened = Workers(processors=2, clock_s=clock)
    yield opened
    await asyncio.to_thread(opened.close)


async def until_ready(workers: Workers) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while workers.process is None or not workers.process.ready:  # noqa: ASYNC110 - it tells nobody
            await asyncio.sleep(0.01)


async def test_a_process_beside_prepares_the_same(workers: Workers, tmp_path: Path) -> None:
    parts = Parts(tmp_path)
    for turn in range(3):
        batch = parts.arrived()
        originals = [bytes(arrived.sink.head) for arrived in batch]
        parts.verify(await workers.prepare(parts.preparer, batch, NOW, bulk=True), originals)
        await until_ready(workers)
        assert workers.process is not None
        if turn:
            assert all(not arrived.sink.head for arrived in batch), "what was prepared is let go"


async def test_the_process_alone_does_what_a_thread_does(workers: Workers, tmp_path: Path) -> None:
    parts = Parts(tmp_path)
    await workers.prepare(parts.preparer, parts.arrived(), NOW, bulk=True)
    await until_ready(workers)
    assert workers.process is not None
    batch = parts.arrived()
    job = parts.preparer.job(batch, NOW)
    assert job is not None
    done = await asyncio.to_thread(workers.process.prepare, *job)
    assert done is not None
    parts.verify(done, [bytes(arrived.sink.head) for arrived in batch])


async def test_a_killed_process_costs_nothing(workers: Workers, tmp_path: Path) -> None:
    parts = Parts(tmp_path)
    await workers.prepare(parts.preparer, parts.arrived(), NOW, bulk=True)
    for turn in range(module.MOST_FAILURES + 1):
        if workers.process is not None:
            if turn % 2:
                with contextlib.suppress(EOFError):  # the one killed before, which nobody has missed yet
                    await until_ready(workers)  # otherwise it may be killed while it starts
            os.kill(workers.process.pid, signal.SIGKILL)
        batch = parts.arrived()
        originals = [bytes(arrived.sink.head) for arrived in batch]
        parts.verify(await workers.prepare(parts.preparer, batch, NOW, bulk=True), originals)


async def test_one_that_was_lost_too_often_is_tried_again_after_a_while(
    workers: Workers, clock: Clock, tmp_path: Path
) -> None:
    parts, lost = Parts(tmp_path), list[str]()
    workers.on_lost = lambda: lost.append("")
    await workers.prepare(parts.preparer, parts.arrived(), NOW, bulk=True)
    for _ in range(module.MOST_FAILURES):
        assert workers.fault is None
        await lose(workers, parts)
        clock.now_s += 60
    assert len(lost) == module.MOST_FAILURES
    assert workers.fault is not None
    assert "in 57 min" in workers.fault
    clock.now_s = module.FORGET_S - 1
    await workers.prepare(parts.preparer, parts.arrived(), NOW, bulk=True)
    assert workers.process is None
    clock.now_s = module.FORGET_S
    await begun(workers, parts)
    assert workers.fault is None
    await lose(workers, parts)
    assert workers.process is None, "two of the losses are not an hour old"
    assert workers.fault is not None


async def lose(workers: Workers, parts: Parts) -> None:
    """The process is killed, and missed."""
    process = workers.process
    assert process is not None
    pids = family(process)
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    await until_gone(pids)
    await workers.prepare(parts.preparer, parts.arrived(), NOW, bulk=True)
    assert workers.process is not process


async def test_one_that_can_not_be_started_counts_as_lost(
    workers: Workers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object, **__: object) -> None:
        raise OSError(errno.EAGAIN, "too many processes")

    monkeypatch.setattr(subprocess, "Popen", refused)
    parts = Parts(tmp_path)
    for _ in range(module.MOST_FAILURES):
        assert workers.fault is None
        batch = parts.arrived()
        originals = [bytes(arrived.sink.head) for arrived in batch]
        parts.verify(await workers.prepare(parts.preparer, batch, NOW, bulk=True), originals)
    assert workers.fault is not None


async def test_another_program_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    logged = CapturingLogger()
    monkeypatch.setattr(module, "log", logged)
    monkeypatch.setattr(module, "own_program", lambda: b"that of yesterday".ljust(32))
    workers, parts = Workers(processors=2), Parts(tmp_path)
    for turn in range(3):
        batch = parts.arrived()
        originals = [bytes(arrived.sink.head) for arrived in batch]
        parts.verify(await workers.prepare(parts.preparer, batch, NOW, bulk=True), originals)
        if not turn:
            await until_refused(workers, parts)
        assert workers.process is None
    assert workers.fault is not None
    assert workers.fault.startswith("the program was replaced")
    assert [call.args for call in logged.calls] == [("preparing_process_of_another_program",)]
    await asyncio.to_thread(workers.close)


async def until_refused(workers: Workers, parts: Parts) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while workers.process is not None:
            await workers.prepare(parts.preparer, parts.arrived()[:1], NOW, bulk=True)


async def test_a_process_killed_at_work_costs_nothing(workers: Workers, tmp_path: Path) -> None:
    parts = Parts(tmp_path)
    await workers.prepare(parts.preparer, parts.arrived(), NOW, bulk=True)
    await until_ready(workers)
    assert workers.process is not None
    pid, batch = workers.process.pid, parts.arrived()
    originals = [bytes(arrived.sink.head) for arrived in batch]
    os.kill(pid, signal.SIGSTOP)
    working = asyncio.create_task(workers.prepare(parts.preparer, batch, NOW, bulk=True))
    await asyncio.wait({working}, timeout=0.1)
    assert not working.done(), "it waits for the process, which stands still"
    os.kill(pid, signal.SIGKILL)
    parts.verify(await working, originals)


def family(process: PreparingProcess) -> list[int]:
    """It and its forks."""
    forks = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return [process.pid, *map(int, forks)]


async def begun(workers: Workers, parts: Parts) -> list[int]:
    """Numbers of the processes, which are ready."""
    await workers.prepare(parts.preparer, parts.arrived(), NOW, bulk=True)
    await until_ready(workers)
    assert workers.process is not None
    return family(workers.process)


async def until_gone(pids: list[int]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while any(map(_running, pids)):  # noqa: ASYNC110 - they tell nobody
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("stopped", [0, 1])
async def test_one_that_stands_still_is_given_up(
    workers: Workers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stopped: int
) -> None:
    monkeypatch.setattr(preparing, "PATIENCE_S", 0.1)
    parts = Parts(tmp_path)
    pids, batch = await begun(workers, parts), parts.arrived()
    originals = [bytes(arrived.sink.head) for arrived in batch]
    os.kill(pids[stopped], signal.SIGSTOP)
    async with asyncio.timeout(PATIENCE_S):
        parts.verify(await workers.prepare(parts.preparer, batch, NOW, bulk=True), originals)
    await until_gone(pids)


async def test_one_that_stands_still_holds_up_neither_the_loop_nor_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workers, parts = Workers(processors=2), Parts(tmp_path)
    pids = await begun(workers, parts)
    os.kill(pids[0], signal.SIGSTOP)
    batch = parts.arrived()
    working = asyncio.create_task(workers.prepare(parts.preparer, batch, NOW, bulk=True))
    await asyncio.wait({working}, timeout=0.1)
    assert not working.done()
    async with asyncio.timeout(PATIENCE_S):
        await asyncio.to_thread(workers.close)
    await asyncio.gather(working, return_exceptions=True)
    await until_gone(pids)

    workers = Workers(processors=2)
    pids = await begun(workers, parts)
    os.kill(pids[1], signal.SIGSTOP)
    ends: list[str] = []
    end = PreparingProcess.end

    def told(process: PreparingProcess) -> None:
        ends.append(threading.current_thread().name)
        end(process)

    monkeypatch.setattr(PreparingProcess, "end", told)
    workers._retire()
    assert workers.process is None
    await until_gone(pids)
    assert ends, "it was ended"
    assert threading.main_thread().name not in ends, "which takes time that the loop does not have"
    await asyncio.to_thread(workers.close)


async def test_nobody_reads_from_a_line_that_is_closed(
    workers: Workers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its number may be another line's by then, whose answer would be taken."""
    parts = Parts(tmp_path)
    pids, read = await begun(workers, parts), preparing._read
    reading, go_on, seen = threading.Event(), threading.Event(), list[int]()

    def slowly(line: socket.socket, size: int) -> bytearray:
        try:
            return read(line, size)
        except EOFError:
            reading.set()
            go_on.wait(PATIENCE_S)
            seen.append(line.fileno())
            raise

    monkeypatch.setattr(preparing, "_read", slowly)
    process = workers.process
    assert process is not None
    os.kill(pids[0], signal.SIGSTOP)
    batch = parts.arrived()
    working = asyncio.create_task(workers.prepare(parts.preparer, batch, NOW, bulk=True))
    await asyncio.wait({working}, timeout=0.1)
    ending = asyncio.create_task(asyncio.to_thread(process.end))
    await asyncio.to_thread(reading.wait, PATIENCE_S)
    await asyncio.wait({ending}, timeout=0.1)
    go_on.set()
    await asyncio.gather(ending, working)
    assert seen
    assert -1 not in seen


async def test_what_an_error_left_behind_is_nobody_elses_answer(
    workers: Workers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = Parts(tmp_path)
    await begun(workers, parts)
    read, short = preparing._read, ["no memory"]

    def reading(line: socket.socket, size: int) -> bytearray:
        if short and size > 8:
            short.pop()
            raise MemoryError
        return read(line, size)

    monkeypatch.setattr(preparing, "_read", reading)
    for _ in range(2):
        batch = parts.arrived()
        originals = [bytes(arrived.sink.head) for arrived in batch]
        parts.verify(await workers.prepare(parts.preparer, batch, NOW, bulk=True), originals)
    assert not short


async def test_it_runs_nothing_that_lies_where_it_was_started(
    workers: Workers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "pickle.py").write_text("raise SystemExit('not ours')")
    monkeypatch.chdir(tmp_path)
    await begun(workers, Parts(tmp_path))


DEADLY = """
import os
import signal
import fast_mail_parser
parse, set_timer = fast_mail_parser.parse_email_tree, signal.setitimer
def parse_email_tree(raw, **how):
    if b"deadly" in raw:
        os._exit(11)
    while b"endless" in raw:
        pass
    return parse(raw, **how)
fast_mail_parser.parse_email_tree = parse_email_tree
signal.setitimer = lambda which, s: set_timer(which, s / 40)
"""


async def test_messages_that_end_whoever_reads_them_are_kept_unread(
    workers: Workers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "path").mkdir()
    (tmp_path / "path" / "sitecustomize.py").write_text(DEADLY)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "path"))
    parts = Parts(tmp_path)
    deadly = {3, 33, 63, 93, 94}
    assert len(deadly) > module.MOST_FAILURES
    await begun(workers, parts)
    batch = parts.arrived()
    for arrived in batch:
        if arrived.meta.uid in deadly:
            arrived.sink.write(memoryview(b"endless" if arrived.meta.uid == 63 else b"deadly"))
            arrived.octets = arrived.sink.size
    originals = [bytes(arrived.sink.head) for arrived in batch]
    prepared = await workers.prepare(parts.preparer, batch, NOW, bulk=True)
    assert [message.uid for message in prepared.messages] == list(range(1, COUNT + 1))
    assert {aside.uid: aside.cause for aside in prepared.aside} == dict.fromkeys(deadly, Cause.UNREADABLE)
    for message, raw in zip(prepared.messages, originals, strict=True):
        key = parts.keys.unwrap(message.blob.data_key, message.blob.key_epoch)
        assert parts.blobs.read_bytes("acme", message.blob.id, key, message.size, limit=1 << 20) == raw
        assert (message.msgid_token is None) == (message.uid in deadly)
    assert workers._failures < module.MOST_FAILURES, "the next ones would be read here"
    await begun(workers, parts)


async def test_it_ends_when_it_is_not_used(workers: Workers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "IDLE_S", 0.05)
    parts = Parts(tmp_path)
    await workers.prepare(parts.preparer, parts.arrived(), NOW, bulk=True)
    async with asyncio.timeout(PATIENCE_S):
        while workers.process is not None:  # noqa: ASYNC110 - it tells nobody
            await asyncio.sleep(0.01)


async def test_new_mail_and_few_messages_take_no_process(workers: Workers, tmp_path: Path) -> None:
    parts = Parts(tmp_path)
    await workers.prepare(parts.preparer, parts.arrived(), NOW, bulk=False)
    await workers.prepare(parts.preparer, parts.arrived()[: module.WORTH_A_PROCESS - 1], NOW, bulk=True)
    assert workers.process is None


async def test_a_remote_store_takes_no_process(workers: Workers, tmp_path: Path) -> None:
    parts = Parts(tmp_path, "memory://")
    assert parts.preparer.job(parts.arrived(), NOW) is None
    batch = parts.arrived()
    originals = [bytes(arrived.sink.head) for arrived in batch]
    await workers.prepare(parts.preparer, parts.arrived(), NOW, bulk=True)
    await until_ready(workers)
    parts.verify(await workers.prepare(parts.preparer, batch, NOW, bulk=True), originals)


async def test_one_processor_takes_no_process(tmp_path: Path) -> None:
    alone, parts = Workers(processors=1), Parts(tmp_path)
    await alone.prepare(parts.preparer, parts.arrived(), NOW, bulk=True)
    assert alone.process is None
    await asyncio.to_thread(alone.close)


async def test_destroyed_keys_are_not_shared(workers: Workers, tmp_path: Path) -> None:
    parts = Parts(tmp_path)
    await workers.prepare(parts.preparer, parts.arrived(), NOW, bulk=True)
    await until_ready(workers)
    batch = parts.arrived()
    parts.ring.destroy_tenant(REF)
    with pytest.raises(KeyMissingError):
        await workers.prepare(parts.preparer, batch, NOW, bulk=True)


@pytest.mark.parametrize("error", [MemoryError(), OSError(errno.EMFILE, "too many open files")], ids=repr)
def test_what_the_machine_lacks_sets_no_message_aside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    parts = Parts(tmp_path)

    def failing(*_: object) -> int:
        raise error

    monkeypatch.setattr(PackedBlobs, "put", failing)
    with pytest.raises(type(error)):
        parts.preparer.prepare(parts.arrived(), NOW)


def test_a_program_is_told_from_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("connectors", "retention", "mailgate"):
        (tmp_path / name / "inner").mkdir(parents=True)
        (tmp_path / name / "__init__.py").write_text("")
        monkeypatch.setattr(getattr(program_module, name), "__file__", str(tmp_path / name / "__init__.py"))
    found = [program_module.program()]

    def told() -> bool:
        found.append(program_module.program())
        return found[-1] not in found[:-1]

    assert not told()
    (tmp_path / "mailgate" / "inner" / "new.py").write_text("a")
    assert told()
    (tmp_path / "mailgate" / "inner" / "new.py").write_text("ab")
    assert told()
    os.utime(tmp_path / "mailgate" / "inner" / "new.py", ns=(0, 1))
    assert told()
    (tmp_path / "mailgate" / "inner" / "new.py").rename(tmp_path / "retention" / "inner" / "new.py")
    assert told()
    monkeypatch.setattr(program_module.mailgate, "__version__", "0.2")
    assert told()
    (tmp_path / "mailgate" / "__pycache__").mkdir()
    (tmp_path / "mailgate" / "__pycache__" / "new.py").write_text("")
    assert not told()


def test_a_piece_is_small_in_number_and_in_bytes() -> None:
    meta = MessageMeta(1, frozenset(), NOW, 1)
    sizes = [1] * 60 + [module.PIECE_BYTES + 1, module.PIECE_BYTES // 2, module.PIECE_BYTES // 2, 1, 2]
    pieces = module._pieces([Arrived(meta, MemorySink(), size) for size in sizes])
    assert [arrived.octets for piece in pieces for arrived in piece] == sizes
    assert [len(piece) for piece in pieces] == [25, 25, 10, 1, 2, 2]


def test_it_ends_with_whoever_started_it() -> None:
    script = """
import os, signal
from mailgate.sync.preparing import PreparingProcess
from mailgate.sync.program import program
process = PreparingProcess(program())
while not process.ready: pass
forks = open(f"/proc/{process.pid}/task/{process.pid}/children").read()
print(process.pid, forks, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", script], stdout=subprocess.PIPE, timeout=PATIENCE_S, check=False)
    assert done.returncode == -signal.SIGKILL
    end = time.monotonic() + PATIENCE_S
    pids = [int(pid) for pid in done.stdout.split()]
    assert len(pids) == LANES
    while any(map(_running, pids)):
        assert time.monotonic() < end, "it goes on without anybody to work for"
        time.sleep(0.01)


def _running(pid: int) -> bool:
    try:
        return b"mailgate.sync.preparing" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return False
