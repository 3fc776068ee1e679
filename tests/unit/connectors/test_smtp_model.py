"""What goes onto the wire and what comes back, without one."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from connectors.smtp.errors import RefusedError
from connectors.smtp.model import Stuffing, pieces, read_reply


@given(st.lists(st.binary(max_size=40).map(lambda b: b.replace(b"\r", b"").replace(b"\n", b""))), st.integers(1, 50))
def test_dots_are_doubled_wherever_the_chunks_are_cut(lines: list[bytes], size: int) -> None:
    data = b"".join(line + b"\r\n" for line in [b".", *lines, b"..x", b"."])
    stuffing = Stuffing()
    wire = b"".join([*(stuffing.chunk(piece) for piece in pieces(data, size)), stuffing.chunk(b""), stuffing.end()])
    assert wire.endswith(b"\r\n.\r\n")
    taken = [line.removeprefix(b".") for line in wire.removesuffix(b".\r\n").split(b"\r\n")]
    assert b"\r\n".join(taken) == data
    assert b"\r\n.\r\n" not in wire[:-3]


def test_a_last_line_without_end_gets_one() -> None:
    stuffing = Stuffing()
    assert stuffing.chunk(b"x") + stuffing.end() == b"x\r\n.\r\n"


def test_replies_are_read_and_made_safe() -> None:
    reply = read_reply(550, "5.1.1 no such\n5.1.1 user \x1b[31m")
    assert (reply.code, reply.enhanced, reply.text) == (550, "5.1.1", "no such user  [31m")
    assert str(reply) == "550 5.1.1 no such user  [31m"
    assert not reply.accepted
    assert not reply.transient
    assert read_reply(451, "try again").transient
    assert read_reply(250, "").accepted
    assert str(read_reply(250, "")) == "250"
    assert read_reply(535, "no hunter2 here", ["hunter2", ""]).text == "no *** here"
    assert len(read_reply(500, "x" * 900).text) == 200
    refused = RefusedError("mail", reply)
    assert (refused.step, refused.retry) == ("mail", "never")
