"""How long copies are kept, and by which plans."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from mailgate.settings.fields import Section, listed, setting


class RetentionSettings(Section):
    """When copies are due and how they are purged. Every value is part of the policy version in the purge log."""

    anchor: Literal["received", "stored"] = setting(
        "received",
        "From when a copy's age counts: received at the mail server (never later than stored here), or stored here.",
    )
    min_residence_days: int = setting(
        0, "A copy stays at least this long after it was stored here.", unit="days", ge=0, le=3_650
    )
    plan_shrink_grace_days: int = setting(
        0, "After a plan shrinks, the longer retention goes on for this long.", unit="days", ge=0, le=3_650
    )
    unpin_grace_days: int = setting(
        0, "A copy stays at least this long after its last pin was removed.", unit="days", ge=0, le=3_650
    )
    hold_release_days: int = setting(30, "A released hold still protects for this long.", unit="days", ge=0, le=3_650)
    past_due_grace_days: int = setting(
        10, "A failed renewal keeps the old plan for this long.", unit="days", ge=0, le=365
    )
    rehydrate_days: int = setting(
        7, "A purged copy that was brought back without a pin stays this long.", unit="days", ge=1, le=365
    )
    brake_min: int = setting(
        1_000,
        "A purge that would take more of a tenant's copies than this, and than brake_share, halts unless explained.",
        unit="copies",
        ge=0,
        le=1_000_000_000,
    )
    brake_share: int = setting(20, "The share of a tenant's copies for the same.", unit="percent", ge=0, le=100)
    purge_interval_s: int = setting(3600, "How often the purge runs.", unit="seconds", ge=10, le=86_400)
    batch_size: int = setting(1_000, "Copies that one purge transaction takes at most.", unit="messages", ge=1, le=5000)
    erase_interval_s: int = setting(60, "How often queued erasures of blobs are tried.", unit="seconds", ge=1, le=3_600)


class ClockSettings(Section):
    """Sanity of the machine's clock."""

    max_forward_step_days: int = setting(
        100,
        "If the clock is further ahead of the last recorded time than this, the purge halts and asks.",
        unit="days",
        ge=1,
        le=3_650,
    )
    max_backward_step_s: int = setting(
        300,
        "If the clock is further behind the last run than this, the purge halts and asks.",
        unit="seconds",
        ge=0,
        le=300,  # what an auditor lets pass without an approval (`retention.ledger.replay.CLOCK_SLACK`)
    )


class PlansSettings(Section):
    """What is sold."""

    file: str = setting(
        "",
        "Path of plans.toml. Empty: the plans that come with the program. A change is taken over while it runs.",
    )
    notice_days: Annotated[tuple[Annotated[int, Field(ge=1, le=365)], ...], BeforeValidator(listed)] = setting(
        (30, 7, 1),
        "How long before a plan changes by itself the feed says so, and how far ahead notices look.",
        unit="days",
        written="a list of up to 20 whole numbers from 1 to 365",
        max_length=20,
    )


class BillingSettings(Section):
    """Billing systems that tell of subscriptions."""

    stripe_secrets: Annotated[
        tuple[Annotated[str, Field(min_length=8, max_length=200)], ...], BeforeValidator(listed)
    ] = setting(
        (),
        "Signing secrets of the webhook endpoint at Stripe (whsec_…); while one is rotated, the old and the new one. "
        "Empty: Stripe is not listened to.",
        secret=True,
        max_length=5,
    )
