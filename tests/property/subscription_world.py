"""A subscription walked through by hand: slow, naive, and built otherwise than `mailgate.tenants.timeline`.

Where the fold keeps periods and asks when the one that holds will end, this is a clerk with an agenda. Each thing that
happens may put an alarm on the agenda; the clerk takes whatever comes next, an alarm before an event of the same
instant, and looks up what to do in the cell of (phase, event). An alarm that was overtaken by something is thrown away.
Who has several contracts has a clerk for each, and an office whose doorkeeper hands out the letters and says which
clerk may speak. For each instant that is asked about, the office walks the whole way from the beginning again. Months
are found by walking over the calendar day by day.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import cache

from mailgate.clock import DAY, Instant, from_datetime, to_datetime
from mailgate.tenants.timeline import Event, EventType, Source, Status

FREE = "free"


@dataclass(slots=True)
class Bought:
    """What begins at the end of the period; without months only the number of seats changes."""

    what: str
    plan: str
    months: int | None
    seats: int | None
    end: Instant | None = None


@dataclass(slots=True)
class Contract:
    """What the clerk's sheet says now."""

    plan: str = FREE
    status: Status = Status.ACTIVE
    start: Instant = 0
    end: Instant | None = None
    auto: bool = False
    seats: int | None = None
    months: int | None = None
    source: Source = Source.DIRECT
    bought: Bought | None = None
    day: int = 1
    tried: bool = False


Answer = tuple[str, str, Instant, Instant | None, bool, int | None, tuple[str, str, int | None, int | None] | None]


