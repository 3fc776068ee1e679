"""Folders that appeared, changed, were renamed or went."""

from __future__ import annotations

from dataclasses import replace

import pytest

from connectors.model import Folder, FolderStatus, SpecialUse
from mailgate.clock import DAY
from mailgate.sync.listing import (
    FOLDERS_LIMIT,
    LOST_AFTER,
    NAME_LIMIT,
    Difference,
    Rules,
    by_identity,
    compare,
    is_labelled,
    is_lost,
    moved,
    renames,
)
from mailgate.sync.state import FolderState

NOW = 20_000 * DAY


def listed(name: str, use: SpecialUse | None = None, *, selectable: bool = True) -> Folder:
    return Folder(name, "/", frozenset(), use, selectable)


def state(name: str, id_: str = "", *, uidvalidity: int | None = 5, uidnext: int | None = 10) -> FolderState:
    return FolderState(id_ or name, name, None, True, True, uidvalidity, uidnext, None, 0, "/")


def test_where_folders_are_labels_only_what_holds_every_message_once_is_followed() -> None:
    rules = Rules(labelled=True)
    assert rules.follows(listed("All Mail", SpecialUse.ALL))
    assert rules.follows(listed("Bin", SpecialUse.TRASH))
    assert rules.follows(listed("Spam", SpecialUse.JUNK))
    assert not rules.follows(listed("INBOX", SpecialUse.INBOX))
    assert not rules.follows(listed("Work"))
    assert not Rules(exclude=("spam",), labelled=True).follows(listed("Spam", SpecialUse.JUNK))


def test_folders_are_labels_where_the_server_says_so_and_shows_all_mail() -> None:
    gmail, shown = {"X-GM-EXT-1"}, [listed("INBOX"), listed("All Mail", SpecialUse.ALL)]
    assert is_labelled(gmail, shown)
    assert not is_labelled(gmail, shown[:1])
    assert not is_labelled(gmail, [listed("All Mail", SpecialUse.ALL, selectable=False)])
    assert not is_labelled(set(), shown)


@pytest.mark.parametrize(
    ("uidvalidity", "error", "since_at", "lost"),
    [
        (5, None, None, False),
        (None, None, None, False),
        (None, "refused", NOW, True),
        (5, "refused", NOW - LOST_AFTER + 1, False),
        (5, "refused", NOW - LOST_AFTER, True),
        (5, "refused", None, False),
    ],
)
def test_a_folder_is_waited_for_while_it_may_be_read_again(
    uidvalidity: int | None, error: str | None, since_at: int | None, lost: bool
) -> None:
    folder = replace(state("A", uidvalidity=uidvalidity), last_error=error, unreadable_at=since_at)
    assert is_lost(folder, NOW) is lost


def test_new_changed_and_gone() -> None:
    found = compare(
        [state("A"), state("B"), state("C")], [listed("B"), listed("C", SpecialUse.SENT), listed("D")], Rules()
    )
    assert [folder.name for folder in found.appeared] == ["D"]
    assert list(found.changed) == ["C"]
    assert [folder.name for folder in found.gone] == ["A"]


def test_a_folder_listed_twice_counts_once() -> None:
    found = compare([], [listed("A", SpecialUse.SENT), listed("A")], Rules())
    assert [folder.special_use for folder in found.appeared] == [SpecialUse.SENT]


def test_all_is_followed_but_views() -> None:
    rules = Rules()
    assert rules.follows(listed("Anything"))
    assert rules.follows(listed("Trash", SpecialUse.TRASH))
    assert not rules.follows(listed("All Mail", SpecialUse.ALL))
    assert not rules.follows(listed("Starred", SpecialUse.FLAGGED))
    assert not rules.follows(listed("[Gmail]", selectable=False))


def test_rules_include_and_exclude() -> None:
    rules = Rules(include=("inbox", "Projekte/*", "All Mail"), exclude=("*/geheim",))
    assert rules.follows(listed("INBOX"))
    assert rules.follows(listed("Projekte/Größe"))
    assert not rules.follows(listed("Projekte/Geheim"))
    assert not rules.follows(listed("Other"))
    assert rules.follows(listed("All Mail", SpecialUse.ALL))
    assert not Rules(exclude=("INBOX",)).follows(listed("INBOX"))


