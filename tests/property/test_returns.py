"""What was purged comes back by a backfill only, only so far as that reaches, and never to be due at once (S2, R11)."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from mailgate.clock import DAY
from mailgate.sync.actions import Rebury, Return
from mailgate.sync.reconcile import decide
from mailgate.sync.views import FAR_GONE, FAR_UNKNOWN, Entry, Far, FarPresent, Purged, Tombstoned, Window
from retention.model import AnchorFrom, Copy, Rules
from retention.policy import judge

NOW = 20_000 * DAY


def ages() -> st.SearchStrategy[int]:
    return st.sampled_from([0, 1, 29, 30, 31, 60, 89, 90, 91]).flatmap(
        lambda days: st.sampled_from([-DAY, -1, 0, 1]).map(lambda off: NOW - days * DAY + off)
    )


def windows(*, asked: bool) -> st.SearchStrategy[Window]:
    return st.builds(
        Window,
        now=st.just(NOW),
        floor_at=ages(),
        days=st.none() | st.sampled_from([0, 30, 60, 90]),
        entitled=st.booleans(),
        anchor_from=st.sampled_from(AnchorFrom),
        returns_since=ages() if asked else st.none(),
    )


@st.composite
def graves(draw: st.DrawFn) -> Entry:
    """A tombstone at an address, whatever the server shows there."""
    anchor_at = draw(ages())
    purged = draw(st.sampled_from([None, Purged("m", "item", anchor_at)]))
    far: Far = draw(
        st.sampled_from([FAR_GONE, FAR_UNKNOWN])
        | st.builds(FarPresent, flags=st.just(frozenset()), internal_date=st.none() | ages())
    )
    return Entry(1, None, Tombstoned("t", draw(st.booleans()), purged), far)


@given(graves(), windows(asked=False))
def test_nothing_returns_unless_somebody_asked(entry: Entry, window: Window) -> None:
    assert not isinstance(decide(entry, window), Return)


@given(graves(), windows(asked=True))
def test_what_returns_was_asked_for_and_is_not_due(entry: Entry, window: Window) -> None:
    action = decide(entry, window)
    if not isinstance(action, Return):
        return
    near = entry.near
    assert isinstance(near, Tombstoned)
    assert near.purged == action.purged
    assert isinstance(entry.far, FarPresent)
    assert window.entitled
    assert window.returns_since is not None
    assert action.purged.anchor_at >= window.returns_since
    assert not judge(Copy("m", action.purged.anchor_at, NOW), Rules("p", window.days), NOW).due


@given(graves(), windows(asked=True))
def test_what_does_not_return_is_left_as_without_one(entry: Entry, window: Window) -> None:
    action = decide(entry, window)
    if not isinstance(action, Return):
        assert action == decide(entry, replace(window, returns_since=None))
    else:
        assert type(decide(entry, replace(window, returns_since=None))) in (Rebury, type(None))
