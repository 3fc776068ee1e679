"""Times as text: what RFC 3339 allows is read, the rest of ISO 8601 is refused."""

from __future__ import annotations

import pytest

from mailgate.clock import DAY, HOUR, from_rfc3339, is_over, to_rfc3339

START = 19_723 * DAY  # 2024-01-01


@pytest.mark.parametrize(
    ("text", "at"),
    [
        ("2024-01-01T00:00:00Z", START),
        ("2024-01-01t00:00:00z", START),
        ("2024-01-01T00:00:00.5Z", START + 500_000),
        ("2024-01-01T00:00:00.1234567891Z", START + 123_456),
        ("2024-01-01T02:00:00+02:00", START),
        ("2023-12-31T23:00:00-01:00", START),
        ("2024-01-01T01:00:00-00:00", START + HOUR),
    ],
)
def test_rfc_3339_is_read(text: str, at: int) -> None:
    assert from_rfc3339(text) == at
    assert from_rfc3339(to_rfc3339(at)) == at


@pytest.mark.parametrize(
    "text",
    [
        "",
        "20240101T000000Z",
        "2024-W01-1T00:00:00Z",
        "2024-01-01T00:00Z",
        "2024-01-01T00:00:00,5Z",
        "2024-01-01T00:00:00.Z",
        "2024-01-01 00:00:00Z",
        "2024-01-01",
        "2024-01-01T00:00:00",
        "2024-01-01T00:00:00+01",
        "2024-01-01T00:00:00+0100",
        "2024-01-01T00:00:00+01:00:30",
        "2024-01-01T00:00:00+24:00",
        "2024-01-01T00:00:00Z\n",
        " 2024-01-01T00:00:00Z",
        "٢٠٢٤-01-01T00:00:00Z",
    ],
)
def test_other_forms_are_refused_with_an_example(text: str) -> None:
    with pytest.raises(ValueError, match="2026-01-31T00:00:00Z"):
        from_rfc3339(text)


@pytest.mark.parametrize("text", ["2024-13-01T00:00:00Z", "2024-02-30T00:00:00Z", "2024-01-01T25:00:00Z"])
def test_days_and_hours_that_do_not_exist_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"month|day|hour"):
        from_rfc3339(text)


@pytest.mark.parametrize(
    ("until_at", "over"),
    [(0, True), (START, True), (START + 1, False), (START + HOUR, False), (START + HOUR + 1, True), (9 * START, True)],
)
def test_a_pause_longer_than_any_is_over(until_at: int, over: bool) -> None:
    assert is_over(until_at, START, HOUR) is over
