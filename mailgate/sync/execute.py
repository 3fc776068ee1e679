"""A pass over one folder: look, decide, apply; afterwards both sides agree and the checkpoint says so.

    first    search inside the window, compare what is here already, fetch the rest newest first; resumable anywhere,
             since what remains is a difference: UIDs inside the window − copies − tombstones − set aside
    delta    flags and disappearances since the checkpoint, then what is new
    reset    UIDVALIDITY changed: nothing is trusted and nothing is deleted; every message is recognised by its header,
             what is left at the server is new, what is left here has vanished (and waits like any disappearance)

Order within a pass: flags, disappearances and recognised messages, then new messages, then the checkpoint, which
commits with the last of them (S3). A pass that is cut does some of its work again and ends in the same state (S4).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import date
from typing import Final

from connectors.errors import ConnectorError, ProtocolError, Scope
from connectors.model import MessageMeta
from mailgate.clock import SECOND, Instant, to_datetime
from mailgate.sync.actions import Action, Pull
from mailgate.sync.context import Context
from mailgate.sync.identity import Likeness
from mailgate.sync.port import Aside, Batch, Checkpoint, FolderState
from mailgate.sync.prepare import received
from mailgate.sync.pull import Job, Outcome, Puller, recognise
from mailgate.sync.reconcile import reconcile
from mailgate.sync.snapshot import FolderLook, Kind, closing, look
from mailgate.sync.views import FAR_GONE, Entry, FarPresent, Snapshot

CHUNK: Final = 500
"""Messages that are compared, recognised or written at a time."""

FEW: Final = 50
"""So many new messages are fetched at once; more are looked at first."""

FLAGS_EVERY: Final[Instant] = 300 * SECOND
"""Without CONDSTORE: how often all flags are compared."""

_ROUNDS: Final = 20
"""How often a pull may be interrupted to look at other folders again, before the server is not believed."""


class FolderPass:
    """One pass over one folder. `again`: only see what has gone (another pass asked), fetch nothing."""

    def __init__(self, context: Context, folder: FolderState, *, again: bool = False) -> None:
        self._context = context
        self._folder = folder
        self._again = again
        self._actions: list[Action] = []
        self._others_gone = self._unheard = False
        self._looked_again: set[str] = set()

    @staticmethod
    def flags_due(context: Context, folder: FolderState, now: Instant) -> bool:
        """Without CONDSTORE: whether it is time to compare all flags."""
        return now - context.flags_at.get(folder.id, 0) >= FLAGS_EVERY

    async def run(self) -> None:
        """Make both sides agree. Raises the connector's errors; what was written until then stays."""
        context, folder = self._context, self._folder
        began_at = context.clock()
        all_flags = self.flags_due(context, folder, began_at)
        seen = await look(context.source, folder, began_at, all_flags=all_flags)
        if self._again and seen.kind is Kind.FIRST:
            return  # nothing of it is trusted yet that could have gone
        match seen.kind:
            case Kind.FIRST:
                await self._first(seen)
            case Kind.DELTA:
                await self._delta(seen)
            case Kind.RESET:
                await self._reset(seen)
        if seen.checks_flags:
            context.flags_at[folder.id] = began_at

    # The three kinds.

    async def _first(self, seen: FolderLook) -> None:
        context, folder = self._context, self._folder
        uids = await self._inside(seen)
        here = await self._compare_all(seen)
        here.update(await context.store.marked(context.owner, folder, seen.uidvalidity))
        seen.saw(uids)
        todo = [uid for uid in reversed(uids) if uid not in here]
        if context.meter is not None:
            context.meter.begin_folder(folder.id, len(uids) - len(todo), len(uids))
        await self._take(seen, todo, initial=context.meter is not None)

    async def _inside(self, seen: FolderLook) -> list[int]:
        """UIDs of the messages inside the window, ascending.

        SEARCH SINCE compares whole days in the server's own zone, so it is asked for one day more; which messages of
        the days in doubt are meant, their INTERNALDATE tells.
        """
        source, window = self._context.source, self._context.window()
        if not seen.status.exists:
            return []
        uids = seen.below_top(await source.search_since(_day(window.search_since)))
        if not uids:
            return []
        certain = set(await source.search_since(_day(window.certain_since)))
        doubtful = [uid for uid in uids if uid not in certain]
        outside: set[int] = set()
        async with closing(source.fetch_meta(_ranges(doubtful))) as batches:
            async for batch in batches:
                outside.update(meta.uid for meta in batch if not window.admits(received(meta.internal_date)))
        return [uid for uid in uids if uid not in outside]

    async def _compare_all(self, seen: FolderLook) -> set[int]:
        """Compare copies that are here from an earlier, cut import; the UIDs of which something is known."""
        context, folder = self._context, self._folder
        store, owner = context.store, context.owner
        if not await store.sample(folder.id, seen.uidvalidity, 1) and folder.uidvalidity is None:
            return set()
        listing = seen.below_top(await context.source.list_uids()) if seen.status.exists else []
        known: set[int] = set()
        for start in range(0, len(listing), CHUNK):
            chunk = listing[start : start + CHUNK]
            views = await store.views(owner, folder, seen.uidvalidity, chunk)
            based = [uid for uid in chunk if uid in views and views[uid].base is not None]
            known.update(based)
            if not based:
                continue
            async with closing(context.source.fetch_flags(_ranges(based))) as batches:
                async for batch in batches:
                    entries = [
                        Entry(change.uid, views[change.uid].base, views[change.uid].near, FarPresent(change.flags))
                        for change in batch
                        if change.uid in views
                    ]
                    await self._decide(seen, entries)
        await self._see_gone(seen, seen.absent(listing))
        return known

    async def _delta(self, seen: FolderLook) -> None:
        context, folder = self._context, self._folder
        first_new = folder.uidnext or 1
        new: list[int] = []
        async with closing(seen.changes()) as batches:
            async for batch in batches:
                context.getting_on()
                new += [change.uid for change in batch if change.uid >= first_new]
                old = {change.uid: change.flags for change in batch if change.uid < first_new}
                views = await context.store.views(context.owner, folder, seen.uidvalidity, list(old))
                # A UID below the checkpoint of which nothing is known was judged when it came: it is outside the
                # window.
                await self._decide(
                    seen,
                    [Entry(uid, view.base, view.near, FarPresent(old[uid])) for uid, view in views.items()],
                )
        await self._see_gone(seen, await seen.gone(len(set(new))))
        if self._again:
            await self._write(seen)
            return
        found = set(new)
        if seen.holds_more(len(found)):
            found.update(await self._left_out(seen))
        await self._take(seen, sorted(found, reverse=True), initial=False)

    async def _left_out(self, seen: FolderLook) -> list[int]:
        """Messages inside the window of which nothing is known, though the checkpoint covers them."""
        context, folder = self._context, self._folder
        uids = await self._inside(seen)
        known: set[int] = set()
        for start in range(0, len(uids), CHUNK):
            chunk = uids[start : start + CHUNK]
            known.update(await context.store.views(context.owner, folder, seen.uidvalidity, chunk))
        return [uid for uid in uids if uid not in known]

    async def _reset(self, seen: FolderLook) -> None:
        context, folder = self._context, self._folder
        listing = seen.below_top(await context.source.list_uids()) if seen.status.exists else []
        if seen.absent(listing) is None:
            raise _folder_error("after a UIDVALIDITY change the server's list of messages contradicts its count")
        seen.saw(listing)
        done = set(await context.store.standing(context.owner, folder, seen.uidvalidity))
        done.update(await context.store.marked(context.owner, folder, seen.uidvalidity))
        todo = [uid for uid in reversed(listing) if uid not in done]
        pulls = await self._recognise(seen, todo)
        # If every message at the server was met, what stands under the old numbers has vanished; else it may be what
        # the server did not send.
        self._others_gone = not self._unheard
        await self._write(seen)
        if not self._again:
            await self._fetch(seen, pulls, initial=False)

    # What they have in common.

    async def _see_gone(self, seen: FolderLook, gone: Sequence[range] | None) -> None:
        """Decide about what has gone, of what is known here."""
        if not gone:
            return
        context, folder = self._context, self._folder
        known = set(await context.store.standing(context.owner, folder, seen.uidvalidity))
        known.update(await context.store.marked(context.owner, folder, seen.uidvalidity))
        missing = [uid for uid in sorted(known) if any(uid in r for r in _near(gone, uid))]
        for start in range(0, len(missing), CHUNK):
            views = await context.store.views(context.owner, folder, seen.uidvalidity, missing[start : start + CHUNK])
            await self._decide(seen, [Entry(uid, view.base, view.near, FAR_GONE) for uid, view in views.items()])

    async def _take(self, seen: FolderLook, todo: Sequence[int], *, initial: bool) -> None:
        """Recognise or fetch messages that are new in the folder."""
        context = self._context
        look_first = not initial and len(todo) > FEW
        if todo and not look_first:
            look_first = await context.store.has_free(context.owner, self._folder, seen.uidvalidity)
        pulls = await self._recognise(seen, todo) if look_first else todo
        await self._fetch(seen, pulls, initial=initial)

    async def _recognise(self, seen: FolderLook, todo: Sequence[int]) -> list[int]:
        """Look at headers first: what waits to be recognised is linked, and only the rest is to be fetched."""
        context, folder = self._context, self._folder
        pulls: list[int] = []
        for start in range(0, len(todo), CHUNK):
            chunk = todo[start : start + CHUNK]
            metas = await self._headers(chunk)
            while True:
                known = await context.store.recognisable(
                    context.owner, folder, seen.uidvalidity, {token for _, token in metas.values()}
                )
                far = [
                    (uid, Likeness(token, meta.size, received(meta.internal_date)))
                    for uid, (meta, token) in metas.items()
                ]
                found = recognise(far, known, folder.id, frozenset(self._looked_again))
                if not found.suspects:
                    break
                await self._look_again(seen, frozenset().union(*found.suspects.values()))
            entries = [
                Entry(uid, None, found.near.get(uid), FarPresent(meta.flags, meta.internal_date))
                for uid, (meta, _) in metas.items()
            ]
            pulls += await self._decide(seen, entries)
            # What did not answer is asked for again with the bodies, and then looked into.
            unheard = [uid for uid in chunk if uid not in metas]
            self._unheard |= bool(unheard)
            pulls += unheard
            await self._write(seen)
        return sorted(pulls, reverse=True)

    async def _headers(self, uids: Sequence[int]) -> dict[int, tuple[MessageMeta, bytes]]:
        context = self._context
        metas: list[MessageMeta] = []
        headers: list[bytes] = []
        async with closing(context.source.fetch_headers(uids)) as messages:
            async for meta, header in messages:
                context.getting_on()
                metas.append(meta)
                headers.append(header)
        tokens = await context.workers.run(lambda: context.preparer.header_tokens(headers), bulk=len(headers) > FEW)
        return {meta.uid: (meta, token) for meta, token in zip(metas, tokens, strict=True)}

    async def _look_again(self, seen: FolderLook, folder_ids: Iterable[str]) -> None:
        """See what has gone from other folders by now, then open this one again."""
        context = self._context
        for folder_id in sorted(folder_ids):
            other = context.folders.get(folder_id)
            if other is not None and not self._again:
                await FolderPass(context, other, again=True).run()
            self._looked_again.add(folder_id)
        await self._reopen(seen)

    async def _reopen(self, seen: FolderLook) -> None:
        reopened = await self._context.source.open(self._folder.name)
        if reopened.status.uidvalidity != seen.uidvalidity:
            raise _folder_error("the folder was renumbered while it was read")

    async def _fetch(self, seen: FolderLook, uids: Sequence[int], *, initial: bool) -> None:
        """Keep copies of these; the checkpoint goes with the last."""
        checkpoint = seen.checkpoint()
        await self._write(seen, None if uids else checkpoint)
        todo = await self._without_breakers(seen, uids)
        written = not uids
        rounds = 0
        while todo:
            part = self._context.breakers.next((self._folder.id, seen.uidvalidity), todo)
            last = len(part) == len(todo)
            outcome = await self._pull(seen, part, checkpoint if last else None, initial=initial)
            written = outcome.checkpointed
            todo = outcome.left if last else [*outcome.left, *(uid for uid in todo if uid != part[0])]
            if outcome.look_again:
                rounds += 1
                if rounds > _ROUNDS:
                    raise _folder_error("messages keep moving while the folder is read")
                await self._look_again(seen, outcome.look_again)
            elif todo:
                await self._see_new_mail(seen)
            if outcome.unanswered:
                await self._unanswered(seen, outcome.unanswered, initial=initial)
        if not written:
            await self._write(seen, checkpoint)
        self._context.reached(self._folder, checkpoint)

    async def _without_breakers(self, seen: FolderLook, uids: Sequence[int]) -> list[int]:
        """Without those that ended the line again and again, which are set aside."""
        given_up = self._context.breakers.given_up((self._folder.id, seen.uidvalidity), uids)
        if given_up:
            if self._context.meter is not None:
                self._context.meter.add(len(given_up))
            await self._commit(seen, [], [Aside(uid, reason) for uid, reason in given_up.items()], None)
        return [uid for uid in uids if uid not in given_up]

    def _inbox_due_at(self) -> Instant | None:
        """During an import of another folder: when INBOX, if it was imported already, is to be looked at again."""
        context = self._context
        inbox = context.inbox()
        if context.meter is None or inbox is None or inbox.id == self._folder.id or inbox.uidnext is None:
            return None
        return context.looked_at.get(inbox.id, 0) + context.settings.poll_interval_s * SECOND

    async def _see_new_mail(self, seen: FolderLook) -> None:
        """During a long import: what arrived in INBOX meanwhile."""
        context = self._context
        inbox = context.inbox()
        if inbox is None:
            return
        meter, context.meter = context.meter, None
        try:
            await FolderPass(context, inbox).run()
        finally:
            context.meter = meter
        await self._reopen(seen)

    async def _pull(
        self,
        seen: FolderLook,
        uids: Sequence[int],
        checkpoint: Checkpoint | None,
        *,
        initial: bool,
        whole: bool = False,
    ) -> Outcome:
        """Fetch and keep these; `whole`: all of them, however long it takes."""
        where = self._folder.id, seen.uidvalidity
        job = Job(
            folder=self._folder,
            uidvalidity=seen.uidvalidity,
            uids=uids,
            checkpoint=checkpoint,
            initial=initial,
            looked_again=frozenset(self._looked_again),
            pause_at=None if whole else self._inbox_due_at(),
        )
        puller = Puller(self._context, job)
        try:
            outcome = await puller.run()
        except ConnectorError as error:
            self._context.breakers.ended(where, uids, puller.waiting, error)
            raise
        self._context.breakers.came(where)
        return outcome

    async def _unanswered(self, seen: FolderLook, uids: Sequence[int], *, initial: bool) -> None:
        """Messages that the server listed but did not send: gone meanwhile, or asked for once more, or set aside."""
        listing = set(await self._context.source.list_uids())
        standing = [uid for uid in uids if uid in listing]
        meter = self._context.meter
        if meter is not None:
            meter.leave_out(self._folder.id, len(uids) - len(standing))
        if not standing:
            return
        self._looked_again.update(self._context.folders)  # they are kept or set aside, whatever else looks like them
        outcome = await self._pull(seen, standing, None, initial=initial, whole=True)
        if outcome.unanswered:
            if meter is not None:
                meter.add(len(outcome.unanswered))
            aside = [Aside(uid, "the server lists it but does not send it") for uid in outcome.unanswered]
            await self._commit(seen, [], aside, None)

    # Writing.

    async def _decide(self, seen: FolderLook, entries: Sequence[Entry]) -> list[int]:
        """Collect what to write about these; the UIDs of what is to be fetched."""
        pulls: list[int] = []
        for action in reconcile(Snapshot(self._context.window(), entries)):
            if isinstance(action, Pull):
                pulls.append(action.uid)
            else:
                self._actions.append(action)
        if len(self._actions) >= CHUNK:
            await self._write(seen)
        return pulls

    async def _write(self, seen: FolderLook, checkpoint: Checkpoint | None = None) -> None:
        """Write what was decided; with a checkpoint, when it says something new."""
        if checkpoint is not None and not self._actions and self._stands(checkpoint):
            self._context.looked_at[self._folder.id] = checkpoint.looked_at
            return
        if self._actions or self._others_gone or checkpoint is not None:
            actions, self._actions = self._actions, []
            await self._commit(seen, actions, [], checkpoint)

    def _stands(self, checkpoint: Checkpoint) -> bool:
        folder = self._folder
        return folder.last_error is None and (
            (folder.uidvalidity, folder.uidnext, folder.highestmodseq, folder.exists)
            == (checkpoint.uidvalidity, checkpoint.uidnext, checkpoint.highestmodseq, checkpoint.exists)
        )

    async def _commit(
        self, seen: FolderLook, actions: Sequence[Action], aside: Sequence[Aside], checkpoint: Checkpoint | None
    ) -> None:
        context = self._context
        now = context.clock()
        meter = context.meter
        batch = Batch(
            folder=self._folder,
            uidvalidity=seen.uidvalidity,
            now=now,
            actions=actions,
            aside=aside,
            checkpoint=checkpoint,
            progress=meter.due(now, last=checkpoint is not None) if meter is not None else None,
            others_gone=self._others_gone,
        )
        self._others_gone = False
        context.applied += await context.store.commit(context.owner, batch)


def _day(at: Instant) -> date:
    return to_datetime(max(at, 0)).date()


def _folder_error(text: str) -> ProtocolError:
    """A contradiction that concerns one folder: the others go on, this one is tried again at the next poll."""
    error = ProtocolError(text)
    error.scope = Scope.FOLDER
    return error


def _ranges(uids: Sequence[int]) -> list[range]:
    """Ascending UIDs as ranges."""
    found: list[range] = []
    for uid in uids:
        if found and found[-1].stop == uid:
            found[-1] = range(found[-1].start, uid + 1)
        else:
            found.append(range(uid, uid + 1))
    return found


def _near(ranges: Sequence[range], uid: int) -> Sequence[range]:
    """The one range, of ascending disjoint ones, that may hold the UID."""
    low, high = 0, len(ranges)
    while low < high:
        middle = (low + high) // 2
        if ranges[middle].stop <= uid:
            low = middle + 1
        else:
            high = middle
    return ranges[low : low + 1]
