"""What a pass over an unchanged folder costs: bytes on the line, round trips, statements. For tests and a benchmark."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Any, Self

import pytest
from sqlalchemy import event

from mailgate.sync.execute import FolderPass
from mailgate.sync.run import Session
from tests.sync.engine import Engine

HIDDEN = {
    "qresync": (),
    "condstore": (b"QRESYNC",),
    "plain": (b"QRESYNC", b"CONDSTORE", b"HIGHESTMODSEQ"),
}
"""What the line hides of a server that offers everything, by kind."""


@dataclass
class Cost:
    """Bytes to the server and from it, turns of the conversation, statements to the database, seconds."""

    sent: int = 0
    received: int = 0
    round_trips: int = 0
    statements: int = 0
    seconds: float = 0.0

    @property
    def octets(self) -> int:
        return self.sent + self.received

    def __sub__(self, other: Cost) -> Cost:
        return Cost(
            self.sent - other.sent,
            self.received - other.received,
            self.round_trips - other.round_trips,
            self.statements - other.statements,
            self.seconds - other.seconds,
        )


class Line:
    """A relay on 127.0.0.1 that counts what passes and hides some capabilities of the server."""

    def __init__(self, port: int, kind: str = "qresync") -> None:
        self._target = port
        self.kind = kind
        self._up = False
        self._tasks: set[asyncio.Task[None]] = set()
        self.sent = self.received = self.round_trips = 0

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0, limit=1 << 20)
        self.port: int = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server_reader, server_writer = await asyncio.open_connection("127.0.0.1", self._target, limit=1 << 20)
        both = [
            asyncio.create_task(self._pump(reader, server_writer, up=True)),
            asyncio.create_task(self._pump(server_reader, writer, up=False)),
        ]
        self._tasks.update(both)
        await asyncio.gather(*both, return_exceptions=True)
        self._tasks.difference_update(both)

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, up: bool) -> None:
        try:
            while data := await reader.read(1 << 16):
                if up:
                    self.sent += len(data)
                    self.round_trips += not self._up
                else:
                    self.received += len(data)
                    for word in HIDDEN[self.kind]:
                        data = data.replace(word, b"X" + word[1:])
                self._up = up
                writer.write(data)
                await writer.drain()
        except ConnectionError:
            pass  # one side hung up
        finally:
            writer.close()


class Watch:
    """Counts statements of an engine and bytes of a line."""

    def __init__(self, engine: Engine, line: Line) -> None:
        self._line = line
        self._statements = 0
        self._databases = [engine.db._writer.sync_engine, engine.db._reader.sync_engine]

    def __enter__(self) -> Self:
        for database in self._databases:
            event.listen(database, "before_cursor_execute", self._count)
        return self

    def __exit__(self, *_: object) -> None:
        for database in self._databases:
            event.remove(database, "before_cursor_execute", self._count)

    def _count(self, *_: Any) -> None:
        self._statements += 1

    @property
    def so_far(self) -> Cost:
        line = self._line
        return Cost(line.sent, line.received, line.round_trips, self._statements, time.perf_counter())


@contextlib.contextmanager
def passes(watch: Watch, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Cost]]:
    """What each folder's pass costs while this is open; every folder is passed over, even where STATUS would do."""
    costs: dict[str, Cost] = {}
    run = FolderPass.run

    async def counted(self: FolderPass) -> None:
        before = watch.so_far
        await run(self)
        costs[self._folder.name] = watch.so_far - before

    with monkeypatch.context() as patch:
        patch.setattr(FolderPass, "run", counted)
        patch.setattr(Session, "_unchanged", lambda *_: False)
        yield costs


@contextlib.asynccontextmanager
async def polls(watch: Watch, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[list[Cost]]:
    """What each poll of a whole mailbox costs while this is open."""
    costs: list[Cost] = []
    poll = Session.poll

    async def counted(self: Session) -> None:
        before = watch.so_far
        await poll(self)
        costs.append(watch.so_far - before)

    with monkeypatch.context() as patch:
        patch.setattr(Session, "poll", counted)
        yield costs
