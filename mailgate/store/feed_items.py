"""Events as readers get them: each with what it is about as that is when it is read.

`data` is what the event was written with. Beside it stand `message` (the copy's state, null when it is gone by now),
with a change of plan `retention` (see `mailgate.store.terms`), with a hold `hold`: all as of the reading, so that a
reader who comes late is not led through what is over.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from mailgate.clock import Instant, to_rfc3339
from mailgate.events.arrivals import Arrivals
from mailgate.events.cursors import write_cursor
from mailgate.events.types import TypeFilter, is_instant
from mailgate.store.database import Database
from mailgate.store.expiry import Expiry
from mailgate.store.feed import FeedEvent, FeedReader, Head
from mailgate.store.message_states import MessageState, MessageStates
from mailgate.store.terms import HoldState, Terms
from mailgate.store.transaction import GATEWAY
from retention.policy import ClockLimits

_MESSAGE: Final = "message."
_HOLD: Final = "hold."
_SUBSCRIPTION: Final = "subscription.changed"


@dataclass(frozen=True, slots=True)
class ItemsPage:
    """Events in order, ready for JSON, and the position to go on after."""

    items: Sequence[dict[str, Any]]
    position: int


class Feed:
    """The feed as one process serves it: rows, states, and who waits for more."""

    def __init__(self, db: Database, expiry: Expiry, clock_limits: ClockLimits) -> None:
        self.reader = FeedReader(db)
        self.states = MessageStates(db, expiry, clock_limits)
        self.arrivals = Arrivals()

    async def page(
        self, head: Head, after: int, *, tenant_id: str | None, types: TypeFilter | None, limit: int, now: Instant
    ) -> ItemsPage:
        """Up to `limit` events behind `after`. Raises GoneError `cursor_expired`."""
        page = await self.reader.page(head, after, tenant_id=tenant_id, types=types, limit=limit)
        return ItemsPage(await self.items(head.ref, page.events, now), page.position)

    async def items(self, ref: str, events: Sequence[FeedEvent], now: Instant) -> list[dict[str, Any]]:
        """These events with what they are about."""
        about: dict[str, set[str]] = {}
        for event in events:
            if event.message_id is not None:
                about.setdefault(event.tenant_id, set()).add(event.message_id)
        states = await self.states.of(about, now) if about else {}
        changed = {event.tenant_id for event in events if event.type == _SUBSCRIPTION}
        terms = await self.states.terms(sorted(changed), now) if changed else {}
        hold_ids = {str(event.data["hold_id"]) for event in events if event.type.startswith(_HOLD)}
        holds = await self.states.holds(hold_ids) if hold_ids else {}
        return [_item(ref, event, states, terms, holds) for event in events]


def _item(
    ref: str,
    event: FeedEvent,
    states: Mapping[str, MessageState],
    terms: Mapping[str, Terms],
    holds: Mapping[str, HoldState],
) -> dict[str, Any]:
    item: dict[str, Any] = {
        "cursor": write_cursor(ref, event.position),
        "id": event.id,
        "tenant_id": None if event.tenant_id == GATEWAY else event.tenant_id,
        "type": event.type,
        "at": to_rfc3339(event.at),
    }
    data = dict(event.data)
    if event.mailbox_id is not None:
        item["mailbox_id"] = event.mailbox_id
    if event.message_id is not None:
        item["message_id"] = event.message_id
        state = states.get(event.message_id)
        if event.type.startswith(_MESSAGE):
            data.setdefault("anchor_at", None if state is None else state.anchor_at)
            data.setdefault("expires_at", None if state is None else state.expires_at)
        item["message"] = None if state is None else show_state(state)
    if event.type == _SUBSCRIPTION:
        item["retention"] = show_terms(terms[event.tenant_id])
    if event.type.startswith(_HOLD):
        hold = holds.get(str(event.data["hold_id"]))
        item["hold"] = None if hold is None else show_hold(hold)
    item["data"] = {name: _instant(value) if is_instant(name) else value for name, value in data.items()}
    return item


def show_state(state: MessageState) -> dict[str, Any]:
    """A message's state for JSON."""
    return {
        "id": state.id,
        "tenant_id": state.tenant_id,
        "mailbox_id": state.mailbox_id,
        "folder_ids": list(state.folder_ids),
        "thread_id": state.thread_id,
        "flags": list(state.flags),
        "labels": list(state.labels),
        "pins": [{"entity_type": entity_type, "entity_id": entity_id} for entity_type, entity_id in state.pins],
        "size": state.size,
        "has_files": state.has_files,
        "anchor_at": _instant(state.anchor_at),
        "anchor_source": state.anchor_source,
        "received_at": _instant(state.received_at),
        "stored_at": _instant(state.stored_at),
        "unpinned_at": _instant(state.unpinned_at),
        "keep_until_at": _instant(state.keep_until_at),
        "expires_at": _instant(state.expires_at),
        "held": state.held,
        "hold_ids": list(state.hold_ids),
        "mailbox_removed_at": _instant(state.mailbox_removed_at),
        "origin_present": state.origin_present,
    }


def show_terms(terms: Terms) -> dict[str, Any]:
    """A tenant's terms for JSON."""
    return {
        "steps": [{"at": to_rfc3339(step.at), "plan": step.plan, "days": step.days} for step in terms.steps],
        "min_residence_days": terms.min_residence_days,
        "plan_shrink_grace_days": terms.plan_shrink_grace_days,
        "unpin_grace_days": terms.unpin_grace_days,
        "shrunk_at": _instant(terms.shrunk_at),
    }


def show_hold(hold: HoldState) -> dict[str, Any]:
    """A hold for JSON."""
    return {
        "id": hold.id,
        "scope": hold.scope,
        "mailbox_id": hold.mailbox_id,
        "protects_until_at": _instant(hold.protects_until_at),
    }


def _instant(value: object) -> str | None:
    return to_rfc3339(value) if isinstance(value, int) else None
