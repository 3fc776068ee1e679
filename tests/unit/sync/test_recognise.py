"""What messages that are new at an address turn out to be."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mailgate.sync.identity import Likeness
from mailgate.sync.incoming import Known
from mailgate.sync.recognise import Recognised, recognise
from mailgate.sync.views import Detached, Near, Origin, Present, Tombstoned

T, U = b"t" * 32, b"u" * 32
NOBODY = frozenset[str]()


def like(email: bytes | None = None, *, token: bytes = T, size: int = 10) -> Likeness:
    return Likeness(token, size, 5, email)


def standing(id_: str, *folder_ids: str, email: bytes | None = None) -> Known:
    return Known(Present(id_), id_, like(email), False, folder_ids)


def waiting(id_: str, email: bytes | None = None) -> Known:
    return Known(Detached(id_), id_, like(email), True)


def test_what_waits_is_met() -> None:
    assert recognise([(7, like())], [waiting("m")], "inbox", NOBODY) == Recognised({7: Detached("m")}, {})


def test_what_is_unknown_is_nothing() -> None:
    assert recognise([(7, like(token=U))], [waiting("m"), standing("n", "a")], "inbox", NOBODY) == Recognised({}, {})


def test_what_stands_elsewhere_is_a_suspect_until_somebody_looked_again() -> None:
    known = [standing("m", "archive", "sent"), standing("n", "trash")]
    assert recognise([(7, like())], known, "inbox", NOBODY).suspects == {7: frozenset({"archive", "sent", "trash"})}
    assert recognise([(7, like())], known, "sent", frozenset({"archive", "trash"})) == Recognised({}, {})


def test_a_tombstone_is_met_by_its_headers_alone() -> None:
    grave = Known(Tombstoned("t", elsewhere=True), "t", Likeness(T), True)
    assert recognise([(7, like(b"e"))], [grave], "inbox", NOBODY).near == {7: Tombstoned("t", elsewhere=True)}


# Servers that say which messages are one.


def test_the_same_identity_is_the_same_message_wherever_it_stands() -> None:
    known = [standing("m", "archive", email=b"e")]
    assert recognise([(7, like(b"e"))], known, "inbox", NOBODY).suspects == {7: frozenset({"archive"})}
    assert recognise([(7, like(b"e"))], known, "inbox", frozenset({"archive"})).near == {7: Present("m")}
    assert recognise([(7, like(b"e"))], [waiting("m", b"e")], "inbox", NOBODY).near == {7: Detached("m")}


def test_the_same_identity_may_stand_twice() -> None:
    found = recognise([(7, like(b"e")), (8, like(b"e"))], [waiting("m", b"e")], "inbox", NOBODY)
    assert found.near == {7: Detached("m"), 8: Detached("m")}


def test_another_identity_is_another_message() -> None:
    known = [waiting("m", b"e"), standing("n", "archive", email=b"f")]
    assert recognise([(7, like(b"g"))], known, "inbox", NOBODY) == Recognised({}, {})


def test_an_identity_given_to_other_headers_is_not_believed() -> None:
    assert recognise([(7, like(b"e", token=U))], [waiting("m", b"e")], "inbox", NOBODY) == Recognised({}, {})


def test_of_two_copies_of_one_identity_that_which_waits_is_met() -> None:
    known = [waiting("m", b"e"), standing("n", "archive", email=b"e")]
    assert recognise([(7, like(b"e"))], known, "inbox", NOBODY).near == {7: Detached("m")}


def test_a_copy_from_before_the_server_told_identities_is_met_by_likeness() -> None:
    assert recognise([(7, like(b"e"))], [waiting("m")], "inbox", NOBODY).near == {7: Detached("m")}


def test_a_message_without_identity_is_met_by_likeness_and_nothing_twice() -> None:
    found = recognise([(7, like()), (8, like(b"e"))], [waiting("m", b"e"), waiting("n", b"f")], "inbox", NOBODY)
    assert found.near == {8: Detached("m"), 7: Detached("n")}
    both = recognise([(7, like()), (8, like(b"e"))], [waiting("m")], "inbox", NOBODY)
    assert both.near == {8: Detached("m")}


# Folders of which nothing could be said for sure.


def at_7(near: Near = None) -> Known:
    return Known(near or Present("m"), "m", like(), False, ("archive",), (Origin("archive", 3, 7),))


@pytest.mark.parametrize("near", [Present("m"), Tombstoned("m", elsewhere=True)])
def test_what_a_doubtful_list_lacks_was_moved_here(near: Near) -> None:
    found = recognise([(9, like())], [at_7(near)], "inbox", frozenset({"archive"}), {("archive", 3): [range(6, 9)]})
    assert found == Recognised({9: near}, {}, {9: (Origin("archive", 3, 7),)})


@pytest.mark.parametrize("listed", [[range(1, 7)], [range(8, 20)], []])
def test_what_it_names_stands_there(listed: list[range]) -> None:
    found = recognise([(9, like())], [at_7()], "inbox", frozenset({"archive"}), {("archive", 3): listed})
    assert found == Recognised({}, {})
    assert recognise([(9, like())], [at_7()], "inbox", NOBODY, {("archive", 3): listed}).suspects


def test_it_must_be_missing_everywhere() -> None:
    both = replace(at_7(), origins=(Origin("archive", 3, 7), Origin("sent", 1, 7)))
    unlisted = {("archive", 3): [range(6, 9)], ("sent", 2): [range(6, 9)]}
    assert recognise([(9, like())], [both], "inbox", frozenset({"archive"}), unlisted) == Recognised({}, {})


def test_what_waits_is_met_as_before() -> None:
    found = recognise([(9, like())], [at_7(), waiting("n")], "inbox", NOBODY, {("archive", 3): [range(6, 9)]})
    assert found.left == {9: (Origin("archive", 3, 7),)}
    assert recognise([(9, like())], [waiting("n")], "inbox", NOBODY, {("archive", 3): [range(6, 9)]}).left == {}


def test_one_identity_is_moved_in_doubt_too() -> None:
    known = replace(at_7(), likeness=like(b"e"))
    found = recognise([(9, like(b"e"))], [known], "inbox", frozenset({"archive"}), {("archive", 3): [range(6, 9)]})
    assert (found.near, found.left) == ({9: Present("m")}, {9: (Origin("archive", 3, 7),)})


def test_what_has_our_mark_is_the_original_though_its_copy_stands() -> None:
    moving = replace(standing("m", "archive"), marks=True)
    assert recognise([(7, like()), (8, like())], [moving], "inbox", frozenset({"archive"}), None, [7]) == Recognised(
        {7: Present("m")}, {}
    )
    others = [(7, like(size=11)), (8, like(token=U))]
    assert recognise(others, [moving], "inbox", frozenset({"archive"}), None, [7, 8]) == Recognised({}, {})
    unmarked = replace(moving, marks=False)
    assert recognise([(7, like())], [unmarked], "inbox", frozenset({"archive"}), None, [7]) == Recognised({}, {})
