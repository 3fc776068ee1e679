"""Fuzzes the wire with atheris (`pip install --group soak`), from the dialogues of tests/corpus/imap.

    python -m tests.fuzz.fuzz_wire [-max_total_time=600] …

What it finds goes to tests/fuzz/findings/ and is replayed by every test run from then on (`test_findings.py`).
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["connectors"]):
    from tests.fuzz.wire import check

HERE = Path(__file__).parent
DIALOGUES = HERE.parent / "corpus" / "imap"
_WORDS = """
* | FETCH (|UID |FLAGS (|BODY[] {3}\\x0d\\x0a|{0}\\x0d\\x0a|~{1}\\x0d\\x0a|\\x0d\\x0a|NIL
INTERNALDATE |RFC822.SIZE |MODSEQ (|LIST |STATUS |SEARCH |ESEARCH |VANISHED (EARLIER)
EXISTS|EXPUNGE|OK [|\\\\Seen|a1 OK|+ |(TAG
"""
WORDS = _WORDS.strip("\n").replace("\n", "|").split("|")


def main() -> None:
    with tempfile.TemporaryDirectory() as corpus:
        for path in DIALOGUES.glob("*.bin"):
            data = path.read_bytes()
            for at in range(0, len(data), 1_500):
                seed = bytes([7, 1, 0, 40, 3, 9, 100, 2]) + data[at : at + 3_000]
                (Path(corpus) / f"{path.stem}-{at}").write_bytes(seed)
        words = Path(corpus) / "words"
        words.write_text("".join(f'"{word}"\n' for word in WORDS))
        arguments = [sys.argv[0], corpus, f"-dict={words}", f"-artifact_prefix={HERE / 'findings'}/", "-max_len=4000"]
        atheris.Setup([*arguments, *sys.argv[1:]], check)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