def status(uidvalidity: int, uidnext: int | None = 10) -> FolderStatus:
    return FolderStatus(uidvalidity, uidnext, 3, None)


def test_the_same_uidvalidity_makes_a_candidate() -> None:
    assert renames([state("Old", "f")], [listed("New")], {"New": status(5)}) == {"f": listed("New")}


def test_equal_uidvalidities_decide_nothing() -> None:
    assert renames([state("A", "a"), state("B", "b")], [listed("C")], {"C": status(5)}) == {}
    assert renames([state("A", "a")], [listed("C"), listed("D")], {"C": status(5), "D": status(5)}) == {}


def test_another_uidvalidity_or_fewer_uids_is_another_folder() -> None:
    assert renames([state("A", "a")], [listed("C")], {"C": status(6)}) == {}
    assert renames([state("A", "a")], [listed("C")], {"C": status(5, 9)}) == {}
    assert renames([state("A", "a")], [listed("C")], {"C": None}) == {}
    assert renames([state("A", "a", uidvalidity=None)], [listed("C")], {"C": status(5)}) == {}
    assert renames([state("A", "a", uidnext=None)], [listed("C")], {"C": status(5)}) == {}


def test_a_server_without_uidnext_can_rename_too() -> None:
    assert list(renames([state("A", "a")], [listed("C")], {"C": status(5, None)})) == ["a"]


def identified(name: str, object_id: str | None) -> FolderState:
    return replace(state(name, name.lower()), object_id=object_id)


A, B, C = (identified(name, f"F-{name}") for name in "ABC")


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        ({}, {}),
        ({"A": "F-A", "D": None}, {}),
        ({"D": "F-A"}, {"a": "D"}),
        ({"A": "F-B", "B": "F-A"}, {"a": "B", "b": "A"}),
        ({"A": "F-B", "B": "F-C", "D": "F-A"}, {"a": "D", "b": "A", "c": "B"}),
        ({"D": "F-new"}, {}),
        ({"A": "F-A", "D": "F-A"}, {}),  # one identity, two names
        ({"D": "F-A", "E": "F-A"}, {}),
    ],
)
def test_what_folders_are_called_by_their_identities(told: dict[str, str | None], expected: dict[str, str]) -> None:
    assert moved([A, B, C, identified("X", None)], told) == expected


def test_an_identity_that_two_folders_had_tells_nothing() -> None:
    assert moved([A, identified("B", "F-A")], {"D": "F-A"}) == {}


def test_without_identities_the_names_decide() -> None:
    difference = Difference([listed("D")], {}, [A])
    assert by_identity([A, B], [listed("B"), listed("D")], difference, [A], {}) == (difference, [A], {})


def test_names_that_were_left_are_new_folders_and_names_that_were_taken_are_lost() -> None:
    """A is called B now, and there is another A; the old B is nowhere, and C is gone. D is new, X became Sent."""
    known = [A, B, C, identified("X", None)]
    names = [listed("A"), listed("B", SpecialUse.JUNK), listed("D"), listed("X", SpecialUse.SENT)]
    difference = compare(known, names, Rules())
    found, gone, renamed = by_identity(known, names, difference, [C], {"a": "B"})
    assert [folder.name for folder in found.appeared] == ["A", "D"]
    assert list(found.changed) == ["x"]
    assert gone == [B, C]
    assert renamed == {"a": listed("B", SpecialUse.JUNK)}


def test_names_too_long_to_be_kept_and_folders_beyond_all_measure_are_not_seen() -> None:
    long = [listed("n" * NAME_LIMIT), listed("n" * (NAME_LIMIT + 1))]
    assert [folder.name for folder in compare([], long, Rules()).appeared] == ["n" * NAME_LIMIT]
    many = [listed(f"f{n:06}") for n in range(FOLDERS_LIMIT + 5)]
    assert len(compare([], many, Rules()).appeared) == FOLDERS_LIMIT
