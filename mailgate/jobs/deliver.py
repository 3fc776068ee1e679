"""Delivers events to webhooks: reads the feed for each endpoint, sends what is due, and writes down what came of it.

    read the feed → which may go (mailgate.webhooks.window) → journal → request → what becomes of it
    (mailgate.webhooks.retries) → journal, with the endpoint's place in the feed

One process delivers, by a lease. Every step may be cut: a delivery that stands in the journal as being sent is sent
again by whoever delivers next, and an endpoint's place only moves on in the transaction that says what became of what
stood before it. Nothing here waits with a transaction open.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Final

import structlog

from mailgate import __version__
from mailgate.clock import HOUR, SECOND, Clock, Instant
from mailgate.errors import GoneError, MailgateError
from mailgate.jobs.worker import Worker
from mailgate.metrics import Metrics
from mailgate.store.feed import FeedEvent
from mailgate.store.feed_items import Feed
from mailgate.store.hooks.endpoints import Webhooks
from mailgate.store.hooks.journal import LEASE_TTL, Begun, Ended, Journal, Place, Refusal, lane_name
from mailgate.store.hooks.rows import Endpoint
from mailgate.store.leases import LeaseLostError
from mailgate.webhooks import signing
from mailgate.webhooks.calling import Call, host_of
from mailgate.webhooks.model import Answer, PauseReason
from mailgate.webhooks.retries import decide
from mailgate.webhooks.window import Item, Window

_log = structlog.get_logger("mailgate.webhooks")

AGENT: Final = f"mailgate/{__version__}"
_LOADED: Final = 20
"""Events that are loaded of a mailbox that is behind."""
_NOTE_AFTER: Final = 1_000
_NOTE_EVERY: Final[Instant] = 10 * SECOND
"""So far, or for so long, a place may move over events that nobody wanted before it is written down."""


@dataclass(frozen=True, slots=True)
class HookLimits:
    """Requests at once, to all endpoints together; how long an event is tried; how often is looked for what is due;
    how long a request may go on when the process is told to stop."""

    at_once: int = 16
    give_up: Instant = 72 * HOUR
    poll_interval_s: float = 1.0
    grace_s: float = 5.0


@dataclass(slots=True)
class _Seat:
    """An endpoint that is delivered to. Events up to `check_to` may have been delivered before it was loaded."""

    endpoint: Endpoint
    window: Window[FeedEvent]
    check_to: int
    noted: int
    noted_at: Instant
    stale: bool = False
    pause: tuple[PauseReason, str] | None = None


@dataclass(slots=True)
class _Outcome:
    seat: _Seat
    item: Item[FeedEvent]
    begun: Begun
    answer: Answer


@dataclass(slots=True)
class _State:
    seats: dict[str, _Seat] = field(default_factory=dict)
    tasks: set[asyncio.Task[None]] = field(default_factory=set)
    outcomes: list[_Outcome] = field(default_factory=list)


class Deliverer:
    """The delivering of one process. `work` begins what is due and does not wait for its end."""

    def __init__(
        self,
        journal: Journal,
        webhooks: Webhooks,
        feed: Feed,
        call: Call,
        clock: Clock,
        metrics: Metrics,
        limits: HookLimits | None = None,
    ) -> None:
        self.on_paused: Callable[[], None] = lambda: None
        """Called when an endpoint was paused because it can't be delivered to."""
        self._journal = journal
        self._webhooks = webhooks
        self._feed = feed
        self._call = call
        self._clock = clock
        self._metrics = metrics
        self._limits = limits or HookLimits()
        self._state = _State()
        self._renew_at: Instant = 0
        self._stopping = False
        self._worker = Worker("webhooks", self.work)
        self._following: asyncio.Task[None] | None = None

    @property
    def healthy(self) -> bool:
        """Whether the last piece of work succeeded; that a receiver fails is no failure of it."""
        return self._worker.healthy

    def wake(self) -> None:
        """There may be something to do."""
        self._worker.wake()

    def start(self) -> None:
        """Begin; what a killed process left is looked at at once."""
        self._worker.start()
        self._following = asyncio.create_task(self._follow(), name="webhooks follow")

    async def stop(self) -> None:
        """End. Requests get a moment; those that are cut are made again by another process, or the next start."""
        self._stopping = True
        if self._following is not None:
            self._following.cancel()
            await asyncio.gather(self._following, return_exceptions=True)
        if self._state.tasks:
            await asyncio.wait(set(self._state.tasks), timeout=self._limits.grace_s)
        await self._worker.stop()
        with contextlib.suppress(LeaseLostError):
            await self._settle()
        await self._reset()
        await self._journal.release()

    async def idle(self) -> None:
        """Wait until every request that was begun has ended."""
        while self._state.tasks:
            await asyncio.wait(set(self._state.tasks))

    async def work(self) -> None:
        """Write down what came of requests, read on, and make those that are due."""
        try:
            await self._work()
        except LeaseLostError as error:
            _log.info("webhooks_lease_lost", reason=error.detail)
            await self._reset()
        except BaseException:
            await self._reset()  # what is remembered may be ahead of what is written
            raise

    async def _work(self) -> None:
        enabled = await self._journal.enabled()
        if not enabled and not self._state.seats:
            return
        if not await self._lead():
            return
        await self._meet(enabled)
        more = True
        while more and await self._lead():
            settled = await self._settle()
            read = await self._read()
            begun = await self._begin()
            more = settled or read or begun

    async def _lead(self) -> bool:
        """Whether this process delivers."""
        now = self._clock()
        if self._renew_at - LEASE_TTL < now < self._renew_at:
            return True
        fresh = await self._journal.lead(now)
        if fresh is not False:
            await self._reset()
        if fresh is None:
            return False
        self._renew_at = now + LEASE_TTL // 3
        return True

    async def _reset(self) -> None:
        """Forget everything; it is read again."""
        state, self._state = self._state, _State()
        self._renew_at = 0
        for task in state.tasks:
            task.cancel()
        await asyncio.gather(*state.tasks, return_exceptions=True)

    async def _meet(self, enabled: Iterable[Endpoint]) -> None:
        """Take up endpoints that are new, or that were changed and of which nothing is on its way any more."""
        seats = self._state.seats
        current = {endpoint.id: endpoint for endpoint in enabled}
        for id_, seat in list(seats.items()):
            now = current.get(id_)
            seat.stale = seat.stale or now is None or now.version != seat.endpoint.version
            if seat.stale and not seat.window.flying and not seat.pause:
                del seats[id_]
        if any(id_ not in seats for id_ in current):
            head = await self._feed.reader.head()
            for id_, endpoint in current.items():
                if id_ not in seats:
                    window = Window[FeedEvent](endpoint.position, await self._journal.lanes(id_))
                    seats[id_] = _Seat(endpoint, window, head.position, endpoint.position, self._clock())

    async def _settle(self) -> bool:
        """Write down what came of requests, and where their endpoints are; whether there was anything."""
        outcomes, self._state.outcomes = self._state.outcomes, []
        now = self._clock()
        ended = [self._judge(outcome, now) for outcome in outcomes]
        touched = {id(outcome.seat): outcome.seat for outcome in outcomes}
        of_seats: dict[int, list[bool]] = {}
        for outcome in outcomes:
            of_seats.setdefault(id(outcome.seat), []).append(outcome.answer.delivered)
        for seat in self._state.seats.values():
            moved = seat.window.position - seat.noted
            if seat.pause or moved > _NOTE_AFTER or (moved and now - seat.noted_at >= _NOTE_EVERY):
                touched[id(seat)] = seat
        if not touched:
            return False
        places = [
            Place(seat.endpoint, seat.window.position, seat.window.take_changes(), seat.pause, of_seats.get(key, ()))
            for key, seat in touched.items()
        ]
        paused = await self._journal.finish(ended, places, now)
        for seat, place in zip(touched.values(), places, strict=True):
            seat.noted, seat.noted_at = place.position, now
            if seat.pause is not None:
                self._say_paused(seat, told=seat.endpoint.id in paused)
        return bool(outcomes)

    def _judge(self, outcome: _Outcome, now: Instant) -> Ended:
        seat, item, answer = outcome.seat, outcome.item, outcome.answer
        attempts, since_at = seat.window.failing(item.lane, now)
        verdict = decide(
            answer,
            attempts=attempts + 1,
            since_at=since_at,
            now=now,
            give_up=self._limits.give_up,
            key=f"{seat.endpoint.id}:{outcome.begun.message_ref}",
        )
        if answer.delivered:
            seat.window.delivered(item, now)
        else:
            seat.window.failed(item, now, now if verdict.next_at is None else verdict.next_at)
        if verdict.pause is not None:
            seat.pause = verdict.pause, f"{answer.words}; {item.event.type} {item.event.id} is not delivered"
        word = "delivered" if answer.delivered else "retry" if verdict.pause is None else "paused"
        self._metrics.count("webhook_deliveries_total", outcome=word)
        say = _log.debug if answer.delivered else _log.info  # an import makes an event of each message
        say(
            "webhook_attempted",
            webhook=seat.endpoint.id,
            delivery=outcome.begun.id,
            attempt=attempts + 1,
            outcome=word,
            status=answer.status,
            error=answer.error,
        )
        return Ended(outcome.begun.id, answer, verdict.next_at)

    def _say_paused(self, seat: _Seat, *, told: bool) -> None:
        reason, detail = seat.pause or (None, None)
        seat.pause, seat.stale = None, True
        if told:
            host = host_of(seat.endpoint.url)
            _log.error("webhook_paused", webhook=seat.endpoint.id, host=host, reason=reason, detail=detail)
            self.on_paused()

    async def _read(self) -> bool:
        """Read on where there is room; whether anything new may be sent because of it."""
        head = await self._feed.reader.head()
        found = False
        for seat in list(self._state.seats.values()):
            if seat.stale or seat.pause:
                continue
            try:
                found |= await self._read_page(seat, head.position)
                found |= await self._read_lanes(seat)
            except GoneError as error:
                seat.pause = PauseReason.EXPIRED, error.detail
                found = True
        return found

    async def _read_page(self, seat: _Seat, end: int) -> bool:
        room = seat.window.room()
        if room <= 0 or seat.window.read >= end:
            return False
        _, page = await self._journal.read(seat.endpoint, seat.window.read, room)
        items = await self._new(seat, page.events)
        seat.window.take(items, page.position)
        return bool(page.events)

    async def _read_lanes(self, seat: _Seat) -> bool:
        free = self._limits.at_once - len(self._state.tasks)
        found = False
        for lane in seat.window.hungry(self._clock(), free):
            after, read = seat.window.behind[lane].position, seat.window.read
            _, page = await self._journal.read(seat.endpoint, after, _LOADED, lane=lane, through=read)
            seat.window.load(lane, await self._new(seat, page.events), through=page.position)
            found = True
        return found

    async def _new(self, seat: _Seat, events: Iterable[FeedEvent]) -> list[Item[FeedEvent]]:
        """Those that were not delivered before the endpoint was taken up."""
        items = [Item(event.position, lane_name(event), event) for event in events]
        old = [item.position for item in items if item.position <= seat.check_to]
        known = await self._journal.delivered(seat.endpoint, old)
        return [item for item in items if item.position not in known]

    async def _begin(self) -> bool:
        """Make the requests that may be made; whether there were any."""
        starts = [] if self._stopping else self._choose()
        if not starts:
            return False
        head = await self._feed.reader.head()
        now = self._clock()
        shown = await self._show(head.ref, [item.event for _, item in starts], now)
        begun = await self._journal.begin([(seat.endpoint, item) for seat, item in starts], now)
        for (seat, item), what, journaled in zip(starts, shown, begun, strict=True):
            if journaled is Refusal.CHANGED:
                seat.stale = True
                self._worker.wake()
            elif journaled is Refusal.ERASED:
                seat.window.skip(item)
            elif isinstance(journaled, Begun):
                seat.window.begin(item)
                task = asyncio.create_task(self._run(seat, item, journaled, what), name=f"webhook {journaled.id}")
                self._state.tasks.add(task)
                task.add_done_callback(self._state.tasks.discard)
        return any(journaled is not Refusal.CHANGED for journaled in begun)

    async def _show(self, ref: str, events: list[FeedEvent], now: Instant) -> list[dict[str, Any] | None]:
        """What is posted of these; None for one that can't be shown, which holds up no other."""
        try:
            return [*await self._feed.items(ref, events, now)]
        except Exception:  # noqa: BLE001 - one of them must not stop all deliveries
            if len(events) == 1:
                _log.exception("event_not_shown", of=events[0].id)
                return [None]
            return [(await self._show(ref, [event], now))[0] for event in events]

    def _choose(self) -> list[tuple[_Seat, Item[FeedEvent]]]:
        """One of each endpoint in turn, as many as may be on their way; none has more than half beside others.

        What becomes free goes to the tenant, and of its endpoints to the one, that has the fewest on their way: else
        a few that answer slowly would take every place again as soon as they leave it, and the others got none.
        """
        free = self._limits.at_once - len(self._state.tasks)
        seats = [seat for seat in self._state.seats.values() if not seat.stale and not seat.pause]
        share = self._limits.at_once if len(seats) == 1 else max(1, self._limits.at_once // 2)
        now = self._clock()
        flying = Counter(seat.endpoint.tenant_id for seat in seats for _ in seat.window.flying)
        seats.sort(key=lambda seat: (flying[seat.endpoint.tenant_id], len(seat.window.flying)))
        ready = [(seat, seat.window.startable(now, max(0, share - len(seat.window.flying)))) for seat in seats]
        chosen: list[tuple[_Seat, Item[FeedEvent]]] = []
        for turn in range(share):
            chosen += [(seat, items[turn]) for seat, items in ready if turn < len(items)]
            if len(chosen) >= free:
                break
        return chosen[: max(0, free)]

    async def _run(self, seat: _Seat, item: Item[FeedEvent], begun: Begun, shown: dict[str, Any] | None) -> None:
        state = self._state
        try:
            answer = await self._post(seat.endpoint, begun, shown)
        except MailgateError as error:  # the endpoint is gone
            answer = Answer(error=error.detail[:200])
        except Exception as error:  # noqa: BLE001 - the boundary of background work: it must not end the others
            _log.exception("webhook_failed", webhook=seat.endpoint.id, delivery=begun.id)
            answer = Answer(error=f"internal: {type(error).__name__}")
        state.outcomes.append(_Outcome(seat, item, begun, answer))
        self._worker.wake()

    async def _post(self, endpoint: Endpoint, begun: Begun, shown: dict[str, Any] | None) -> Answer:
        if shown is None:
            return Answer(error="the gateway can't show this event; its log says why")
        body = signing.body_of(shown)
        secrets = await self._webhooks.secrets(endpoint.id)
        headers = signing.headers(secrets, begun.message_ref, self._clock(), body)
        return await self._call(endpoint.url, {**headers, "user-agent": AGENT}, body.encode())

    async def _follow(self) -> None:
        """Wake when the feed grew, and now and then for what is tried again."""
        arrivals = self._feed.arrivals
        while not arrivals.closed:
            seen = arrivals.count
            self._worker.wake()
            await arrivals.wait(seen, self._limits.poll_interval_s)
