"""Words that a client may ask for: flags, labels, folder names."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailgate.errors import PreconditionError
from mailgate.store.wishes.words import (
    FLAG_PATTERN,
    FLAGS_MOST,
    FLAGS_PATTERN,
    LABEL_PATTERN,
    NAME_LENGTH,
    Words,
    check_number,
    flags,
    folder_name,
    labels,
)

WORD = st.sampled_from(["\\Seen", "$a", "$A", "$b", "c", "C"])


def slug(call: Callable[..., object], *arguments: object) -> str | None:
    try:
        call(*arguments)
    except PreconditionError as refused:
        return refused.slug
    return None


@given(st.sets(WORD), st.sets(WORD), st.sets(WORD))
def test_a_change_makes_what_it_says_and_names_what_it_changed(
    standing: set[str], add: set[str], remove: set[str]
) -> None:
    folded = {word.lower() for word in add}
    remove = {word for word in remove if word.lower() not in folded}
    standing = {min(group) for group in ({w for w in standing if w.lower() == word} for word in folded_all(standing))}
    wanted = flags(sorted(add), sorted(remove))
    after, change = wanted.applied_to(standing)
    assert after == sorted(set(after))
    assert {word.lower() for word in after} == (folded_all(standing) - folded_all(remove)) | folded
    assert set(after) == (standing - set(change.remove)) | set(change.add)
    assert change.nothing == (set(after) == standing)
    assert wanted.applied_to(after)[1].nothing, "doing it twice changes nothing"


def folded_all(words: set[str]) -> set[str]:
    return {word.lower() for word in words}


@given(st.from_regex(FLAG_PATTERN, fullmatch=True))
def test_what_the_pattern_of_flags_says_is_accepted(flag: str) -> None:
    assert flags([flag]).add == (flag,)
    assert re.fullmatch(FLAGS_PATTERN, f"{flag} {flag}")


@given(st.text(max_size=12))
def test_other_flags_are_refused_and_those_that_pass_are_atoms(flag: str) -> None:
    if slug(flags, [flag]) is None:
        assert flag.isascii()
        assert flag.isprintable()
        assert not set(flag.removeprefix("\\")) & set('(){%*"\\] ') - {"}", ")"} or flag.startswith("\\")
    else:
        assert slug(flags, [flag]) == "flag_invalid"


@given(st.from_regex(LABEL_PATTERN, fullmatch=True, alphabet=st.characters(codec="utf-8")))
def test_what_the_pattern_of_labels_says_is_accepted(label: str) -> None:
    assert labels([label]).add == (label,)


@pytest.mark.parametrize("label", ["", " a", "a ", "\\Trash", "\\x", "a\nb", "a\0", "x" * 226, "\x85"])
def test_labels_that_are_none(label: str) -> None:
    assert slug(labels, [label]) == "label_invalid"


def test_a_word_can_not_be_added_and_removed_at_once() -> None:
    assert slug(flags, ["$a"], ["$A"]) == "flag_invalid"
    assert slug(labels, ["Kunden"], ["KUNDEN"]) == "label_invalid"
    assert flags(["$a", "$A"]) == Words(("$a",))
    assert slug(flags, [f"${number}" for number in range(FLAGS_MOST + 1)]) == "flag_invalid"
    assert slug(check_number, ["x"] * FLAGS_MOST) is None
    assert slug(check_number, ["x"] * (FLAGS_MOST + 1)) == "too_many_flags"


@given(st.text(max_size=30), st.sampled_from(["/", ".", None]))
def test_a_name_that_passes_can_be_said_to_a_server_and_comes_back(name: str, delimiter: str | None) -> None:
    refusal = slug(folder_name, name, delimiter)
    if refusal is not None:
        assert refusal == "name_invalid"
        return
    kept = folder_name(name, delimiter)
    assert kept.lower() == unicodedata.normalize("NFC", name).lower()
    assert folder_name(kept, delimiter) == kept
    kept.encode("utf-8")
    assert not any(unicodedata.category(char) in ("Cc", "Cs") for char in kept)
    assert not set(kept) & set("*%")
    if delimiter is not None:
        assert all(level.strip() == level != "" for level in kept.split(delimiter))


@pytest.mark.parametrize(
    ("name", "delimiter", "kept"),
    [
        ("Inbox/Inbox/a", "/", "INBOX/Inbox/a"),
        ("inbox.a", ".", "INBOX.a"),
        ("inbox.a", "/", "inbox.a"),
        ("inbox/a", None, "inbox/a"),
        ("Inboxes/a", "/", "Inboxes/a"),
        ("\u0131nbox/a", "/", "\u0131nbox/a"),
    ],
)
def test_inbox_above_other_folders_is_always_in_capitals(name: str, delimiter: str | None, kept: str) -> None:
    assert folder_name(name, delimiter) == kept


def test_the_length_of_a_name_is_bounded() -> None:
    assert folder_name("x" * NAME_LENGTH, "/") == "x" * NAME_LENGTH
    assert slug(folder_name, "x" * (NAME_LENGTH + 1), "/") == "name_invalid"
    assert slug(folder_name, "", None) == "name_invalid"
