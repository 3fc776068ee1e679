"""Which alarms stand: every kind at its edge, and what leads from those that stand to those that should."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from mailgate.alarms import REMEDIES, Alarm, Facts, Failing, Kind, Limits, WordsLeft, changes, decide
from mailgate.clock import DAY, HOUR, MINUTE, SECOND, Instant

NOW: Instant = 20_000 * DAY
LIMITS = Limits()
WELL = Facts(first_tenant_at=NOW - 90 * DAY, last_run_at=NOW - HOUR)


def kinds(facts: Facts, standing: dict[Any, str] | None = None) -> list[tuple[str, str | None]]:
    return [(alarm.kind.value, alarm.tenant_id) for alarm in decide(facts, standing or {}, NOW, LIMITS)]


def test_nothing_stands_while_all_is_well() -> None:
    assert kinds(WELL) == []
    assert kinds(Facts()) == []  # nobody is here yet: nothing needs to be purged


@pytest.mark.parametrize(
    ("more", "found"),
    [
        ({"clock": "the clock went back"}, ("clock_anomaly", None)),
        ({"plans": "plans.toml has no plan `free`"}, ("plans_refused", None)),
        ({"witness": "/w is not there"}, ("witness_missing", None)),
        ({"halted": {"acme": "30 of 40 copies would go"}}, ("purge_halted", "acme")),
        ({"failing": {"acme": Failing(3, NOW - HOUR, "no space")}}, ("erase_failing", "acme")),
        ({"failing": {None: Failing(3, NOW - HOUR, "no space")}}, ("erase_failing", None)),
        ({"plans_unknown": {"acme": "gold"}}, ("plan_unknown", "acme")),
        ({"unsigned": {"acme": NOW - 3 * HOUR - 1}}, ("log_unsigned", "acme")),
        ({"unsigned": {"acme": NOW}, "diverged": {"acme": "fewer entries"}}, ("log_diverged", "acme")),
        ({"unstamped": {"acme": "no answer"}}, ("timestamp_failing", "acme")),
        ({"hooks": {None: "no answer"}}, ("webhook_paused", None)),
        ({"cut_since": NOW - 15 * MINUTE - 1}, ("no_purge", None)),
        ({"lost": {"acme": "gone"}}, ("log_diverged", "acme")),
        ({"lost": {"acme": "gone"}, "unsigned": {"acme": NOW - DAY}}, ("log_diverged", "acme")),
        ({"words_left": WordsLeft(3, NOW - 6 * HOUR - 1, moved=True)}, ("words_left", None)),
    ],
)
def test_each_kind(more: dict[str, Any], found: tuple[str, str | None]) -> None:
    assert kinds(replace(WELL, **more)) == [found]


def test_what_to_do_about_bytes_fits_a_damaged_file_too() -> None:
    """`detail` says of which file, and what without a backup."""
    (alarm,) = decide(replace(WELL, failing={"acme": Failing(1, NOW, "put the file /b back")}), {}, NOW, LIMITS)
    assert alarm.remedy.startswith("Put back the file that is damaged, where `detail` names one; else look at")
    assert "space, permissions, credentials" in alarm.remedy


def test_a_purge_is_missed_after_26_hours_and_not_before() -> None:
    assert kinds(replace(WELL, last_run_at=NOW - 26 * HOUR)) == []
    (alarm,) = decide(replace(WELL, last_run_at=NOW - 26 * HOUR - 1), {}, NOW, LIMITS)
    assert (alarm.kind, alarm.remedy) == (Kind.NO_PURGE, REMEDIES[Kind.NO_PURGE])
    assert "26 hours" in alarm.detail
    assert kinds(replace(WELL, last_run_at=None)) == [("no_purge", None)]
    # before there was a tenant, there was nothing to purge
    assert kinds(Facts(first_tenant_at=NOW - HOUR)) == []
    assert kinds(Facts(first_tenant_at=NOW - HOUR, last_run_at=NOW - 90 * DAY)) == []


def test_a_purge_that_lies_still_for_a_moment_is_no_alarm() -> None:
    assert kinds(replace(WELL, cut_since=NOW - 15 * MINUTE)) == []


def test_limits_follow_the_intervals() -> None:
    assert Limits.of(purge_interval_s=3_600, sign_interval_s=3_600).run_every == 26 * HOUR
    assert Limits.of(purge_interval_s=86_400, sign_interval_s=60).run_every == 26 * HOUR
    assert Limits.of(purge_interval_s=60, sign_interval_s=86_400).unsigned > 2 * DAY


def test_a_log_that_diverged_stays_so_until_it_is_signed() -> None:
    standing = {(Kind.LOG_DIVERGED, "acme"): "fewer entries"}
    assert kinds(replace(WELL, unsigned={"acme": NOW}), standing) == [("log_diverged", "acme")]
    assert kinds(WELL, standing) == []


def test_changes_raise_reword_and_clear() -> None:
    standing = {(Kind.PLAN_UNKNOWN, "acme"): "gold", (Kind.NO_PURGE, None): "x", (Kind.ERASE_FAILING, "acme"): "1 blob"}
    wanted = [
        Alarm(Kind.PLAN_UNKNOWN, "acme", "gold"),
        Alarm(Kind.PLAN_UNKNOWN, "other", "gold"),
        Alarm(Kind.ERASE_FAILING, "acme", "2 blobs"),
    ]
    found = changes(standing, wanted)
    assert [alarm.tenant_id for alarm in found.raised] == ["other"]
    assert [alarm.detail for alarm in found.reworded] == ["2 blobs"]
    assert found.cleared == [(Kind.NO_PURGE, None)]
    assert changes({alarm.key: alarm.detail for alarm in wanted}, wanted).raised == []


def test_details_are_bounded_and_every_kind_says_what_to_do() -> None:
    (alarm,) = decide(replace(WELL, clock="x" * 5_000), {}, NOW, LIMITS)
    assert len(alarm.detail) < 1_000
    assert set(REMEDIES) == set(Kind)
    assert LIMITS.unsigned > SECOND
