"""What is improbable, and what exactly a guard names."""

from __future__ import annotations

import hashlib
import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.model import SpecialUse
from mailgate.clock import HOUR, MINUTE
from mailgate.sync import guards
from mailgate.sync.guards import FEW, SHARE_PERCENT, UNGUARDED, Disappearance, digest, judge, recent, remember

NOW = 20_000 * 24 * HOUR


def lost(
    gone: int, known: int, *, folder: str = "Archive", use: SpecialUse | None = None, **more: int
) -> Disappearance:
    return Disappearance(folder, folder, use, known, gone, **more)


@pytest.mark.parametrize(
    ("known", "gone", "refused"),
    [
        (0, 0, False),
        (10, 10, False),
        (50, 50, False),
        (51, 51, True),
        (51, 50, False),
        (100, 50, False),
        (100, 51, True),
        (170, 51, False),
        (171, 52, True),
        (1_000, 300, False),
        (1_000, 301, True),
        (100_000, 30_000, False),
        (100_000, 30_001, True),
    ],
)
def test_few_or_a_small_share_is_believed(known: int, gone: int, refused: bool) -> None:
    assert bool(judge([lost(gone, known)])) is refused


@pytest.mark.parametrize("use", sorted(UNGUARDED))
def test_trash_junk_and_drafts_have_no_guard(use: SpecialUse) -> None:
    assert judge([lost(5_000, 5_000, use=use)]) == {}
    assert judge([lost(5_000, 5_000, folder="Bin", use=use), lost(20, 100)]) == {}


@pytest.mark.parametrize(
    ("given_", "said"),
    [
        (lost(200, 200), "the folder 'Archive' is empty at the server, where 200 messages stood; "),
        (lost(200, 200, listed=0), "the folder 'Archive' is no more at the server, where 200 messages stood; "),
        (lost(200, 300), "200 of 300 messages are gone from the folder 'Archive' at the server; "),
        (lost(90, 710, recent=290), "380 of 1000 messages are gone from the folder 'Archive' at the server within an"),
        (lost(40, 40, recent=40), "the folder 'Archive' is empty at the server, where 80 messages stood; "),
    ],
)
def test_the_reason_says_what_and_what_to_do(given_: Disappearance, said: str) -> None:
    (reason,) = judge([given_]).values()
    assert reason.startswith(said)
    assert "approve it" in reason
    assert "restore them" in reason


def test_a_drain_in_slices_under_the_limit_is_refused_with_the_slice_that_passes_it() -> None:
    known, believed, now = 1_000, list[list[int]](), NOW
    gone_in_all = 0
    for _ in range(40):
        now += 3 * MINUTE
        slice_ = known * 29 // 100
        if judge([lost(slice_, known, recent=recent(believed, now))]):
            break
        known -= slice_
        gone_in_all += slice_
        believed = remember(believed, now, slice_)
    assert gone_in_all == 290


def test_what_was_believed_longer_ago_does_not_count() -> None:
    believed = remember([], NOW, 290)
    assert judge([lost(205, 710, recent=recent(believed, NOW + HOUR - 1))])
    assert not judge([lost(205, 710, recent=recent(believed, NOW + HOUR))])


def test_slices_of_a_minute_are_one_and_old_ones_are_forgotten() -> None:
    believed = remember(remember([], NOW, 3), NOW + MINUTE - 1, 4)
    assert believed == [[NOW, 7]]
    believed = remember(believed, NOW + MINUTE, 5)
    assert believed == [[NOW, 7], [NOW + MINUTE, 5]]
    assert remember(believed, NOW + HOUR, 1) == [[NOW + MINUTE, 5], [NOW + HOUR, 1]]
    assert recent(believed, NOW + HOUR) == 5
    assert remember([[NOW, 7]], NOW - 1, 1) == [[NOW, 7], [NOW - 1, 1]]  # a clock that went back


def test_many_small_folders_that_are_empty_at_once_are_refused_together() -> None:
    folders = [lost(40, 40, folder=f"Project {n}") for n in range(10)]
    refused = judge([*folders, lost(0, 500)])
    assert set(refused) == {f"Project {n}" for n in range(10)}
    assert refused["Project 3"].startswith(
        "400 of 900 messages are gone from the folders of the mailbox at the server, 40 of them from the folder"
    )
    assert judge([*folders[:6], lost(0, 800)]) == {}


def test_what_one_folder_lost_is_no_evidence_against_another() -> None:
    assert set(judge([lost(500, 500, folder="Old"), lost(3, 10)])) == {"Old"}
    small = [lost(40, 40, folder=f"Project {n}") for n in range(3)]
    standing = frozenset(item.folder_id for item in small)
    assert set(judge([*small, lost(1, 5)], standing)) == standing
    assert set(judge([*small, lost(1, 5)])) == {*standing, "Archive"}


def test_folders_that_lost_nothing_are_never_refused() -> None:
    assert judge([lost(0, 100, recent=90), lost(0, 0, folder="x")]) == {}


LOSSES = st.builds(
    lambda n, use, known, gone, recent: Disappearance(f"F{n}", f"F{n}", use, known, min(gone, known), recent),
    st.integers(0, 9),
    st.sampled_from([None, *SpecialUse]),
    st.integers(0, 400),
    st.integers(0, 400),
    st.sampled_from([0, 0, 10, 100]),
)


@given(st.lists(LOSSES, max_size=10, unique_by=lambda item: item.folder_id), st.randoms(use_true_random=False))
def test_a_refusal_has_a_cause_and_no_cause_is_missed(losses: list[Disappearance], order: random.Random) -> None:
    refused = judge(losses)
    shuffled = losses.copy()
    order.shuffle(shuffled)
    assert judge(shuffled) == refused
    by_id = {item.folder_id: item for item in losses}
    for folder_id in refused:
        item = by_id[folder_id]
        assert item.gone > 0
        assert item.special_use not in UNGUARDED
    believed = [item for item in losses if item.folder_id not in refused and item.special_use not in UNGUARDED]
    for item in believed:
        assert not item.gone or item.total <= max(FEW, item.stood * SHARE_PERCENT // 100)
    total, stood = sum(item.total for item in believed), sum(item.stood for item in believed)
    assert not any(item.gone for item in believed) or total <= max(FEW, stood * SHARE_PERCENT // 100)
    fewer = [replace(item, gone=0) for item in losses]
    assert judge(fewer) == {}


ADDRESSES = st.lists(st.tuples(st.integers(1, 3), st.integers(1, 1 << 32)), max_size=50)


@given(ADDRESSES, st.randoms(use_true_random=False))
def test_the_digest_is_of_the_set(addresses: list[tuple[int, int]], order: random.Random) -> None:
    shuffled = [*addresses, *addresses]
    order.shuffle(shuffled)
    assert digest(shuffled) == digest(addresses)


@given(ADDRESSES, ADDRESSES)
def test_another_set_has_another_digest(one: list[tuple[int, int]], other: list[tuple[int, int]]) -> None:
    assert (digest(one) == digest(other)) is (set(one) == set(other))


def test_the_digest_is_what_the_page_says() -> None:
    assert digest([(7, 20), (7, 3), (6, 100)]) == hashlib.sha256(b"6:100\n7:3\n7:20\n").digest()
    assert guards.WINDOW == HOUR
