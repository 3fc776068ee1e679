"""Believing disappearances: what is gone with evidence, waited for long enough, and is not improbable.

    pending      gone with evidence; waits until every other followed folder was looked at since (it may be a move)
    judged       all of the mailbox together (`mailgate.sync.guards`); what is improbable becomes a guard and waits
    settled      the rest, and what a person approved: copies go, unless something keeps them by now

An approval is carried out for what was gone when it was found valid (`OpenGuard.through_at`, written before anything
is removed), so a process that is killed meanwhile goes on with the same messages and no others.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from mailgate.clock import Instant
from mailgate.sync import guards
from mailgate.sync.actions import Detach, Remove
from mailgate.sync.context import Context
from mailgate.sync.guards import Outcome
from mailgate.sync.reconcile import settle
from mailgate.sync.state import OpenGuard, PendingCount

SETTLE: Final = 500
"""Disappearances that one transaction settles."""


@dataclass(frozen=True, slots=True)
class Settled:
    """`waits`: something still waits for a look at other folders. `refusal`: why a guard stands, None without one."""

    waits: bool = False
    refusal: str | None = None


async def settle_mailbox(context: Context) -> Settled:
    """Believe what may be believed."""
    store, mailbox_id = context.store, context.config.id
    counts, open_ = await store.unsettled(mailbox_id, context.clock())
    standing = {guard.folder_id: guard for guard in open_}
    if not counts and not standing:
        return Settled()
    ready, waiting = _ripe(context, counts)
    refused = guards.judge(
        (_disappearance(count, waits=count.folder_id in waiting) for count in counts), frozenset(standing)
    )
    reasons: list[str] = []
    for count, bound in ready:
        guard = standing.pop(count.folder_id, None)
        reason = refused.get(count.folder_id)
        if reason is not None and (guard is None or _to_be_looked_at(guard, count)):
            guard = await store.guard(context.owner, count, reason, context.clock())
        if guard is None:
            await _settle_folder(context, count, bound, counts=True)
        elif guard.through_at is not None:
            await _settle_folder(context, count, min(bound, guard.through_at + 1), counts=False)
            await store.close_guard(context.owner, guard.id, Outcome.CARRIED_OUT, context.clock())
        elif reason is None:
            await store.close_guard(context.owner, guard.id, Outcome.RESTORED, context.clock())
            await _settle_folder(context, count, bound, counts=True)
        else:
            reasons.append(reason)
    for guard in standing.values():
        if guard.folder_id in waiting:
            reasons.append(guard.reason)
        else:
            outcome = Outcome.RESTORED if guard.through_at is None else Outcome.CARRIED_OUT
            await store.close_guard(context.owner, guard.id, outcome, context.clock())
    return Settled(bool(waiting), next(iter(reasons), None))


def _ripe(context: Context, counts: list[PendingCount]) -> tuple[list[tuple[PendingCount, Instant]], set[str]]:
    """Folders whose disappearances waited long enough, each with the instant before which they must have been seen; and
    the ids of those that wait.
    """
    looks = context.looks()
    ready: list[tuple[PendingCount, Instant]] = []
    waiting: set[str] = set()
    for count in counts:
        if count.latest_at is None:
            continue
        others = [at for folder_id, at in looks.items() if folder_id != count.folder_id]
        bound = min(others) if others else context.clock() + 1
        if count.latest_at >= bound or context.is_overtaken(count.folder_id):
            waiting.add(count.folder_id)
        else:
            ready.append((count, bound))
    return ready, waiting


def _disappearance(count: PendingCount, *, waits: bool) -> guards.Disappearance:
    # What waits may be a move: it counts once it is known not to be.
    return guards.Disappearance(
        folder_id=count.folder_id,
        folder=count.folder,
        special_use=count.special_use,
        known=count.known,
        gone=0 if waits else count.gone,
        recent=count.recent,
        listed=count.listed,
    )


def _to_be_looked_at(guard: OpenGuard, count: PendingCount) -> bool:
    """Whether the guard may change now: other messages are gone, or it was approved and is to be carried out."""
    return guard.through_at is None and (guard.approved or not guard.names(count))


async def _settle_folder(context: Context, count: PendingCount, bound: Instant, *, counts: bool) -> None:
    """Believe what was seen gone before `bound`. `counts`: towards what the next guard is judged by."""
    while True:
        now = context.clock()
        pending = await context.store.pending(count.folder_id, bound, now, SETTLE)
        settlements = settle(pending, context.looks())
        if not settlements:
            return
        context.getting_on()
        asked = {item.message_id for item in pending if item.asked}
        believed = sum(isinstance(item, Remove | Detach) and item.message_id not in asked for item in settlements)
        context.applied += await context.store.settle(
            context.owner, settlements, now, {count.folder_id: believed} if counts and believed else {}
        )
