"""What must hold for any bytes that a server may send: the target of fuzzing, and of replaying what it found."""

from __future__ import annotations

from connectors.errors import ProtocolError
from connectors.imap.responses import Fetch, Response
from connectors.imap.utf7 import decode_name, encode_name
from connectors.imap.wire import Parser
from tests.wirelog import Bytes, WireLog

LIMIT = 2_000


def outcome(chunks: list[bytes]) -> tuple[list[Response], bool, str | None]:
    """The responses, whether the parser is between two, and how it failed. Anything but ProtocolError comes out."""
    log = WireLog()
    parser = Parser(log, limit=LIMIT, list_limit=2 * LIMIT)
    try:
        for chunk in chunks:
            parser.feed(chunk)
    except ProtocolError as error:
        return log.responses, False, str(error)
    return log.responses, parser.idle, None


def cut(data: bytes, sizes: bytes) -> list[bytes]:
    """`data` in pieces of the given sizes, in turn; a size of 0 counts as 256."""
    pieces = []
    at = turn = 0
    while at < len(data):
        step = (sizes[turn % len(sizes)] or 256) if sizes else len(data)
        pieces.append(data[at : at + step])
        at, turn = at + step, turn + 1
    return pieces


def check(data: bytes) -> None:
    """Eight bytes of sizes, then a stream. Raises AssertionError, or whatever else should not happen."""
    sizes, stream = data[:8], data[8:]
    responses, idle, failure = outcome([stream])
    split = outcome(cut(stream, sizes))
    assert split[0] == responses, "another split, other responses"
    assert split[2] == failure, "another split, another failure"
    if failure is None:
        assert split[1] == idle, "another split, another state"
    for response in responses:
        if isinstance(response, Fetch):
            assert response.uid is None or 0 < response.uid < 1 << 32
            for body in response.bodies.values():
                assert isinstance(body.sink, Bytes)
                assert len(body.sink.data) == body.octets
                assert bytes(body.sink.data) in stream or b"\\" in stream
    assert encode_name(decode_name(stream)) == stream
