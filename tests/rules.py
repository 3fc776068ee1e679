"""The rules of the service as sold, sentence by sentence, each with the tests that fail when it is broken.

`tests/unit/test_rules.py` sees to it that each rule names a test and that each test that is named exists. Who changes a
rule changes it here, and the tests with it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

_COMMANDS = "tests/unit/tenants/test_commands.py::"
_LIMITS = "tests/unit/tenants/test_limits.py::"
_QUOTE = "tests/unit/tenants/test_quote.py::"
_TIMELINE = "tests/unit/tenants/test_timeline.py::"
_CATALOGUE = "tests/unit/tenants/test_catalogue.py::"
_MODEL = "tests/property/test_timeline_model.py::"
_HISTORIES = "tests/store/test_subscription_histories.py::"
_API = "tests/api/test_subscriptions.py::"
_SOLD = "tests/api/test_plans_as_sold.py::"
_FOLLOWS = "tests/api/test_plan_consequences.py::"
_YEAR = "tests/api/test_subscription_year.py::test_a_year_of_a_tenants_life"
_RUNNING = "tests/api/test_application.py::test_free_and_paid_again"

RULES: Final[Mapping[str, tuple[str, ...]]] = {
    # The table of plans.
    "Free has no two-way sync; CRM+, Demo, Standard, Professional and NFR have it": (
        _FOLLOWS + "test_two_way_sync_on_every_plan_but_free",
        _CATALOGUE + "test_the_plans_that_ship_keep_what_is_sold",
    ),
    "Copies attached to a CRM record or a task are kept for ever, on every plan": (
        _SOLD + "test_copies_stay_as_long_as_the_plan_says",
        _YEAR,
    ),
    "Copies attached to nothing are kept 0 days on Free, 30 on CRM+ and Demo, 60 on Standard, 90 on Professional and "
    "NFR": (
        _SOLD + "test_copies_stay_as_long_as_the_plan_says",
        "tests/store/test_purge.py::test_each_plan_keeps_its_days",
        "tests/store/test_purge.py::test_the_boundary_is_inclusive_to_the_microsecond",
        _YEAR,
    ),
    # What retention touches.
    "Only copies are ever purged: the originals at the mail server are never affected by retention": (
        _RUNNING,
        _FOLLOWS + "test_two_way_sync_on_every_plan_but_free",
    ),
    "A user's delete is two-way and does reach the server": (
        "tests/api/test_two_way.py::test_deleting_into_a_trash_that_has_to_be_made_and_then_for_ever",
    ),
    "When a tenant becomes Free, sync stops": (
        _RUNNING,
        "tests/sync/test_supervisor.py::test_a_tenant_that_does_not_pay_has_no_connection",
        "tests/api/test_submissions.py::test_unpaid_tenants_and_disabled_mailboxes_open_no_connection",
    ),
    "When a tenant becomes Free, everything unattached goes": (_RUNNING, _YEAR),
    "When a tenant becomes Free, everything attached stays readable": (
        _RUNNING,
        _FOLLOWS + "test_on_free_all_can_be_read_and_deleted_and_nothing_added_or_sent",
    ),
    "The age of a copy counts from the day on which the message was received": (
        "tests/unit/retention/test_policy.py::test_the_anchor_is_internaldate_when_it_makes_sense",
        _SOLD + "test_copies_stay_as_long_as_the_plan_says",
    ),
    "The same number of days bounds the first import of a newly connected mailbox": (
        "tests/sync/test_import.py::test_everything_inside_the_window_is_kept",
        "tests/sync/test_import.py::test_the_floor_stays_where_the_first_connect_put_it",
    ),
    # Limits.
    "A user may have 5 mailboxes on CRM+ and Standard, 10 on Professional and Demo": (
        _LIMITS + "test_mailboxes_per_user_and_shared_mailboxes_by_plan",
        _API + "test_a_plan_limits_what_can_be_connected",
    ),
    "Demo has 3 shared mailboxes, the others no limit": (
        _LIMITS + "test_mailboxes_per_user_and_shared_mailboxes_by_plan",
        _API + "test_a_plan_limits_what_can_be_connected",
    ),
    "Outgoing messages are limited by month and by day; 429 says when it frees up": (
        _FOLLOWS + "test_sending_limits_of_the_plan_answer_429_with_when_it_frees_up",
        "tests/store/test_allowance.py::test_of_many_at_once_no_more_pass_than_may",
    ),
    "A part of the month's outgoing messages is reserved for service mail": (
        _FOLLOWS + "test_sending_limits_of_the_plan_answer_429_with_when_it_frees_up",
        _LIMITS + "test_service_mail_has_its_reserve_of_the_month",
    ),
    "On a downgrade over the mailbox limit, the mailboxes connected last are switched off": (
        _FOLLOWS + "test_a_bought_downgrade_shortens_and_switches_off_when_the_period_ends_and_not_before",
        _API + "test_mailboxes_over_the_new_limit_are_switched_off_last_connected_first",
        _LIMITS + "test_the_mailboxes_connected_last_are_switched_off",
        _FOLLOWS + "test_users_over_the_seats_of_the_next_period_are_switched_off_those_connected_last_first",
    ),
    "A mailbox that was switched off is not forgotten: it can be switched on again without being set up anew": (
        _FOLLOWS + "test_a_bought_downgrade_shortens_and_switches_off_when_the_period_ends_and_not_before",
    ),
    "Free switches no mailbox off; paid again, they go on without being set up anew": (
        _API + "test_becoming_free_switches_nothing_off_and_becoming_paid_goes_on",
        _RUNNING,
    ),
    # What fails, and what ends.
    "A paid subscription whose renewal failed keeps working for 10 days of grace": (
        _FOLLOWS + "test_ten_days_of_grace_for_what_was_paid_and_none_for_a_trial",
        _MODEL + "test_past_due_keeps_the_plan_exactly_as_long_as_grace_lasts",
        _YEAR,
    ),
    "When the days of grace are over: plan free, status canceled": (
        _FOLLOWS + "test_ten_days_of_grace_for_what_was_paid_and_none_for_a_trial",
        _TIMELINE + "test_nobody_renewed_costs_the_plan_after_grace",
    ),
    "A trial has no grace": (
        _FOLLOWS + "test_ten_days_of_grace_for_what_was_paid_and_none_for_a_trial",
        _TIMELINE + "test_a_trial_ends_to_the_microsecond_without_grace",
        _MODEL + "test_a_trial_is_never_past_due",
    ),
    "A trial that ended, and a period that nobody renewed, are expired": (
        _TIMELINE + "test_a_trial_ends_to_the_microsecond_without_grace",
        _TIMELINE + "test_what_a_partner_sold_ends_with_its_period",
        "tests/api/test_tenants.py::test_a_period_that_nobody_renewed_ends_in_free",
    ),
    # Renewal.
    "A manual renewal is possible from 30 days before the end": (
        _COMMANDS + "test_a_manual_renewal_is_possible_from_30_days_before_the_end",
    ),
    "A manual renewal is possible once": (_COMMANDS + "test_a_manual_renewal_is_possible_once",),
    "A manual renewal is for 1, 3 or 12 months": (_COMMANDS + "test_a_manual_renewal_is_for_1_3_or_12_months",),
    "One change can be pending at a time": (_COMMANDS + "test_there_is_one_pending_change_at_a_time", _YEAR),
    "Automatic renewal is on after the first purchase": (
        _COMMANDS + "test_automatic_renewal_is_on_after_the_first_purchase",
    ),
    "What a partner sold has no automatic renewal": (
        _COMMANDS + "test_what_a_partner_sold_is_not_renewed_automatically",
    ),
    "Automatic renewal can be switched off: the plan runs to the end of its period, then Free": (
        _COMMANDS + "test_automatic_renewal_can_be_switched_off_the_plan_runs_to_the_end_of_its_period_then_free",
        _YEAR,
    ),
    "A failed renewal is past due and can be retried": (
        _COMMANDS + "test_a_failed_renewal_is_past_due_and_can_be_retried_within_10_days",
        _YEAR,
    ),
    "A trial can be turned into a purchase": (_COMMANDS + "test_a_trial_can_be_turned_into_a_purchase", _YEAR),
    # Another plan.
    "An upgrade is possible at any time and acts at once": (
        _COMMANDS + "test_an_upgrade_is_possible_at_any_time_and_acts_at_once",
        _YEAR,
    ),
    "An upgrade extends what is kept and brings nothing back by itself": (
        _FOLLOWS + "test_an_upgrade_keeps_longer_what_is_there_and_brings_nothing_back",
        "tests/sync/test_backfill.py::test_nothing_comes_back_without_one",
    ),
    "An explicit backfill brings back what the plan allows, and is logged": (
        _RUNNING,
        "tests/sync/test_backfill.py::test_it_brings_older_and_purged_mail_back",
    ),
    "A downgrade can be bought from 1 day before the end and acts when the current period ends": (
        _COMMANDS + "test_a_downgrade_can_be_bought_from_1_day_before_the_end_and_acts_when_the_period_ends",
        _FOLLOWS + "test_a_bought_downgrade_shortens_and_switches_off_when_the_period_ends_and_not_before",
    ),
    "A bought downgrade takes the place of the renewal of that date": (
        _TIMELINE + "test_a_downgrade_takes_the_place_of_the_renewal_of_that_date",
    ),
    "A refused command changes nothing and says from when it will be allowed": (
        _API + "test_a_refusal_says_from_when_and_changes_nothing",
        _COMMANDS + "test_each_refusal_has_a_slug_of_its_own",
        _COMMANDS + "test_what_is_allowed_changes_something_and_what_is_refused_nothing",
    ),
    # The page.
    "The page shows plan, end, users now and at most, storage used and allowed, outgoing messages left this month, the "
    "comparison of plans and the history of purchases": (_FOLLOWS + "test_the_page_has_what_it_shows",),
    "Users (seats) can be added, with the price prorated for the rest of the period": (
        _QUOTE + "test_seats_cost_their_price_for_the_rest_of_the_period_and_fewer_nothing_now",
        _QUOTE + "test_the_rest_of_a_period_never_costs_more_than_all_of_it",
        _COMMANDS + "test_more_seats_at_once_fewer_from_the_end_of_the_period",
    ),
    "Plans are bought monthly or yearly": (
        _QUOTE + "test_a_purchase_costs_the_whole_term",
        _COMMANDS + "test_a_manual_renewal_is_for_1_3_or_12_months",
    ),
    "On Free over the storage limit everything can be viewed and deleted, nothing added or sent, until the use is back "
    "under the limit": (
        _FOLLOWS + "test_on_free_all_can_be_read_and_deleted_and_nothing_added_or_sent",
        _API + "test_over_the_storage_limit_on_free_all_is_read_and_deleted_and_nothing_added",
    ),
    # What the gateway is.
    "The gateway is no billing system: it takes no money, a price is only told": (
        _API + "test_a_quote_is_prorated_and_changes_nothing",
    ),
    "The timeline is exact: any order and any repetition of events give the same one": (
        _MODEL + "test_any_order_and_any_repetition_give_the_same_timeline",
        _MODEL + "test_the_fold_agrees_with_a_walk_step_by_step",
        _HISTORIES + "test_whole_years_agree_with_the_reference_model_however_they_are_told",
        _API + "test_any_order_and_any_repetition_of_events_give_the_same_timeline",
    ),
    "A late event changes the past and is reported, and purges nothing sooner than the corrected timeline allows": (
        _FOLLOWS + "test_a_purchase_told_after_the_trial_ended_and_a_purge_ran",
        _FOLLOWS + "test_an_end_told_late_makes_nothing_due_before_it_was_told",
        _API + "test_a_late_event_changes_the_past_and_says_so",
    ),
    "An outside billing system is followed, with Stripe's own words for the status": (
        "tests/api/test_stripe_taken_over.py::test_a_subscription_at_stripe_is_followed",
        "tests/unit/tenants/test_stripe_events.py::test_a_failed_renewal_has_ten_days_from_the_end_of_what_is_paid",
    ),
    "To sync means to keep at least a day: a plan with sync and 0 days is refused": (
        _CATALOGUE + "test_a_wrong_file_is_refused_and_says_why",
    ),
    "Usage is exact: bytes, copies and messages sent agree with what is there": (
        "tests/store/test_recount.py::test_bytes_and_copies_are_counted_again",
        "tests/store/test_recount.py::test_messages_sent_are_counted_again",
    ),
    "What will happen is told ahead, with how much it touches": (
        _API + "test_notices_say_what_will_happen_when_and_how_many_copies_it_touches",
    ),
}
"""Rule → tests, as `file::function`."""
