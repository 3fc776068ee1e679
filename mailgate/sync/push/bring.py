"""Asking the server again for messages whose copies were purged, since somebody asked for them.

    where it stood          the UID under the same UIDVALIDITY, when its header is the one that was purged
    else, in every folder   by header: first what was received since the copy's anchor, then the rest, newest first

A message that has a copy, or is another purged one, is not it: equal messages are paired one to one (S9). Only after
every followed folder was looked through is a message gone.

Nothing changes at the server, so nothing is journalled: whatever is cut is done again. Each message is written in the
transaction that ends its operation, one at a time, so only one is in memory.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from connectors.errors import ConnectorError, Scope
from mailgate.clock import DAY, to_datetime
from mailgate.messages.timed import untimed
from mailgate.sync import asking
from mailgate.sync.arriving import Arrived, MessageSink
from mailgate.sync.context import Context
from mailgate.sync.incoming import Cause
from mailgate.sync.operations import Operation
from mailgate.sync.port import BatchRefusedError
from mailgate.sync.push.model import Buried, Failed
from mailgate.sync.push.port import Asked, PushStore, Returned
from mailgate.sync.snapshot import closing
from mailgate.sync.state import FolderState
from mailgate.sync.views import Near, Purged, Tombstoned

CHUNK: Final = 500
"""Headers that are compared at a time."""

GONE: Final = Failed("gone_at_server", "the original is in none of the folders that are kept in step")
UNSURE: Final = "not every folder could be looked through; it is tried again"
NOT_SENT: Final = "the server did not send all of it; it is tried again"

Wanted = tuple[Asked, Buried]


class Bringer:
    """Brings purged messages back."""

    def __init__(self, context: Context, pushes: PushStore) -> None:
        self._context = context
        self._pushes = pushes
        self._left: dict[str, Wanted] = {}
        self._waits: list[tuple[Operation, str]] = []
        self._failed: list[tuple[Operation, Failed]] = []

    async def bring(
        self, wanted: Sequence[Wanted]
    ) -> tuple[list[tuple[Operation, str]], list[tuple[Operation, Failed]]]:
        """Bring what there is; (operations that have to wait, and why; those that failed). Those whose original is gone
        were written down as failed.
        """
        self._left = {asked.operation.id: (asked, buried) for asked, buried in wanted}
        self._waits, self._failed = [], []
        complete = await self._where_they_stood()
        complete &= await self._everywhere() if self._left else True
        left = [asked.operation for asked, _ in self._left.values()]
        if complete and left:
            context = self._context
            await self._pushes.not_found(context.owner, [(item, GONE) for item in left], context.clock())
        elif left:
            self._waits += [(operation, UNSURE) for operation in left]
        return self._waits, self._failed

    # Looking.

    async def _where_they_stood(self) -> bool:
        """Look at the addresses that were known; False when a folder could not be read."""
        by_name = {folder.name: folder for folder in self._context.followed()}
        at: dict[str, dict[int, dict[int, Wanted]]] = {}
        for asked, buried in self._left.values():
            for name, uidvalidity, uid in buried.addresses:
                if name in by_name:
                    at.setdefault(name, {}).setdefault(uidvalidity, {})[uid] = asked, buried
        complete = True
        for name, numbered in at.items():
            folder, opened_as = by_name[name], await self._open(by_name[name])
            if opened_as is None:
                complete = False
                continue
            mine = {uid: item for uid, item in numbered.get(opened_as, {}).items() if self._is_left(item)}
            headers = await asking.headers(self._context, folder.id, opened_as, sorted(mine)) if mine else {}
            found = {uid: mine[uid] for uid, (_, token) in headers.items() if untimed(token) == mine[uid][1].header_mac}
            await self._fetch(folder, opened_as, found)
        return complete

    async def _everywhere(self) -> bool:
        """Look for what is left in all folders; whether all of them could be looked through."""
        complete = True
        names = {name for _, buried in self._left.values() for name, _, _ in buried.addresses}
        for folder in sorted(self._context.followed(), key=lambda folder: folder.name not in names):
            if not self._left:
                break
            try:
                complete &= await self._look_through(folder)
            except ConnectorError as error:
                if error.scope is not Scope.FOLDER:
                    raise
                complete = False
        return complete

    async def _open(self, folder: FolderState) -> int | None:
        """Its UIDVALIDITY; None when it can't be opened, or its name is another's by now."""
        try:
            opened = await self._context.source.open(folder.name)
            return None if self._context.is_another(folder, opened.object_id) else opened.status.uidvalidity
        except ConnectorError as error:
            if error.scope is not Scope.FOLDER:
                raise
            return None

    async def _look_through(self, folder: FolderState) -> bool:
        source = self._context.source
        opened = await source.open(folder.name)
        if self._context.is_another(folder, opened.object_id):
            return False
        if not opened.status.exists:
            return True
        since = min(buried.anchor_at for _, buried in self._left.values()) - 2 * DAY
        recent = await source.search_since(to_datetime(max(since, 0)).date())
        complete = await self._compare(folder, opened.status.uidvalidity, recent)
        if not self._left:
            return True
        listing = await source.list_uids()
        complete &= await self._compare(folder, opened.status.uidvalidity, set(listing).difference(recent))
        return complete and len(listing) >= opened.status.exists

    async def _compare(self, folder: FolderState, uidvalidity: int, uids: Iterable[int]) -> bool:
        """Compare the headers of these messages, newest first, with what is left; whether all of them answered."""
        context, complete = self._context, True
        todo = sorted(uids, reverse=True)
        for start in range(0, len(todo), CHUNK):
            if not self._left:
                break
            chunk = todo[start : start + CHUNK]
            views = await context.store.views(context.owner, folder, uidvalidity, chunk)
            mine = {buried.message_id for _, buried in self._left.values()}
            free = [uid for uid in chunk if uid not in views or _message_of(views[uid].near) in mine]
            headers = await asking.headers(context, folder.id, uidvalidity, free)
            complete &= len(headers) == len(free)
            by_mac: dict[bytes, list[Wanted]] = {}
            for item in self._left.values():
                by_mac.setdefault(item[1].header_mac, []).append(item)
            found: dict[int, Wanted] = {}
            for uid in free:
                _, token = headers.get(uid, (None, b""))
                if by_mac.get(untimed(token)):
                    found[uid] = by_mac[untimed(token)].pop(0)
            await self._fetch(folder, uidvalidity, found)
        return complete

    def _is_left(self, wanted: Wanted) -> bool:
        return wanted[0].operation.id in self._left

    # Fetching.

    async def _fetch(self, folder: FolderState, uidvalidity: int, found: dict[int, Wanted]) -> None:
        """Fetch these messages of the open folder, and write each as it comes."""
        if not found:
            return
        context, sinks = self._context, list[MessageSink]()

        def open_sink(octets: int) -> MessageSink:
            context.getting_on(octets)
            sinks.append(context.preparer.open_sink(octets, context.clock()))
            return sinks[-1]

        try:
            async with closing(context.source.fetch_bodies(sorted(found), open_sink)) as messages:
                async for fetched in messages:
                    asked, buried = found.get(fetched.meta.uid, (None, None))
                    if asked is None or buried is None or not self._is_left((asked, buried)):
                        continue
                    purged = Purged(buried.message_id, buried.item_ref, buried.anchor_at)
                    arrived = Arrived(fetched.meta, fetched.sink, fetched.octets, returns=purged)
                    await self._keep(folder, uidvalidity, asked, arrived)
                    sinks.remove(fetched.sink)
        finally:
            for sink in sinks:
                sink.abandon()
        # What did not answer went this moment, or belongs to a look that is not complete.
        for asked, _ in found.values():
            if self._left.pop(asked.operation.id, None) is not None:
                self._waits.append((asked.operation, NOT_SENT))

    async def _keep(self, folder: FolderState, uidvalidity: int, asked: Asked, arrived: Arrived) -> None:
        context, operation = self._context, asked.operation
        del self._left[operation.id]
        refusal = arrived.refusal
        if refusal is not None and refusal.cause is Cause.INCOMPLETE:
            arrived.sink.abandon()
            self._waits.append((operation, NOT_SENT))
            return
        if refusal is None:
            await context.workers.run(lambda: context.preparer.add_tokens([arrived]), bulk=False)
        prepared = await context.workers.prepare(context.preparer, [arrived], context.clock(), bulk=False)
        if not prepared.messages:
            aside = prepared.aside[0]
            self._failed.append((operation, Failed(aside.cause.value, aside.reason)))
            return
        message = prepared.messages[0]
        message.labels = None if arrived.meta.labels is None else tuple(sorted(arrived.meta.labels))
        message.email_token = arrived.email_token
        returned = Returned(folder, uidvalidity, message, next(iter(prepared.aside), None))
        try:
            await self._pushes.brought_back(context.owner, operation, returned, context.clock())
        except BatchRefusedError:
            self._failed.append((operation, Failed("refused", "the database refused what the message says")))


def _message_of(near: Near) -> str | None:
    """The id of the purged message that a tombstone at an address is of."""
    return near.purged.message_id if isinstance(near, Tombstoned) and near.purged is not None else None
