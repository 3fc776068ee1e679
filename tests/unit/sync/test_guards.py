"""What is too improbable to be believed."""

from __future__ import annotations

import pytest

from connectors.model import SpecialUse
from mailgate.sync.guards import Disappearance, judge


@pytest.mark.parametrize(
    ("known", "gone", "refused"),
    [
        (10, 10, False),
        (50, 50, False),
        (51, 51, True),
        (1000, 300, False),
        (1000, 301, True),
        (100, 50, False),
        (100, 51, True),
    ],
)
def test_more_than_fifty_and_more_than_thirty_percent(known: int, gone: int, refused: bool) -> None:
    refusal = judge(Disappearance("INBOX", SpecialUse.INBOX, known, gone))
    assert (refusal is not None) is refused


@pytest.mark.parametrize("use", [SpecialUse.TRASH, SpecialUse.JUNK, SpecialUse.DRAFTS])
def test_folders_that_are_emptied_all_the_time_are_not_guarded(use: SpecialUse) -> None:
    assert judge(Disappearance("Trash", use, 5000, 5000)) is None


def test_the_reason_says_what_happened_and_what_to_do() -> None:
    emptied = judge(Disappearance("Archive", None, 1200, 1200))
    assert emptied is not None
    assert emptied.reason.startswith("the folder 'Archive' is empty at the server, where 1200 messages stood")
    most = judge(Disappearance("Archive", None, 1200, 700))
    assert most is not None
    assert most.reason.startswith("700 of 1200 messages are gone from the folder 'Archive'")
    assert "approve" in most.reason
