"""For tests of the wire: a receiver that writes down what the parser says, with the bodies as bytes."""

from __future__ import annotations

from dataclasses import dataclass, field

from connectors.imap.responses import Fetch, Response
from connectors.imap.wire import Parser


class Bytes:
    """A sink that keeps copies."""

    def __init__(self) -> None:
        self.data = bytearray()

    def write(self, chunk: memoryview, /) -> None:
        self.data += chunk

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Bytes) and self.data == other.data

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Bytes({bytes(self.data)!r})"


@dataclass
class WireLog:
    """Responses in order; `announced` are the bodies that began: (uid, section, octets). With `keep` false they are
    discarded.
    """

    keep: bool = True
    responses: list[Response] = field(default_factory=list)
    announced: list[tuple[int | None, str, int]] = field(default_factory=list)

    def response(self, response: Response, /) -> None:
        self.responses.append(response)

    def literal(self, uid: int | None, section: str, octets: int, /) -> Bytes | None:
        self.announced.append((uid, section, octets))
        return Bytes() if self.keep else None


def read(*chunks: bytes, limit: int | None = None) -> list[Response]:
    """What a parser says to these bytes; the stream must end between two responses."""
    log = WireLog()
    parser = Parser(log) if limit is None else Parser(log, limit=limit)
    for chunk in chunks:
        parser.feed(chunk)
    assert parser.idle, "the bytes end within a response"
    return log.responses


def read_one(data: bytes) -> Response:
    """The single response that these bytes are."""
    (response,) = read(data)
    return response


def body(response: Response, section: str = "") -> bytes | None:
    """The bytes of a FETCH's section; None when it has none."""
    assert isinstance(response, Fetch)
    found = response.bodies.get(section)
    if found is None:
        return None
    assert isinstance(found.sink, Bytes)
    assert len(found.sink.data) == found.octets
    return bytes(found.sink.data)
