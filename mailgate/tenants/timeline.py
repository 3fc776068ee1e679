"""A tenant's subscription over time. Pure: events in, periods out.

Theory. What is kept is a set of *events* (bought, renewed, renewal failed, cancelled, …), each with the instant from
which it counts. The *timeline* is computed from them by one fold in the order of those instants, so the order in which
events arrive, and how often, makes no difference. Between events time itself acts: a period ends, a bought change
begins, a grace runs out. A timeline is therefore finite and total: a list of periods without gaps, whose last one has
no end. What holds at an instant is the period that covers it.

A tenant may have several contracts (two subscriptions of one customer). Each goes its own way by what is told of it
(`mailgate.tenants.contract`, `contract_events`); here it is decided which of them an event is told of, and which holds:
the one with the highest plan of those that run, so that none takes what another one keeps; among equals the one that
began last. What is told of no contract is told of the one that holds. A plan that was sold or given without a contract
holds until it ends or a contract is sold in its place.

Invariants (property tests):

1. any order and any repetition of the same events give the same timeline;
2. periods follow each other without gap or overlap, and none is empty;
3. an event changes nothing before its own instant;
4. of two contracts neither makes the plan lower than the other one alone would have it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from mailgate.clock import Instant
from mailgate.tenants import contract_events
from mailgate.tenants.contract import Contract
from mailgate.tenants.periods import (
    BEGINNING,
    ChangeKind,
    Event,
    EventType,
    PendingChange,
    Period,
    Source,
    Status,
    SubscriptionRules,
    Timeline,
)

__all__ = [
    "BEGINNING",
    "REVISION",
    "ChangeKind",
    "Event",
    "EventType",
    "PendingChange",
    "Period",
    "Source",
    "Status",
    "SubscriptionRules",
    "Timeline",
    "timeline",
]

REVISION = 3
"""Raised whenever the same events and rules make another timeline than before: what is stored is then made anew."""

_USUAL = SubscriptionRules()
_RANK = {kind: rank for rank, kind in enumerate(EventType)}


def timeline(events: Iterable[Event], rules: SubscriptionRules = _USUAL) -> Timeline:
    """The timeline that these events make. Repeated ids count once; the order of the events does not matter.

    It is total: an event that makes no sense where it stands (an upgrade of Free, say) changes nothing. One from before
    BEGINNING counts from there.
    """
    fold = _Fold(rules)
    known: set[str] = set()
    for event in sorted(events, key=_order):
        if event.id not in known:
            known.add(event.id)
            at = max(event.effective_at, BEGINNING)
            fold.pass_time(at)
            fold.tell(replace(event, effective_at=at))
    fold.pass_time(None)
    return Timeline(tuple(fold.finished()))


def _order(event: Event) -> tuple[Instant, int, str]:
    return event.effective_at, _RANK[event.type], event.id


class _Fold:
    """All contracts as they stand, the period that holds of them, and those that ended before it."""

    def __init__(self, rules: SubscriptionRules) -> None:
        self._rules = rules
        self._contracts: dict[str | None, Contract] = {None: Contract(rules)}
        self._name: str | None = None  # of the contract that holds, or held last
        self._told = 0
        self._seen = self._holding.now
        self._holds = self._seen
        self._ended: list[Period] = []

    @property
    def _holding(self) -> Contract:
        return self._contracts[self._name]

    def finished(self) -> list[Period]:
        """Every period, in order."""
        return [*self._ended, self._holds]

    def pass_time(self, until: Instant | None) -> None:
        """Everything that time does up to and at `until`; None: for ever."""
        while (at := self._next()) is not None and (until is None or at <= until):
            for contract in self._contracts.values():
                contract.pass_time(at)
            name = self._best()
            changed = self._holding if self._holding.now is not self._seen else self._contracts[name]
            self._hold(name, at, changed.now.cause, changed.now.cause_type)

    def _next(self) -> Instant | None:
        return min((end for contract in self._contracts.values() if (end := contract.end) is not None), default=None)

    def tell(self, event: Event) -> None:
        """What the event does to the contract of which it is told."""
        self._told += 1
        match event.type:
            case EventType.SET:
                self._set(event)
            case EventType.TRIAL_STARTED | EventType.PURCHASED:
                self._open(event)
            case EventType.RENEWED if not self._holds.paid:
                self._take_up(event)
            case EventType.ENDED if event.contract is None:
                self._contracts = {self._name: self._holding}  # whatever else was running
                contract_events.apply(self._holding, event)
            case _:
                contract = self._told_of(event)
                ran = contract.now.paid
                contract_events.apply(contract, event)
                if contract.now.paid and not ran:
                    contract.opened = self._told
        self._hold(self._best(), event.effective_at, event.id, event.type.value)

    def _set(self, event: Event) -> None:
        """Whatever went before, this is what holds."""
        contract = self._holding
        contract_events.apply(contract, event)
        self._contracts, self._name = {event.contract: contract}, event.contract
        contract.opened = self._told

    def _open(self, event: Event) -> None:
        contract = Contract(self._rules, seats=self._holds.seats)
        contract_events.apply(contract, event)
        if contract.now.paid:
            self._sold(event.contract, contract)

    def _take_up(self, event: Event) -> None:
        """A payment on Free: it takes up what lapsed of that contract, else what held last."""
        contract = self._contracts.get(event.contract, self._holding)
        if event.contract is None or contract.last_paid is None:
            contract = self._holding
        again = Contract(self._rules, seats=contract.now.seats, last_paid=contract.last_paid)
        contract_events.apply(again, event)
        if again.now.paid:
            self._sold(event.contract, again)

    def _sold(self, name: str | None, contract: Contract) -> None:
        contract.opened = self._told
        self._contracts[name] = contract
        if name is not None and None in self._contracts:
            # It takes the place of what had no contract.
            del self._contracts[None]

    def _told_of(self, event: Event) -> Contract:
        name = event.contract
        if name is None or not self._holds.paid:
            return self._holding
        known = self._contracts.get(name)
        if self._name is None and event.type is EventType.RENEWED and (known is None or not known.now.paid):
            # Sold without a contract; now it is said which one is paid.
            self._contracts[name] = self._contracts.pop(None)
            self._name = name
        return self._contracts.setdefault(name, Contract(self._rules))

    def _best(self) -> str | None:
        """Which contract holds."""
        running = {name: contract for name, contract in self._contracts.items() if contract.now.paid}
        if None in running or not running:
            return None if running else self._name
        return max(running, key=lambda name: (self._rules.rank(running[name].now.plan), running[name].opened))

    def _hold(self, name: str | None, at: Instant, cause: str | None, cause_type: str | None) -> None:
        """From `at` on the contract of that name holds; what never held is dropped."""
        period = self._contracts[name].now
        if name == self._name and period is self._seen:
            return
        if self._holds.effective_at < at:
            self._ended.append(replace(self._holds, until_at=at))
        self._name, self._seen = name, period
        self._holds = replace(period, effective_at=at, cause=cause, cause_type=cause_type)
