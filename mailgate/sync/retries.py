"""Trying again what was set aside: what somebody asked for, and each once after the program or a limit changed.

    its bytes are here     they are read again; no server is asked
    they are not           the message is fetched once more, by itself, with nothing else at stake
    they are lost          the same; where it is what the copy was, the copy has its bytes again

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
from mailgate.sync.arriving import Arrived, MessageSink, received
from mailgate.sync.context import Context
from mailgate.sync.incoming import Aside, Batch, Cause, KeptCopy, Refilled, Retry
from mailgate.sync.pull import Job
from mailgate.sync.snapshot import closing
from mailgate.sync.state import FolderState
from mailgate.sync.views import Purged

AT_ONCE: Final = 200
"""So many are tried before a pass; more are tried before the next one."""


async def try_again(context: Context, waiting: Sequence[Retry]) -> None:
    """Try these, which are to be tried now."""
    for entry in waiting:
        if entry.kept is not None and not entry.lost:
            await _read_again(context, entry, entry.kept)
    missing = [entry for entry in waiting if entry.kept is None or entry.lost]
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
            if entry.kept is not None:
                await _fill_again(context, entry, entry.kept)
                continue
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


async def _fill_again(context: Context, entry: Retry, kept: KeptCopy) -> None:
    """Fetch the bytes of a copy that lost them."""
    store, owner, now = context.store, context.owner, context.clock
    await store.begin_retry(owner, entry.id, context.settings.max_message_bytes, now())
    came = await _bytes_of(context, entry, kept)
    if isinstance(came, str):
        await store.still_unreadable(owner, entry.id, came, now())
    elif not await store.refill(owner, came, now()):
        await store.still_unreadable(owner, entry.id, "the mail server has other bytes in its place", now())


async def _bytes_of(context: Context, entry: Retry, kept: KeptCopy) -> Refilled | str:
    """The bytes that the server has, in the blob store; or why they can't be had."""
    sinks = list[MessageSink]()
    arrived: Arrived | None = None

    def open_sink(octets: int) -> MessageSink:
        context.getting_on(octets)
        sinks.append(context.preparer.open_sink(octets, context.clock()))
        return sinks[-1]

    try:
        async with closing(context.source.fetch_bodies([entry.uid], open_sink)) as messages:
            async for fetched in messages:
                if fetched.meta.uid == entry.uid and arrived is None:
                    copy = Purged(kept.message_id, kept.item_ref, context.clock())
                    arrived = Arrived(fetched.meta, fetched.sink, fetched.octets, returns=copy)
                    sinks.remove(fetched.sink)
    finally:
        for sink in sinks:
            sink.abandon()
    if arrived is None:
        return "the mail server does not send it, or has it no more"
    if arrived.refusal is not None:
        arrived.sink.abandon()
        return arrived.refusal.reason
    found = arrived
    await context.workers.run(lambda: context.preparer.add_tokens([found]), bulk=False)
    prepared = await context.workers.prepare(context.preparer, [found], context.clock(), bulk=False)
    if not prepared.messages:
        return prepared.aside[0].reason
    message = prepared.messages[0]
    return Refilled(kept.message_id, message.content_commit, message.blob)


async def _admitted(context: Context, uid: int) -> bool | None:
    """Whether the message is inside the window; None when the server does not tell of it."""
    found: bool | None = None
    async with closing(context.source.fetch_meta([range(uid, uid + 1)])) as batches:
        async for metas in batches:
            for meta in metas:
                if meta.uid == uid:
                    found = context.window().admits(received(meta.internal_date))
    return found
