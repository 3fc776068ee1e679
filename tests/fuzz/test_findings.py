"""Replays what fuzzing found, and the dialogues it starts from, without atheris."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fuzz.wire import check

HERE = Path(__file__).parent
SEEDS = sorted((HERE.parent / "corpus" / "imap").glob("*.bin"))
FINDINGS = sorted(path for path in (HERE / "findings").iterdir() if path.name != "README.md")


@pytest.mark.parametrize("path", [*SEEDS, *FINDINGS], ids=lambda path: path.name)
def test_replay(path: Path) -> None:
    data = path.read_bytes()
    check(data if path in FINDINGS else bytes([7, 1, 0, 40, 3, 9, 100, 2]) + data)
