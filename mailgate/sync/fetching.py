"""What is new in a folder that is open: recognised, or fetched and kept, with care for what goes on meanwhile.

An import pauses between two slices, for what the CRM asked for and for new mail in INBOX. Messages that may have been
moved here make the pass look at where they stood, then go on. The checkpoint goes with the last of them (S3).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Final

from connectors.errors import ConnectorError, ProtocolError, Scope
from mailgate.clock import SECOND, Instant, monotonic_s
from mailgate.sync import asking
from mailgate.sync.context import Context
from mailgate.sync.incoming import Aside, Cause
from mailgate.sync.listing import is_lost
from mailgate.sync.pull import Job
from mailgate.sync.recognise import recognise
from mailgate.sync.snapshot import LAST_UID, FolderLook, Kind, closing
from mailgate.sync.state import UNSURE, Checkpoint, FolderState
from mailgate.sync.views import TO_BE_REMOVED, Entry, FarPresent
from mailgate.sync.writing import CHUNK, Writer

FEW: Final = 50
"""So many new messages of INBOX are fetched at once; of more, and of those elsewhere, headers are looked at first: what
was moved there is here already, and may be large.
"""

LOOK_S: Final = 3.0
"""How often a long import looks for new mail in INBOX."""

ROUNDS: Final = 20
"""How often a pull may be interrupted to look at other folders again, before the server is not believed."""

Found = tuple[tuple[str, int], Sequence[range]]
"""A folder's id and UIDVALIDITY, and what its list lacked."""


