"""The nastiest cases of retention, each with the tests that try it. A test that is renamed or removed fails here."""

from __future__ import annotations

import ast
import functools
from pathlib import Path

import pytest

ROOT = Path(__file__).parent

CASES: dict[str, tuple[str, ...]] = {
    "a pin between selection and delete, both orders": (
        "store/test_pins_race.py::test_a_purge_that_locked_first_wins_and_the_pin_is_told",
        "store/test_pins_race.py::test_a_pin_that_comes_before_the_locks_wins",
        "store/test_pins_race.py::test_a_pin_that_is_not_committed_yet_is_never_overtaken",
        "store/test_pins_race.py::test_however_they_interleave_no_accepted_pin_is_lost",
    ),
    "a hold placed in the middle of a run": (
        "store/test_legal_holds.py::test_a_hold_between_two_batches_keeps_what_is_left",
        "store/test_legal_holds.py::test_a_hold_that_comes_before_the_locks_keeps_the_copy",
        "store/test_legal_holds.py::test_a_hold_that_is_not_committed_yet_is_never_overtaken",
        "store/test_legal_holds.py::test_a_purge_that_locked_first_takes_the_copy_and_the_hold_is_told",
    ),
    "a hold on a mailbox, and a message that arrives later": (
        "store/test_legal_holds.py::test_each_scope_keeps_what_it_covers_and_what_arrives_later",
    ),
    "a hold released on a copy that is over age": (
        "store/test_purge.py::test_a_released_hold_protects_until_its_time",
    ),
    "overlapping holds of which one is released": (
        "store/test_legal_holds.py::test_holds_overlap_and_a_released_one_protects_for_its_days",
    ),
    "ten events of Past Due out of order, then recovery": (
        "store/test_nasty_cases.py::test_ten_failed_payments_in_any_order_and_one_that_came_through",
        "property/test_timeline_model.py::test_any_order_and_any_repetition_give_the_same_timeline",
    ),
    "a downgrade scheduled, then an upgrade; late delivery": (
        "unit/tenants/test_timeline.py::test_an_upgrade_gives_a_downgrade_up_and_takes_a_renewal_along",
        "store/test_brake.py::test_a_change_that_is_told_late_explains_as_well",
        "store/test_log_judged.py::test_a_payment_that_is_told_after_the_plan_had_lapsed",
        "store/test_pins_race.py::test_a_plan_that_grows_during_a_run_spares_what_is_left",
    ),
    "cancelled, and Free exactly at the run's now": (
        "store/test_nasty_cases.py::test_a_plan_that_ends_exactly_when_the_run_judges",
    ),
    "Free, paid the next day, and nothing returns in silence": (
        "sync/test_nasty_mail.py::test_free_and_paid_again_the_next_day_brings_nothing_back",
    ),
    "another time zone, and a change of summer time": (
        "store/test_nasty_cases.py::test_the_time_zone_of_the_machine_moves_no_boundary",
        "property/test_timeline_model.py::test_the_time_zone_of_the_machine_changes_nothing",
    ),
    "age of exactly N days, a microsecond before and after; 29 February": (
        "store/test_purge.py::test_the_boundary_is_inclusive_to_the_microsecond",
        "unit/retention/test_policy.py::test_a_copy_is_due_at_exactly_n_days_and_not_a_microsecond_before",
        "unit/retention/test_policy.py::test_a_day_has_86_400_seconds_also_across_a_leap_day",
    ),
    "the clock 400 days ahead, and back": (
        "store/test_nasty_cases.py::test_a_clock_400_days_ahead_and_back_again_costs_nothing",
        "store/test_log_judged.py::test_a_clock_that_jumps_in_the_middle_of_a_run_ends_no_plan",
        "store/test_log_judged.py::test_a_run_whose_time_is_still_to_come_is_not_gone_on_with",
        "store/test_retention_service.py::test_a_clock_that_jumped_halts_the_purge_until_somebody_approves",
    ),
    "INTERNALDATE of 1970, of 2038, missing, ahead; a forged Date header": (
        "sync/test_nasty_mail.py::test_an_internaldate_that_makes_no_sense_counts_from_storing",
        "sync/test_nasty_mail.py::test_a_forged_date_header_makes_nothing_older_or_younger",
        "sync/test_import.py::test_dates_that_make_no_sense_count_as_missing",
        "unit/retention/test_policy.py::test_the_anchor_is_internaldate_when_it_makes_sense",
    ),
    "one blob shared by purged, pinned and held messages, in every order, across batches": (
        "store/test_nasty_cases.py::test_a_blob_shared_by_purged_pinned_and_held_goes_with_the_last",
        "store/test_purge.py::test_a_shared_blob_goes_with_its_last_copy",
        "store/test_purge.py::test_a_blob_shared_within_one_batch_is_freed_once",
    ),
    "a put that races the erase of the same content": (
        "store/test_nasty_cases.py::test_the_same_bytes_that_come_while_the_old_ones_wait_to_be_erased",
        "store/test_nasty_cases.py::test_the_same_bytes_that_come_while_a_purge_lets_go_of_them",
        "store/test_nasty_cases.py::test_a_purge_that_comes_while_the_same_bytes_are_being_stored",
        "store/test_erasures.py::test_what_a_copy_refers_to_is_never_erased",
    ),
    "kill -9 everywhere": (
        "crash/test_purge_crash.py::test_cut_at_every_boundary_it_ends_as_an_uncut_run",
        "crash/test_purge_crash.py::test_killed_at_random_boundaries_it_ends_as_an_uncut_run",
        "crash/test_purge_crash.py::test_killed_at_any_moment_it_ends_as_an_uncut_run",
        "crash/test_purge_crash.py::test_an_eraser_cut_before_recording_records_the_truth_later",
        "crash/test_upkeep_crash.py::test_a_rotation_of_keys",
        "crash/test_upkeep_crash.py::test_the_erasure_of_a_tenant",
        "crash/test_upkeep_crash.py::test_a_restore",
        "store/test_erasures.py::test_a_part_that_can_not_be_removed_does_not_lose_the_one_before",
        "crash/test_leave_crash.py::test_killed_between_a_key_and_its_row_it_ends_as_if_it_had_not_been",
        "store/test_key_epochs.py::test_cut_at_any_step_it_ends_as_if_it_had_not_been",
        "store/test_tenant_erasure.py::test_cut_at_any_step_it_ends_as_if_it_had_not_been",
        "store/test_restore.py::test_cut_between_batches_it_goes_on",
    ),
    "removing a file fails, in four ways; it is missing; the disk is full or read-only": (
        "store/test_failing_disk.py::test_bytes_that_can_not_be_removed_are_recorded_and_tried_again",
        "store/test_failing_disk.py::test_bytes_that_are_missing_already_are_recorded_as_that",
        "store/test_failing_disk.py::test_a_database_that_takes_nothing_purges_nothing_and_the_run_ends_later",
        "store/test_erasures.py::test_what_may_not_be_durable_is_tried_again",
        "store/test_full_disk.py::test_a_purge_that_finds_no_space_stops_with_nothing_lost_and_ends_later",
        "store/test_full_disk.py::test_a_purge_whose_database_ends_for_want_of_space_goes_on_when_it_is_back",
        "store/test_full_disk.py::test_bytes_are_erased_when_the_disk_takes_that_again",
    ),
    "UIDVALIDITY changes after a purge, a folder is renamed": (
        "sync/test_tombstones.py::test_under_a_new_uidvalidity",
        "sync/test_tombstones.py::test_in_a_renamed_folder",
    ),
    "overlapping windows, an interrupted import": (
        "sync/test_import.py::test_a_line_cut_at_every_step_of_the_import_ends_the_same",
        "sync/test_import.py::test_an_import_cut_once_goes_on_where_it_was",
        "sync/test_backfill.py::test_cut_anywhere_it_goes_on_and_ends_in_the_same_state",
        "crash/test_import_crash.py::test_killed_at_random_again_and_again",
    ),
    "no command to a server by retention, with two-way sync right after": (
        "sync/test_nasty_mail.py::test_a_purge_says_nothing_to_the_server_and_two_way_sync_goes_on",
        "server/test_demo.py::test_everything_holds_and_the_pages_are_open",
    ),
    "a record with 10 000 pins, deleted in one call": (
        "store/test_nasty_cases.py::test_a_record_with_ten_thousand_pins_goes_in_one_call",
        "store/test_pins.py::test_a_record_that_is_gone_takes_all_its_pins",
    ),
    "two schedulers, a misfire after sleep": (
        "store/test_pins_race.py::test_two_processes_told_to_purge_at_once_purge_once",
        "store/test_retention_service.py::test_two_processes_do_not_purge_at_once",
        "store/test_jobs.py::test_ticks_that_were_missed_coalesce_and_never_vanish",
    ),
    "no word of what was purged in any file": (
        "sync/test_canary.py::test_no_word_of_a_purged_message_is_left",
        "store/test_key_epochs.py::test_what_survives_opens_under_the_new_key_and_a_backup_opens_nothing",
        "store/test_tenant_erasure.py::test_nothing_is_left_but_the_log_and_another_tenant_is_as_it_was",
    ),
    "last week's backup is restored": (
        "store/test_restore.py::test_last_weeks_backup",
        "store/test_restore.py::test_holds_on_mailboxes_that_the_backup_does_not_know_are_told",
        "sync/test_restored_returns.py::test_it_is_named_and_comes_back_once_more",
        "sync/test_restored_returns.py::test_it_is_held_again_when_it_is_here_again",
        "unit/app/test_restored.py::test_a_gateway_serves_nothing_until_restore_was_run",
        "store/test_log.py::test_a_restored_backup_is_not_signed",
    ),
    "every attack on the log": (
        "unit/ledger/test_verify.py::test_a_flipped_byte_anywhere",
        "unit/ledger/test_verify.py::test_a_dropped_tail",
        "unit/ledger/test_verify.py::test_reordered_leaves",
        "unit/ledger/test_verify.py::test_a_swapped_tenant",
        "unit/ledger/test_verify.py::test_an_edited_size",
        "unit/ledger/test_verify.py::test_each_file_missing_or_cut",
        "go/test_go_agrees.py::test_every_attack_is_refused_by_both",
        "go/test_go_agrees.py::test_a_fork_that_was_signed_is_refused_by_both",
        "go/test_go_agrees.py::test_a_rotated_key_is_believed_only_where_it_is_named",
        "store/test_log.py::test_a_changed_history_is_not_signed",
        "store/test_log.py::test_a_checkpoint_that_was_kept_outside_and_is_gone_is_not_made_anew",
        "unit/ledger/test_replay.py::test_a_purge_that_is_stamped_ahead_of_its_time",
        "unit/ledger/test_replay.py::test_a_purge_that_is_stamped_before_its_run",
        "unit/ledger/test_replay.py::test_a_time_that_an_authority_knows_to_be_still_to_come",
        "api/test_proofs.py::test_an_entry_that_somebody_changed_is_shown_as_damaged_and_raises_an_alarm",
        "unit/test_timestamps.py::test_without_roots_a_stamp_is_examined_as_far_as_that_goes",
        "unit/ledger/test_certificate.py::test_every_change_to_a_signed_certificate_shows_without_the_log",
        "store/test_log.py::test_what_somebody_plants_in_the_witness_is_neither_followed_nor_harmed",
        "unit/app/test_restored.py::test_a_forged_checkpoint_outside_is_no_restored_backup",
    ),
}


@functools.cache
def defined_in(path: Path) -> frozenset[str]:
    """The names of the tests that a module defines, read without importing it."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found = (node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))
    return frozenset(name for name in found if name.startswith("test_"))


@pytest.mark.parametrize("case", CASES)
def test_each_case_has_its_tests(case: str) -> None:
    assert CASES[case]
    for reference in CASES[case]:
        module, _, name = reference.partition("::")
        assert name in defined_in(ROOT / module), f"{case}: there is no {reference}"


def test_all_of_them_are_here() -> None:
    assert len(CASES) == 25
    references = [reference for tried in CASES.values() for reference in tried]
    assert len(set(references)) == len(references)
