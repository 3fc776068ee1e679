"""Trying again what was set aside: what somebody asked for, and each once after the program or a limit changed.

    its bytes are here     they are read again; no server is asked
    they are not           the message is fetched once more, by itself, with nothing else at stake

Each attempt is written down before it is made: a message that ends the line ends one session, not all that follow.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from itertools import groupby
from operator import attrgetter
from typing import Final

from connectors.errors import ConnectorError, Scope
from mailgate.errors import MailgateError
from mailgate.sync import asking
from mailgate.sync.actions import Forget
from mailgate.sync.arriving import received
from mailgate.sync.context import Context
from mailgate.sync.incoming import Aside, Batch, Cause, KeptCopy, Retry
from mailgate.sync.pull import Job
from mailgate.sync.snapshot import closing
from mailgate.sync.state import FolderState

AT_ONCE: Final = 200
"""So many are tried before a pass; more are tried before the next one."""


async def try_again(context: Context, waiting: Sequence[Retry]) -> None:
    """Try these, which are to be tried now."""
    for entry in waiting:
        if entry.kept is not None:
            await _read_again(context, entry, entry.kept)
    missing = [entry for entry in waiting if entry.kept is None]
    for folder_id, entries in groupby(missing, key=attrgetter("folder_id")):
        folder = context.folders.get(folder_id)
        if folder is None or not folder.followed or not folder.selectable:
            continue
        try:
            await _fetch_again(context, folder, list(entries))
        except ConnectorError as error:
            if error.scope is not Scope.FOLDER:
                raise
            # The pass that follows says what is wrong with the folder.


async def _read_again(context: Context, entry: Retry, kept: KeptCopy) -> None:
    """Read the bytes that are here."""
    store, owner, preparer = context.store, context.owner, context.preparer
    await store.begin_retry(owner, entry.id, context.settings.max_message_bytes, context.clock())
    try:
        raw = await preparer.head_of(kept.blob)
        mended = await context.workers.run(partial(preparer.mend, kept, raw), bulk=False)
    except MailgateError as error:
        await store.still_unreadable(owner, entry.id, f"its bytes can't be had: {error.detail}", context.clock())
    except Exception as error:  # noqa: BLE001 - whatever a hostile message breaks, the others go on
        reason = f"it can't be read: {type(error).__name__}; its bytes are kept"
        await store.still_unreadable(owner, entry.id, reason, context.clock())
    else:
        await store.mend(owner, mended, context.clock())


async def _fetch_again(context: Context, folder: FolderState, entries: Sequence[Retry]) -> None:
    """Ask the server once more, for one message at a time."""
    context.getting_on()
    selected = await context.source.open(folder.name)
    if context.is_another(folder, selected.object_id):
        return  # once it is known what this one is called now
    for entry in entries:
        if entry.uidvalidity == selected.status.uidvalidity:
            await _fetch_one(context, folder, entry, selected.status.exists)


async def _fetch_one(context: Context, folder: FolderState, entry: Retry, exists: int) -> None:
    store, owner, uid = context.store, context.owner, entry.uid
    await store.begin_retry(owner, entry.id, context.settings.max_message_bytes, context.clock())
    batch = Batch(folder=folder, uidvalidity=entry.uidvalidity, now=context.clock())
    forgetting = replace(batch, actions=[Forget(uid)])
    admitted = await _admitted(context, uid)
    if admitted is False:
        await store.commit(owner, forgetting)  # too old by now for the plan: nobody will want it
        return
    if admitted:
        # Whatever else looks like it, it is kept or set aside.
        job = Job(folder, entry.uidvalidity, [uid], looked_again=frozenset(context.folders))
        if not (await asking.messages(context, job)).unanswered:
            return
    listing = await context.source.list_uids()
    if uid not in listing and len(listing) == exists:
        await store.commit(owner, forgetting)  # gone, with evidence (S8)
        return
    aside = Aside(uid, "the server lists it but does not send it", Cause.NOT_SENT)
    await store.commit(owner, replace(batch, aside=[aside]))


async def _admitted(context: Context, uid: int) -> bool | None:
    """Whether the message is inside the window; None when the server does not tell of it."""
    found: bool | None = None
    async with closing(context.source.fetch_meta([range(uid, uid + 1)])) as batches:
        async for metas in batches:
            for meta in metas:
                if meta.uid == uid:
                    found = context.window().admits(received(meta.internal_date))
    return found
