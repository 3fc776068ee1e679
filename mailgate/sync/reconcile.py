"""What to do, as a pure function of what was seen: the decision table of sync.

For each message, three views (`mailgate.sync.views`): *base* is the state on which both sides last agreed, *near* the
gateway's side, *far* the server's side as one look at the folder showed it. Every cell of the table is a branch below
and has a test of its name.

    base  near        far           meaning                                 action
    –     –           present       new at the server                       Pull, when inside the window
    –     –           gone          nothing on any side                     none
    –     tombstone   present       purged earlier                          none, or Rebury when it was found elsewhere
    –     tombstone   present       purged; a backfill reaches back to it   Return
    –     tombstone   gone          purged, and its original went too       MarkGone (the tombstone may be pruned)
    –     set aside   present       could not be stored; retried by request none
    –     set aside   gone          its reason went with it                 Forget
    –     present     present       moved here, or renumbered               Link
    –     detached    present       the original is back                    Link
    –     moving      present       the server moved it, or our move of it  Link (its operation finds it here)
                                    was done and the answer lost
    –     deleting    present       the server moved it meanwhile           Link (the operation goes after it)
    –     appending   present       our append was done, the answer lost    Link
    –     near only   gone          the original went earlier               none
    yes   –           any           the copy went meanwhile                 Forget
    yes   tombstone   any           purged since                            Forget (the server is never touched: S1)
    yes   standing    present       flags or labels differ from base        Merge
    yes   standing    present       had vanished, and is as it was          Reappear
    yes   standing    gone          gone at the server                      Vanish: pending, it may be a move

Standing is present, moving, deleting or appending: what the CRM asked for and the server did not do yet is the business
of its operation. What the server says is taken down all the same, and what the CRM wished stays wished.

`settle` decides pending disappearances once every other folder was looked at since: Remove, Detach or Forget.

Invariants:
* S1: no action of this module reaches the server's side.
* S2, R11: where a tombstone stands, nothing is pulled, unless somebody asked for a backfill (`Window.returns_since`).
* S5: a base of another UIDVALIDITY never meets a far side here; the caller recognises by content (`identity`) first.
* S6: what the tenant is not entitled to is decided here (`Window.entitled`), not below.
* S8: only evidence makes FAR_GONE; FAR_UNKNOWN, the mere absence from an answer, leads to no action at all.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import assert_never

from mailgate.clock import Instant
from mailgate.sync.actions import (
    Action,
    Detach,
    Drop,
    Forget,
    Link,
    MarkGone,
    Merge,
    Pending,
    Pull,
    Reappear,
    Rebury,
    Remove,
    Return,
    Settlement,
    Vanish,
)
from mailgate.sync.views import (
    FAR_GONE,
    FAR_UNKNOWN,
    Appending,
    Base,
    Deleting,
    Detached,
    Entry,
    FarPresent,
    Moving,
    Present,
    SetAside,
    Snapshot,
    Tombstoned,
    Window,
)


def reconcile(snapshot: Snapshot) -> list[Action]:
    """The actions, in the order of the entries; at most one each."""
    if not snapshot.window.entitled:
        return []
    found = (decide(entry, snapshot.window) for entry in snapshot.entries)
    return [action for action in found if action is not None]


def decide(entry: Entry, window: Window) -> Action | None:
    """One row of the table."""
    return _known(entry, entry.base) if entry.base is not None else _unknown(entry, window)


def _unknown(entry: Entry, window: Window) -> Action | None:
    """Base is absent: both sides never agreed on anything at this address."""
    uid, near, far = entry.uid, entry.near, entry.far
    if far is FAR_UNKNOWN:
        return None
    match near:
        case None:
            return Pull(uid) if isinstance(far, FarPresent) and window.admits(far.internal_date) else None
        case Tombstoned(tombstone_id, elsewhere, purged):
            if not isinstance(far, FarPresent):
                return MarkGone(uid, tombstone_id)
            if purged is not None and window.returns(purged) and window.admits(far.internal_date):
                return Return(uid, purged)
            return Rebury(uid, tombstone_id) if elsewhere else None
        case SetAside():
            return None if isinstance(far, FarPresent) else Forget(uid)
        case Present() | Detached() | Moving() | Deleting() | Appending():
            if not isinstance(far, FarPresent):
                return None
            return Link(uid, near.message_id, far.flags, far.labels, entry.left)
        case _:  # pragma: no cover - unreachable, kept by mypy
            assert_never(near)


def _known(entry: Entry, base: Base) -> Action | None:
    """Base is there: both sides once agreed that this message stands at this address."""
    uid, near, far = entry.uid, entry.near, entry.far
    match near:
        case None | Tombstoned() | SetAside() | Detached():
            return Forget(uid)
        case Present() | Moving() | Deleting() | Appending():
            if isinstance(far, FarPresent):
                if far.flags != base.flags or far.labels not in (None, base.labels):
                    return Merge(uid, near.message_id, far.flags, far.labels)
                return Reappear(uid) if base.vanished else None
            return Vanish(uid) if far is FAR_GONE and not base.vanished else None
        case _:  # pragma: no cover - unreachable, kept by mypy
            assert_never(near)


def settle(
    pending: Iterable[Pending], looked_at: Mapping[str, Instant], refused: frozenset[str] = frozenset()
) -> list[Settlement]:
    """Which pending disappearances may be believed now.

    `looked_at`: for every followed folder of the mailbox, when its last complete pass began (0: none yet). A
    disappearance waits until all *other* folders were looked at after it: until then it may be a move. `refused`:
    folders whose guard said no.
    """
    decided: list[Settlement] = []
    for item in pending:
        if item.other_origin:
            decided.append(Drop(item.folder_id, item.uid, item.uidvalidity, item.message_id))
            continue
        if item.folder_id in refused or not may_settle(item, looked_at):
            continue
        decided.append(Detach(item.message_id) if item.kept else Remove(item.message_id))
    return decided


def may_settle(item: Pending, looked_at: Mapping[str, Instant]) -> bool:
    """Whether every other folder was looked at since."""
    return all(at > item.vanished_at for folder_id, at in looked_at.items() if folder_id != item.folder_id)