@dataclass(slots=True)
class Clerk:
    """One walk along a history, with the rules of the service in mind."""

    grace_days: int
    sheet: Contract = field(default_factory=Contract)
    last_paid: Contract | None = None
    agenda: list[tuple[Instant, int]] = field(default_factory=list)
    edition: int = 0
    age: int = 0

    # The agenda.

    def wait(self, until: Instant) -> None:
        while self.agenda and self.agenda[0][0] <= until:
            at, edition = heapq.heappop(self.agenda)
            if edition == self.edition:
                self._rings(at)

    def _remind(self, now: Instant) -> None:
        """The sheet was written anew: what the agenda said before counts no more."""
        self.edition += 1
        sheet = self.sheet
        if sheet.plan == FREE or sheet.end is None:
            return
        waits = sheet.status is Status.PAST_DUE and sheet.bought is None
        heapq.heappush(self.agenda, (max(now, sheet.end + self.grace_days * DAY if waits else sheet.end), self.edition))

    def _rings(self, at: Instant) -> None:
        sheet = self.sheet
        assert sheet.end is not None
        if sheet.bought is not None and sheet.bought.months is not None:
            self._begins(sheet.bought, sheet.bought.months, at)
        elif sheet.bought is not None:
            sheet.seats, sheet.bought = sheet.bought.seats, None
        elif sheet.status is Status.PAST_DUE or sheet.status is Status.CANCELED:
            self._lapse(at, Status.CANCELED)
        elif not sheet.auto:
            self._lapse(at, Status.EXPIRED)
        else:
            sheet.tried = sheet.status is Status.TRIALING
            sheet.status = Status.PAST_DUE
        self._remind(at)

    def _begins(self, bought: Bought, months: int, at: Instant) -> None:
        sheet = self.sheet
        assert sheet.end is not None
        sheet.start, end = self._next(sheet, months, at)
        if bought.end is not None and bought.end > at:
            end = bought.end
            self._land(sheet, end)
        sheet.end, sheet.plan, sheet.months, sheet.bought = end, bought.plan, months, None
        if bought.seats is not None:
            sheet.seats = bought.seats
        if sheet.status is Status.TRIALING:
            sheet.auto = sheet.source is Source.DIRECT
        if sheet.status is not Status.CANCELED:
            sheet.status = Status.ACTIVE

    def _next(self, sheet: Contract, months: int, at: Instant) -> tuple[Instant, Instant]:
        """The next paid months follow the last ones, unless they would be over already."""
        assert sheet.end is not None
        end = months_later(sheet.end, months, sheet.day)
        if end > at:
            return sheet.end, end
        sheet.day = to_datetime(at).day
        return at, months_later(at, months, sheet.day)

    def _lapse(self, at: Instant, status: Status) -> None:
        self.last_paid = self.sheet
        self.sheet = Contract(status=status, start=at)

    @staticmethod
    def _land(sheet: Contract, end: Instant) -> None:
        """An end that somebody named tells on which day of the month periods end, unless its month is just short."""
        day, month = to_datetime(end), to_datetime(end).month
        shortened = day.day < sheet.day and (day + timedelta(days=1)).month != month
        if not shortened:
            sheet.day = day.day

    # Events, by phase.

    def read(self, event: Event) -> None:
        """A letter that is for this clerk."""
        phase = "free" if self.sheet.plan == FREE else self.sheet.status.value
        cell = getattr(self, f"{event.type.value}_{phase}", None) or getattr(self, f"{event.type.value}_any", None)
        if cell is not None:
            cell(event)
            self._remind(event.effective_at)

    def set_any(self, e: Event) -> None:
        plan, status = e.plan or self.sheet.plan, e.status or Status.ACTIVE
        if plan == FREE or status is Status.EXPIRED:
            if self.sheet.plan != FREE:
                self._lapse(e.effective_at, status)
            self.sheet = Contract(status=status, start=e.effective_at, seats=e.seats)
            return
        sheet = Contract(plan, status, e.effective_at, e.period_end, seats=e.seats, months=e.term_months)
        sheet.day = to_datetime(e.effective_at).day
        if status in (Status.ACTIVE, Status.PAST_DUE):
            sheet.auto = status is Status.PAST_DUE if e.auto_renew is None else e.auto_renew
        if sheet.end is None and status is Status.PAST_DUE:
            sheet.end = e.effective_at
        elif sheet.end is None and e.term_months:
            sheet.end = months_later(e.effective_at, e.term_months, sheet.day)
        elif sheet.end is not None:
            sheet.start = min(sheet.start, sheet.end)
            self._land(sheet, sheet.end)
        sheet.source = e.source or Source.DIRECT
        self.sheet = sheet

    def trial_started_any(self, e: Event) -> None:
        self._sold(e, Status.TRIALING, bool(e.auto_renew))

    def purchased_any(self, e: Event) -> None:
        self._sold(e, Status.ACTIVE, e.source is not Source.PARTNER if e.auto_renew is None else e.auto_renew)

    def _sold(self, e: Event, status: Status, auto: bool) -> None:
        at = e.effective_at
        if e.plan in (None, FREE) or (e.period_end is not None and e.period_end <= at):
            return
        assert e.plan is not None
        sheet = Contract(e.plan, status, at, e.period_end, auto, self.sheet.seats, e.term_months)
        sheet.day = to_datetime(at).day
        if sheet.end is not None:
            self._land(sheet, sheet.end)
        elif e.term_months:
            sheet.end = months_later(at, e.term_months, sheet.day)
        if e.seats is not None:
            sheet.seats = e.seats
        sheet.source = e.source or Source.DIRECT
        self.sheet = sheet

    # Renewed.

    def renewed_free(self, e: Event) -> None:
        at, last = e.effective_at, self.last_paid
        plan = e.plan or (last.plan if last else None)
        if plan is None or plan == FREE:
            return
        months = e.term_months or (last.months if last else None) or 1
        day = to_datetime(at).day
        end = e.period_end or months_later(at, months, day)
        if end <= at:
            return
        source = last.source if last else e.source or Source.DIRECT
        seats = self.sheet.seats if self.sheet.seats is not None or last is None else last.seats
        auto = source is Source.DIRECT if e.auto_renew is None else e.auto_renew
        self.sheet = Contract(plan, Status.ACTIVE, at, end, auto, seats, months, source, None, day)
        if e.period_end:
            self._land(self.sheet, end)

    def renewed_trialing(self, e: Event) -> None:
        sheet = self.sheet
        if sheet.end is None:
            months = e.term_months or sheet.months or 1
            if e.plan == FREE or (e.period_end is not None and e.period_end <= e.effective_at):
                return
            sheet.plan, sheet.start = e.plan or sheet.plan, e.effective_at
            sheet.day = to_datetime(e.effective_at).day
            sheet.end = e.period_end or months_later(e.effective_at, months, sheet.day)
            if e.period_end:
                self._land(sheet, e.period_end)
            sheet.months = months
            longer = True
        else:
            longer = self._early(e)
        if longer:
            sheet.status = Status.ACTIVE
            sheet.auto = sheet.source is Source.DIRECT if e.auto_renew is None else e.auto_renew

    def renewed_active(self, e: Event) -> None:
        if self._longer(e) and e.auto_renew is not None:
            self.sheet.auto = e.auto_renew

    def renewed_canceled(self, e: Event) -> None:
        if self._longer(e) and e.auto_renew:
            self.sheet.auto, self.sheet.status = True, Status.ACTIVE

    def renewed_past_due(self, e: Event) -> None:
        sheet, at = self.sheet, e.effective_at
        assert sheet.end is not None
        if at < sheet.end:
            if e.plan != FREE and (e.period_end is None or e.period_end >= sheet.end):
                sheet.status = Status.ACTIVE
            if self._early(e) and e.auto_renew is not None:
                sheet.auto = e.auto_renew
            return
        if e.plan == FREE or (e.period_end is not None and e.period_end <= sheet.end):
            return
        if e.period_end is not None and e.period_end <= at:
            sheet.start, sheet.end = sheet.end, e.period_end
            self._land(sheet, e.period_end)
            return
        months = e.term_months or sheet.months or 1
        if e.period_end is not None:
            sheet.start, sheet.end = sheet.end, e.period_end
            self._land(sheet, e.period_end)
        else:
            sheet.start, sheet.end = self._next(sheet, months, at)
        sheet.plan, sheet.status, sheet.months = e.plan or sheet.plan, Status.ACTIVE, months
        if e.auto_renew is not None:
            sheet.auto = e.auto_renew

    def _longer(self, e: Event) -> bool:
        sheet = self.sheet
        if sheet.end is not None:
            return self._early(e)
        # Without end there is nothing to renew, unless the end is told.
        if e.plan == FREE or e.period_end is None or e.period_end <= e.effective_at:
            return False
        sheet.plan, sheet.start, sheet.end = e.plan or sheet.plan, e.effective_at, e.period_end
        sheet.months = e.term_months or sheet.months or 1
        sheet.day = to_datetime(e.effective_at).day
        self._land(sheet, e.period_end)
        return True

    def _early(self, e: Event) -> bool:
        """Paid before the end. Whether the period was lengthened; another plan is written down for later."""
        sheet = self.sheet
        assert sheet.end is not None
        if e.plan == FREE or (e.period_end is not None and e.period_end <= sheet.end):
            return False
        months = e.term_months or sheet.months or 1
        if e.plan not in (None, sheet.plan):
            assert e.plan is not None
            seats = sheet.bought.seats if sheet.bought else None
            sheet.bought = Bought("renewal", e.plan, months, seats, e.period_end)
            return False
        sheet.end = e.period_end or months_later(sheet.end, months, sheet.day)
        if e.period_end:
            self._land(sheet, e.period_end)
        sheet.months = months
        return True

    # What was bought or asked for.

    def upgraded_any(self, e: Event) -> None:
        sheet = self.sheet
        if sheet.plan == FREE or e.plan in (None, FREE):
            return
        assert e.plan is not None
        sheet.plan = e.plan
        if e.seats is not None:
            sheet.seats = e.seats
        if sheet.bought is not None and sheet.bought.what == "downgrade":
            sheet.bought = None
        elif sheet.bought is not None:
            sheet.bought.plan = e.plan

    def renewal_bought_any(self, e: Event) -> None:
        self._buy(e, "renewal", self.sheet.plan)

    def downgrade_bought_any(self, e: Event) -> None:
        self._buy(e, "downgrade", e.plan or self.sheet.plan)

    def _buy(self, e: Event, what: str, plan: str) -> None:
        sheet = self.sheet
        if FREE in (plan, sheet.plan) or sheet.end is None:
            return
        seats = e.seats
        if seats is None and sheet.bought is not None:
            seats = sheet.bought.seats
        sheet.bought = Bought(what, plan, e.term_months or sheet.months or 1, seats)

    def seats_changed_any(self, e: Event) -> None:
        sheet = self.sheet
        if e.seats is None:
            return
        if not e.at_end or sheet.plan == FREE or sheet.end is None or sheet.end <= e.effective_at:
            sheet.seats = e.seats
        elif sheet.bought is not None:
            sheet.bought.seats = e.seats
        else:
            sheet.bought = Bought("seats", sheet.plan, None, e.seats)

    # Switched off and on, not paid, over.

    def resumed_active(self, e: Event) -> None:
        self.sheet.auto = self.sheet.auto or self.sheet.source is Source.DIRECT

    resumed_past_due = resumed_active

    def resumed_trialing(self, e: Event) -> None:
        if e.auto_renew:
            self.resumed_active(e)

    def resumed_canceled(self, e: Event) -> None:
        self.resumed_active(e)
        self.sheet.status = Status.ACTIVE

    def canceled_active(self, e: Event) -> None:
        self.sheet.status, self.sheet.auto = Status.CANCELED, False
        self.canceled_canceled(e)

    def canceled_canceled(self, e: Event) -> None:
        if e.period_end is not None:
            self.sheet.end = e.period_end
            self._land(self.sheet, e.period_end)

    def canceled_trialing(self, e: Event) -> None:
        self.sheet.auto = False
        self.canceled_canceled(e)

    def canceled_past_due(self, e: Event) -> None:
        sheet = self.sheet
        assert sheet.end is not None
        sheet.auto = False
        if e.period_end is not None and e.period_end > sheet.end:
            sheet.end = e.period_end
            self._land(sheet, e.period_end)

    def renewal_failed_active(self, e: Event) -> None:
        sheet = self.sheet
        if e.period_end is not None and e.period_end < sheet.start:
            return
        if sheet.status is Status.ACTIVE:
            sheet.status, sheet.tried = Status.PAST_DUE, False
        if sheet.end is None:
            sheet.end = e.effective_at if e.period_end is None else e.period_end
            self._land(sheet, sheet.end)
        elif e.period_end is not None and e.period_end < sheet.end:
            sheet.end = e.period_end
            self._land(sheet, sheet.end)

    renewal_failed_past_due = renewal_failed_active

    def ended_any(self, e: Event) -> None:
        if self.sheet.plan != FREE:
            trial = self.sheet.status is Status.TRIALING or (self.sheet.status is Status.PAST_DUE and self.sheet.tried)
            self._lapse(e.effective_at, Status.EXPIRED if trial else Status.CANCELED)


