"""No text of the pages is missing in any language, none is left over, and what is put into one is put into all."""

from __future__ import annotations

import pytest

from mailgate.admin.languages import FOLDER, language, negotiate
from mailgate.clock import HOUR, MINUTE, SECOND
from tests.unit.admin.texts import OTHERS, catalogue, placeholders, texts, written

NOON = 1_795_953_600 * SECOND


@pytest.mark.parametrize("code", OTHERS)
def test_every_text_is_translated(code: str) -> None:
    known = {message.id: message.string for message in catalogue(code) if message.id}
    wanted = set(texts())
    assert len(wanted) > 300
    assert wanted - set(known) == set(), "run `python -m tests.unit.admin.texts` and translate what is new"
    assert set(known) - wanted == set(), "nothing shows these any more"
    for text, translated in known.items():
        originals = [text] if isinstance(text, str) else [*text]
        forms = [translated] if isinstance(translated, str) else [*translated]
        for form in forms:
            assert form, text
            assert placeholders(form) == placeholders(originals[0]), text
            assert not set("<>") & set(form), text
            assert "%" not in form.replace("%(", ""), text


@pytest.mark.parametrize("code", OTHERS)
def test_the_files_are_as_they_are_written(code: str) -> None:
    assert (FOLDER / f"{code}.po").read_bytes() == written(catalogue(code))


def test_numbers_sizes_and_times_are_written_as_each_language_does() -> None:
    english, french = language("en"), language("fr")
    sizes = (0, 1, 1_023, 1_024, 1_536, 10_239, 10_240, 1 << 20, 50 << 30, 5 << 40, 5 << 50)
    assert [english.size(size) for size in sizes] == [
        *("0 B", "1 B", "1,023 B", "1 KiB", "1.5 KiB", "10 KiB", "10 KiB", "1 MiB", "50 GiB", "5 TiB", "5,120 TiB"),
    ]
    assert french.size(1_536) == "1,5 KiB"
    assert (english.moment(NOON), french.day(NOON)) == ("29 Nov 2026 12:00", "29 nov. 2026")
    assert english.ago(NOON - 3 * MINUTE, NOON) == "3 minutes ago"
    assert english.ago(NOON + 5 * HOUR, NOON) == "in 5 hours"
    assert french.money(1_900, "EUR").replace("\xa0", " ") == "19,00 €"
    assert language("vi").text("Mailboxes") == "Hộp thư"


@pytest.mark.parametrize(
    ("accepted", "own", "expected"),
    [
        (None, None, "en"),
        ("vi-VN,vi;q=0.9,en;q=0.8", None, "vi"),
        ("en;q=0.5,fr;q=0.9", None, "fr"),
        ("it;q=0,de", None, "en"),
        ("vi", "it", "it"),
        ("vi", "tlh", "vi"),
        ("*,;q=,fr;q=x,\0" + "a" * 5_000, None, "en"),
    ],
)
def test_the_language_is_the_readers_own_or_what_the_browser_asks_for(
    accepted: str | None, own: str | None, expected: str
) -> None:
    assert negotiate(accepted, own) == expected
