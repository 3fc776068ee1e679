"""A pass over one folder: look, decide, apply; afterwards both sides agree and the checkpoint says so.

    first    search inside the window, compare what is here already, fetch the rest newest first; resumable anywhere,
             since what remains is a difference: UIDs inside the window − copies − tombstones − set aside
    delta    flags and disappearances since the checkpoint, then what is new
    reset    UIDVALIDITY changed: nothing is trusted and nothing is deleted; every message is recognised by its header,
             what is left at the server is new, what is left here has vanished (and waits like any disappearance)

A server that was set back to an earlier state (a restored backup) keeps its UIDVALIDITY and gives the same UIDs to
other messages. It shows when UIDNEXT or HIGHESTMODSEQ falls; once both have grown past the checkpoint again, only in
what the newest UIDs name: those are looked at once in a session, before a change is believed. The numbers are
distrusted then, which makes it a reset.

Order within a pass: flags, disappearances and recognised messages, then new messages, then the checkpoint, which
commits with the last of them (S3). A pass that is cut does some of its work again and ends in the same state (S4).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from mailgate.clock import SECOND, Instant
from mailgate.messages.timed import untimed
from mailgate.sync import asking
from mailgate.sync.arriving import received
from mailgate.sync.context import Context
from mailgate.sync.fetching import Fetching, Found, folder_error
from mailgate.sync.folder_list import refresh
from mailgate.sync.snapshot import FolderLook, Kind, closing, inside, look
from mailgate.sync.state import FolderState
from mailgate.sync.uids import among, ranges
from mailgate.sync.views import FAR_GONE, Entry, FarPresent, Tombstoned
from mailgate.sync.writing import CHUNK, Writer

FLAGS_EVERY: Final[Instant] = 300 * SECOND
"""Without CONDSTORE: how often all flags are compared."""

SAMPLE: Final = 3
"""So many messages are looked at to tell whether a server was set back."""

PAGE: Final = 50_000
"""UIDs of copies that are compared with what has gone, at a time."""

_LOOKS: Final = 3
"""How often a folder is looked at before a server that contradicts itself is taken as one that always does."""


class FolderPass(Fetching):
    """One pass over one folder. `again`: only see what has gone (another pass asked), fetch nothing."""

    @staticmethod
    def flags_due(context: Context, folder: FolderState, now: Instant) -> bool:
        """Without CONDSTORE: whether it is time to compare all flags."""
        return not 0 <= now - context.flags_at.get(folder.id, 0) < FLAGS_EVERY  # a clock may be set back

    async def run(self) -> None:
        """Make both sides agree. Raises the connector's errors; what was written until then stays."""
        context = self._context
        context.in_step = None
        began_at = context.clock()
        all_flags = self.flags_due(context, self._folder, began_at)
        self._seen = seen = await look(context.source, self._folder, began_at, all_flags=all_flags)
        another = context.is_another(self._folder, seen.object_id)
        if another:
            if not await self._has_a_name():
                return
            seen = await look(context.source, self._folder, began_at, all_flags=all_flags)
            another = context.is_another(self._folder, seen.object_id)  # then nobody has had that identity
        if await seen.was_set_back() or await self._names_others(seen, another=another):
            self._folder = await context.store.distrust(context.owner, self._folder, began_at)
            context.folders[self._folder.id] = self._folder
            context.verified.clear()  # its place may have been taken by one that was looked at before
            seen = await look(context.source, self._folder, began_at, all_flags=all_flags)
        if seen.object_id not in (None, self._folder.object_id):
            self._folder = await context.store.identified(context.owner, self._folder, seen.object_id, began_at)
            context.folders[self._folder.id] = self._folder
        self._seen, self._writer = seen, Writer(context, self._folder, seen.uidvalidity)
        if self._again and seen.kind is Kind.FIRST:
            return  # nothing of it is trusted yet that could have gone
        match seen.kind:
            case Kind.FIRST:
                await self._first()
            case Kind.DELTA:
                await self._delta()
            case Kind.RESET:
                await self._reset()
        if seen.checks_flags:
            context.flags_at[self._folder.id] = began_at
        context.in_step = None if self._reopened else self._folder.id

    async def _has_a_name(self) -> bool:
        """Find out what the folder is called now; False when it is gone."""
        context = self._context
        await refresh(context)
        known = context.folders.get(self._folder.id)
        self._folder = known or self._folder
        return known is not None

    async def _names_others(self, seen: FolderLook, *, another: bool) -> bool:
        """Whether the newest UIDs below the checkpoint name other messages than they did: header and INTERNALDATE are
        others, which never happens to a UID (RFC 9051 §2.3.1.1). A server is not set back under a session; but where
        folders share a UIDVALIDITY (Cyrus takes it from the clock), one may get the name of another at any time.
        `another`: the server calls it another folder. Then UIDs are believed only if there is a message to show it.
        """
        context, folder = self._context, self._folder
        if another and seen.kind is Kind.FIRST:
            return await self._was_begun(seen.uidvalidity)
        if seen.kind is not Kind.DELTA:
            return False
        if folder.id in context.verified and not another and not context.is_like_another(folder):
            return False
        if another or (not seen.same and seen.status.exists):
            known = await context.store.sample(folder.id, seen.uidvalidity, SAMPLE)
            if asking.given_up(context, folder, seen.uidvalidity, list(known)):
                return another
            found = await asking.headers(context, folder.id, seen.uidvalidity, sorted(known))
            for uid, (meta, token) in found.items():
                mac = untimed(token)
                was, at = known.get(uid, (mac, None))
                if mac != was and at is not None and received(meta.internal_date) not in (None, at):
                    return True
            if another and not found:
                return True
        context.verified.add(folder.id)
        return False

    async def run_undoubted(self) -> Found:
        """The same, again while what others do in the folder makes the server's answers contradict each other. The
        folder's id and UIDVALIDITY, and what its list lacked, if they still do.
        """
        for _ in range(_LOOKS):
            await self.run()
            if not self._seen.doubtful:
                break
        return (self._folder.id, self._seen.uidvalidity), self._seen.unlisted

    async def _gone_from(self, other: FolderState) -> Found:
        return await FolderPass(self._context, other, again=True).run_undoubted()

    async def _pass_over(self, inbox: FolderState) -> None:
        await FolderPass(self._context, inbox).run()

    # The three kinds.

    async def _first(self) -> None:
        context, folder, seen = self._context, self._folder, self._seen
        uids = await inside(context.source, seen, context.window())
        here = await self._compare_all(await seen.listing()) if await self._was_begun(self._seen.uidvalidity) else set()
        here.update(await self._marked())
        seen.saw(uids)
        todo = [uid for uid in reversed(uids) if uid not in here]
        if context.meter is not None:
            context.meter.begin_folder(folder.id, len(uids) - len(todo), len(uids))
        await self._take(todo, initial=context.meter is not None)

    async def _was_begun(self, uidvalidity: int) -> bool:
        """Whether copies are here from an earlier pass that was cut."""
        context, folder = self._context, self._folder
        if folder.uidvalidity == uidvalidity:
            return True
        return bool(await context.store.standing(context.owner, folder, uidvalidity, 0, 1))

    async def _marked(self) -> list[int]:
        """UIDs of what is not fetched: purged, but for what a backfill brings back, or set aside."""
        context, folder, uidvalidity = self._context, self._folder, self._seen.uidvalidity
        found = await context.store.marked(context.owner, folder, uidvalidity)
        window = context.window(folder)
        if window.returns_since is None:
            return found
        stay: list[int] = []
        for start in range(0, len(found), CHUNK):
            views = await context.store.views(context.owner, folder, uidvalidity, found[start : start + CHUNK])
            for uid, view in views.items():
                if not isinstance(view.near, Tombstoned) or not window.returns(view.near.purged):
                    stay.append(uid)
        return stay

    async def _compare_all(self, listing: Sequence[int]) -> set[int]:
        """Compare copies that are here from an earlier, cut pass; the UIDs of which something is known."""
        context, folder, seen = self._context, self._folder, self._seen
        known: set[int] = set()
        for start in range(0, len(listing), CHUNK):
            chunk = listing[start : start + CHUNK]
            views = await context.store.views(context.owner, folder, seen.uidvalidity, chunk)
            based = [uid for uid in chunk if uid in views and views[uid].base is not None]
            known.update(based)
            if not based:
                continue
            async with closing(context.source.fetch_flags(ranges(based))) as batches:
                async for batch in batches:
                    entries = [
                        Entry(
                            change.uid,
                            views[change.uid].base,
                            views[change.uid].near,
                            FarPresent(change.flags, labels=change.labels),
                        )
                        for change in batch
                        if change.uid in views
                    ]
                    await self._writer.decide(entries)
        await self._see_gone(seen.absent(listing))
        return known

    async def _delta(self) -> None:
        context, folder, seen = self._context, self._folder, self._seen
        first_new = folder.uidnext or 1
        new: set[int] = set()
        put: set[int] = set()  # new, but known: what an operation moved or appended here
        async with closing(seen.changes()) as batches:
            async for batch in batches:
                context.getting_on()
                new.update(change.uid for change in batch if change.uid >= first_new)
                changes = {change.uid: change for change in batch}
                views = await context.store.views(context.owner, folder, seen.uidvalidity, list(changes))
                known = {uid: view for uid, view in views.items() if uid < first_new or view.base is not None}
                put.update(uid for uid in known if uid >= first_new)
                # A UID below the checkpoint of which nothing is known was judged when it came: it is outside the
                # window.
                await self._writer.decide(
                    [
                        Entry(uid, view.base, view.near, FarPresent(changes[uid].flags, labels=changes[uid].labels))
                        for uid, view in known.items()
                    ]
                )
        if seen.passed_through(len(new)):
            context.passed_through[folder.id] = context.clock()
        gone, untold = await seen.gone(new)
        await self._see_gone(gone, len(new))
        if self._again:
            await self._writer.write()
            return
        new.update(untold)
        if gone is not None and seen.holds_more(len(new)):
            new.update(await self._left_out())
        await self._take(sorted(new - put, reverse=True), initial=False)

    async def _left_out(self) -> list[int]:
        """Messages inside the window of which nothing is known, though the checkpoint covers them."""
        context = self._context
        uids = await inside(context.source, self._seen, context.window())
        known: set[int] = set()
        for start in range(0, len(uids), CHUNK):
            chunk = uids[start : start + CHUNK]
            known.update(await context.store.views(context.owner, self._folder, self._seen.uidvalidity, chunk))
        return [uid for uid in uids if uid not in known]

    async def _reset(self) -> None:
        context, folder, seen = self._context, self._folder, self._seen
        listing = await seen.listing()
        if seen.absent(listing) is None or await seen.denied():
            raise folder_error("after a UIDVALIDITY change the server's list of messages contradicts its count")
        seen.saw(listing)
        done = await self._compare_all(listing) if await self._was_begun(self._seen.uidvalidity) else set()
        done.update(await self._marked())
        todo = [uid for uid in reversed(listing) if uid not in done]
        pulls = await self._recognise(todo)
        # What did not answer may be any of those under the old numbers, unless it was moved away meanwhile.
        if not self._unheard or self._unheard.isdisjoint(await context.source.list_uids()):
            self._writer.others_are_gone()
        await self._writer.write()
        if not self._again:
            await self._fetch(pulls, initial=context.window(folder).returns_since is not None)

    # What they have in common.

    async def _see_gone(self, gone: Sequence[range] | None, new: int = 0) -> None:
        """Decide about what has gone, of what is known here; `new`: messages that came since."""
        if not gone:
            return
        context, folder, uidvalidity = self._context, self._folder, self._seen.uidvalidity
        found = set(among(await context.store.marked(context.owner, folder, uidvalidity), gone))
        above = 0
        while page := await context.store.standing(context.owner, folder, uidvalidity, above, PAGE):
            found.update(among(page, gone))
            above = page[-1]
        missing = sorted(found)
        if self._seen.overstates(len(missing), new):
            missing = among(missing, self._seen.absent(await self._seen.listing()) or ())
        if missing and await self._seen.denied():
            return
        for start in range(0, len(missing), CHUNK):
            views = await context.store.views(context.owner, folder, uidvalidity, missing[start : start + CHUNK])
            await self._writer.decide([Entry(uid, view.base, view.near, FAR_GONE) for uid, view in views.items()])
