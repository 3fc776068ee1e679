"""The decision table of pushing, cell by cell: what is asked for, what is known of it, the next step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from connectors.model import SpecialUse
from connectors.port import Abilities
from mailgate.clock import DAY, SECOND, Instant
from mailgate.sync.identity import Likeness
from mailgate.sync.operations import LONGEST_PAUSE, Operation, OperationKind, OperationState
from mailgate.sync.push.model import (
    Address,
    Append,
    Applied,
    BringBack,
    Buried,
    Copy,
    CopyThenExpunge,
    CreateFolder,
    DeleteFolder,
    Evidence,
    Expunge,
    Facts,
    Failed,
    LookUp,
    Move,
    Original,
    Place,
    RenameFolder,
    Seen,
    Step,
    Store,
    StoredBytes,
    StoreLabels,
    TakeBack,
    Wait,
)
from mailgate.sync.push.plan import LOOKED_FOR, PAUSED, RENUMBERED, UNDER_WAY, plan
from mailgate.sync.state import FolderState
from mailgate.sync.views import TO_BE_REMOVED

NOW = 20_000 * DAY
ALL = Abilities(move=True, expunge=True, places=True, labels=True)
NO_MOVE = Abilities(move=False, expunge=True, places=True, labels=False)
NOTHING = Abilities(move=False, expunge=False, places=False, labels=False)

SEEN, FLAGGED = frozenset({"\\Seen"}), frozenset({"\\Flagged"})
NONE = frozenset[str]()


def folder(name: str) -> FolderState:
    return FolderState(id=name, name=name, special_use=None, selectable=True, followed=True, uidvalidity=7, uidnext=90)


INBOX, ARCHIVE, OTHER = folder("INBOX"), folder("Archive"), folder("Other")
HERE = Original(INBOX, 7, 3, SEEN)
THERE = Original(ARCHIVE, 8, 5, SEEN)
ELSEWHERE = Original(OTHER, 9, 1)
SENT_HERE = {"folder_id": "INBOX", "uidvalidity": 7, "uid": 3, "to_uidvalidity": 8, "to_uidnext": 5}


def copy(*originals: Original, missing: bool = False, pins: int = 0) -> Copy:
    return Copy("m", originals, missing, pins, Likeness(b"token", 100, NOW), None, StoredBytes("b", b"key", 1, 100))


def operation(
    kind: OperationKind, *, journal: Mapping[str, Any] | None = None, next_at: int | None = None, **detail: Any
) -> Operation:
    """Asked for; with a journal it was sent."""
    return Operation(
        id="o",
        mailbox_id="x",
        seq=1,
        kind=kind,
        state=OperationState.PENDING if journal is None else OperationState.SENT,
        message_id="m",
        folder_id="Archive",
        from_folder_id="INBOX",
        detail=detail,
        journal=journal,
        next_at=next_at,
    )


def step(
    asked: Operation,
    known: Copy | None = None,
    *,
    place: Place | None = None,
    purged: bool = False,
    buried: Buried | None = None,
    abilities: Abilities = ALL,
    evidence: Evidence | None = None,
) -> Step:
    return plan(asked, Facts(known, purged, place, buried), abilities, NOW, entitled=True, evidence=evidence)


FLAGS = operation(OperationKind.FLAGS, add=["\\Flagged"], remove=["\\Seen"])
LABELS = operation(OperationKind.LABELS, add=["Deal"], remove=["Old"])
MOVE = operation(OperationKind.MOVE)
MOVE_SENT = operation(OperationKind.MOVE, journal=SENT_HERE)
HALVES_SENT = operation(OperationKind.MOVE, journal={**SENT_HERE, "halves": True})
DELETE = operation(OperationKind.DELETE)
DELETE_SENT = operation(OperationKind.DELETE, journal=SENT_HERE)
APPEND = operation(OperationKind.APPEND, flags=[], received_at=None)
APPEND_SENT = operation(OperationKind.APPEND, journal={"to_uidvalidity": 8, "to_uidnext": 5}, flags=[])
OF_MESSAGES = [FLAGS, LABELS, MOVE, DELETE, APPEND]
TO_ARCHIVE = Place(ARCHIVE)


def code(found: Step) -> str:
    assert isinstance(found, Failed)
    assert found.reason
    return found.code


# Any operation.


@pytest.mark.parametrize("kind", OperationKind)
def test_any_not_entitled_waits(kind: OperationKind) -> None:
    found = plan(operation(kind), Facts(copy(HERE), place=TO_ARCHIVE), ALL, NOW, entitled=False)
    assert isinstance(found, Wait)
    assert found.until is None


@pytest.mark.parametrize("kind", OperationKind)
def test_any_in_a_pause_waits(kind: OperationKind) -> None:
    found = step(operation(kind, next_at=NOW + 1), copy(HERE), place=TO_ARCHIVE)
    assert isinstance(found, Wait)
    assert found.until == NOW + 1


def test_any_in_a_pause_longer_than_any_was_put_off_by_a_clock_that_was_set_back() -> None:
    longest = step(operation(OperationKind.DELETE, next_at=NOW + LONGEST_PAUSE), copy(HERE))
    assert isinstance(longest, Wait)
    longer = step(operation(OperationKind.DELETE, next_at=NOW + LONGEST_PAUSE + 1), copy(HERE))
    assert isinstance(longer, Expunge)


def test_sent_in_a_pause_is_looked_up_and_not_done_before_its_end() -> None:
    sent = operation(OperationKind.MOVE, journal={**SENT_HERE, "halves": True}, next_at=NOW + 1)
    assert step(sent, copy(HERE), place=TO_ARCHIVE) == LookUp(original=HERE, target=ARCHIVE)
    not_done = Evidence(Seen.THERE)
    assert step(sent, copy(HERE), place=TO_ARCHIVE, evidence=not_done) == Wait(PAUSED, NOW + 1)
    half_done = Evidence(Seen.THERE, Address(8, 5))
    known = CopyThenExpunge(HERE, ARCHIVE, Address(8, 5))
    assert step(sent, copy(HERE), place=TO_ARCHIVE, evidence=half_done) == known
    assert step(sent, copy(HERE, THERE), place=TO_ARCHIVE) == Wait(PAUSED, NOW + 1)
    done = Evidence(Seen.GONE, Address(8, 5))
    assert step(sent, copy(HERE), place=TO_ARCHIVE, evidence=done) == Applied(Address(8, 5))


def test_any_after_its_pause_goes_on() -> None:
    assert step(operation(OperationKind.DELETE, next_at=NOW), copy(HERE)) == Expunge(HERE)


@pytest.mark.parametrize("asked", OF_MESSAGES, ids=lambda asked: asked.kind)
def test_of_a_message_that_was_purged_fails(asked: Operation) -> None:
    assert code(step(asked, None, purged=True, place=TO_ARCHIVE)) == "purged"


def test_delete_of_a_copy_that_is_gone_is_applied() -> None:
    assert step(DELETE, None) == Applied()


@pytest.mark.parametrize("asked", [FLAGS, LABELS, MOVE, APPEND], ids=lambda asked: asked.kind)
def test_others_of_a_copy_that_is_gone_fail(asked: Operation) -> None:
    assert code(step(asked, None, place=TO_ARCHIVE)) == "gone_at_server"


@pytest.mark.parametrize("asked", [FLAGS, LABELS, MOVE, DELETE], ids=lambda asked: asked.kind)
def test_any_whose_original_is_not_where_it_was_waits_for_the_passes(asked: Operation) -> None:
    assert step(asked, copy(missing=True), place=TO_ARCHIVE) == Wait(LOOKED_FOR)


@pytest.mark.parametrize("asked", [FLAGS, LABELS, MOVE], ids=lambda asked: asked.kind)
def test_any_without_an_original_fails(asked: Operation) -> None:
    assert code(step(asked, copy(), place=TO_ARCHIVE)) == "gone_at_server"


# Flags and labels.


def test_flags_that_base_has_are_applied() -> None:
    assert step(FLAGS, copy(Original(INBOX, 7, 3, FLAGGED))) == Applied()


def test_flags_that_base_lacks_are_stored() -> None:
    assert step(FLAGS, copy(HERE)) == Store(HERE, FLAGGED, SEEN)


def test_flags_of_the_original_that_differs_are_stored() -> None:
    assert step(FLAGS, copy(Original(INBOX, 7, 3, FLAGGED), THERE)) == Store(THERE, FLAGGED, SEEN)


def test_flags_that_were_sent_are_stored_again() -> None:
    sent = operation(OperationKind.FLAGS, journal=SENT_HERE, add=["\\Flagged"], remove=[])
    assert step(sent, copy(HERE)) == Store(HERE, FLAGGED, NONE)


def test_labels_that_base_has_are_applied() -> None:
    assert step(LABELS, copy(Original(INBOX, 7, 3, labels=frozenset({"Deal"})))) == Applied()


def test_labels_that_base_lacks_are_stored() -> None:
    at = Original(INBOX, 7, 3, labels=frozenset({"Old"}))
    assert step(LABELS, copy(at)) == StoreLabels(at, frozenset({"Deal"}), frozenset({"Old"}))


def test_labels_where_there_are_none_fail() -> None:
    assert code(step(LABELS, copy(HERE), abilities=NOTHING)) == "no_labels"


# Moves.


@pytest.mark.parametrize(
    "place",
    [None, Place(ARCHIVE, gone=True), Place(FolderState("Archive", "Archive", None, selectable=False, followed=True))],
    ids=["unknown", "gone", "not selectable"],
)
@pytest.mark.parametrize("asked", [MOVE, APPEND], ids=lambda asked: asked.kind)
def test_into_a_folder_that_is_gone_fails(asked: Operation, place: Place | None) -> None:
    assert code(step(asked, copy(HERE), place=place)) == "folder_gone"


@pytest.mark.parametrize("asked", [MOVE, APPEND], ids=lambda asked: asked.kind)
def test_into_a_folder_that_is_not_made_yet_waits(asked: Operation) -> None:
    assert isinstance(step(asked, copy(HERE), place=Place(ARCHIVE, on_its_way="create")), Wait)


def test_move_of_what_stands_there_is_applied() -> None:
    assert step(MOVE, copy(THERE), place=TO_ARCHIVE) == Applied()


def test_move_within_its_folder_is_applied() -> None:
    assert step(MOVE, copy(HERE), place=Place(INBOX)) == Applied()


def test_move_of_what_stands_in_both_leaves_the_source() -> None:
    assert step(MOVE, copy(HERE, THERE), place=TO_ARCHIVE) == CopyThenExpunge(HERE, ARCHIVE, Address(8, 5))


def test_move_of_what_stands_in_both_is_not_looked_up() -> None:
    assert step(MOVE_SENT, copy(HERE, THERE), place=TO_ARCHIVE) == CopyThenExpunge(HERE, ARCHIVE, Address(8, 5))


def test_move_of_what_stands_elsewhere_fails() -> None:
    assert code(step(MOVE, copy(ELSEWHERE), place=TO_ARCHIVE)) == "moved_at_server"


def test_move_where_there_is_move() -> None:
    assert step(MOVE, copy(HERE), place=TO_ARCHIVE) == Move(HERE, ARCHIVE)


def test_move_where_there_is_uid_expunge_only() -> None:
    assert step(MOVE, copy(HERE), place=TO_ARCHIVE, abilities=NO_MOVE) == CopyThenExpunge(HERE, ARCHIVE)


def test_move_where_there_is_neither_fails() -> None:
    assert code(step(MOVE, copy(HERE), place=TO_ARCHIVE, abilities=NOTHING)) == "no_move"


def test_move_sent_is_looked_up() -> None:
    assert step(MOVE_SENT, copy(HERE), place=TO_ARCHIVE) == LookUp(original=HERE, target=ARCHIVE)


def test_move_sent_of_another_address_was_not_done() -> None:
    renumbered = Original(INBOX, 8, 3)
    assert step(MOVE_SENT, copy(renumbered), place=TO_ARCHIVE) == Move(renumbered, ARCHIVE)


def test_move_sent_gone_and_found_is_applied() -> None:
    seen = Evidence(Seen.GONE, Address(8, 5))
    assert step(MOVE_SENT, copy(HERE), place=TO_ARCHIVE, evidence=seen) == Applied(Address(8, 5))


def test_move_sent_there_is_not_done_whatever_is_found() -> None:
    """What is found then is another message that is equal."""
    seen = Evidence(Seen.THERE, Address(8, 5))
    assert step(MOVE_SENT, copy(HERE), place=TO_ARCHIVE, evidence=seen) == Move(HERE, ARCHIVE)


@pytest.mark.parametrize("source", [Seen.THERE, Seen.UNKNOWN])
def test_move_in_halves_sent_and_found_is_half_done(source: Seen) -> None:
    found = step(HALVES_SENT, copy(HERE), place=TO_ARCHIVE, evidence=Evidence(source, Address(8, 5)))
    assert found == CopyThenExpunge(HERE, ARCHIVE, Address(8, 5))


def test_move_in_halves_sent_there_and_not_found_is_not_done() -> None:
    found = step(HALVES_SENT, copy(HERE), place=TO_ARCHIVE, evidence=Evidence(Seen.THERE), abilities=NO_MOVE)
    assert found == CopyThenExpunge(HERE, ARCHIVE)


def test_move_in_halves_sent_gone_and_found_is_applied() -> None:
    seen = Evidence(Seen.GONE, Address(8, 5))
    assert step(HALVES_SENT, copy(HERE), place=TO_ARCHIVE, evidence=seen) == Applied(Address(8, 5))


def test_move_sent_neither_waits_for_the_passes() -> None:
    assert step(MOVE_SENT, copy(HERE), place=TO_ARCHIVE, evidence=Evidence(Seen.GONE)) == Wait(LOOKED_FOR)


def test_move_sent_renumbered_waits_for_the_passes() -> None:
    seen = Evidence(Seen.UNKNOWN, Address(8, 5))
    assert step(MOVE_SENT, copy(HERE), place=TO_ARCHIVE, evidence=seen) == Wait(RENUMBERED)


# The second half of a move, under which somebody moved the original on: it has our mark.

LEAVING = operation(OperationKind.MOVE, journal={**SENT_HERE, "halves": True, "marks": True})
MARKED = Original(OTHER, 9, 1, TO_BE_REMOVED)
UNMARK = Store(MARKED, NONE, TO_BE_REMOVED)


def test_move_whose_original_went_waits_for_a_look_at_all_folders() -> None:
    known = copy(THERE, missing=True)
    assert step(LEAVING, known, place=TO_ARCHIVE) == LookUp()
    assert step(LEAVING, known, place=TO_ARCHIVE, evidence=Evidence()) == Wait(LOOKED_FOR)
    assert step(LEAVING, known, place=TO_ARCHIVE, evidence=Evidence(looked=True)) == Applied()


def test_move_whose_original_stands_goes_on() -> None:
    assert step(LEAVING, copy(HERE, THERE), place=TO_ARCHIVE) == CopyThenExpunge(HERE, ARCHIVE, Address(8, 5))


def test_move_whose_copy_was_moved_back_waits_for_the_original_with_our_mark() -> None:
    """What stands in the source by now is at another address than what was marked: maybe its first half."""
    known = copy(Original(INBOX, 7, 12))
    assert step(LEAVING, known, place=TO_ARCHIVE) == LookUp()
    assert step(LEAVING, known, place=TO_ARCHIVE, evidence=Evidence()) == Wait(LOOKED_FOR)
    seen = Evidence(looked=True)
    assert step(LEAVING, known, place=TO_ARCHIVE, evidence=seen) == Move(known.originals[0], ARCHIVE)


def test_move_within_its_folder_is_over_after_a_look() -> None:
    assert step(LEAVING, copy(HERE), place=Place(INBOX), evidence=Evidence(looked=True)) == Applied()


def test_move_whose_original_was_moved_on_is_taken_back_and_unmarked() -> None:
    assert step(LEAVING, copy(THERE, MARKED), place=TO_ARCHIVE) == TakeBack(THERE)
    assert step(LEAVING, copy(MARKED), place=TO_ARCHIVE) == UNMARK
    looked = Evidence(looked=True)
    assert code(step(LEAVING, copy(ELSEWHERE), place=TO_ARCHIVE, evidence=looked)) == "moved_at_server"


def test_move_whose_original_was_moved_where_it_was_to_go_is_unmarked() -> None:
    moved = Original(ARCHIVE, 8, 9, TO_BE_REMOVED)
    assert step(LEAVING, copy(moved), place=TO_ARCHIVE) == Store(moved, NONE, TO_BE_REMOVED)


def test_move_whose_original_was_moved_out_and_back_goes_on() -> None:
    back = Original(INBOX, 7, 8, TO_BE_REMOVED)
    assert step(LEAVING, copy(back, THERE), place=TO_ARCHIVE) == CopyThenExpunge(back, ARCHIVE, Address(8, 5))
    assert step(LEAVING, copy(back), place=TO_ARCHIVE) == Store(back, NONE, TO_BE_REMOVED)


def test_a_mark_that_was_there_before_is_left() -> None:
    not_ours = replace(LEAVING, journal={**SENT_HERE, "halves": True, "marks": False})
    assert code(step(not_ours, copy(MARKED), place=TO_ARCHIVE)) == "moved_at_server"


# Deletions.


def test_delete_of_what_was_pinned_fails() -> None:
    assert code(step(DELETE, copy(HERE, pins=1))) == "pinned"


def test_delete_without_an_original_is_applied() -> None:
    assert step(DELETE, copy()) == Applied()


def test_delete_with_an_original_expunges_it() -> None:
    assert step(DELETE, copy(HERE)) == Expunge(HERE)


def test_delete_without_uid_expunge_fails() -> None:
    assert code(step(DELETE, copy(HERE), abilities=NOTHING)) == "no_uidplus"


def test_delete_sent_is_looked_up() -> None:
    assert step(DELETE_SENT, copy(HERE)) == LookUp(original=HERE)


def test_delete_sent_gone_may_have_been_moved() -> None:
    assert step(DELETE_SENT, copy(HERE), evidence=Evidence(Seen.GONE)) == Wait(LOOKED_FOR)


def test_delete_sent_there_expunges_again() -> None:
    assert step(DELETE_SENT, copy(ELSEWHERE, HERE), evidence=Evidence(Seen.THERE)) == Expunge(HERE)


def test_delete_sent_renumbered_waits() -> None:
    assert step(DELETE_SENT, copy(HERE), evidence=Evidence(Seen.UNKNOWN)) == Wait(RENUMBERED)


def test_delete_sent_of_another_address_expunges_this_one() -> None:
    assert step(DELETE_SENT, copy(ELSEWHERE)) == Expunge(ELSEWHERE)


# Appends.


@pytest.mark.parametrize("known", [copy(THERE), copy(missing=True)], ids=["has", "had"])
def test_append_of_what_has_or_had_an_original_is_applied(known: Copy) -> None:
    assert step(APPEND, known, place=TO_ARCHIVE) == Applied()


def test_append() -> None:
    assert step(APPEND, copy(), place=TO_ARCHIVE) == Append(ARCHIVE)


def test_append_sent_is_looked_up() -> None:
    assert step(APPEND_SENT, copy(), place=TO_ARCHIVE) == LookUp(target=ARCHIVE)


def test_append_sent_found_is_applied() -> None:
    seen = Evidence(found=Address(8, 6))
    assert step(APPEND_SENT, copy(), place=TO_ARCHIVE, evidence=seen) == Applied(Address(8, 6))


def test_append_sent_not_found_is_appended_again() -> None:
    assert step(APPEND_SENT, copy(), place=TO_ARCHIVE, evidence=Evidence(looked=True)) == Append(ARCHIVE)


def test_append_sent_not_found_waits_for_a_look_at_all_folders() -> None:
    assert step(APPEND_SENT, copy(), place=TO_ARCHIVE, evidence=Evidence()) == Wait(LOOKED_FOR)


UNDER_WAY_UNTIL = {"over_at": NOW + 60 * SECOND}
SENT_AND_LOST = [
    (MOVE_SENT, copy(HERE), Evidence(Seen.THERE), ALL, Move(HERE, ARCHIVE)),
    (HALVES_SENT, copy(HERE), Evidence(Seen.THERE), NO_MOVE, CopyThenExpunge(HERE, ARCHIVE)),
    (APPEND_SENT, copy(), Evidence(looked=True), ALL, Append(ARCHIVE)),
]


@pytest.mark.parametrize(("asked", "known", "seen", "abilities", "again"), SENT_AND_LOST)
def test_what_the_server_may_still_be_doing_is_not_done_again(
    asked: Operation, known: Copy, seen: Evidence, abilities: Abilities, again: Step
) -> None:
    journal = {**(asked.journal or {}), **UNDER_WAY_UNTIL}
    under_way, lost = replace(asked, journal=journal), replace(seen, unanswered=True)

    def then(now: Instant, asked: Operation = under_way, seen: Evidence = lost) -> Step:
        facts = Facts(known, False, TO_ARCHIVE, None)
        return plan(asked, facts, abilities, now, entitled=True, evidence=seen)

    assert then(NOW) == Wait(UNDER_WAY, NOW + 60 * SECOND)
    assert then(NOW + 60 * SECOND) == again
    assert then(NOW - LONGEST_PAUSE) == again  # the clock was set back
    assert then(NOW, seen=seen) == again  # answered, and not done
    assert then(NOW, asked) == again  # sent by a version that did not write how long it may take


def test_append_that_the_server_took_is_not_sent_again() -> None:
    taken = replace(APPEND_SENT, journal={**(APPEND_SENT.journal or {}), **UNDER_WAY_UNTIL, "taken": True})
    seen, facts = Evidence(looked=True), Facts(copy(), False, TO_ARCHIVE, None)
    assert step(taken, copy(), place=TO_ARCHIVE, evidence=seen) == Wait(UNDER_WAY, NOW + 60 * SECOND)
    assert code(plan(taken, facts, ALL, NOW + 60 * SECOND, entitled=True, evidence=seen)) == "not_kept"
    found = Evidence(found=Address(8, 6))
    assert step(taken, copy(), place=TO_ARCHIVE, evidence=found) == Applied(Address(8, 6))


def test_what_was_copied_before_the_line_was_lost_goes_on_at_once() -> None:
    halves = replace(HALVES_SENT, journal={**(HALVES_SENT.journal or {}), **UNDER_WAY_UNTIL})
    seen = Evidence(Seen.THERE, Address(8, 5), unanswered=True)
    found = step(halves, copy(HERE), place=TO_ARCHIVE, evidence=seen)
    assert found == CopyThenExpunge(HERE, ARCHIVE, Address(8, 5))


def test_append_sent_renumbered_waits() -> None:
    seen = Evidence(searched=False)
    assert step(APPEND_SENT, copy(), place=TO_ARCHIVE, evidence=seen) == Wait(RENUMBERED)


def test_move_in_halves_whose_target_was_renumbered_waits() -> None:
    halves = replace(MOVE_SENT, journal={**(MOVE_SENT.journal or {}), "halves": True})
    seen = Evidence(Seen.THERE, searched=False)
    assert step(halves, copy(HERE), place=TO_ARCHIVE, evidence=seen) == Wait(RENUMBERED)


# Folders.

CREATE = operation(OperationKind.FOLDER_CREATE, name="Archive", special_use=None)
CREATE_SENT = operation(OperationKind.FOLDER_CREATE, journal={}, name="Archive", special_use=None)
ON_ITS_WAY = Place(ARCHIVE, on_its_way="create")
RENAME = operation(OperationKind.FOLDER_RENAME, name="New")
RENAME_SENT = operation(OperationKind.FOLDER_RENAME, journal={}, name="New")
REMOVE = operation(OperationKind.FOLDER_DELETE, name="Archive", exists=2)
REMOVE_SENT = operation(OperationKind.FOLDER_DELETE, journal={}, name="Archive", exists=2)


def listed(*names: str, exists: int | None = None) -> Evidence:
    return Evidence(listed=frozenset(names), exists=exists)


@pytest.mark.parametrize("place", [None, Place(ARCHIVE, gone=True)])
@pytest.mark.parametrize("asked", [CREATE, RENAME], ids=lambda asked: asked.kind)
def test_of_a_folder_that_is_gone_fails(asked: Operation, place: Place | None) -> None:
    assert code(step(asked, place=place)) == "folder_gone"


def test_create_of_a_folder_that_is_there_is_applied() -> None:
    assert step(CREATE, place=TO_ARCHIVE) == Applied()


def test_create() -> None:
    assert step(CREATE, place=ON_ITS_WAY) == CreateFolder("Archive", None)


def test_create_with_a_special_use() -> None:
    asked = operation(OperationKind.FOLDER_CREATE, name="Archive", special_use="trash")
    assert step(asked, place=ON_ITS_WAY) == CreateFolder("Archive", SpecialUse.TRASH)


def test_create_sent_is_looked_up() -> None:
    assert step(CREATE_SENT, place=ON_ITS_WAY) == LookUp(folder=ARCHIVE)


def test_create_sent_listed_only_to_hold_others_is_not_done() -> None:
    evidence = Evidence(listed=frozenset({"INBOX", "Archive"}), containers=frozenset({"Archive"}))
    assert step(CREATE_SENT, place=ON_ITS_WAY, evidence=evidence) == CreateFolder("Archive", None)


def test_create_sent_listed_is_applied() -> None:
    assert step(CREATE_SENT, place=ON_ITS_WAY, evidence=listed("INBOX", "Archive")) == Applied()


def test_create_sent_not_listed_is_created() -> None:
    assert step(CREATE_SENT, place=ON_ITS_WAY, evidence=listed("INBOX")) == CreateFolder("Archive", None)


def test_rename_of_what_is_called_so_is_applied() -> None:
    assert step(RENAME, place=Place(folder("New"))) == Applied()


def test_rename() -> None:
    assert step(RENAME, place=TO_ARCHIVE) == RenameFolder("Archive", "New")


def test_rename_sent_is_looked_up() -> None:
    assert step(RENAME_SENT, place=TO_ARCHIVE) == LookUp(folder=ARCHIVE)


def test_rename_sent_only_the_new_name_listed_is_applied() -> None:
    assert step(RENAME_SENT, place=TO_ARCHIVE, evidence=listed("INBOX", "New")) == Applied()


def test_rename_sent_neither_listed_fails() -> None:
    assert code(step(RENAME_SENT, place=TO_ARCHIVE, evidence=listed("INBOX"))) == "folder_gone"


@pytest.mark.parametrize("names", [("Archive",), ("Archive", "New")])
def test_rename_sent_the_old_name_listed_is_renamed(names: tuple[str, ...]) -> None:
    assert step(RENAME_SENT, place=TO_ARCHIVE, evidence=listed(*names)) == RenameFolder("Archive", "New")


@pytest.mark.parametrize("place", [None, Place(ARCHIVE, gone=True)])
def test_delete_of_a_folder_that_is_gone_is_applied(place: Place | None) -> None:
    assert step(REMOVE, place=place) == Applied()


@pytest.mark.parametrize("asked", [REMOVE, REMOVE_SENT])
def test_delete_of_a_folder_looks_first(asked: Operation) -> None:
    assert step(asked, place=TO_ARCHIVE) == LookUp(folder=ARCHIVE)


@pytest.mark.parametrize("asked", [REMOVE, REMOVE_SENT])
def test_delete_of_a_folder_as_the_user_saw_it(asked: Operation) -> None:
    assert step(asked, place=TO_ARCHIVE, evidence=listed("Archive", exists=2)) == DeleteFolder("Archive")


@pytest.mark.parametrize("asked", [REMOVE, REMOVE_SENT])
def test_delete_of_a_folder_that_is_not_listed_is_applied(asked: Operation) -> None:
    assert step(asked, place=TO_ARCHIVE, evidence=listed("INBOX")) == Applied()


def test_delete_of_a_folder_that_changed_fails() -> None:
    assert code(step(REMOVE, place=TO_ARCHIVE, evidence=listed("Archive", exists=3))) == "folder_changed"


def test_delete_of_a_folder_that_has_no_messages_at_all() -> None:
    """One that only holds others (\\Noselect)."""
    place = Place(FolderState("Archive", "Archive", None, selectable=False, followed=True))
    asked = operation(OperationKind.FOLDER_DELETE, name="Archive", exists=0)
    assert step(asked, place=place, evidence=listed("Archive")) == DeleteFolder("Archive")


def test_delete_of_a_folder_that_can_not_be_looked_into_fails() -> None:
    assert code(step(REMOVE, place=TO_ARCHIVE, evidence=listed("Archive"))) == "folder_refused"


REHYDRATE = operation(OperationKind.REHYDRATE, pins=[])
BURIED = Buried("m", "item", NOW - 40 * DAY, b"token", (("INBOX", 7, 3),))


def test_rehydrate_what_was_purged() -> None:
    assert step(REHYDRATE, purged=True, buried=BURIED) == BringBack(BURIED)


def test_rehydrate_what_is_here_by_now() -> None:
    assert step(REHYDRATE, copy(HERE)) == Applied()


def test_rehydrate_what_a_user_deleted() -> None:
    deleted = replace(BURIED, deleted=True)
    assert code(step(REHYDRATE, purged=True, buried=deleted)) == "deleted"


def test_rehydrate_what_left_nothing() -> None:
    assert code(step(REHYDRATE)) == "gone_at_server"


def test_rehydrate_without_entitlement() -> None:
    facts = Facts(purged=True, buried=BURIED)
    assert isinstance(plan(REHYDRATE, facts, ALL, NOW, entitled=False), Wait)