@dataclass(slots=True)
class Office:
    """A clerk for each contract, by its name; the nameless one has what was sold without. `speaker` spoke last."""

    grace_days: int
    order: Mapping[str, int]
    clerks: dict[str, Clerk]
    speaker: str = ""
    letters: int = 0

    def walk(self, events: Iterable[Event], until: Instant) -> Contract:
        """What the one who may speak has on the sheet at `until`."""
        order = list(EventType)
        inbox: dict[str, Event] = {}
        for event in events:
            inbox.setdefault(event.id, event)
        for event in sorted(inbox.values(), key=lambda e: (e.effective_at, order.index(e.type), e.id)):
            if event.effective_at > until:
                break
            self._wait(event.effective_at)
            self.letters += 1
            self._hand_out(event, event.contract or "")
            self._elect()
        self._wait(until)
        return self.clerks[self.speaker].sheet

    def _wait(self, until: Instant) -> None:
        bells = {at for clerk in self.clerks.values() for at, edition in clerk.agenda if edition == clerk.edition}
        while due := [at for at in bells if at <= until]:
            for clerk in self.clerks.values():
                clerk.wait(min(due))
            self._elect()
            bells = {at for clerk in self.clerks.values() for at, edition in clerk.agenda if edition == clerk.edition}

    def _elect(self) -> None:
        """Who has nothing to say is no candidate; the nameless one comes first, then the higher plan, then the younger
        contract.
        """

        def merit(name: str) -> tuple[bool, float, int]:
            clerk = self.clerks[name]
            return not name, self.order.get(clerk.sheet.plan, float("inf")), clerk.age

        candidates = [name for name, clerk in self.clerks.items() if clerk.sheet.plan != FREE]
        if candidates:
            self.speaker = max(candidates, key=merit)

    def _hand_out(self, e: Event, name: str) -> None:
        speaker = self.clerks[self.speaker]
        nothing = speaker.sheet.plan == FREE
        if e.type.value == "set":
            speaker.read(e)
            speaker.age, self.clerks, self.speaker = self.letters, {name: speaker}, name
        elif e.type.value == "ended" and not name:
            self.clerks = {self.speaker: speaker}
            speaker.read(e)
        elif e.type.value in ("trial_started", "purchased"):
            self._employ(e, name, Clerk(self.grace_days, Contract(seats=speaker.sheet.seats)))
        elif e.type.value == "renewed" and nothing:
            # Whose it was takes it up, else the one who spoke last.
            whose = self.clerks.get(name) if name else None
            if whose is None or whose.last_paid is None:
                whose = speaker
            self._employ(e, name, Clerk(self.grace_days, Contract(seats=whose.sheet.seats), whose.last_paid))
        elif nothing or not name:
            speaker.read(e)
        else:
            whose = self.clerks.get(name)
            idle = whose is None or whose.sheet.plan == FREE
            if e.type.value == "renewed" and not self.speaker and idle:
                self.clerks = {**self.clerks, name: self.clerks[""]}
                del self.clerks[""]
                self.speaker = name
            clerk = self.clerks.setdefault(name, Clerk(self.grace_days))
            idle = clerk.sheet.plan == FREE
            clerk.read(e)
            if idle and clerk.sheet.plan != FREE:
                clerk.age = self.letters

    def _employ(self, e: Event, name: str, clerk: Clerk) -> None:
        """A new clerk for what was sold, if anything was; the nameless one goes when a named one comes."""
        clerk.read(e)
        if clerk.sheet.plan != FREE:
            clerk.age = self.letters
            self.clerks[name] = clerk
            if name:
                self.clerks.pop("", None)


def holds(
    events: Iterable[Event], now: Instant, grace_days: int = 10, order: Mapping[str, int] | None = None
) -> Answer:
    """Plan, status, start and end of the paid period, automatic renewal, seats and what was bought, at `now`."""
    sheet = Office(grace_days, order or {}, {"": Clerk(grace_days)}).walk(events, now)
    bought = sheet.bought
    return (
        sheet.plan,
        sheet.status.value,
        sheet.start,
        sheet.end,
        sheet.auto,
        sheet.seats,
        None if bought is None else (bought.what, bought.plan, bought.months, bought.seats),
    )


@cache
def months_later(at: Instant, months: int, day: int) -> Instant:
    """Day by day until the month has changed that often, then on to the day, as far as the month reaches."""
    value = to_datetime(at)
    for _ in range(months):
        month = value.month
        while value.month == month:
            value += timedelta(days=1)
        # On the first of the month: a whole day's step never skips one.
        value = datetime.combine(value.date().replace(day=1), value.timetz())
    while value.day < day and (value + timedelta(days=1)).month == value.month:
        value += timedelta(days=1)
    return from_datetime(value)