class Fetching(ABC):
    """The part of a pass that fetches. `again`: only see what has gone (another pass asked), fetch nothing."""

    def __init__(self, context: Context, folder: FolderState, *, again: bool = False) -> None:
        self._context = context
        self._folder = folder
        self._again = again
        self._seen: FolderLook
        self._writer: Writer
        self._unheard: set[int] = set()  # listed, but they did not answer
        self._looked_again: set[str] = set()
        self._unlisted: dict[tuple[str, int], Sequence[range]] = {}
        self._looked_s = monotonic_s()
        self._reopened = False

    @abstractmethod
    async def _gone_from(self, other: FolderState) -> Found:
        """See what has gone from another folder by now."""

    @abstractmethod
    async def _pass_over(self, inbox: FolderState) -> None:
        """A pass over INBOX, in the middle of another folder's import."""

    async def _take(self, todo: Sequence[int], *, initial: bool) -> None:
        """Recognise or fetch messages that are new in the folder."""
        context = self._context
        self._unlisted[self._folder.id, self._seen.uidvalidity] = self._seen.unlisted
        look_first = not initial and (len(todo) > FEW or self._may_have_been_moved_here())
        if todo and not look_first:
            if self._seen.kind is Kind.DELTA:
                # What else may wait (for what was purged or detached, to come back) is rare, and finding out that
                # nothing does would take a look at all rows: those few are fetched, and recognised then.
                look_first = await context.store.has_gone(context.owner)
            else:
                look_first = await context.store.has_free(context.owner, self._folder, self._seen.uidvalidity)
        pulls = await self._recognise(todo) if look_first else todo
        await self._fetch(pulls, initial=initial)

    def _may_have_been_moved_here(self) -> bool:
        """Whether headers are worth a turn of the conversation more: in folders that people move messages to, and in
        which nobody waits for new mail as in that of IDLE.
        """
        context, folder = self._context, self._folder
        inbox = context.inbox()
        told = folder.id in context.headers_first
        context.headers_first.discard(folder.id)
        return told or inbox is None or folder.id != inbox.id

    async def _recognise(self, todo: Sequence[int]) -> list[int]:
        """Look at headers first: what waits to be recognised is linked, and only the rest is to be fetched."""
        context, folder, uidvalidity = self._context, self._folder, self._seen.uidvalidity
        pulls: list[int] = []
        asked = await self._without_breakers(todo)
        self._unheard.update(set(todo).difference(asked))
        for start in range(0, len(asked), CHUNK):
            chunk = asked[start : start + CHUNK]
            metas = await asking.headers(context, folder.id, uidvalidity, chunk)
            while True:
                known = await context.store.recognisable(
                    context.owner, folder, uidvalidity, {token for _, token in metas.values()}
                )
                far = [(uid, context.preparer.likeness(meta, token)) for uid, (meta, token) in metas.items()]
                marked = {uid for uid, (meta, _) in metas.items() if meta.flags & TO_BE_REMOVED}
                found = recognise(far, known, folder.id, frozenset(self._looked_again), self._unlisted, marked)
                if not found.suspects:
                    break
                await self._look_again(frozenset().union(*found.suspects.values()))
            entries = [
                Entry(
                    uid,
                    None,
                    found.near.get(uid),
                    FarPresent(meta.flags, meta.internal_date, meta.labels),
                    found.left.get(uid, ()),
                )
                for uid, (meta, _) in metas.items()
            ]
            pulls += await self._writer.decide(entries)
            # What did not answer is asked for again with the bodies, and then looked into.
            unheard = [uid for uid in chunk if uid not in metas]
            self._unheard.update(unheard)
            pulls += unheard
            await self._writer.write()
        return sorted(pulls, reverse=True)

    async def _look_again(self, folder_ids: Iterable[str]) -> None:
        """See what has gone from other folders by now, then open this one again."""
        context = self._context
        for folder_id in sorted(folder_ids):
            other = context.folders.get(folder_id)
            if other is not None and not self._again:
                try:
                    where, unlisted = await self._gone_from(other)
                    self._unlisted[where] = unlisted
                    if unlisted:
                        context.folders[folder_id] = replace(context.folders[folder_id], exists=UNSURE)
                except ConnectorError as error:
                    if error.scope is not Scope.FOLDER or not is_lost(other, context.clock()):
                        raise  # what may have been moved from there waits until it can be looked at
            self._looked_again.add(folder_id)
        await self._reopen()

    async def _reopen(self) -> None:
        self._reopened = True
        reopened = await self._context.source.open(self._folder.name)
        if reopened.status.uidvalidity != self._seen.uidvalidity:
            raise folder_error("the folder was renumbered while it was read")
        if self._context.is_another(self._folder, reopened.object_id):
            raise folder_error("the folder was given another name while it was read")

    # Fetching.

    async def _fetch(self, uids: Sequence[int], *, initial: bool) -> None:
        """Keep copies of these; the checkpoint goes with the last."""
        context, checkpoint = self._context, self._seen.checkpoint()
        await self._writer.write(None if uids else checkpoint)
        todo = await self._without_breakers(uids)
        written = not uids
        rounds = 0
        while todo:
            part = context.slices.next(context.breakers.next((self._folder.id, self._seen.uidvalidity), todo))
            last = len(part) == len(todo)
            job = self._job(part, initial=initial)
            job = replace(job, checkpoint=checkpoint if last else None, pause_at=self._inbox_due_at(), pausable=True)
            outcome = await asking.messages(context, job)
            context.slices.took(len(part) - len(outcome.left))
            written = outcome.checkpointed
            asked = set(part)
            todo = [*outcome.left, *(uid for uid in todo if uid not in asked)]
            if outcome.look_again:
                rounds += 1
                if rounds > ROUNDS:
                    raise folder_error("messages keep moving while the folder is read")
                await self._look_again(outcome.look_again)
                if not initial and outcome.suspects:
                    suspects = set(outcome.suspects)
                    pulls = await self._recognise(outcome.suspects)
                    todo = [*pulls, *(uid for uid in todo if uid not in suspects)]
            elif todo:
                fresh, checkpoint = await self._pause(checkpoint)
                todo = [*fresh, *todo]
            if outcome.unanswered:
                await self._unanswered(outcome.unanswered, initial=initial)
        if not written:
            await self._writer.write(checkpoint)
        context.reached(self._folder, checkpoint)

    def _job(self, uids: Sequence[int], *, initial: bool) -> Job:
        looked_again = frozenset(self._looked_again)
        return Job(
            self._folder,
            self._seen.uidvalidity,
            uids,
            initial=initial,
            looked_again=looked_again,
            unlisted=dict(self._unlisted),
        )

    async def _without_breakers(self, uids: Sequence[int]) -> list[int]:
        """Without those that ended the line again and again, which are set aside."""
        context = self._context
        given_up = asking.given_up(context, self._folder, self._seen.uidvalidity, uids)
        if not given_up:
            return list(uids)
        if context.meter is not None:
            context.meter.add(len(given_up))
        await self._writer.set_aside(given_up)
        known = {aside.uid for aside in given_up}
        return [uid for uid in uids if uid not in known]

    def _inbox_due_at(self) -> Instant | None:
        """During an import of another folder: when INBOX, if it was imported already, is looked at at the latest,
        whatever is under way.
        """
        context = self._context
        inbox = context.inbox()
        if context.meter is None or inbox is None or inbox.id == self._folder.id or inbox.uidnext is None:
            return None
        return context.looked_at.get(inbox.id, 0) + context.settings.poll_interval_s * SECOND

    async def _pause(self, checkpoint: Checkpoint) -> tuple[list[int], Checkpoint]:
        """Between two slices of an import: bring to the server what the CRM asked for, and see what arrived in INBOX.

        When INBOX is what is being imported: UIDs of messages that came since it was opened, newest first, and the
        checkpoint that covers them.
        """
        context = self._context
        pushed = context.push_wanted and context.push is not None
        if context.push_wanted and context.push is not None:
            await context.push()
        due_at, inbox = self._inbox_due_at(), context.inbox()
        looks = context.meter is not None and inbox is not None
        looks &= monotonic_s() - self._looked_s >= LOOK_S or (due_at is not None and context.clock() >= due_at)
        if not pushed and not looks:
            return [], checkpoint
        if looks:
            self._looked_s = monotonic_s()
            if inbox is not None and inbox.id == self._folder.id:
                await self._reopen()
                return await self._arrived(checkpoint)
            if inbox is not None and inbox.uidnext is not None:
                meter, context.meter = context.meter, None
                try:
                    await self._pass_over(inbox)
                finally:
                    context.meter = meter
        await self._reopen()
        return [], checkpoint

    async def _arrived(self, checkpoint: Checkpoint) -> tuple[list[int], Checkpoint]:
        """Messages that came into the open folder behind the checkpoint."""
        fresh: list[int] = []
        async with closing(self._context.source.fetch_flags([range(checkpoint.uidnext, LAST_UID)])) as batches:
            async for batch in batches:
                fresh += [change.uid for change in batch if change.uid >= checkpoint.uidnext]
        if not fresh:
            return [], checkpoint
        self._looked_again.clear()  # these may have been moved here since
        meter = self._context.meter
        if meter is not None:
            meter.leave_out(self._folder.id, -len(fresh))
        # The MODSEQ stays: what else changed since is for the next pass to see.
        covered = replace(checkpoint, uidnext=max(fresh) + 1, exists=checkpoint.exists + len(fresh))
        return sorted(fresh, reverse=True), covered

    async def _unanswered(self, uids: Sequence[int], *, initial: bool) -> None:
        """Messages that the server listed but did not send: gone meanwhile, or asked for once more, or set aside."""
        context = self._context
        standing = await self._still_listed(uids)
        if not standing:
            return
        self._looked_again.update(context.folders)  # they are kept or set aside, whatever else looks like them
        outcome = await asking.messages(context, self._job(standing, initial=initial))
        silent = await self._still_listed(outcome.unanswered) if outcome.unanswered else []
        if silent:
            if context.meter is not None:
                context.meter.add(len(silent))
            reason = "the server lists it but does not send it"
            await self._writer.set_aside([Aside(uid, reason, Cause.NOT_SENT) for uid in silent])

    async def _still_listed(self, uids: Sequence[int]) -> list[int]:
        """Those that stand here still. The others came and went before anybody knew what they were, so each may be one
        that is missed elsewhere, and may stand by now where it was looked for before.
        """
        context = self._context
        listing = set(await context.source.list_uids())
        standing = [uid for uid in uids if uid in listing]
        if len(standing) < len(uids):
            context.passed_through[self._folder.id] = context.clock()
            if context.meter is not None:
                context.meter.leave_out(self._folder.id, len(uids) - len(standing))
        return standing


def folder_error(text: str) -> ProtocolError:
    """A contradiction that concerns one folder: the others go on, this one is tried again at the next poll."""
    error = ProtocolError(text)
    error.scope = Scope.FOLDER
    return error
