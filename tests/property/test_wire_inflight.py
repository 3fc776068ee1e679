"""The queue of commands in flight, under any order of commands, continuations, answers, cancellations and a drop."""

from __future__ import annotations

import asyncio

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from connectors.errors import NetworkError
from connectors.imap.inflight import Command, Inflight
from connectors.imap.responses import Continuation, Exists, Response, Status
from connectors.port import Sink
from tests.soak import examples


class Claims:
    """Claims every EXISTS."""

    def __init__(self) -> None:
        self.heard: list[Response] = []

    def claim(self, response: Response, /) -> bool:
        self.heard.append(response)
        return True

    def literal(self, uid: int | None, section: str, octets: int, /) -> tuple[bool, Sink | None]:
        return True, None


class InflightMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.written: list[bytes] = []
        self.queue = Inflight(self.written.append, lambda: 0.0)
        self.commands: list[Command] = []
        self.chunks: dict[str, list[bytes]] = {}
        self.answered: set[str] = set()
        self.dropped = False

    def teardown(self) -> None:
        self.loop.close()

    @precondition(lambda self: not self.dropped)
    @rule(parts=st.integers(1, 3), holds=st.booleans())
    def submit(self, parts: int, holds: bool) -> None:
        tag = f"t{len(self.commands)}"
        chunks = [f"{tag}.{n}".encode() for n in range(parts)]
        reply = (lambda _: f"{tag}.reply".encode()) if holds else None
        command = Command(
            tag, "X", chunks, timeout_s=1, future=self.loop.create_future(), collector=Claims(), reply=reply
        )
        self.commands.append(command)
        self.chunks[tag] = chunks
        self.queue.submit(command)

    @rule()
    def go_on(self) -> None:
        self.queue.respond(Continuation(b""))

    @rule(data=st.data(), condition=st.sampled_from(["OK", "NO", "BAD"]))
    def answer(self, data: st.DataObject, condition: str) -> None:
        """The server answers any command of which it has heard the first line."""
        sent = [c for c in self.commands if self.heard_of(c) and c.tag not in self.answered]
        if sent and not self.dropped:
            command = data.draw(st.sampled_from(sent))
            self.queue.respond(Status(command.tag, condition))
            self.answered.add(command.tag)
            assert command.future.cancelled() or command.future.result().condition == condition

    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        waiting = [c for c in self.commands if not c.future.done()]
        if waiting:
            command = data.draw(st.sampled_from(waiting))
            command.future.cancel()
            self.queue.abandon(command)

    @rule()
    def untagged(self) -> None:
        sent = [c for c in self.commands if self.heard_of(c) and c.tag not in self.answered]
        claimed = self.queue.respond(Exists(1))
        assert claimed == (bool(sent) and not self.dropped)

    @precondition(lambda self: not self.dropped)
    @rule()
    def drop(self) -> None:
        self.dropped = True
        self.queue.fail(lambda: NetworkError("gone"))
        assert not self.queue
        for command in self.commands:
            assert command.future.done()

    def heard_of(self, command: Command) -> bool:
        return self.chunks[command.tag][0] in self.written

    @invariant()
    def commands_are_written_whole_and_one_after_the_other(self) -> None:
        # Between two parts of one command nothing of another is written, unless the server has ended the first.
        last: str | None = None
        closed: set[str] = set()
        for data in self.written:
            tag = data.decode().split(".")[0]
            if tag != last:
                assert tag not in closed
                if last is not None:
                    closed.add(last)
                last = tag

    @invariant()
    def what_is_not_answered_is_waited_for(self) -> None:
        if not self.dropped:
            for command in self.commands:
                if command.tag not in self.answered and not command.future.cancelled():
                    assert not command.future.done()


TestInflight = InflightMachine.TestCase
TestInflight.settings = examples(60, stateful_step_count=30, deadline=None)
