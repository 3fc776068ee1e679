"""One connected mailbox from the list of folders to IDLE: what a session does while its line holds.

    resolve → list → import what is not read to its end, INBOX first → poll → live: IDLE on INBOX, poll at an interval

What the CRM asked for is brought to the server before each poll, as soon as it is asked, and in the middle of an
import; but first of all it is found out what became of commands that were not answered when the last line broke.

One connection does everything in turn, so no two passes of a mailbox ever meet. While IDLE waits, a change ends it and
INBOX is passed over at once, or just what is new there is taken (`arrivals`); a disappearance is followed by a poll at
once, so that deletions and moves settle in seconds.

A fault that concerns one folder is written to that folder and the others go on; any other ends the session, and the
supervisor decides when to try again.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Final

import structlog

from connectors.errors import ConnectorError, NetworkError, ProtocolError, Scope, ServerError
from connectors.model import FolderStatus
from connectors.port import FolderChange
from mailgate.clock import SECOND, Instant, to_rfc3339
from mailgate.sync import arrivals
from mailgate.sync.context import Context, Meter
from mailgate.sync.empty import pass_over_empty
from mailgate.sync.execute import FolderPass
from mailgate.sync.folder_list import import_order, refresh
from mailgate.sync.incoming import Applied, PollStart
from mailgate.sync.pace import Pace, next_poll_at
from mailgate.sync.push.pusher import Pusher, Turn
from mailgate.sync.rests import ENOUGH
from mailgate.sync.retries import AT_ONCE, try_again
from mailgate.sync.settling import settle_mailbox
from mailgate.sync.sizing import begun, size
from mailgate.sync.state import FolderState, MailboxState, standing
from mailgate.sync.wake import Wake

log = structlog.get_logger()

_MARGIN_S: Final = 10.0

MANY: Final = 500
"""Of more folders INBOX is imported before the others are counted, which takes minutes at some servers."""

TWINS: Final = 3
"""So many folders are opened in each poll that nothing but their identity tells apart."""

IN_LINE_S: Final = 60.0
"""How often a line is proved alive, and kept so, while its mailbox waits for its turn to import."""

Report = Callable[[MailboxState, str | None], Awaitable[None]]


class Session:
    """Runs one `Context`. `report` tells the mailbox's state; `slot` is waited for before a first import.

    `checked` is told when everything agrees with the server, instead of the store; when others are `crowded` out, the
    session ends after the poll that is under way.
    """

    def __init__(
        self, context: Context, report: Report, slot: contextlib.AbstractAsyncContextManager[object], *, imported: bool
    ) -> None:
        self._context = context
        self._report = report
        self._slot = slot
        self._imported = imported
        self._wanted = Wake()
        self.checked: Callable[[], None] | None = None
        self.crowded: Callable[[], bool] = lambda: False
        self._told_imported = imported
        self._left_out: str | None = None
        self._runs: list[str] = []
        self._refusal: str | None = None
        self._idle_refused: str | None = None
        self._pace = Pace()
        self.resting = False
        """Nothing is being read or written: it may be cancelled without loss."""
        self._passed = False
        self._next_twin = 0
        self._pusher = Pusher(context)
        self._op_seq = -1
        self._push_at: Instant | None = None
        context.push = self._push_between

    @property
    def fruitful(self) -> bool:
        """Whether it brought anything."""
        return self._passed or self._context.applied != Applied()

    @property
    def waiting_runs(self) -> list[str]:
        """Runs that were asked for and have not begun."""
        return list(self._runs)

    def request(self, run_ids: Sequence[str]) -> None:
        """One pass over everything, now; these runs are finished with it."""
        if not run_ids:
            return
        self._runs.extend(run_id for run_id in run_ids if run_id not in self._runs)
        self._wanted.set()

    def push(self, op_seq: int) -> None:
        """The mailbox's last open operation has this number: if that is a new one, it is brought to the server now."""
        if op_seq > self._op_seq:
            self._op_seq = op_seq
            self._context.push_wanted = True
            self._wanted.set()

    async def run(self, *, once: bool = False) -> None:
        """Import, then stay live until the line drops or the task is cancelled; with `once`, one complete pass."""
        async with self._context.watched():
            await self._pusher.resolve()
            if not self._imported or self._context.backfill is not None:
                await self.list_folders()
                await self._begin_backfill()
        if not self._imported:
            await self._import()
        async with self._context.watched():
            await self.poll()
        while not once and not self.crowded():
            await self._live_until_poll()
            async with self._context.watched():
                await self.poll()

    # Folders.

    async def list_folders(self, known: Sequence[FolderState] | None = None) -> None:
        """Bring the list of folders up to date. `known`: the list as it was stored a moment ago."""
        self._left_out = await refresh(self._context, known)

    # Import.

    async def _import(self) -> None:
        """Read every followed folder to its end for the first time, or go on where the last attempt was cut."""
        context = self._context
        async with self._turn(), self._context.watched():
            await self._report(MailboxState.IMPORTING, None)
            folders = sorted((f for f in context.followed() if f.uidnext is None), key=import_order)
            context.meter = meter = begun(context)
            if len(folders) > MANY and (inbox := context.inbox()) in folders:
                folders.remove(inbox)
                await self._import_these([inbox], meter)
                await self._report(MailboxState.IMPORTING, f"counting the messages in {len(folders)} folders")
            await self._import_these(folders, meter)
            context.meter = None
        self._imported = all(folder.uidnext is not None or folder.last_error for folder in context.followed())
        if context.backfill is not None:
            unread = [folder.name for folder in context.followed() if folder.uidnext is None]
            failure = f"folders that can't be read: {', '.join(unread)}" if unread else None
            await context.store.end_backfill(context.owner, context.clock(), failure)
            context.backfill = None

    async def _import_these(self, folders: Sequence[FolderState], meter: Meter) -> None:
        """Read these to their ends, in this order."""
        context = self._context
        asked_at = context.clock()
        statuses = await context.source.status([folder.name for folder in folders]) if folders else {}
        empty = await pass_over_empty(context, folders, statuses, asked_at)
        left = [folder for folder in folders if folder.id not in empty]
        counted = await size(context, meter, left, statuses)
        await self._report(MailboxState.IMPORTING, None)
        if counted:
            await self._tell_progress(meter)
        for folder in left:
            if self._rests(folder) or not await self._pass(folder):
                meter.leave_out(folder.id, meter.totals[folder.id])
        await self._tell_progress(meter)

    async def _tell_progress(self, meter: Meter) -> None:
        """Write how far it is, if that is another than was written last."""
        context = self._context
        progress = meter.now()
        if progress != meter.written:
            await context.store.progress(context.owner, progress, context.clock())
            meter.written = progress

    async def _begin_backfill(self) -> None:
        """One that was asked for: every folder is read as if for the first time, which goes on wherever it is cut."""
        context = self._context
        if context.backfill is None:
            return
        if not context.backfill.begun:
            folders = await context.store.begin_backfill(context.owner, context.backfill.run_id, context.clock())
            context.folders = {folder.id: folder for folder in folders}
            context.config = replace(context.config, progress_started_at=None)
        self._imported = False

    @contextlib.asynccontextmanager
    async def _turn(self) -> AsyncIterator[None]:
        """The slot, waited for without forgetting the line: servers end connections that are silent for long."""
        turn = asyncio.ensure_future(self._slot.__aenter__())
        try:
            await asyncio.sleep(0)  # a free slot is taken by then
            if not turn.done():
                await self._report(MailboxState.IMPORTING, "waiting in line")
            self.resting = True
            while not turn.done():
                self._wanted.clear()  # who asks for a pass has one after the import
                if self._context.push_wanted:
                    await self._push_between()
                try:
                    await self._wanted.cut(asyncio.wait({turn}), IN_LINE_S)
                except TimeoutError:
                    await self._context.source.noop()
            self.resting = False
            yield
        finally:
            self.resting = False
            turn.cancel()
            await asyncio.gather(turn, return_exceptions=True)
            if not turn.cancelled():
                await self._slot.__aexit__(None, None, None)

    # Polling.

    async def poll(self) -> None:
        """Make every followed folder agree with the server, then settle what disappeared."""
        context = self._context
        self._wanted.clear()
        runs, self._runs = self._runs, []
        before = context.applied
        if runs:
            runs = await context.store.begin_runs(context.owner, runs, context.clock())
            context.rests.wake()
        try:
            start = await self._start()
            if not context.folders and (start.asked or start.retries):
                await self.list_folders(start.folders)
            looks = False
            if start.asked:
                looks = (await self._push()).looks
                start = await self._start()
            else:
                context.push_wanted, self._push_at = False, None
            await try_again(context, start.retries)
            for _ in range(2):  # what vanishes during the first round is settled by the second
                complete = await self._poll_once(start)
                if not await self._settle():
                    break
                start = await self._start()
            if looks:
                await self._push()
                await self._pass_inbox()
            # A folder that can't be read says so itself; it must not hold up what is said of all the others.
            await self._agree()
            await self._report_standing()
            self._passed = True
        except BaseException as error:
            if runs:
                done = (context.applied - before).to_json()
                failure = str(error) or type(error).__name__
                await asyncio.shield(context.store.finish_runs(runs, context.clock(), done, failure))
            raise
        if runs:
            done = (context.applied - before).to_json()
            await context.store.finish_runs(runs, context.clock(), done, None if complete else "a folder can't be read")

    async def _agree(self) -> None:
        """All folders agree with the server now. Written at once where somebody waits for it, else with others'."""
        context = self._context
        if self.checked is not None and self._told_imported:
            self.checked()
        else:
            await context.store.checked(context.owner, context.clock(), imported=self._imported)
            self._told_imported = self._imported

    async def _start(self) -> PollStart:
        context = self._context
        most = context.settings.max_message_bytes
        return await context.store.poll_start(context.owner, most, AT_ONCE, context.clock())

    async def _poll_once(self, start: PollStart) -> bool:
        """One round; whether every folder could be read."""
        context = self._context
        await self.list_folders(start.folders)
        now = context.clock()
        context.entitled = start.entitled
        idle_on = self._inbox()
        due = [folder for folder in context.followed() if not self._rests(folder)]
        others = [folder for folder in due if folder.id != (idle_on.id if idle_on else None)]
        statuses = await context.source.status([folder.name for folder in others]) if others else {}
        empty = await pass_over_empty(context, others, statuses, now)
        others = [folder for folder in others if folder.id not in empty]
        complete = len(due) == len(context.followed())
        twins = self._twins(others)
        for folder in others:
            # As it is now: a pass over another may have found out that it is called otherwise, or not to be trusted.
            unchanged = context.folders.get(folder.id) == folder and folder.id not in twins
            if unchanged and self._unchanged(folder, statuses.get(folder.name), now):
                context.looked_at[folder.id] = now
            else:
                complete &= await self._pass(folder)
        if idle_on is not None and not self._rests(idle_on):
            complete &= await self._pass(idle_on)  # last: it stays open for IDLE
        return complete

    def _twins(self, folders: Sequence[FolderState]) -> set[str]:
        """Ids of some that STATUS can't tell apart: to open them does, where they have an identity (RFC 8474 §4.2). A
        few each time, in turns: Cyrus tells of a rename by MODSEQ, too, and a thousand folders may be alike.
        """
        numbers = Counter(folder.numbers for folder in self._context.folders.values())
        alike = [f.id for f in folders if f.object_id is not None and f.exists != 0 and numbers[f.numbers] > 1]
        begin = self._next_twin % len(alike) if alike else 0
        self._next_twin = begin + TWINS
        return set((alike[begin:] + alike[:begin])[:TWINS])

    def _unchanged(self, folder: FolderState, status: FolderStatus | None, now: Instant) -> bool:
        """Whether STATUS proves that nothing changed; without CONDSTORE it says nothing about flags of messages."""
        if status is None or folder.uidnext is None or folder.last_error:
            return False
        if (status.uidvalidity, status.uidnext, status.exists, status.highestmodseq) != folder.numbers:
            return False
        if status.highestmodseq is not None or not status.exists:
            return True
        return not FolderPass.flags_due(self._context, folder, now)

    async def _pass(self, folder: FolderState) -> bool:
        """One pass; False when the folder can't be read now, which is written to it."""
        context = self._context
        current = context.folders.get(folder.id)
        if current is None:
            return True  # gone, as another pass found out
        folder, before = current, context.applied
        context.getting_on()
        try:
            await FolderPass(context, folder).run()
        except ConnectorError as error:
            if context.applied != before or context.folders.get(folder.id) is not folder:
                context.rests.came(folder.id)  # some of it
            if error.scope is Scope.FOLDER:
                inbox = self._inbox()
                asked_always = inbox is not None and inbox.id == folder.id
                until = None if asked_always else context.rests.failed(folder, context.clock())
                await self._unreadable(folder, str(error), until)
                return False
            if isinstance(error, NetworkError | ProtocolError):
                until = context.rests.ended_the_line(folder, context.clock())
                if until is not None:
                    why = f"reading it ended the connection {ENOUGH} times and more: {error}"
                    await self._unreadable(folder, why, until)
            raise
        context.rests.came(folder.id)
        return True

    def _rests(self, folder: FolderState) -> bool:
        """Whether it could not be read, and is not tried again yet."""
        return self._context.rests.resting(folder, self._context.clock())

    async def _unreadable(self, folder: FolderState, error: str, until: Instant | None) -> None:
        """Written to the folder; `until`: when it is tried again, if not with the next pass."""
        context = self._context
        now = context.clock()
        state = context.folders.get(folder.id, folder)
        said = error if until is None else f"{error}; tried again after {to_rfc3339(until // SECOND * SECOND)}"
        tell = log.warning if state.unreadable_at is None else log.debug  # as each pass finds it again
        tell("folder_unreadable", mailbox_id=context.config.id, folder_id=folder.id, error=said)
        since_at = now if state.unreadable_at is None else state.unreadable_at
        context.folders[folder.id] = replace(state, last_error=said, unreadable_at=since_at)
        await context.store.folder_error(context.owner, folder.id, said, now)

    async def _settle(self) -> bool:
        """Believe what may be believed; whether something still waits for a look at other folders."""
        settled = await settle_mailbox(self._context)
        self._refusal = settled.refusal
        return settled.waits

    # Live.

    async def _live_until_poll(self) -> None:
        """Wait in IDLE until the next poll is due or asked for; new mail in the open folder is taken at once."""
        context = self._context
        began_at = context.clock()
        due_at = next_poll_at(context.config.id, began_at, context.settings.poll_interval_s)
        while 0 < (left := due_at - context.clock()) <= due_at - began_at:  # else the clock was set back
            if self._push_at is not None and (left := min(left, self._push_at - context.clock())) <= 0:
                context.push_wanted = True
            if context.push_wanted and not self._runs:
                self._wanted.clear()
                if await self._push_live():
                    continue
                return
            if self._wanted.is_set():
                return
            change = await self._idle(min(left / SECOND, float(context.settings.idle_reissue_s)))
            if change is None:
                continue
            inbox = self._inbox()
            vanished = context.applied.vanished
            all_flags = change.flags and inbox is not None and inbox.highestmodseq is None
            if all_flags and inbox is not None:
                context.flags_at.pop(inbox.id, None)
            await self._pace.breathe(all_flags=all_flags)
            async with self._context.watched():
                passed = inbox is not None and (await self._take(inbox, change) or await self._pass(inbox))
            if not passed or context.applied.vanished != vanished:
                return

    async def _take(self, folder: FolderState, change: FolderChange) -> bool:
        """What is new in the open folder, if that is all; False when it needs a pass."""
        uids = arrivals.expected(self._context, folder, change)
        try:
            return bool(uids) and await arrivals.take(self._context, folder, uids)
        except ConnectorError as error:
            if error.scope is not Scope.FOLDER:
                raise
            return False

    async def _push_live(self) -> bool:
        """Bring what was asked for, and open INBOX again; False when only a poll can tell where messages are."""
        context = self._context
        vanished = context.applied.vanished
        async with self._context.watched():
            turn = await self._push()
            await self._pass_touched(turn)
            passed = await self._pass_inbox()
        return passed and not turn.looks and context.applied.vanished == vanished

    async def _push(self) -> Turn:
        """Bring everything that can be brought now. After each turn the folders that it changed have theirs; those of
        the last are left to the caller.
        """
        context = self._context
        while True:
            context.push_wanted = False
            turn = await self._pusher.turn()
            self._push_at = turn.next_at
            if not turn.more:
                return turn
            await self._pass_touched(turn)
            await self._pass_inbox()

    async def _push_between(self) -> None:
        """One turn, in the middle of something else."""
        self._context.push_wanted = False
        turn = await self._pusher.turn()
        self._push_at = turn.next_at
        self._context.push_wanted |= turn.more

    async def _pass_touched(self, turn: Turn) -> None:
        """See the folders that operations changed. INBOX is not among them: it is passed over last, and stays open."""
        inbox = self._inbox()
        for folder in self._context.followed():
            if folder.id in turn.touched and folder.uidnext is not None and folder != inbox:
                await self._pass(folder)

    async def _pass_inbox(self) -> bool:
        inbox = self._inbox()
        return inbox is not None and await self._pass(inbox)

    async def _idle(self, timeout_s: float) -> FolderChange | None:
        """IDLE, ended by a change, the time, or a request. A server that does not answer in time is a dead line."""
        patience_s = timeout_s + self._context.settings.command_timeout_s + _MARGIN_S
        try:
            return await self._wanted.cut(self._wait_for_change(timeout_s), patience_s)
        except TimeoutError:
            raise NetworkError("the server does not answer in IDLE") from None

    async def _wait_for_change(self, timeout_s: float) -> FolderChange | None:
        inbox = self._inbox()
        self.resting = True
        try:
            if inbox is not None and not inbox.last_error and self._idle_refused is None:
                return await self._context.source.idle(timeout_s)
            await asyncio.sleep(timeout_s)  # there is nothing to wait on; the next poll tells
        except ServerError as error:
            self._idle_refused = str(error)  # it offers IDLE and does not have it: proxies do that
            await self._report_standing()
        finally:
            self.resting = False
        return None

    def _inbox(self) -> FolderState | None:
        """The folder that IDLE waits on."""
        return self._context.inbox() or next(iter(self._context.followed()), None)

    async def _report_standing(self) -> None:
        idles = "IDLE" in self._context.source.capabilities
        idle_refused, inbox = self._idle_refused, self._inbox()
        if idle_refused is None and inbox is not None and inbox.last_error:
            idle_refused = f"{inbox.name} can't be read: {inbox.last_error}"
        await self._report(*standing(self._refusal, idle_refused, self._left_out, idles=idles))
