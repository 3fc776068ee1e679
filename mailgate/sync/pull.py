"""Fetching messages and keeping copies: network → decide → prepare → one transaction a batch, all side by side.

    fetch (event loop)   bytes into sinks, cut into batches by bytes and by number
    decide               tokens; what each message is, with all that is known now that it is here
    prepare (workers)    summary, compress, encrypt, put; one settle a batch
    commit               rows, events, usage, progress; the checkpoint with the last batch (S3)

Memory: at most one batch arriving, one waiting, and two decided, of which one is in preparation while the other's rows
are written or its turn comes; each bounded by bytes, and huge messages are streamed. The first batch is small, so that
the first message is visible at once.

Before a batch is kept, its header tokens are looked up: what is a copy that waits to be recognised is linked instead;
what was purged is left alone (S2). If an equal message is believed to stand in another folder, it may have been moved
here since that folder was looked at: the pull stops, the caller looks there again and goes on (one message stays one
message).
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Final

from connectors.errors import ProtocolError
from mailgate.clock import Instant, monotonic_s
from mailgate.sync.actions import Action, Pull, Return
from mailgate.sync.arriving import HEAD, HUGE, Arrived, MessageSink
from mailgate.sync.context import Context
from mailgate.sync.incoming import DRAFTED_IN, FILED_IN, Aside, Batch, Cause, PreparedMessage, View, is_draft
from mailgate.sync.port import BatchRefusedError
from mailgate.sync.prepare import Prepared
from mailgate.sync.recognise import Unlisted, recognise
from mailgate.sync.reconcile import decide
from mailgate.sync.snapshot import closing
from mailgate.sync.state import Checkpoint, FolderState
from mailgate.sync.views import TO_BE_REMOVED, Entry, FarPresent, Near, Tombstoned, Window

FIRST_BATCH: Final = 8
"""Messages in the first batch of a pull."""

ARRIVING_BYTES: Final = 64 << 20
"""What may arrive and not be delivered: the source's window, and halves of answers. More belongs to no message that was
asked for, and nobody would ever let go of it.
"""

AT_HAND: Final = 256 << 10
"""Of new mail that is no larger together, header tokens are made at once: a thread takes longer to be woken."""

BATCH_S: Final = 2.0
"""What arrived in so long is kept without waiting for a whole batch: on a slow line, too, it is to be seen and counted.
"""

_PATIENCE_S: Final = 0.2
"""How long a prepared batch waits for the next one, so that the checkpoint can go with the last."""


@dataclass(frozen=True, slots=True)
class Job:
    """What to fetch into which folder. `uids` in the order wanted.

    `looked_again`: folders that were looked at after this folder was listed: what stands there was not moved here.
    `unlisted`: what those looks, and the one at this folder, lacked where they were doubtful.
    `checkpoint` is written with the last batch, if every message was answered. From `pause_at` on no more is begun,
    nor, if it is `pausable`, while the CRM waits for what it asked for. `unlooked`: nobody looked at what has gone from
    this folder before, so what is believed to stand in it may be what was moved out and back.
    """

    folder: FolderState
    uidvalidity: int
    uids: Sequence[int]
    checkpoint: Checkpoint | None = None
    initial: bool = False
    looked_again: frozenset[str] = frozenset()
    unlisted: Unlisted = field(default_factory=dict)
    pause_at: Instant | None = None
    pausable: bool = False
    unlooked: bool = False


@dataclass(slots=True)
class Outcome:
    """`unanswered`: UIDs that the server did not send. `left`: what was not come to; if `look_again` names folders,
    they are to be looked at before, and `suspects` came already: they may have been moved here from there.
    """

    unanswered: list[int] = field(default_factory=list)
    look_again: set[str] = field(default_factory=set)
    suspects: list[int] = field(default_factory=list)
    left: list[int] = field(default_factory=list)
    checkpointed: bool = False


def _identify(messages: Sequence[PreparedMessage], arrived: Sequence[Arrived]) -> None:
    """What the server alone says of a message: its labels, and its own identity of it."""
    said = {item.meta.uid: item for item in arrived if item.email_token is not None or item.meta.labels is not None}
    for message in messages if said else ():
        item = said.get(message.uid)
        if item is not None:
            message.email_token = item.email_token
            message.labels = None if item.meta.labels is None else tuple(sorted(item.meta.labels))


def _cost(octets: int) -> int:
    """What the sink of so many octets may keep: its head when it is streamed, and itself."""
    return min(octets, HUGE + HEAD) + 1024


class _End:
    """The fetching is over; `error` when it failed."""

    def __init__(self, error: Exception | None) -> None:
        self.error = error


@dataclass(frozen=True, slots=True)
class _Decided:
    """A batch as it will be written, as soon as it is prepared."""

    preparing: asyncio.Task[Prepared]
    actions: Sequence[Action] = ()
    done: int = 0
    outside: int = 0


class Puller:
    """Runs one job."""

    def __init__(self, context: Context, job: Job) -> None:
        self._context = context
        self._job = job
        self._queue: asyncio.Queue[list[Arrived] | _End] = asyncio.Queue(1)
        self._waiting = dict.fromkeys(job.uids)  # not decided yet, in order
        self._open: set[MessageSink] = set()  # sinks of messages that are arriving or wait
        self._arriving = 0  # octets kept of those that were not delivered yet
        self._preparing: set[asyncio.Task[Prepared]] = set()  # of batches that are not written
        self._committing: asyncio.Task[None] | None = None
        self._returning: set[str] = set()  # purged messages that were found again

    async def run(self) -> Outcome:
        """Fetch and keep. Raises the connector's error after everything that arrived before it was kept."""
        outcome = Outcome()
        fetching = asyncio.create_task(self._fetch())
        try:
            await self._keep(outcome)
        finally:
            tasks = [fetching, *self._preparing, *([] if self._committing is None else [self._committing])]
            for task in (fetching, *self._preparing):
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            for sink in self._open:
                sink.abandon()
        return outcome

    @property
    def waiting(self) -> int:
        """How many messages are still to come."""
        return len(self._waiting)

    # Fetching.

    async def _fetch(self) -> None:
        batch: list[Arrived] = []
        size, began_s = 0, 0.0
        error: Exception | None = None
        context = self._context
        settings = context.settings
        most = min(FIRST_BATCH, settings.batch_messages)
        try:
            async with closing(context.source.fetch_bodies(self._job.uids, self._sink)) as messages:
                async for fetched in messages:
                    self._arriving -= _cost(fetched.octets)
                    context.getting_on()
                    began_s = began_s if batch else monotonic_s()
                    batch.append(Arrived(fetched.meta, fetched.sink, fetched.octets))
                    size += min(fetched.octets, HUGE)
                    full = len(batch) >= most or size >= settings.batch_bytes
                    if full or monotonic_s() - began_s >= BATCH_S:
                        await self._queue.put(batch)
                        batch, size, most = [], 0, settings.batch_messages
        except Exception as failure:  # noqa: BLE001 - raised by whoever waits for the batches
            error = failure
        if batch:
            await self._queue.put(batch)
        await self._queue.put(_End(error))

    def _sink(self, octets: int) -> MessageSink:
        self._arriving += _cost(octets)
        if self._arriving > ARRIVING_BYTES:
            raise ProtocolError("the server sends bodies that belong to no message")
        self._context.getting_on(octets)
        sink = self._context.preparer.open_sink(octets, self._context.clock())
        self._open.add(sink)
        return sink

    # Keeping.

    async def _keep(self, outcome: Outcome) -> None:
        held: _Decided | None = None
        error: Exception | None = None
        paused = False
        while not outcome.look_again and not (paused := self._pause_due()):
            item = await self._next(_PATIENCE_S if held is not None else None)
            if isinstance(item, _End):
                error = item.error
                break
            decided = None if item is None else await self._decide(item, outcome)
            if held is not None:
                await self._start_commit(held)
            held = decided
        if self._committing is not None:
            await self._committing
        if outcome.look_again or paused:
            outcome.left = list(self._waiting)
        elif error is None:
            outcome.unanswered = list(self._waiting)
        complete = error is None and not self._waiting
        if held is not None:
            checkpoint = self._job.checkpoint if complete else None
            await self._commit(held, checkpoint)
            outcome.checkpointed = checkpoint is not None
        if error is not None:
            raise error

    def _pause_due(self) -> bool:
        job, context = self._job, self._context
        due = job.pause_at is not None and context.clock() >= job.pause_at
        due |= job.pausable and context.push_wanted
        return due and len(self._waiting) < len(job.uids)

    async def _next(self, patience_s: float | None) -> list[Arrived] | _End | None:
        """The next batch or the end; None when a batch is decided and the next is slow to come."""
        if not self._queue.empty():
            return self._queue.get_nowait()
        try:
            # Not wait_for: in Python 3.11 it swallows a cancellation that meets what it waits for.
            async with asyncio.timeout(patience_s):
                return await self._queue.get()
        except TimeoutError:
            return None

    async def _decide(self, batch: list[Arrived], outcome: Outcome) -> _Decided:
        """Decide what each message is, with all that is known now that it is here; those to be kept are prepared from
        now on.
        """
        context, job = self._context, self._job
        preparer, bulk = context.preparer, job.initial
        readable = [arrived for arrived in batch if arrived.refusal is None]
        if bulk or sum(len(arrived.sink.head) for arrived in readable) > AT_HAND:
            await context.workers.run(lambda: preparer.add_tokens(readable), bulk=bulk)
        else:
            preparer.add_tokens(readable)
        tokens = {arrived.header_token for arrived in readable}
        known = await context.store.recognisable(context.owner, job.folder, job.uidvalidity, tokens)
        window = context.window(job.folder)
        views = await self._views(batch, window)
        known = [item for item in known if not self._is_returning(item.near)]
        new = [arrived for arrived in readable if arrived.meta.uid not in views] if known else []
        far = [(arrived.meta.uid, arrived.likeness) for arrived in new]
        marked = {arrived.meta.uid for arrived in new if arrived.meta.flags & TO_BE_REMOVED}
        here = "" if job.unlooked else job.folder.id
        recognised = recognise(far, known, here, job.looked_again, job.unlisted, marked)
        keep: list[Arrived] = []
        actions: list[Action] = []
        decided = outside = 0
        for arrived in batch:
            uid, meta = arrived.meta.uid, arrived.meta
            if uid in recognised.suspects:
                outcome.look_again |= recognised.suspects[uid]
                outcome.suspects.append(uid)
                continue
            self._waiting.pop(uid, None)
            decided += 1
            far_side = FarPresent(meta.flags, meta.internal_date, meta.labels)
            near = views[uid].near if uid in views else recognised.near.get(uid)
            if uid in views and (views[uid].base is not None or self._is_returning(near)):
                continue  # here by now, or on its way: an operation asked for it, or it stands here twice
            entry = Entry(uid, None, near, far_side, recognised.left.get(uid, ()))
            action = decide(entry, window)
            if isinstance(action, Return):
                arrived.returns = action.purged
                self._returning.add(action.purged.message_id)
            if isinstance(action, Pull | Return):
                keep.append(arrived)
            elif action is not None:
                actions.append(action)
            elif entry.near is None:
                outside += 1
        strange = [arrived for arrived in keep if arrived.returns is None]
        if job.folder.special_use in DRAFTED_IN and not job.initial:
            await self._match_drafts([a for a in strange if is_draft(job.folder.special_use, a.meta.flags)])
        now = context.clock()
        filed = strange if job.folder.special_use in FILED_IN else []
        if filed and await context.store.sent_unfiled(context.owner, now):
            await self._match_sent(filed, now)
        kept = {arrived.sink for arrived in keep}
        for arrived in batch:
            if arrived.sink not in kept:
                self._open.discard(arrived.sink)
                arrived.sink.abandon()
        preparing = asyncio.create_task(self._prepare(keep, now))
        self._preparing.add(preparing)
        return _Decided(preparing, actions, decided - outside, outside)

    async def _prepare(self, keep: Sequence[Arrived], now: Instant) -> Prepared:
        context = self._context
        prepared = await context.workers.prepare(context.preparer, keep, now, bulk=self._job.initial)
        self._open.difference_update(arrived.sink for arrived in keep)
        _identify(prepared.messages, keep)
        return prepared

    async def _views(self, batch: Sequence[Arrived], window: Window) -> Mapping[int, View]:
        """What is known of these by address: in a backfill something may be."""
        if window.returns_since is None:
            return {}
        context, job = self._context, self._job
        uids = [arrived.meta.uid for arrived in batch]
        return await context.store.views(context.owner, job.folder, job.uidvalidity, uids)

    def _is_returning(self, near: Near) -> bool:
        """Whether a tombstone's message was found already, in a batch that may not be written yet."""
        return isinstance(near, Tombstoned) and near.purged is not None and near.purged.message_id in self._returning

    async def _match_drafts(self, arrived: Sequence[Arrived]) -> None:
        """A new draft with the Message-ID of one that just went is its new version."""
        context, job = self._context, self._job
        heads = [bytes(item.sink.head) for item in arrived]
        tokens = await context.workers.run(lambda: context.preparer.msgid_tokens(heads), bulk=False)
        named = [token for token in tokens if token is not None]
        if not named:
            return
        gone = await context.store.drafts_gone(context.owner, job.folder, job.uidvalidity, named)
        for item, token in zip(arrived, tokens, strict=True):
            if token is not None:
                item.replaces = gone.pop(token, None)

    async def _match_sent(self, arrived: Sequence[Arrived], now: Instant) -> None:
        """What was sent from here and stands nowhere yet may be what the server has filed."""
        context = self._context
        tokens = await context.workers.run(lambda: context.preparer.sent_tokens(arrived), bulk=False)
        pairs = await context.store.pair_sent(context.owner, tokens, now) if tokens else {}
        for item in arrived:
            item.replaces = pairs.get(item.meta.uid, item.replaces)

    async def _start_commit(self, decided: _Decided) -> None:
        """Commit while the next batches arrive and are prepared, one at a time and in order."""
        if self._committing is not None:
            await self._committing
        self._committing = asyncio.create_task(self._commit(decided, None))

    async def _commit(self, decided: _Decided, checkpoint: Checkpoint | None) -> None:
        context, job = self._context, self._job
        prepared = await decided.preparing
        self._preparing.discard(decided.preparing)
        now = context.clock()
        context.getting_on()
        meter = context.meter
        progress = None
        if meter is not None:
            meter.leave_out(job.folder.id, decided.outside)
            meter.add(decided.done)
            progress = meter.due(now, last=checkpoint is not None)
        batch = Batch(
            folder=job.folder,
            uidvalidity=job.uidvalidity,
            now=now,
            actions=decided.actions,
            messages=prepared.messages,
            aside=prepared.aside,
            checkpoint=checkpoint,
            progress=progress,
            initial=job.initial,
            backfill=self._backfill,
        )
        try:
            context.applied += await context.store.commit(context.owner, batch)
        except BatchRefusedError:
            await self._commit_singly(batch)

    @property
    def _backfill(self) -> str | None:
        """The run of the backfill that this is part of."""
        backfill = self._context.backfill
        return None if backfill is None or self._job.folder.uidnext is not None else backfill.run_id

    async def _commit_singly(self, batch: Batch) -> None:
        """The database refused something in the batch: find the message, set it aside, keep the others."""
        context = self._context
        refused: list[PreparedMessage] = []
        aside = {item.message_id or str(item.uid): item for item in batch.aside}
        for message in batch.messages:
            found = aside.pop(message.id, None)
            one = replace(batch, messages=[message], actions=(), aside=(), checkpoint=None, progress=None)
            one = one if found is None else replace(one, aside=[found])
            if not await self._commit_one(one, message):
                refused.append(message)
        reason = "the database refused it"
        left = [*aside.values(), *(Aside(m.uid, reason, Cause.REFUSED, m.size) for m in refused)]
        rest = replace(batch, messages=(), aside=left, discarded=[message.blob for message in refused])
        context.applied += await context.store.commit(context.owner, rest)

    async def _commit_one(self, batch: Batch, message: PreparedMessage) -> bool:
        """Keep one message as it is; else its bytes alone, set aside. False when that is refused too."""
        context = self._context
        for again in (False, True):
            if again:
                bare = await context.workers.run(partial(context.preparer.bare, message), bulk=self._job.initial)
                reason = "the database refused what it says; its bytes are kept"
                aside = Aside(message.uid, reason, Cause.REFUSED, message.size, None, message.header_token, message.id)
                batch = replace(batch, messages=[bare], aside=[aside])
            try:
                context.applied += await context.store.commit(context.owner, batch)
            except BatchRefusedError:
                continue
            return True
        return False
