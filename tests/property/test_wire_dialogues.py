"""Whole dialogues as servers sent them, and as the RFCs and known odd servers have them: read once, and in every split.

`tests/corpus/imap/*.bin` is what came from the server, byte for byte: recorded (dovecot-…), after the RFCs' examples,
and made by hand after what Gmail, Exchange and hostile servers do. Beside each stands what it says (`.txt`, one
response a line). After a change of meaning: `python -m tests.property.test_wire_dialogues` writes the `.txt` anew;
read the difference.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from connectors.imap.responses import Fetch, Response
from connectors.imap.wire import Parser
from tests.soak import SOAK
from tests.wirelog import WireLog, read

CORPUS = Path(__file__).parent.parent / "corpus" / "imap"
DIALOGUES = sorted(path.stem for path in CORPUS.glob("*.bin"))


def show(response: Response) -> str:
    """One line; sets in order."""
    parts = []
    for name, spec in response.__dataclass_fields__.items():
        if not spec.repr:
            continue
        value = getattr(response, name)
        if isinstance(response, Fetch) and value in (None, {}):
            continue
        parts.append(f"{name}={sorted(value) if isinstance(value, frozenset) else value!r}")
    return f"{type(response).__name__}({', '.join(parts)})"


def said(*chunks: bytes) -> list[str]:
    return [show(response) for response in read(*chunks)]


@pytest.mark.parametrize("name", DIALOGUES)
def test_dialogue(name: str) -> None:
    assert said((CORPUS / f"{name}.bin").read_bytes()) == (CORPUS / f"{name}.txt").read_text().splitlines()


def offsets(data: bytes) -> list[int]:
    """Where to cut: all in `make soak`; else before and after each byte that ends or begins something, and inside what
    they enclose every seventh.
    """
    ends = set(b'\r\n{}()"\\')
    return [n for n in range(len(data)) if SOAK or n % 7 == 0 or ends & set(data[n - 1 : n + 1])]


@pytest.mark.parametrize("name", DIALOGUES)
def test_split_anywhere(name: str) -> None:
    data = (CORPUS / f"{name}.bin").read_bytes()
    whole = read(data)
    for offset in offsets(data):
        assert read(data[:offset], data[offset:]) == whole, f"split at {offset}"


@pytest.mark.parametrize("name", DIALOGUES)
@pytest.mark.parametrize("size", [1, 2, 3, 7, 64])
def test_in_small_pieces(name: str, size: int) -> None:
    data = (CORPUS / f"{name}.bin").read_bytes()
    assert read(*(data[i : i + size] for i in range(0, len(data), size))) == read(data)


@pytest.mark.parametrize("name", DIALOGUES)
def test_a_dialogue_cut_anywhere_says_nothing_that_was_not_complete(name: str) -> None:
    data = (CORPUS / f"{name}.bin").read_bytes()
    whole = read(data)
    for offset in offsets(data):
        log = WireLog()
        Parser(log).feed(data[:offset])
        assert log.responses == whole[: len(log.responses)]


if __name__ == "__main__":
    for dialogue in DIALOGUES:
        text = "".join(f"{line}\n" for line in said((CORPUS / f"{dialogue}.bin").read_bytes()))
        (CORPUS / f"{dialogue}.txt").write_text(text)
